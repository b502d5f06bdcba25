"""Which rows when, where there are several sources or a curriculum: whose rows an epoch holds, and in what order.

    mix      by_size            every row once
             {weights: ..}      each source its share of the draws
             {temperature: T}   shares p_i ∝ n_i^(1/T): T = 1 by size, a large T all alike (Raffel et al. 2020, section 3.5.2;
                                with 1/T = 0.7, Devlin et al.'s multilingual BERT)
    order    shuffled           by a hash of the row's id, another one each epoch
             short_first        in the first epoch from short to long, then shuffled (SortaGrad: Amodei et al. 2016, section 3.2)
             [a, b]             in every epoch all draws of source a, then all of b, each shuffled

An epoch is as many draws as there are rows, whatever the mix; so steps and epochs mean the same under all of them. A
source is a stream of passes over its rows, each in a new order; an epoch takes its share of draws from where the one
before stopped. So a source drawn more than it has rows repeats, and one drawn less comes round in later epochs.

Everything follows from (seed, epoch, ids, sources), never from a row's place in a file. Pure; no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from luthier.core.errors import SpecError, did_you_mean

from .batches import steps_per_epoch

if TYPE_CHECKING:
    from .rows import Rows
    from .spec import MixSpec, TrainSpec


def order_of(spec: TrainSpec, rows: Rows) -> Mixture:
    """The order of training. Raises SpecError for a source that is not there or is not mentioned."""
    sources, codes = rows.sources
    refuse_strangers(spec, sources)
    sizes = np.bincount(codes, minlength=len(sources)).tolist()
    share = shares(spec.mix, dict(zip(sources, sizes, strict=True)))
    draws = sizes if share is None else apportion(len(rows), share)
    turns = None if isinstance(spec.order, str) else _turns(spec.order, sources)
    return Mixture(
        names=rows.names,
        sources=tuple(sources),
        codes=codes,
        draws=tuple(draws),
        seed=spec.seed,
        rows=spec.batch.rows,
        tokens=rows.tokens if spec.order == "short_first" else None,
        turns=turns,
    )


def shares(mix: MixSpec | str, sizes: Mapping[str, int]) -> list[float] | None:
    """Each source's share of the draws, in the order of `sizes`; None: every row once."""
    if isinstance(mix, str) or not sizes:
        return None
    if mix.temperature is not None:
        wanted = [n ** (1 / mix.temperature) for n in sizes.values()]
    else:
        assert mix.weights is not None  # MixSpec has one of the two
        wanted = [mix.weights[name] for name in sizes]
    return [one / sum(wanted) for one in wanted]


def _turns(order: Sequence[str], sources: Sequence[str]) -> tuple[int, ...]:
    """For each source its place in the order."""
    return tuple(order.index(name) for name in sources)


def refuse_strangers(spec: TrainSpec, sources: Sequence[str]) -> None:
    """A mix or an order that names a source which is not there, or leaves one out. Raises SpecError."""
    if not isinstance(spec.mix, str) and spec.mix.weights is not None:
        _need_sources(spec.mix.weights, sources, "train.mix.weights", "0 leaves a source out")
    if not isinstance(spec.order, str):
        _need_sources(spec.order, sources, "train.order", "every source has its turn")


def _need_sources(
    told: Mapping[str, float] | Sequence[str], there: Sequence[str], key: str, rule: str
) -> None:
    if unknown := [name for name in told if name not in there]:
        raise SpecError(
            f"{key} names the source {unknown[0]!r}, and no training row comes from one of that name.",
            remedy=f"{did_you_mean(unknown[0], list(there))} (data.sources: a source's `name`, or its file's)",
        )
    if missing := [name for name in there if name not in told]:
        raise SpecError(f"{key} says nothing of the source {missing[0]!r}.", remedy=f"Add it; {rule}.")


def apportion(total: int, share: Sequence[float]) -> list[int]:
    """`total` draws by share: whole numbers by largest remainder (Hamilton), the first winning a tie; but at least one for
    every share above zero, taken from the largest.

    >>> apportion(10, [0.5, 0.25, 0.25]), apportion(3, [0.99, 0.01])
    ([5, 3, 2], [2, 1])
    """
    exact = [total * one for one in share]
    draws = [int(one) for one in exact]
    by_rest = sorted(range(len(share)), key=lambda i: (draws[i] - exact[i], i))
    for i in by_rest[: total - sum(draws)]:
        draws[i] += 1
    for i, one in enumerate(share):
        largest = draws.index(max(draws))
        if one > 0 and draws[i] == 0 and draws[largest] > 1:
            draws[i], draws[largest] = 1, draws[largest] - 1
    return draws


def ranks(names: Iterable[str], salt: str) -> np.ndarray:
    """Indices of `names` sorted by a hash of salt and name. Equal to sorting in Python, in a tenth of the memory."""
    digests = bytearray()
    for name in names:
        digests += blake2b((salt + name).encode(), digest_size=16).digest()
    words = np.frombuffer(bytes(digests), ">u8").reshape(-1, 2)
    return np.lexsort((words[:, 1], words[:, 0]))


@dataclass(frozen=True)
class Mixture:
    """The rows of every step, as `batches.Order` gives them. `codes` [N] says which of `sources` a row came from, `draws`
    how many rows of each an epoch takes; `tokens` [N] where the first epoch goes from short to long, `turns` where sources
    go one after another."""

    names: Sequence[str]
    sources: tuple[str, ...]
    codes: np.ndarray
    draws: tuple[int, ...]
    seed: int
    rows: int
    tokens: np.ndarray | None = None
    turns: tuple[int, ...] | None = None
    _kept: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    @property
    def rows_per_epoch(self) -> int:
        return sum(self.draws)

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(self.rows_per_epoch, self.rows)

    @property
    def often(self) -> np.ndarray:
        """How often an epoch holds each row, on average over epochs, [N]."""
        sizes = np.bincount(self.codes, minlength=len(self.sources))
        return (np.array(self.draws) / np.maximum(sizes, 1))[self.codes]

    def step(self, step: int) -> list[int]:
        """Indices of the rows of a step (1-based), in order."""
        epoch, k = divmod(step - 1, self.steps_per_epoch)
        if epoch not in self._kept:
            order = self.epoch(epoch)
            self._kept.clear()
            self._kept[epoch] = order
        return self._kept[epoch][k * self.rows : (k + 1) * self.rows].tolist()

    def epoch(self, epoch: int) -> np.ndarray:
        """Indices of the rows of one epoch (0-based), in order."""
        drawn, names = self._draw(epoch)
        drawn = drawn[ranks(names, f"{self.seed}/{epoch}/")]
        if self.turns is not None:
            return drawn[np.argsort(np.array(self.turns)[self.codes[drawn]], kind="stable")]
        if self.tokens is not None and epoch == 0:
            return drawn[np.argsort(self.tokens[drawn], kind="stable")]
        return drawn

    def _draw(self, epoch: int) -> tuple[np.ndarray, Iterable[str]]:
        """The rows of an epoch in no particular order, and a name for each: its row's, marked where it repeats."""
        if self.draws == tuple(np.bincount(self.codes, minlength=len(self.sources)).tolist()):
            return np.arange(len(self.names)), self.names
        drawn = np.concatenate([self._drawn(source, epoch) for source in range(len(self.sources))])
        pairs = zip(drawn.tolist(), _repeats(drawn).tolist(), strict=True)
        return drawn, (self.names[i] + (f"#{again}" if again else "") for i, again in pairs)

    def _drawn(self, source: int, epoch: int) -> np.ndarray:
        """The rows that an epoch takes from one source's stream of passes."""
        own, n = np.flatnonzero(self.codes == source), self.draws[source]
        if len(own) == n:
            return own  # one whole pass, whose order the epoch's own shuffle decides
        start, taken = epoch * n, []
        names = [self.names[i] for i in own.tolist()]
        for nth in range(start // len(own), -(-(start + n) // len(own))):
            order = ranks(names, f"{self.seed}/{self.sources[source]}/{nth}/")
            begin = max(start - nth * len(own), 0)
            taken.append(own[order[begin : start + n - nth * len(own)]])
        return np.concatenate([np.zeros(0, int), *taken])


def _repeats(drawn: np.ndarray) -> np.ndarray:
    """How often each draw's row was drawn before it: [7, 5, 7, 7] gives [0, 0, 1, 2]."""
    order = np.argsort(drawn, kind="stable")
    by_row = drawn[order]
    first = np.maximum.accumulate(np.where(np.diff(by_row, prepend=-1) != 0, np.arange(len(drawn)), 0))
    found = np.empty(len(drawn), int)
    found[order] = np.arange(len(drawn)) - first
    return found
