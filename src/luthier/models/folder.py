"""What lies in a model's folder, read without trusting it and without torch.

safetensors layout: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, the data.
Every length is checked against the file before anything is allocated.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError
from luthier.core.strict_json import no_constant, once

WIDTH_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
LARGEST_HEADER_BYTES = 100_000_000
LARGEST_JSON_BYTES = 200_000_000


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies: `start` and `end` count bytes from the beginning of `file`."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Refuses what is too large, too deep, repeated, or not finite."""
    if path.stat().st_size > LARGEST_JSON_BYTES:
        raise ModelError(
            f"{path.name} is larger than {LARGEST_JSON_BYTES:,} bytes.", remedy="Check the model's folder."
        )
    return parse_json(path.read_bytes(), path.name)


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(data.decode(), object_pairs_hook=once, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{name} is not valid JSON: {error}.", remedy="Fetch the model again.") from None
    if not isinstance(value, dict):
        raise ModelError(
            f"{name} holds a {type(value).__name__}, not an object.", remedy="Fetch the model again."
        )
    return value


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a whole model. Raises ModelError when it is not there."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(
            f"{folder.name} has no config.json, so it is not a model's folder.",
            remedy="Give the folder that holds config.json and *.safetensors.",
        )
    return read_json(path)


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of every safetensors file in the folder, by name. Raises ModelError."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(
            f"{folder.name} has no .safetensors file.",
            remedy="Only safetensors are read; convert other formats with the tool that made them.",
        )
    found: dict[str, StoredTensor] = {}
    for file in files:
        for name, tensor in read_header(file).items():
            if name in found:
                raise ModelError(
                    f"the tensor {name!r} stands in two files.", remedy="Remove the stale weights file."
                )
            found[name] = tensor
    return found


def read_header(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file, checked: known dtypes, sizes that fit, no gap and no overlap."""

    def bad(why: str) -> ModelError:
        return ModelError(
            f"{file.name} is not a sound safetensors file: {why}.", remedy="Fetch the model again."
        )

    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, LARGEST_HEADER_BYTES):
            raise bad(f"its header claims {length:,} bytes")
        header = parse_json(stream.read(length), file.name)
    header.pop("__metadata__", None)
    tensors = {name: _entry(file, name, entry, 8 + length, bad) for name, entry in header.items()}
    at = 8 + length
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if tensor.start != at:
            raise bad(f"the tensor {name!r} leaves a gap or overlaps another")
        at = tensor.end
    if at != size:
        raise bad(f"its tensors end at byte {at:,} and the file at {size:,}")
    return tensors


def _entry(file: Path, name: str, entry: Any, data_at: int, bad: Any) -> StoredTensor:
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        whole = [*shape, start, end]
    except (TypeError, KeyError, ValueError):
        raise bad(f"the entry of {name!r} is not complete") from None
    if dtype not in WIDTH_BYTES:
        raise bad(f"the tensor {name!r} has the type {dtype!r}; known: {', '.join(WIDTH_BYTES)}")
    if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in whole):
        raise bad(f"the tensor {name!r} has a size that is not a natural number")
    if end - start != math.prod(shape) * WIDTH_BYTES[dtype]:
        raise bad(f"the tensor {name!r} does not have the bytes that its shape needs")
    return StoredTensor(file, dtype, tuple(shape), data_at + start, data_at + end)
