"""From hidden states to losses: the output head runs on the S positions that are asked for and on no others, a slice
of them at a time, and nothing as wide as the vocabulary is kept for the backward pass.

    weighted_nll     Σ wᵢ·(-ln p(targetᵢ)), for methods whose loss is a weighted sum over tokens;
                     its gradient is already computed in the forward pass, slice by slice
    token_logprobs   ln p(targetᵢ) one by one, for methods that need them (preferences, policies);
                     logits are computed again in the backward pass

    with plainly():  ...        both through model(..).logits, which they must equal, gradients included

A head is a linear layer whose logits may be scaled or soft-capped. What a model does with them is read from its config
and then checked on a few tokens; where the check fails the plain way is taken, and `why_plain` says so.

Legend: T tokens of the packed line, S kept positions, V vocabulary, D hidden size. `inputs` are the keyword arguments
of a forward pass; the logits at position i predict token i + 1, so `keep` holds positions *before* the targets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from .fast import kernels
from .fast.functions import compute_dtype

# A slice of logits this large stays near the processor and keeps its matrix products thick.
SLICE_BYTES = 48 << 20
THINNEST = 64
_PROBE = (3, 4, 5)  # any tokens


@dataclass(frozen=True)
class TokenLosses:
    """`sum` is a differentiable scalar; `losses_S` is detached, fp32; `right_S` says where the likeliest token is the
    target, and is there only when gradients are off: while training it would cost more than the loss does."""

    sum: Tensor
    losses_S: Tensor
    right_S: Tensor | None


@dataclass(frozen=True)
class Head:
    """logits = cap·tanh(scale·(hidden·Wᵀ + b) / cap), or without the cap; `left` says why it is not understood."""

    scale: float = 1.0
    cap: float | None = None
    left: str = ""

    def logits(self, hidden_SD: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> Tensor:
        logits_SV = linear(hidden_SD, weight_VD, bias_V) * self.scale
        return logits_SV if self.cap is None else torch.tanh(logits_SV / self.cap) * self.cap


_PLAIN: ContextVar[bool] = ContextVar("plain losses", default=False)
_HEADS: WeakKeyDictionary[Any, Head] = WeakKeyDictionary()


@contextmanager
def plainly() -> Iterator[None]:
    """Within it, losses come from the model's own logits."""
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def leave_plain(model: Any, why: str) -> None:
    """From now on this model's losses come from its own logits."""
    _HEADS[model] = Head(left=why)


def plain(*models: Any) -> bool:
    """Whether losses of these models come from their own logits: within `plainly`, or where a head is not understood."""
    return _PLAIN.get() or any(why_plain(model) for model in models)


def why_plain(model: Any) -> str:
    """Why this model's head is left to the model itself; empty if it is not."""
    return vocabulary_head(model).left


def weighted_nll(
    model: Any, inputs: Mapping[str, Any], keep_S: Tensor, targets_S: Tensor, weights_S: Tensor
) -> TokenLosses:
    """The weighted sum of token losses, in fp32 whatever the model's number format."""
    if plain(model):
        return plain_weighted_nll(model, inputs, keep_S, targets_S, weights_S)
    head = vocabulary_head(model)
    hidden_SD, weight_VD, bias_V = read_hidden(model, inputs, keep_S)
    told = _WeightedNll.apply(
        hidden_SD, weight_VD, bias_V, targets_S, weights_S, head, not torch.is_grad_enabled()
    )
    return TokenLosses(*told)


def token_logprobs(model: Any, inputs: Mapping[str, Any], keep_S: Tensor, targets_S: Tensor) -> Tensor:
    """[S] in fp32, differentiable."""
    if plain(model):
        return plain_token_logprobs(model, inputs, keep_S, targets_S)
    head = vocabulary_head(model)
    hidden_SD, weight_VD, bias_V = read_hidden(model, inputs, keep_S)
    logprobs_S: Tensor = _Logprobs.apply(hidden_SD, weight_VD, bias_V, targets_S, head)
    return logprobs_S


def plain_weighted_nll(
    model: Any, inputs: Mapping[str, Any], keep_S: Tensor, targets_S: Tensor, weights_S: Tensor
) -> TokenLosses:
    """What `weighted_nll` must equal, gradients included."""
    logits_SV = model(**inputs, logits_to_keep=keep_S, use_cache=False).logits[0]
    losses_S = cross_entropy(logits_SV.float(), targets_S, reduction="none")
    right_S = None if torch.is_grad_enabled() else logits_SV.argmax(-1) == targets_S
    return TokenLosses((losses_S * weights_S).sum(), losses_S.detach(), right_S)


def plain_token_logprobs(model: Any, inputs: Mapping[str, Any], keep_S: Tensor, targets_S: Tensor) -> Tensor:
    """What `token_logprobs` must equal, gradients included."""
    logits_SV = model(**inputs, logits_to_keep=keep_S, use_cache=False).logits[0]
    return -cross_entropy(logits_SV.float(), targets_S, reduction="none")


# -- the head ----------------------------------------------------------------------------------------------------------


def _whole(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def read_hidden(
    model: Any, inputs: Mapping[str, Any], keep_S: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Hidden states at the kept positions, and the head's weight and bias."""
    whole = _whole(model)
    hidden_TD = whole.get_decoder()(**inputs, use_cache=False).last_hidden_state[0]
    layer = whole.get_output_embeddings()
    # Not an index: its gradient would be added up one number at a time.
    return hidden_TD.index_select(0, keep_S), layer.weight, layer.bias


def vocabulary_head(model: Any) -> Head:
    if model not in _HEADS:
        _HEADS[model] = _find_head(model)
    return _HEADS[model]


def _find_head(model: Any) -> Head:
    whole = _whole(model)
    layer = whole.get_output_embeddings()
    if type(layer) is not torch.nn.Linear or not hasattr(whole, "get_decoder"):
        return Head(left=f"the output head is a {type(layer).__name__}, not a plain linear layer")
    config = whole.config
    scale = 1.0
    if (divisor := getattr(config, "logits_scaling", None)) is not None:
        scale = 1.0 / float(divisor)
    if (factor := getattr(config, "logit_scale", None)) is not None:
        scale = float(factor)
    cap = getattr(config, "final_logit_softcapping", None)
    head = Head(scale, None if cap is None else float(cap))
    return head if _agrees(whole, layer, head) else Head(left="its logits are not those of its linear layer")


def _agrees(whole: Any, layer: Any, head: Head) -> bool:
    """Whether the formula gives the model's own logits, on a few tokens."""
    kept: list[Tensor] = []
    decoder = whole.get_decoder()
    watch = decoder.register_forward_hook(lambda _, __, out: kept.append(out.last_hidden_state[0]))
    was_training = whole.training
    whole.eval()
    try:
        # In the number formats of the caller: peft's own casts may be switched off because autocast is on.
        with torch.no_grad():
            ids = torch.tensor([_PROBE], device=layer.weight.device)
            theirs = whole(input_ids=ids, use_cache=False).logits[0].float()
            ours = head.logits(kept[0].to(layer.weight.dtype), layer.weight, layer.bias).float()
    finally:
        watch.remove()
        whole.train(was_training)
    # bf16 logits are rounded once more or less, depending on the order of scaling.
    tolerance = 1e-5 if compute_dtype(layer.weight) == torch.float32 else 2e-2
    return bool((ours - theirs).norm() <= tolerance * theirs.norm())


# -- autograd ----------------------------------------------------------------------------------------------------------


class _Slices:
    """The head's logits a slice of rows at a time, always in the same memory."""

    def __init__(self, hidden_SD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, head: Head) -> None:
        self.dtype = compute_dtype(weight_VD)
        self.hidden_SD = hidden_SD.detach().to(self.dtype)
        self.weight_VD = weight_VD.detach().to(self.dtype)
        self.bias_V = None if bias_V is None else bias_V.detach().to(self.dtype)
        self.head, self.count = head, len(hidden_SD)
        vocabulary = len(weight_VD)
        rows = max(THINNEST, SLICE_BYTES // (vocabulary * self.hidden_SD.element_size()))
        pieces = max(1, -(-self.count // rows))
        self.rows = -(-self.count // pieces) if self.count else 0
        self._room = self.hidden_SD.new_empty(self.rows, vocabulary)

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """(rows, logits before scale and cap), overwritten by the next."""
        for a in range(0, self.count, self.rows or 1):
            rows = slice(a, min(a + self.rows, self.count))
            logits_SV = self._room[: rows.stop - a]
            torch.mm(self.hidden_SD[rows], self.weight_VD.t(), out=logits_SV)
            if self.bias_V is not None:
                logits_SV += self.bias_V
            yield rows, logits_SV

    def losses(self, logits_SV: Tensor, targets_S: Tensor, weights_S: Tensor | None) -> Tensor:
        """Losses [S]; with weights the logits become their gradient, through scale and cap."""
        head = self.head
        if head.cap is None:
            return kernels.cross_entropy_(logits_SV, targets_S, weights_S, head.scale)
        capped = torch.tanh(logits_SV.float() * (head.scale / head.cap))
        slope = (1 - capped.square()) * head.scale if weights_S is not None else None
        capped *= head.cap
        losses_S = kernels.cross_entropy_(capped, targets_S, weights_S)
        if slope is not None:
            logits_SV.copy_(capped.mul_(slope))
        return losses_S


class _Gradients:
    """Sums over slices: of hidden states always, of weight and bias where they are trained."""

    def __init__(
        self, slices: _Slices, weight_VD: Tensor, bias_V: Tensor | None, needs: tuple[bool, ...]
    ) -> None:
        self.slices = slices
        self.hidden_SD = torch.empty_like(slices.hidden_SD) if needs[0] else None
        self.weight_VD = torch.zeros_like(weight_VD, requires_grad=False) if needs[1] else None
        self.bias_V = torch.zeros_like(bias_V) if bias_V is not None and needs[2] else None

    def add(self, rows: slice, grad_SV: Tensor) -> None:
        if self.hidden_SD is not None:
            torch.mm(grad_SV, self.slices.weight_VD, out=self.hidden_SD[rows])
        if self.weight_VD is not None:
            self.weight_VD += grad_SV.t() @ self.slices.hidden_SD[rows]
        if self.bias_V is not None:
            self.bias_V += grad_SV.sum(0, dtype=torch.float32).to(self.bias_V.dtype)


class _WeightedNll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_SD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_S: Tensor,
        weights_S: Tensor,
        head: Head,
        judge: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        slices = _Slices(hidden_SD, weight_VD, bias_V, head)
        # Without gradients `needs_input_grad` still says which inputs could have one.
        needs = (False,) * 3 if judge else tuple(ctx.needs_input_grad[:3])
        grads = _Gradients(slices, weight_VD, bias_V, needs)
        losses_S = torch.zeros(slices.count, device=hidden_SD.device)
        right_S = torch.zeros_like(targets_S, dtype=torch.bool) if judge else None
        for rows, logits_SV in slices:
            if right_S is not None:
                right_S[rows] = logits_SV.argmax(-1) == targets_S[rows]
            weights = weights_S[rows] if any(needs) else None
            losses_S[rows] = slices.losses(logits_SV, targets_S[rows], weights)
            if any(needs):
                grads.add(rows, logits_SV)
        ctx.save_for_backward(grads.hidden_SD, grads.weight_VD, grads.bias_V)
        ctx.input_dtype = hidden_SD.dtype
        ctx.mark_non_differentiable(*(x for x in (losses_S, right_S) if x is not None))
        return (losses_S * weights_S).sum(), losses_S, right_S

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        hidden_SD, weight_VD, bias_V = ctx.saved_tensors
        hidden = None if hidden_SD is None else (hidden_SD * grad).to(ctx.input_dtype)
        weight = None if weight_VD is None else weight_VD * grad
        return hidden, weight, None if bias_V is None else bias_V * grad, None, None, None, None


class _Logprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_SD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_S: Tensor, head: Head
    ) -> Tensor:
        slices = _Slices(hidden_SD, weight_VD, bias_V, head)
        logprobs_S = torch.zeros(slices.count, device=hidden_SD.device)
        for rows, logits_SV in slices:
            logprobs_S[rows] = -slices.losses(logits_SV, targets_S[rows], None)
        ctx.save_for_backward(hidden_SD, weight_VD, bias_V, targets_S)
        ctx.head, ctx.dtype = head, slices.dtype
        return logprobs_S

    @staticmethod
    def backward(ctx: Any, grad_S: Tensor) -> tuple[Tensor | None, ...]:
        hidden_SD, weight_VD, bias_V, targets_S = ctx.saved_tensors
        # Autocast is off in a backward pass, whatever it was before.
        with torch.autocast(hidden_SD.device.type, ctx.dtype, enabled=ctx.dtype != weight_VD.dtype):
            slices = _Slices(hidden_SD, weight_VD, bias_V, ctx.head)
        grads = _Gradients(slices, weight_VD, bias_V, tuple(ctx.needs_input_grad[:3]))
        for rows, logits_SV in slices:
            # The logarithm of a probability falls as the loss rises.
            slices.losses(logits_SV, targets_S[rows], -grad_S[rows])
            grads.add(rows, logits_SV)
        hidden = None if grads.hidden_SD is None else grads.hidden_SD.to(hidden_SD.dtype)
        return hidden, grads.weight_VD, grads.bias_V, None, None
