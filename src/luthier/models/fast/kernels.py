"""Element-wise formulas of a decoder, forward and backward: compiled (kernels.c) or as plain torch, same signatures.

    use(folder)      from now on compiled ones for tensors on the CPU; says why not, if not
    plainly()        within it, and in this thread, the plain twins: for tests and comparisons

Legend: T tokens, H heads, D head or hidden size, R rotary size, F intermediate size, V vocabulary, S rows of logits.
Formulas are in fp32 whatever the storage; the plain twins may round in between where that saves a pass.
Not here: autograd (functions.py) and matrix products.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.profiler import record_function
from torch.nn.functional import gelu, silu

from . import native

Activation = Literal["silu", "gelu_tanh"]
_FORMATS = (torch.float32, torch.bfloat16)
_LONGEST_HEAD = 2048  # kernels.c holds one head at a time
_library: ctypes.CDLL | None = None
_PLAIN: ContextVar[bool] = ContextVar("plain kernels", default=False)


def use(folder: Path | None = None) -> str:
    """Compile or load the kernels for this process. Returns why not; empty if they are in use."""
    global _library
    if _library is None:
        found = native.load(folder)
        if found.library is None:
            return found.reason
        _library = found.library
    return ""


def compiled() -> bool:
    """Whether tensors on the CPU go through kernels.c now."""
    return _library is not None and not _PLAIN.get()


@contextmanager
def plainly() -> Iterator[None]:
    """The plain twins for a while."""
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def _fits(*tensors: Tensor) -> bool:
    return compiled() and all(
        x.device.type == "cpu" and x.dtype in _FORMATS and x.stride(-1) == 1 for x in tensors
    )


def _wide(*tensors: Tensor) -> bool:
    """What kernels.c reads as fp32, one number after the other."""
    return all(x.device.type == "cpu" and x.dtype == torch.float32 and x.is_contiguous() for x in tensors)


def _call(name: str, *arguments: Any) -> int:
    """Tensors become pointers, whole numbers 64-bit, fractions fp32; the number of threads comes last."""
    told: list[Any] = []
    for one in arguments:
        if isinstance(one, Tensor):
            told.append(ctypes.c_void_p(one.data_ptr()))
        elif isinstance(one, bool):
            told.append(ctypes.c_int(one))
        elif isinstance(one, int):
            told.append(ctypes.c_int64(one))
        elif isinstance(one, float):
            told.append(ctypes.c_float(one))
        else:
            told.append(one)
    # A profiler sees torch's own operations only.
    seen = (
        record_function(f"luthier::{name}") if torch.autograd.profiler._is_profiler_enabled else nullcontext()
    )
    with seen:
        return int(getattr(_library, name)(*told, ctypes.c_int(torch.get_num_threads())))


def _half(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16


# -- RMS normalisation (Zhang and Sennrich 2019) -----------------------------------------------------------------------


def _rows(x: Tensor) -> tuple[int, int, int]:
    """(rows, rows that lie side by side, distance between such groups), for [T, D] or [T, H, D]."""
    if x.dim() == 2:
        return x.shape[0], 1, x.stride(0)
    return x.shape[0] * x.shape[1], x.shape[1], x.stride(0)


def _side_by_side(x: Tensor) -> bool:
    return x.dim() == 2 or (x.dim() == 3 and x.stride(1) == x.shape[2])


def norm(x: Tensor, scale_D: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(x / sqrt(mean(x²) + eps) · scale in `dtype`, 1 / sqrt(..) in fp32), over the last dimension of [T, D] or
    [T, H, D]; scale is fp32. The result is contiguous."""
    fits = _fits(x) and _wide(scale_D) and scale_D.shape == x.shape[-1:]
    if not (fits and _side_by_side(x) and dtype in _FORMATS):
        return norm_plainly(x, scale_D, eps, dtype)
    y, r = torch.empty(x.shape, dtype=dtype), torch.empty(x.shape[:-1], dtype=torch.float32)
    rows, inner, outer = _rows(x)
    _call("norm", x, _half(x), scale_D, y, _half(y), r, rows, x.shape[-1], inner, outer, float(eps))
    return y, r


def norm_plainly(x: Tensor, scale_D: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    wide = x.float()
    r = torch.rsqrt(wide.square().mean(-1) + eps)
    return (wide * r[..., None]).mul_(scale_D).to(dtype), r


def norm_back(grad: Tensor, x: Tensor, r: Tensor, scale_D: Tensor) -> Tensor:
    """The gradient of x, in its format: r·(g·w) - x·r³·mean(g·w·x)."""
    grad = grad.contiguous()
    alike = grad.shape == x.shape and r.shape == x.shape[:-1] and scale_D.shape == x.shape[-1:]
    if not (alike and _fits(x, grad) and _wide(r, scale_D) and _side_by_side(x)):
        return norm_back_plainly(grad, x, r, scale_D)
    dx = torch.empty(x.shape, dtype=x.dtype)
    rows, inner, outer = _rows(x)
    _call("norm_back", grad, _half(grad), x, _half(x), r, scale_D, dx, rows, x.shape[-1], inner, outer)
    return dx


def norm_back_plainly(grad: Tensor, x: Tensor, r: Tensor, scale_D: Tensor) -> Tensor:
    wide, weighted = x.float(), grad.float() * scale_D
    back = (weighted * wide).mean(-1, keepdim=True) * r[..., None].pow(3)
    return (weighted.mul_(r[..., None]) - wide * back).to(x.dtype)


# -- rotary positions (Su et al. 2021) ---------------------------------------------------------------------------------


def rotate(x_THD: Tensor, cos_TR: Tensor, sin_TR: Tensor, out: Tensor, *, transposed: bool = False) -> Tensor:
    """x·cos + (-x₂, x₁)·sin on the first R numbers of each head, written to `out` [T, H, D] (it may be x); the rest
    is copied. `transposed` gives the gradient. cos and sin are fp32. R = 0 copies."""
    T, H, D = x_THD.shape
    fits = _fits(x_THD, out) and x_THD.dtype == out.dtype and x_THD.shape == out.shape and D <= _LONGEST_HEAD
    alike = cos_TR.shape == sin_TR.shape and cos_TR.shape[0] == T and cos_TR.shape[1] <= D
    if not (fits and alike and _wide(cos_TR, sin_TR)):
        return rotate_plainly(x_THD, cos_TR, sin_TR, out, transposed=transposed)
    R = cos_TR.shape[1]
    half, back = _half(x_THD), bool(transposed)
    strides = (x_THD.stride(0), x_THD.stride(1)), (out.stride(0), out.stride(1))
    _call("rotate", x_THD, *strides[0], out, *strides[1], half, cos_TR, sin_TR, T, H, D, R, back)
    return out


def rotate_plainly(
    x_THD: Tensor, cos_TR: Tensor, sin_TR: Tensor, out: Tensor, *, transposed: bool = False
) -> Tensor:
    R = cos_TR.shape[1]
    turned = x_THD[..., :R].float()
    a, b = turned.chunk(2, -1)
    c1, c2 = cos_TR[:, None].chunk(2, -1)
    s1, s2 = sin_TR[:, None].chunk(2, -1)
    if transposed:
        first, second = a * c1 + b * s2, b * c2 - a * s1
    else:
        first, second = a * c1 - b * s1, b * c2 + a * s2
    if out.data_ptr() != x_THD.data_ptr():
        out[..., R:] = x_THD[..., R:]
    out[..., : R // 2] = first
    out[..., R // 2 : R] = second
    return out


# -- gated activations (Shazeer 2020) ----------------------------------------------------------------------------------


def gate(gate_TF: Tensor, up_TF: Tensor, act: Activation) -> Tensor:
    """act(gate)·up, contiguous."""
    if not (_fits(gate_TF, up_TF) and gate_TF.dtype == up_TF.dtype and gate_TF.shape == up_TF.shape):
        return gate_plainly(gate_TF, up_TF, act)
    T, F = gate_TF.shape
    h = torch.empty(T, F, dtype=gate_TF.dtype)
    half, gelu_tanh = _half(h), act == "gelu_tanh"
    strides = gate_TF.stride(0), up_TF.stride(0)
    _call("gate", gate_TF, strides[0], up_TF, strides[1], h, half, T, F, gelu_tanh)
    return h


def gate_plainly(gate_TF: Tensor, up_TF: Tensor, act: Activation) -> Tensor:
    return (silu(gate_TF) if act == "silu" else gelu(gate_TF, approximate="tanh")).mul_(up_TF)


def gate_back(
    grad_TF: Tensor, gate_TF: Tensor, up_TF: Tensor, act: Activation, *, again: bool
) -> tuple[Tensor, Tensor | None]:
    """(gradients of gate and up side by side [T, 2F], act(gate)·up once more if `again`)."""
    grad_TF = grad_TF.contiguous()
    alike = grad_TF.dtype == gate_TF.dtype == up_TF.dtype and grad_TF.shape == gate_TF.shape == up_TF.shape
    if not (alike and _fits(grad_TF, gate_TF, up_TF)):
        return gate_back_plainly(grad_TF, gate_TF, up_TF, act, again=again)
    T, F = gate_TF.shape
    both, h = torch.empty(T, 2 * F, dtype=grad_TF.dtype), torch.empty_like(grad_TF) if again else None
    inputs = grad_TF, gate_TF, gate_TF.stride(0), up_TF, up_TF.stride(0)
    _call("gate_back", *inputs, both, both[:, F:], 2 * F, h, _half(grad_TF), T, F, act == "gelu_tanh")
    return both, h


def gate_back_plainly(
    grad_TF: Tensor, gate_TF: Tensor, up_TF: Tensor, act: Activation, *, again: bool
) -> tuple[Tensor, Tensor | None]:
    F = gate_TF.shape[1]
    both = grad_TF.new_empty(grad_TF.shape[0], 2 * F)
    through = grad_TF * up_TF
    if act == "silu":
        activated = silu(gate_TF)
        both[:, :F] = torch.ops.aten.silu_backward(through, gate_TF)
    else:
        activated = gelu(gate_TF, approximate="tanh")
        both[:, :F] = torch.ops.aten.gelu_backward(through, gate_TF, approximate="tanh")
    torch.mul(grad_TF, activated, out=both[:, F:])
    return both, activated.mul_(up_TF) if again else None


# -- cross-entropy -----------------------------------------------------------------------------------------------------


def cross_entropy_(
    logits_SV: Tensor, targets_S: Tensor, weights_S: Tensor | None, scale: float = 1.0
) -> Tensor:
    """-ln softmax(scale·logits)[target], [S] in fp32. With weights the logits become their own gradient, weighted.

    Targets are int64 [S]; raises IndexError, before anything is written, where one is not in the vocabulary.
    """
    if _fits(logits_SV) and logits_SV.is_contiguous():
        _check_targets(targets_S, logits_SV)
        losses_S = torch.empty(logits_SV.shape[0], dtype=torch.float32)
        weights = None if weights_S is None else weights_S.float().contiguous()
        if weights is not None and weights.shape != targets_S.shape:
            raise IndexError(
                f"{len(weights)} weights for {len(targets_S)} rows of logits: give each row its own"
            )
        targets = targets_S.contiguous()
        if _call(
            "cross_entropy",
            logits_SV,
            _half(logits_SV),
            *logits_SV.shape,
            targets,
            weights,
            losses_S,
            float(scale),
        ):
            raise MemoryError("no memory for a row of logits")
        return losses_S
    return cross_entropy_plainly_(logits_SV, targets_S, weights_S, scale)


def _check_targets(targets_S: Tensor, logits_SV: Tensor) -> None:
    """kernels.c goes where a target points."""
    if targets_S.dtype != torch.int64 or targets_S.shape != logits_SV.shape[:1]:
        raise IndexError(
            f"targets are {targets_S.dtype} {tuple(targets_S.shape)}, not one int64 a row of logits: convert them"
        )
    if len(targets_S):
        least, most = (int(x) for x in torch.aminmax(targets_S))
        if least < 0 or most >= logits_SV.shape[1]:
            raise IndexError(
                f"targets from {least} to {most}, and the vocabulary has {logits_SV.shape[1]} tokens: the "
                "tokenizer is not the one of these weights"
            )


def cross_entropy_plainly_(
    logits_SV: Tensor, targets_S: Tensor, weights_S: Tensor | None, scale: float = 1.0
) -> Tensor:
    log_shares = torch.log_softmax(logits_SV.float().mul_(scale) if scale != 1.0 else logits_SV.float(), -1)
    losses_S = -log_shares.gather(1, targets_S[:, None])[:, 0]
    if weights_S is not None:
        weights = (weights_S.float() * scale)[:, None]
        grad = log_shares.exp_().mul_(weights)
        grad.scatter_add_(1, targets_S[:, None], -weights)
        logits_SV.copy_(grad)
    return losses_S


# -- causal softmax of blocks of scores --------------------------------------------------------------------------------


def causal_softmax_(scores_BRL: Tensor, queries: int, first: int, scale: float) -> Tensor:
    """softmax(scale·scores) in place; row i sees keys up to `first` + i % `queries` (R a multiple of it)."""
    if _fits(scores_BRL) and scores_BRL.is_contiguous() and _reaches(scores_BRL, queries, first):
        B, R, L = scores_BRL.shape
        _call("causal_softmax", scores_BRL, _half(scores_BRL), B * R, L, queries, first, float(scale))
        return scores_BRL
    seen = first + torch.arange(scores_BRL.shape[1], device=scores_BRL.device) % queries
    hidden = torch.arange(scores_BRL.shape[2], device=scores_BRL.device)[None, :] > seen[:, None]
    masked = (scores_BRL.float() * scale).masked_fill_(hidden, float("-inf"))
    return scores_BRL.copy_(torch.softmax(masked, -1))


def _reaches(scores_BRL: Tensor, queries: int, first: int) -> bool:
    """Whether no row sees keys that are not there."""
    return (
        queries > 0
        and first >= 0
        and first + queries <= scores_BRL.shape[2]
        and scores_BRL.shape[1] % queries == 0
    )


def causal_softmax_back_(
    grads_BRL: Tensor, shares_BRL: Tensor, queries: int, first: int, scale: float
) -> Tensor:
    """P·(dP - Σ P·dP)·scale in place of dP (Dao et al. 2022, appendix B)."""
    alike = grads_BRL.shape == shares_BRL.shape and grads_BRL.dtype == shares_BRL.dtype
    lies = grads_BRL.is_contiguous() and shares_BRL.is_contiguous() and _reaches(grads_BRL, queries, first)
    if alike and lies and _fits(grads_BRL, shares_BRL):
        B, R, L = grads_BRL.shape
        half = _half(grads_BRL)
        _call("causal_softmax_back", grads_BRL, shares_BRL, half, B * R, L, queries, first, float(scale))
        return grads_BRL
    shares, grads = shares_BRL.float(), grads_BRL.float()
    weighted = grads.mul_(shares)
    return grads_BRL.copy_((weighted - shares * weighted.sum(-1, keepdim=True)).mul_(scale))
