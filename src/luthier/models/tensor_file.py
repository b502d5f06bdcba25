"""A safetensors file written one tensor after the other, so that no more than one of them need be in memory.

    with TensorWriter(path, {"a": ("BF16", (2, 3)), "b": ("F32", (3,))}) as file:
        file.write("a", ...)
        file.write("b", ...)          # in the order of the plan

The library's own `save_file` wants all tensors of a file at once. Layout: folder.py. Same tensors, same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from .folder import WIDTH_BYTES

_OWN_HEAD = "head.safetensors"  # head.FILE, named here so that torch stays out
Planned = tuple[str, tuple[int, ...]]
"""(safetensors' name of the number format, shape)."""


class TensorWriter:
    """Give every planned tensor once, in the plan's order. Leaving the block early leaves a file that no reader takes."""

    def __init__(
        self, path: Path, plan: Mapping[str, Planned], metadata: Mapping[str, str] | None = None
    ) -> None:
        header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
        end = 0
        for name, (dtype, shape) in plan.items():
            start, end = end, end + WIDTH_BYTES[dtype] * math.prod(shape)
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)  # the data begins at a multiple of eight, so that it can be mapped
        self._plan, self._left = plan, iter(plan)
        self._stream = path.open("wb")
        self._stream.write(len(text).to_bytes(8, "little") + text)

    def write(self, name: str, tensor: Any) -> None:
        """Append a torch tensor, which must be as planned."""
        import torch

        wanted = next(self._left, None)
        told = (format_of(tensor.dtype), tuple(tensor.shape))
        if name != wanted or told != self._plan[name]:
            raise ValueError(f"{name} {told} was written where {wanted} was planned")
        bytes_ = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        self._stream.write(memoryview(bytes_))

    def __enter__(self) -> TensorWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        if kind is None and (missing := next(self._left, None)) is not None:
            raise ValueError(f"{missing} was planned and never written")


_FORMATS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


def dtype_of(form: str) -> Any:
    """torch's number format of safetensors' name."""
    import torch

    return getattr(torch, _FORMATS[form])


def format_of(dtype: Any) -> str:
    """safetensors' name of a torch number format.

    >>> import torch
    >>> format_of(torch.bfloat16), format_of(torch.int32)
    ('BF16', 'I32')
    """
    return next(form for form in _FORMATS if dtype_of(form) == dtype)


class Tensors:
    """The language model's tensors of a folder, read one at a time and never kept; a head of its own (head.py) is left out.
    Raises what `stored_tensors` raises."""

    def __init__(self, folder: Path) -> None:
        from .folder import stored_tensors

        found = stored_tensors(folder)
        self.stored = {name: tensor for name, tensor in found.items() if tensor.file.name != _OWN_HEAD}

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.stored))

    def read(self, name: str) -> Any:
        """One torch tensor, in its stored format and in memory of its own."""
        import torch

        place = self.stored[name]
        dtype = dtype_of(place.dtype)
        buffer = bytearray(place.end - place.start)
        with place.file.open("rb") as stream:
            stream.seek(place.start)
            if stream.readinto(buffer) != len(buffer):
                raise OSError(f"{place.file.name} ended early")
        if not buffer:
            return torch.empty(place.shape, dtype=dtype)
        return torch.frombuffer(buffer, dtype=dtype).reshape(place.shape)
