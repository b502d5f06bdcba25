"""Odds-ratio preference optimisation: supervised fine-tuning on the chosen answer, and a term that raises its odds over
the rejected one's; no reference model (Hong et al. 2024, "ORPO: Monolithic Preference Optimization without Reference
Model", equations 6 and 7). The probability of an answer is the geometric mean of its tokens' (their equation 3 and code).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from luthier.training.method import MethodSettings

from .preference import Compared, Preference

if TYPE_CHECKING:
    from torch import Tensor

# The odds of a probability of one are infinite; fp32 rounds ln p to zero from about this size on.
_CERTAIN = -1e-7


class OrpoSettings(MethodSettings):
    """Of `orpo`."""

    weight: float = Field(default=0.1, gt=0, le=100)
    """How much the odds ratio counts beside the likelihood of the chosen answer (the paper's λ)."""


def log_odds(mean_N: Tensor) -> Tensor:
    """ln(p / (1 - p)) of ln p, [N]; ln p is at most -1e-7."""
    import torch

    mean_N = mean_N.clamp(max=_CERTAIN)
    return mean_N - torch.log(-torch.expm1(mean_N))


def orpo_losses(chosen_N: Tensor, rejected_N: Tensor, weight: float) -> Tensor:
    """-ln p(chosen) - λ·ln σ(ln odds(chosen) - ln odds(rejected)), [N]. Arguments are mean ln p per token."""
    from torch.nn.functional import logsigmoid

    return -chosen_N - weight * logsigmoid(log_odds(chosen_N) - log_odds(rejected_N))


class Orpo(Preference):
    """Learns the chosen answers and away from the rejected ones at once, without a reference (`map.rejected`)."""

    name = "orpo"
    spec = OrpoSettings

    def judge(self, told: Compared) -> tuple[Tensor, Tensor]:
        chosen_R, rejected_R = told.means
        return orpo_losses(chosen_R, rejected_R, self.settings.weight), log_odds(chosen_R) - log_odds(
            rejected_R
        )
