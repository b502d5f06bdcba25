"""A model read back from packed weights (compressed.py): its linear layers keep their codes, and nothing of it is ever whole
in memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.core.errors import ModelError

from .compressed import Packing, unpack
from .tensor_file import Tensors


class PackedLinear(torch.nn.Linear):
    """In the place of an nn.Linear; never trained. `weight` makes the dequantised [o, i] anew each time it is read."""

    words: Tensor
    scales: Tensor

    def __init__(self, linear: torch.nn.Linear, words: Tensor, scales: Tensor, packing: Packing) -> None:
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packing, self.dtype = packing, linear.weight.dtype
        self.register_buffer("words", words)
        self.register_buffer("scales", scales)
        self.bias = linear.bias

    @property
    def weight(self) -> Tensor:
        return self.dequantised(self.dtype)

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        """[o, i] in this format."""
        made: Tensor = unpack(self.words, self.scales, self.in_features, self.packing, dtype)
        return made

    def forward(self, x: Tensor) -> Tensor:
        """[.., i] -> [.., o] in the format of x."""
        y = torch.nn.functional.linear(x, self.dequantised(x.dtype))
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, int{self.packing.bits}"


def load_packed(folder: Path, packing: Packing, dtype: torch.dtype, attention: str) -> Any:
    """A transformers model. Raises ModelError when a weight is missing or left over."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    del config.quantization_config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype)
    tensors = Tensors(folder)
    left = set(tensors.stored)
    for name, parameter in list(model.named_parameters()):
        parent, _, last = name.rpartition(".")
        module = model.get_submodule(parent)
        if f"{name}_packed" in left:
            words, scales = tensors.read(f"{name}_packed"), tensors.read(f"{name}_scale")
            wanted = (parameter.shape[0], -(-parameter.shape[1] // packing.per_word))
            _need(tuple(words.shape) == wanted, folder, name)
            above, _, own = parent.rpartition(".")
            setattr(model.get_submodule(above), own, PackedLinear(module, words, scales, packing))
            left -= {f"{name}_{part}" for part in ("packed", "scale", "shape")}
        else:
            _need(name in left and tensors.stored[name].shape == tuple(parameter.shape), folder, name)
            value = tensors.read(name).to(dtype)
            module._parameters[last] = torch.nn.Parameter(value, requires_grad=False)
            left.discard(name)
    # A bias was read after its layer was replaced: it went to the old one.
    for name, module in model.named_modules():
        if isinstance(module, PackedLinear) and module.bias is not None and module.bias.is_meta:
            module.bias = torch.nn.Parameter(tensors.read(f"{name}.bias").to(dtype), requires_grad=False)
            left.discard(f"{name}.bias")
    _need(not left, folder, min(left, default=""))
    model.tie_weights()
    _compute_buffers(model)
    return model.eval()


def _need(holds: bool, folder: Path, name: str) -> None:
    if not holds:
        raise ModelError(
            f"the packed weights in {folder.name} do not fit its config.json, first at {name!r}.",
            remedy="Export the model again.",
        )


def _compute_buffers(model: Any) -> None:
    """What is computed and never stored (rotary tables, a scale of embeddings) was only planned so far."""
    for name, module in list(model.named_modules()):
        if not any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            continue
        parent, _, last = name.rpartition(".")
        if hasattr(module, "scalar_embed_scale"):
            module.embed_scale = torch.tensor(module.scalar_embed_scale)
        elif hasattr(module, "config"):
            setattr(model.get_submodule(parent), last, type(module)(module.config))
        else:
            raise ModelError(
                f"{type(module).__name__} computes something that cannot be made again here.",
                remedy="Export this model as merged.",
            )
