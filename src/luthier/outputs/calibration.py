"""How far probabilities may be believed: what was learnt from the validation rows, applied alike where answers are measured and
where they are served.

temperature   every log-probability is divided by one number (Guo et al., On Calibration of Modern Neural Networks, ICML 2017)
isotonic      the winner's probability p becomes how often answers with such a p were right: a line through knots that never
              falls (Zadrozny & Elkan, KDD 2002). The other labels follow with the row's own temperature, the one at which the winner
              has just that, so no label overtakes another and all add up to one.

Shapes: N rows, K labels. Not here: learning it (evaluation/calibration).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COLDEST, HOTTEST = 1e-4, 1e4
STEPS = 60
"""Halvings of an interval of logarithms 18 wide: to the last bit of a double. It is even about 1, so that what was done can be undone."""


def tempered(log_NK: NDArray[np.float64], temperature: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-probabilities divided by the temperature (one, or one for each row [N]) and normalised again; -inf stays.

    >>> import numpy as np
    >>> np.exp(tempered(np.log([[0.9, 0.1]]), 2.0)).round(3).tolist()  # 3 to 1
    [[0.75, 0.25]]
    """
    import numpy as np

    heat = np.asarray(temperature, np.float64)
    warm_NK = log_NK / (heat[:, None] if heat.ndim else heat)
    warm_NK = warm_NK - warm_NK.max(1, keepdims=True)
    result: NDArray[np.float64] = warm_NK - np.log(np.exp(warm_NK).sum(1, keepdims=True))
    return result


def warmed(
    probability_NK: NDArray[np.float64], temperature: float | NDArray[np.float64]
) -> NDArray[np.float64]:
    """The same of probabilities; zeros stay zeros."""
    import numpy as np

    if isinstance(temperature, float) and temperature == 1.0:
        return probability_NK
    with np.errstate(divide="ignore"):
        return np.exp(tempered(np.log(probability_NK), temperature))


def as_sure(log_NK: NDArray[np.float64], sure_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each row at the temperature at which its likeliest label has the probability `sure_N`, as near as labels that are equally
    likely allow. The inverse of itself: with the probability that a winner had, its row comes back."""
    import numpy as np

    low_N = np.full(len(log_NK), np.log(COLDEST))
    high_N = np.full(len(log_NK), np.log(HOTTEST))
    for _ in range(STEPS):
        middle_N = (low_N + high_N) / 2
        too_sure_N = np.exp(tempered(log_NK, np.exp(middle_N)).max(1)) > sure_N
        low_N, high_N = np.where(too_sure_N, middle_N, low_N), np.where(too_sure_N, high_N, middle_N)
    return tempered(log_NK, np.exp((low_N + high_N) / 2))


@dataclass(frozen=True)
class Belief:
    """`knots`: (probabilities, how often right), both rising; with it the temperature is 1."""

    temperature: float = 1.0
    knots: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    @classmethod
    def read(cls, written: Mapping[str, Any] | None) -> Belief:
        """From calibration.json or luthier.json."""
        told = written or {}
        knots = told.get("isotonic")
        return cls(
            told.get("temperature") or 1.0, None if knots is None else (tuple(knots[0]), tuple(knots[1]))
        )

    @property
    def changes(self) -> bool:
        return self.temperature != 1.0 or self.knots is not None

    def sure(self, confidence: float) -> float:
        """How often answers of this confidence are right, as far as is known; a temperature says nothing of one number.

        >>> Belief(knots=((0.2, 0.8), (0.1, 0.9))).sure(0.5)
        0.5
        """
        return confidence if self.knots is None else _between(confidence, *self.knots)

    def labels(self, log_NK: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log-probabilities over labels as they may be believed."""
        import numpy as np

        if self.knots is None:
            return log_NK if self.temperature == 1.0 else tempered(log_NK, self.temperature)
        return as_sure(log_NK, np.interp(np.exp(log_NK.max(1)), *self.knots))


NOTHING_LEARNT = Belief()


def _between(x: float, at: Sequence[float], value: Sequence[float]) -> float:
    import numpy as np

    return float(np.interp(x, at, value))
