"""Simple preference optimisation: the mean log-probability per token is the reward, and the chosen answer must lead by a
margin; no reference model (Meng, Xia and Chen 2024, "SimPO: Simple Preference Optimization with a Reference-Free Reward",
equation 6).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from luthier.training.method import MethodSettings

from .preference import Compared, Preference

if TYPE_CHECKING:
    from torch import Tensor


class SimpoSettings(MethodSettings):
    """Of `simpo`."""

    beta: float = Field(default=2.0, gt=0, le=1000)
    """What a nat of mean log-probability is worth."""
    margin: float = Field(default=1.0, ge=0, le=1000)
    """By how much the chosen answer's reward must lead (the paper's γ; half of beta is a good start)."""


def simpo_losses(chosen_N: Tensor, rejected_N: Tensor, beta: float, margin: float) -> Tensor:
    """-ln σ(β·(chosen - rejected) - γ), [N]. Arguments are mean ln p per token."""
    from torch.nn.functional import logsigmoid

    return -logsigmoid(beta * (chosen_N - rejected_N) - margin)


class Simpo(Preference):
    """Pairs by their mean log-probability per token, without a reference (`map.rejected`)."""

    name = "simpo"
    spec = SimpoSettings

    def judge(self, told: Compared) -> tuple[Tensor, Tensor]:
        chosen_R, rejected_R = told.means
        beta, margin = self.settings.beta, self.settings.margin
        return simpo_losses(chosen_R, rejected_R, beta, margin), beta * (chosen_R - rejected_R)
