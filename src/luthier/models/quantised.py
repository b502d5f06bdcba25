"""A frozen linear layer held in 8 or 4 bits: the base under a LoRA adapter that is being trained (QLoRA).

    8bit   q = round(127·w / largest |w| of its row), one byte each           (absmax; Dettmers et al. 2022, section 2.1)
    4bit   the nearest of sixteen values to w / largest |w| of its 64, half a byte each
           (NF4; Dettmers et al. 2023, section 3; their second quantisation, of the scales, is not done)

A product makes the weights anew in the input's number format, uses them and lets them go; the backward pass makes them
once more instead of keeping them. So the memory is that of the codes, and one layer's weights in passing.

Not here: any product in whole numbers. The arithmetic is the input's own; only what is stored is small.
Legend: o outputs, i inputs, N blocks of 64, T tokens.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import torch
from torch import Tensor

from luthier.core.errors import ModelError

from .shapes import BLOCK, Bits

# The sixteen values: seven negative and eight positive quantiles of a standard normal distribution around an exact zero,
# scaled to ±1 (Dettmers et al. 2023, appendix E). tests/models/test_quantised.py derives them.
NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


class QuantisedLinear(torch.nn.Linear):
    """In the place of an nn.Linear; never trained. `weight` makes the dequantised [o, i] anew each time it is read."""

    codes: Tensor  # 8bit: int8 [o, i]; 4bit: uint8 [N, 32], the even weight of each pair in the high half
    scales: Tensor  # fp32; 8bit: [o, 1]; 4bit: [N, 1]

    def __init__(self, linear: torch.nn.Linear, bits: Bits) -> None:
        """Raises ModelError for weights that are not finite."""
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bits = bits
        self.dtype = linear.weight.dtype
        codes, scales = quantise(linear.weight.detach(), bits)
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.bias = linear.bias

    @property
    def weight(self) -> Tensor:
        return self.dequantised(self.dtype)

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        """[o, i], in fp32 or bf16."""
        return dequantise(self.codes, self.scales, (self.out_features, self.in_features), dtype)

    def forward(self, x: Tensor) -> Tensor:
        """[.., i] -> [.., o] in the format of x, or in autocast's."""
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        y: Tensor = _Product.apply(x, self)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.bits}"


class _Product(torch.autograd.Function):
    """x·Wᵀ that keeps neither x nor W: W is frozen, so the gradient needs only the codes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantisedLinear) -> Tensor:
        ctx.layer = layer
        return torch.nn.functional.linear(x, layer.dequantised(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        return grad @ ctx.layer.dequantised(grad.dtype), None


def quantise(weight_oi: Tensor, bits: Bits) -> tuple[Tensor, Tensor]:
    """(codes, scales) as QuantisedLinear keeps them. The last block of 4 bits is filled up with zeros."""
    weight = weight_oi.float()
    if not torch.isfinite(weight).all():
        raise ModelError(
            "a weight of the base is infinite or not a number, so it cannot be quantised.",
            remedy="Fetch the model again.",
        )
    if bits == "8bit":
        scales = _without_zeros(weight.abs().amax(1, keepdim=True) / 127)
        return (weight / scales).round().to(torch.int8), scales
    flat = weight.reshape(-1)
    blocks = torch.nn.functional.pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)
    scales = _without_zeros(blocks.abs().amax(1, keepdim=True))
    borders = torch.tensor([(a + b) / 2 for a, b in itertools.pairwise(NF4)], device=weight.device)
    nearest = torch.bucketize(blocks / scales, borders, out_int32=True).to(torch.uint8)
    return nearest[:, 0::2] << 4 | nearest[:, 1::2], scales


def _without_zeros(scales: Tensor) -> Tensor:
    """A row of zeros stays zeros whatever its scale, as long as nothing is divided by zero."""
    return torch.where(scales == 0, torch.ones_like(scales), scales)


def dequantise(codes: Tensor, scales: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """[o, i] in `dtype`; the inverse of `quantise` up to its rounding."""
    if codes.dtype == torch.int8:
        return (codes.float() * scales).to(dtype)
    pairs = _pairs(codes.device)
    blocks = pairs.index_select(0, codes.view(-1).int()).view(torch.float32).view(-1, BLOCK)
    weight = blocks.mul_(scales).view(-1)[: shape[0] * shape[1]].view(shape)
    return weight.to(dtype)


@cache
def _pairs(device: torch.device) -> Tensor:
    """Both values of every byte, as one number of 64 bits each [256]: a single look-up then gives two weights."""
    values = torch.tensor(NF4)
    byte = torch.arange(256)
    return torch.stack([values[byte >> 4], values[byte & 15]], 1).view(torch.int64).view(-1).to(device)


def quantise_blocks(model: Any, bits: Bits) -> None:
    """Put every linear layer of the transformer blocks in `bits`, one after the other; the head and the embeddings stay."""
    head = model.get_output_embeddings()
    names = [
        name
        for name, module in model.named_modules()
        if type(module) is torch.nn.Linear and module is not head
    ]
    for name in names:  # no module is held here, so that each one's weights go as soon as they are replaced
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, QuantisedLinear(model.get_submodule(name), bits))
    # The weights file stays mapped, and counts as memory, as long as one tensor still lies in it.
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
