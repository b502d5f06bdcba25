"""Identity preference optimisation: the log-ratio of a pair is drawn to 1/(2τ) and not beyond, so that pairs which are
always answered one way do not drive it to infinity (Azar et al. 2024, "A General Theoretical Paradigm to Understand
Learning from Human Preferences", equation 17).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from luthier.training.method import MethodSettings

from .dpo import log_ratio
from .preference import Compared, Preference

if TYPE_CHECKING:
    from torch import Tensor


class IpoSettings(MethodSettings):
    """Of `ipo`."""

    tau: float = Field(default=0.1, gt=0, le=100)
    """How strongly the model is held to where it started; the log-ratio aims at 1/(2·tau) nats."""
    per_token: bool = False
    """Compare mean instead of summed log-probabilities, so that long answers do not weigh more; tau then needs to be larger."""


def ipo_losses(
    chosen_N: Tensor, rejected_N: Tensor, ref_chosen_N: Tensor, ref_rejected_N: Tensor, tau: float
) -> Tensor:
    """(h - 1/(2τ))² with the log-ratio h, [N]."""
    return (log_ratio(chosen_N, rejected_N, ref_chosen_N, ref_rejected_N) - 1 / (2 * tau)).square()


class Ipo(Preference):
    """Pairs drawn to a fixed distance; needs a rejected answer in every row (`map.rejected`)."""

    name = "ipo"
    unit = "squared nats per pair"
    spec = IpoSettings
    with_reference = True

    def judge(self, told: Compared) -> tuple[Tensor, Tensor]:
        now, before = told.each, told.reference
        if self.settings.per_token:
            assert told.reference_R2 is not None
            means_R2 = told.reference_R2 / told.tokens_R2
            now, before = told.means, (means_R2[:, 0], means_R2[:, 1])
        return ipo_losses(*now, *before, self.settings.tau), log_ratio(*now, *before)
