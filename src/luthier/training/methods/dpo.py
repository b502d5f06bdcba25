"""Direct preference optimisation: the chosen answer's log-probability should rise above the rejected one's, relative
to the model that training starts from (Rafailov et al. 2023, "Direct Preference Optimization", equation 7).

`label_smoothing` ε takes it that a share ε of the pairs is the wrong way round: conservative DPO (Mitchell 2023,
"A note on DPO with noisy preferences", equation 3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from luthier.training.method import MethodSettings

from .preference import Compared, Preference

if TYPE_CHECKING:
    from torch import Tensor


class DpoSettings(MethodSettings):
    """Of `dpo`."""

    beta: float = Field(default=0.1, gt=0, le=100)
    """How strongly the model is held to where it started: less lets it go further."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """The share of pairs that may be the wrong way round."""


def log_ratio(chosen_N: Tensor, rejected_N: Tensor, ref_chosen_N: Tensor, ref_rejected_N: Tensor) -> Tensor:
    """How much more the model has moved towards the chosen answers than towards the rejected ones, [N] in nats."""
    return (chosen_N - ref_chosen_N) - (rejected_N - ref_rejected_N)


def dpo_losses(
    chosen_N: Tensor,
    rejected_N: Tensor,
    ref_chosen_N: Tensor,
    ref_rejected_N: Tensor,
    beta: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """-(1 - ε)·ln σ(β·h) - ε·ln σ(-β·h) with the log-ratio h, [N]. Arguments are Σ ln p of whole answers."""
    from torch.nn.functional import logsigmoid

    logits_N = beta * log_ratio(chosen_N, rejected_N, ref_chosen_N, ref_rejected_N)
    right_N = logsigmoid(logits_N)
    if not label_smoothing:
        return -right_N
    return -(1 - label_smoothing) * right_N - label_smoothing * logsigmoid(-logits_N)


class Dpo(Preference):
    """Pairs against the model before its first step; needs a rejected answer in every row (`map.rejected`)."""

    name = "dpo"
    spec = DpoSettings
    with_reference = True

    def judge(self, told: Compared) -> tuple[Tensor, Tensor]:
        wish = self.settings
        losses_R = dpo_losses(*told.each, *told.reference, wish.beta, wish.label_smoothing)
        return losses_R, wish.beta * log_ratio(*told.each, *told.reference)
