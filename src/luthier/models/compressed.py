"""A whole model with its blocks' linear layers in 8 or 4 bits: the files, and the model that is read back from them.

    int8    q = round(w / s), s = largest |w| of an output row / 127                       one byte each
    int4    q = round(w / s), -8..7, s by groups of 32 inputs: of some fractions of
            largest |w| / 7 the one with the least squared error                           half a byte each, and 1/32 of a scale

The layout is compressed-tensors' `pack-quantized`, which vLLM and transformers read: X.weight_packed (32-bit words of q + 2^(b-1),
the first in the lowest bits), X.weight_scale in the model's number format, X.weight_shape; `quantization_config` in
config.json. Embeddings, norms and the output head stay as they were. No calibration rows are used: rounding to the nearest.

A product makes a layer's weights anew in the input's number format (as quantised.py does while training): what is saved is
memory and disk, not arithmetic. Legend: o outputs, i inputs, g groups of a row.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from luthier.core.errors import ModelError

from .folder import StoredTensor, read_config

Width = Literal["int8", "int4"]
GROUP = 32
"""Inputs that share one scale at 4 bits; of the sizes that vLLM takes the most exact."""
KEY = "quantization_config"
_SHRINKS = tuple(1.0 - 0.025 * k for k in range(13))
_LAYERS = "model.layers."


@dataclass(frozen=True)
class Packing:
    bits: Literal[8, 4]
    group: int | None
    """None: one scale per output row."""

    @property
    def per_word(self) -> int:
        return 32 // self.bits


PACKINGS: dict[str, Packing] = {"int8": Packing(8, None), "int4": Packing(4, GROUP)}


def is_packed(name: str, tensor: StoredTensor) -> bool:
    """Whether this tensor of a whole model is one that gets packed: in every supported family, a block's matrices."""
    return name.startswith(_LAYERS) and name.endswith(".weight") and len(tensor.shape) == 2


def refuse_shapes(stored: dict[str, StoredTensor], width: Width) -> None:
    """Raises ModelError, naming the layer, where inputs do not come in whole groups."""
    group = PACKINGS[width].group
    for name, tensor in sorted(stored.items()):
        if group and is_packed(name, tensor) and tensor.shape[1] % group:
            raise ModelError(
                f"{width} needs inputs in groups of {group}, and {name.removesuffix('.weight')} has {tensor.shape[1]:,}.",
                remedy="Use int8, which has no groups.",
            )


def packed_bytes(stored: dict[str, StoredTensor], width: Width) -> int:
    """What the weights take once they are packed."""
    from .folder import WIDTH_BYTES

    planned: dict[str, Any] = {}
    for name, one in stored.items():
        plain = {name: (one.dtype, one.shape)}
        planned |= _planned(name, one, PACKINGS[width]) if is_packed(name, one) else plain
    return sum(WIDTH_BYTES[dtype] * math.prod(shape) for dtype, shape in planned.values())


def pack_folder(source: Path, out: Path, width: Width) -> None:
    """Weights and config.json of a whole model, packed into `out`, one tensor at a time. Raises ModelError."""
    from .tensor_file import Tensors, TensorWriter

    tensors, packing = Tensors(source), PACKINGS[width]
    refuse_shapes(tensors.stored, width)
    out.mkdir(parents=True, exist_ok=True)
    index: dict[str, str] = {}
    files = sorted({tensor.file for tensor in tensors.stored.values()})
    for file in files:
        mine = {name: one for name, one in sorted(tensors.stored.items()) if one.file == file}
        plan: dict[str, Any] = {}
        for name, one in mine.items():
            plan |= _planned(name, one, packing) if is_packed(name, one) else {name: (one.dtype, one.shape)}
        with TensorWriter(out / file.name, plan) as writer:
            for name, one in mine.items():
                weight = tensors.read(name)
                if not is_packed(name, one):
                    writer.write(name, weight)
                    continue
                words, scales = pack(weight, packing)
                layer = name.removesuffix(".weight")
                for part, value in (("packed", words), ("scale", scales), ("shape", _shape(weight))):
                    writer.write(f"{layer}.weight_{part}", value)
        index |= dict.fromkeys(plan, file.name)
    if len(files) > 1:
        total = sum((out / file.name).stat().st_size for file in files)
        _write_json(
            out / "model.safetensors.index.json",
            {"metadata": {"total_size": total}, "weight_map": index},
        )
    config = read_config(source)
    config[KEY] = settings(packing)
    _write_json(out / "config.json", config)


def settings(packing: Packing) -> dict[str, Any]:
    """`quantization_config`, as compressed-tensors writes it for weights alone."""
    weights = {
        "num_bits": packing.bits,
        "type": "int",
        "symmetric": True,
        "strategy": "group" if packing.group else "channel",
        "group_size": packing.group,
        "dynamic": False,
        "observer": "minmax",
        "actorder": None,
        "block_structure": None,
    }
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
    }


def packing_of(config: dict[str, Any]) -> Packing | None:
    """How a folder's weights are packed; None: not at all. Raises ModelError for what is not written here."""
    found = config.get(KEY)
    if found is None:
        return None
    for packing in PACKINGS.values():
        if found == settings(packing):
            return packing
    raise ModelError(
        "the weights are packed in a way that is not read here.",
        remedy=f"Use unpacked weights, or a folder that was exported as {' or '.join(PACKINGS)}.",
    )


def _planned(name: str, tensor: StoredTensor, packing: Packing) -> dict[str, Any]:
    outputs, inputs = tensor.shape
    layer = name.removesuffix(".weight")
    groups = inputs // packing.group if packing.group else 1
    return {
        f"{layer}.weight_packed": ("I32", (outputs, -(-inputs // packing.per_word))),
        f"{layer}.weight_scale": (tensor.dtype, (outputs, groups)),
        f"{layer}.weight_shape": ("I64", (2,)),
    }


def _shape(weight: Any) -> Any:
    import torch

    return torch.tensor(list(weight.shape), dtype=torch.int64)


def pack(weight_oi: Any, packing: Packing) -> tuple[Any, Any]:
    """(words [o, i / per word] int32, scales [o, g] in the weight's format). Raises ModelError where it is not finite."""
    import torch

    if not torch.isfinite(weight_oi).all():
        raise ModelError(
            "a weight is infinite or not a number, so it cannot be packed.", remedy="Train again."
        )
    outputs, inputs = weight_oi.shape
    rows = weight_oi.float().reshape(outputs, -1, packing.group or inputs)
    scales = _scales(rows, packing, weight_oi.dtype)
    codes = _codes(rows, scales.float()[..., None], packing).reshape(outputs, inputs)
    half = 1 << (packing.bits - 1)
    filled = torch.nn.functional.pad(codes.to(torch.int64) + half, (0, -inputs % packing.per_word))
    shifts = torch.arange(0, 32, packing.bits)
    words = (filled.view(outputs, -1, packing.per_word) << shifts).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32), scales


def _codes(rows: Any, scales: Any, packing: Packing) -> Any:
    half = 1 << (packing.bits - 1)
    least = -half if packing.bits == 4 else 1 - half
    return (rows / scales).round().clamp(least, half - 1)


def _scales(rows: Any, packing: Packing, dtype: Any) -> Any:
    """[o, g], already rounded to the format they are stored in, so that the codes fit what will be multiplied."""
    import torch

    full = rows.abs().amax(-1) / ((1 << (packing.bits - 1)) - 1)
    full = torch.where(full == 0, torch.ones_like(full), full)
    smallest = torch.finfo(dtype).tiny
    if packing.group is None:
        return full.to(dtype).clamp_min(smallest)
    best, least = full, torch.full_like(full, float("inf"))
    for shrink in _SHRINKS:
        scales = (full * shrink).to(dtype).clamp_min(smallest).float()
        wrong = (_codes(rows, scales[..., None], packing) * scales[..., None] - rows).square().sum(-1)
        best, least = torch.where(wrong < least, scales, best), torch.minimum(wrong, least)
    return best.to(dtype)


def unpack(words: Any, scales: Any, inputs: int, packing: Packing, dtype: Any) -> Any:
    """[o, i]: the inverse of `pack` up to its rounding."""
    import torch

    outputs = words.shape[0]
    if packing.bits == 8:
        codes = words.view(torch.uint8)[:, :inputs].float() - 128
    else:
        pairs = words.view(torch.uint8)
        codes = torch.stack([pairs & 15, pairs >> 4], -1).reshape(outputs, -1)[:, :inputs].float() - 8
    rows = codes.reshape(outputs, scales.shape[1], -1) * scales.float()[..., None]
    return rows.reshape(outputs, inputs).to(dtype)


def unpacked(folder: Path) -> Any:
    """Name -> fp32 tensor of a folder, packed or not, read at each call; None where there is none."""
    from .tensor_file import Tensors

    tensors, packing = Tensors(folder), packing_of(read_config(folder))

    def read(name: str) -> Any:
        import torch

        if packing is None or f"{name}_packed" not in tensors.stored:
            return tensors.read(name).float() if name in tensors.stored else None
        words, scales = tensors.read(f"{name}_packed"), tensors.read(f"{name}_scale")
        inputs = int(tensors.read(f"{name}_shape")[1])
        return unpack(words, scales, inputs, packing, torch.float32)

    return read


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, sort_keys=True, indent=1) + "\n")
