"""Autograd functions of a decoder layer's parts. Each keeps the least that its backward needs:

    Norm           its input and one number a row; whoever reads its output computes it again from those
    Project        its input (or what makes it), and the adapters' waist [T, R]
    ProjectRotate  the same; rotary positions turn the product in place
    GatedMlp       its input and gate and up side by side; their product is computed again

Gradients of frozen weights are never computed, and nothing at all below the lowest trained layer. Number formats: the
matrices in `dtype`, all else in fp32 inside the formulas.

Legend: T tokens, K inputs, N outputs, F intermediate size, R ranks, H heads, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import kernels
from .group import Operands
from .kernels import Activation


@dataclass(frozen=True)
class Source:
    """How to make a tensor again: it is norm(x) with this scale."""

    x: Tensor  # [T, K]
    scale_D: Tensor
    eps: float


_SOURCE = "_luthier_source"


def source_of(x: Tensor) -> Source | None:
    """What `x` was made of, if it came out of `norm` and has not been reshaped since."""
    return getattr(x, _SOURCE, None)


def compute_dtype(weight: Tensor) -> torch.dtype:
    """The format matrices are multiplied in: autocast's where it is on, else the weights' own."""
    device = weight.device.type
    if weight.is_floating_point() and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return weight.dtype


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_D: Tensor, scale_D: Tensor, eps: float, dtype: torch.dtype
    ) -> Tensor:
        y, r = kernels.norm(x, scale_D, eps, dtype)
        ctx.save_for_backward(x, r, scale_D)
        ctx.weight_dtype = weight_D.dtype
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, r, scale_D = ctx.saved_tensors
        dx = kernels.norm_back(grad, x, r, scale_D) if ctx.needs_input_grad[0] else None
        dw = None
        if ctx.needs_input_grad[1]:
            along = tuple(range(x.dim() - 1))
            dw = (grad.float() * x.float()).mul_(r[..., None]).sum(along).to(ctx.weight_dtype)
        return dx, dw, None, None, None


def norm(x: Tensor, weight_D: Tensor, offset: float, eps: float, dtype: torch.dtype) -> Tensor:
    """RMS normalisation of [T, D] or [T, H, D] times (weight + offset), in `dtype`."""
    scale_D = weight_D.detach().float()
    if offset:
        scale_D = scale_D + offset
    y: Tensor = _Norm.apply(x, weight_D, scale_D, eps, dtype)
    return y


def remember(y: Tensor, x: Tensor, weight_D: Tensor, offset: float, eps: float) -> Tensor:
    """Mark `y` as norm(x), so that who reads it need not keep it."""
    scale_D = weight_D.detach().float()
    setattr(y, _SOURCE, Source(x, scale_D + offset if offset else scale_D, eps))
    return y


class _Kept:
    """An input kept for the backward: the tensor itself, or what makes it again. Nothing if nobody will ask.

    `tensor` goes through save_for_backward and is not held here, so that activation checkpointing can drop it."""

    def __init__(self, x_TK: Tensor, source: Source | None, *, wanted: bool) -> None:
        self.norm = (source.scale_D, source.eps, x_TK.dtype) if wanted and source is not None else None

    def get(self, saved: Tensor | None) -> Tensor | None:
        if saved is None or self.norm is None:
            return saved
        return kernels.norm(saved, *self.norm)[0]


def _keep(ctx: Any, x_TK: Tensor, source: Source | None, *others: Tensor | None, wanted: bool) -> None:
    ctx.kept = _Kept(x_TK, source, wanted=wanted)
    first = None if not wanted else x_TK if source is None else source.x
    ctx.save_for_backward(first, *others)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TK: Tensor, operands: Operands, source: Source | None, *_: Tensor) -> Tensor:
        x = x_TK.to(operands.dtype)
        y_TN, low_TR = operands.forward(x)
        ctx.operands, ctx.input_dtype = operands, x_TK.dtype
        _keep(ctx, x, source, low_TR, wanted=operands.moves)
        return y_TN

    @staticmethod
    def backward(ctx: Any, grad_TN: Tensor) -> tuple[Tensor | None, ...]:
        saved, low_TR = ctx.saved_tensors
        operands, grad = ctx.operands, grad_TN.to(ctx.operands.dtype)
        dx, grad_TR = operands.back(grad, needs_input=ctx.needs_input_grad[0])
        grads = operands.parameter_grads(grad, grad_TR, ctx.kept.get(saved), low_TR)
        return None if dx is None else dx.to(ctx.input_dtype), None, None, *grads


def project(x_TK: Tensor, operands: Operands, source: Source | None = None) -> Tensor:
    """[T, N]: a group's product. `source` is what x was made of, if it can be made again."""
    y: Tensor = _Project.apply(x_TK, operands, source, *operands.parameters)
    return y


@dataclass(frozen=True)
class Turn:
    """Rotary positions of one pass: cos and sin [T, R] in fp32, None where a layer has none."""

    cos_TR: Tensor | None
    sin_TR: Tensor | None

    def turn(self, x_THD: Tensor, out: Tensor, *, transposed: bool = False) -> Tensor:
        if self.cos_TR is None or self.sin_TR is None:
            return out if out.data_ptr() == x_THD.data_ptr() else out.copy_(x_THD)
        return kernels.rotate(x_THD, self.cos_TR, self.sin_TR, out, transposed=transposed)


class _ProjectRotate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TK: Tensor,
        operands: Operands,
        source: Source | None,
        turn: Turn,
        shape: tuple[int, int, int],
        *_: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        heads, kv_heads, size = shape
        x = x_TK.to(operands.dtype)
        y_TN, low_TR = operands.forward(x)
        ctx.operands, ctx.input_dtype, ctx.turn, ctx.shape = operands, x_TK.dtype, turn, shape
        _keep(ctx, x, source, low_TR, wanted=operands.moves)
        all_TAD = y_TN.view(-1, heads + 2 * kv_heads, size)
        turned = all_TAD[:, : heads + kv_heads]
        turn.turn(turned, turned)
        q, k, v = all_TAD.split((heads, kv_heads, kv_heads), 1)
        return q, k, v

    @staticmethod
    def backward(ctx: Any, *grads_THD: Tensor) -> tuple[Tensor | None, ...]:
        saved, low_TR = ctx.saved_tensors
        operands, (heads, kv_heads, size) = ctx.operands, ctx.shape
        joined = grads_THD[0].new_empty(
            grads_THD[0].shape[0], heads + 2 * kv_heads, size, dtype=operands.dtype
        )
        places = joined.split((heads, kv_heads, kv_heads), 1)
        for grad, place in zip(grads_THD[:2], places[:2], strict=True):
            ctx.turn.turn(grad.to(operands.dtype), place, transposed=True)
        places[2].copy_(grads_THD[2])
        grad = joined.view(joined.shape[0], -1)
        dx, grad_TR = operands.back(grad, needs_input=ctx.needs_input_grad[0])
        grads = operands.parameter_grads(grad, grad_TR, ctx.kept.get(saved), low_TR)
        return None if dx is None else dx.to(ctx.input_dtype), None, None, None, None, *grads


def project_rotate(
    x_TK: Tensor, operands: Operands, source: Source | None, turn: Turn, shape: tuple[int, int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """q [T, H, D], k and v [T, Hkv, D] of one product, positions already in; views of one buffer.
    `shape` is (H, Hkv, D)."""
    q, k, v = _ProjectRotate.apply(x_TK, operands, source, turn, shape, *operands.parameters)
    return q, k, v


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_THD: Tensor, turn: Turn) -> Tensor:
        ctx.turn = turn
        return turn.turn(x_THD, torch.empty_like(x_THD, memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx: Any, grad_THD: Tensor) -> tuple[Tensor, None]:
        out = torch.empty_like(grad_THD, memory_format=torch.contiguous_format)
        return ctx.turn.turn(grad_THD, out, transposed=True), None


def rotate(x_THD: Tensor, turn: Turn) -> Tensor:
    """Rotary positions alone, where a norm stands between the product and them."""
    y: Tensor = _Rotate.apply(x_THD, turn)
    return y


class _GatedMlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TK: Tensor,
        first: Operands,
        second: Operands,
        act: Activation,
        source: Source | None,
        *_: Tensor,
    ) -> Tensor:
        x = x_TK.to(first.dtype)
        both_TF2, low_TR = first.forward(x)
        gate_TF, up_TF = both_TF2.chunk(2, 1)
        h_TF = kernels.gate(gate_TF, up_TF, act)
        y_TK, low2_TR = second.forward(h_TF)
        ctx.first, ctx.second, ctx.act, ctx.input_dtype = first, second, act, x_TK.dtype
        _keep(ctx, x, source, both_TF2, low_TR, low2_TR, wanted=first.moves)
        return y_TK

    @staticmethod
    def backward(ctx: Any, grad_TK: Tensor) -> tuple[Tensor | None, ...]:
        saved, both_TF2, low_TR, low2_TR = ctx.saved_tensors
        first, second, grad = ctx.first, ctx.second, grad_TK.to(ctx.second.dtype)
        below = ctx.needs_input_grad[0] or first.moves
        dh_TF, grad2_TR = second.back(grad, needs_input=below)
        gate_TF, up_TF = both_TF2.chunk(2, 1)
        if dh_TF is None:
            dboth, h_TF = None, kernels.gate(gate_TF, up_TF, ctx.act)
        else:
            dboth, h_TF = kernels.gate_back(dh_TF, gate_TF, up_TF, ctx.act, again=second.moves)
        del dh_TF, both_TF2, gate_TF, up_TF
        second_grads = second.parameter_grads(grad, grad2_TR, h_TF, low2_TR)
        del h_TF
        if dboth is None:
            return None, None, None, None, None, *([None] * len(first.parameters)), *second_grads
        dx, grad_TR = first.back(dboth, needs_input=ctx.needs_input_grad[0])
        first_grads = first.parameter_grads(dboth, grad_TR, ctx.kept.get(saved), low_TR)
        dx = None if dx is None else dx.to(ctx.input_dtype)
        return dx, None, None, None, None, *first_grads, *second_grads


def gated_mlp(
    x_TK: Tensor, first: Operands, second: Operands, act: Activation, source: Source | None = None
) -> Tensor:
    """down(act(gate(x))·up(x)), where `first` gives gate and up side by side."""
    parameters = *first.parameters, *second.parameters
    y: Tensor = _GatedMlp.apply(x_TK, first, second, act, source, *parameters)
    return y


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_TF: Tensor, up_TF: Tensor, act: Activation) -> Tensor:
        ctx.save_for_backward(gate_TF, up_TF)
        ctx.act = act
        return kernels.gate(gate_TF, up_TF, act)

    @staticmethod
    def backward(ctx: Any, grad_TF: Tensor) -> tuple[Tensor, Tensor, None]:
        gate_TF, up_TF = ctx.saved_tensors
        both, _ = kernels.gate_back(grad_TF, gate_TF, up_TF, ctx.act, again=False)
        dgate, dup = both.chunk(2, 1)
        return dgate, dup, None


def gate(gate_TF: Tensor, up_TF: Tensor, act: Activation) -> Tensor:
    """act(gate)·up alone, where the products around it are not understood."""
    y: Tensor = _Gate.apply(gate_TF, up_TF, act)
    return y
