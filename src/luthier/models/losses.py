"""From hidden states to losses: the output head runs on the S positions that are asked for and on no others.

    weighted_nll     Σ wᵢ·(-ln p(targetᵢ)), for methods whose loss is a weighted sum over tokens
    token_logprobs   ln p(targetᵢ) one by one, for methods that need them (preferences, policies)

Legend: T tokens of the packed line, S kept positions, V vocabulary. `inputs` are the keyword arguments of a forward
pass; the logits at position i predict token i + 1, so `keep` holds positions *before* the targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


@dataclass(frozen=True)
class TokenLosses:
    """`sum` is a differentiable scalar; `losses_S` is detached, fp32; `right_S` says where the likeliest token is the
    target, and is there only when gradients are off: while training it would cost more than the loss does."""

    sum: Tensor
    losses_S: Tensor
    right_S: Tensor | None


def weighted_nll(
    model: Any, inputs: Mapping[str, Any], keep_S: Tensor, targets_S: Tensor, weights_S: Tensor
) -> TokenLosses:
    """The weighted sum of token losses, in fp32 whatever the model's number format."""
    return plain_weighted_nll(model, inputs, keep_S, targets_S, weights_S)


def plain_weighted_nll(
    model: Any, inputs: Mapping[str, Any], keep_S: Tensor, targets_S: Tensor, weights_S: Tensor
) -> TokenLosses:
    """What `weighted_nll` must equal, gradients included."""
    logits_SV = model(**inputs, logits_to_keep=keep_S, use_cache=False).logits[0]
    losses_S = cross_entropy(logits_SV.float(), targets_S, reduction="none")
    right_S = None if torch.is_grad_enabled() else logits_SV.argmax(-1) == targets_S
    return TokenLosses((losses_S * weights_S).sum(), losses_S.detach(), right_S)


def token_logprobs(model: Any, inputs: Mapping[str, Any], keep_S: Tensor, targets_S: Tensor) -> Tensor:
    """[S] in fp32, differentiable."""
    logits_SV = model(**inputs, logits_to_keep=keep_S, use_cache=False).logits[0]
    return -cross_entropy(logits_SV.float(), targets_S, reduction="none")
