"""Which weights become the model, when they are an average: a greedy soup of the best validated ones.

Weights along one run often lie around a better place than any of them (Izmailov et al. 2018, "Averaging weights leads
to wider optima"); taking one more in only while validation gets no worse is the greedy soup of Wortsman et al. 2022
("Model soups", Recipe 1). The result validates at least as well as the best weights alone, by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .state import Good
from .stopping import Watch

if TYPE_CHECKING:
    from torch import Tensor


def greedy(
    ranking: Sequence[Good], watch: Watch, measure: Callable[[Sequence[Good]], float]
) -> tuple[list[Good], float]:
    """Which of `ranking` (the best first) to average, and the value that the average was measured to have.

    >>> a, b, c = (Good(step, value, value, "") for step, value in ((2, 1.0), (3, 1.1), (1, 1.2)))
    >>> means = {(2, 3): 1.5, (2, 1): 0.9}
    >>> chosen, value = greedy([a, b, c], Watch("loss", "min"), lambda some: means[tuple(one.step for one in some)])
    >>> [one.step for one in chosen], value
    ([2, 1], 0.9)
    """
    chosen, value = [ranking[0]], ranking[0].value
    for one in ranking[1:]:
        tried = measure([*chosen, one])
        if not watch.better(value, tried):
            chosen, value = [*chosen, one], tried
    return chosen, value


def mean(weights: Iterable[Mapping[str, Tensor]]) -> dict[str, Any]:
    """The mean of each tensor, added up one after another in fp32; at most two sets are in memory at once."""
    total: dict[str, Any] = {}
    count = 0
    for one in weights:
        count += 1
        for name, tensor in one.items():
            total[name] = total[name].add_(tensor.float()) if name in total else tensor.float().clone()
    return {name: tensor.div_(count) for name, tensor in total.items()}
