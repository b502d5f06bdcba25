"""What is measured of every request: each view a number or a word, each number with a fixed bin.

    content   length, unknown (words the training rows do not have), unlike (how far from the nearest training rows), topic, language
    abuse     private (masked values), injection (orders to the model planted in the text)
    answers   answer (the label), answer_length, confidence, refused
    quality   right (where somebody said so)

Words that are known, vectors to be near to and topics are fitted on training rows; how views are spread is told from other rows,
that were never trained on (reference.py). Bins are fixed, so that nothing of the rows that are compared decides how they are
compared. Vectors are those of the embedder; `hashed` knows spelling and no meaning: see docs/monitoring.md for what that costs.

Shapes: N rows, D coordinates, V views.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .rows import Row
from .sequential import BINS

if TYPE_CHECKING:
    from luthier.data.embedders.embedder import EmbedderSpec

GROUPS = {
    "content": ("length", "unknown", "unlike", "topic", "language"),
    "abuse": ("private", "injection"),
    "answers": ("answer", "answer_length", "confidence", "refused"),
    "quality": ("right",),
}
VIEWS = tuple(view for views in GROUPS.values() for view in views)
GROUP_OF = {view: group for group, views in GROUPS.items() for view in views}
WORDED = ("topic", "language", "answer")
"""Views of words; all others are numbers."""
TITLES = {
    "length": "length of the question",
    "unknown": "share of unknown words",
    "unlike": "distance to training rows",
    "topic": "topic",
    "language": "language",
    "private": "masked private values",
    "injection": "orders to the model",
    "answer": "answer",
    "answer_length": "length of the answer",
    "confidence": "confidence",
    "refused": "refusals",
    "right": "right answers",
}
NEAREST = 3
MOST_TOPICS = 12
ROWS_OF_A_TOPIC = 25
OTHER = "(none of these)"


@dataclass(frozen=True)
class Measured:
    """`numbers`: view -> value of each row [N], NaN where it has none; `words`: view -> word of each row, None where it has none.
    `vectors_ND` are whole numbers."""

    ids: tuple[str, ...]
    numbers: Mapping[str, NDArray[np.float64]]
    words: Mapping[str, tuple[str | None, ...]]
    vectors_ND: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.ids)

    def has(self, view: str) -> NDArray[np.bool_]:
        """Which rows say something of it, [N]."""
        if view in self.words:
            return np.array([word is not None for word in self.words[view]], bool)
        return np.isfinite(self.numbers[view])


@dataclass(frozen=True)
class Fit:
    """What is learnt of training rows: hashes of known words (sorted), vectors to be near to, centres of topics and what each is
    called."""

    known: NDArray[np.uint64]
    near_MD: NDArray[np.int8]
    centre_KD: NDArray[np.float32]
    topics: tuple[str, ...]
    labels: tuple[str, ...] | None
    embedder: EmbedderSpec

    @classmethod
    def on(
        cls,
        texts: Sequence[str],
        labels: Sequence[str] | None,
        embedder: EmbedderSpec,
        *,
        near: int = 1_500,
        seed: int = 0,
    ) -> Fit:
        """`texts` in an order that is random (by hashed ids)."""
        from luthier.data.words import words_in

        words = words_in(list(texts))
        known = np.unique(words.hashes)
        vectors_ND = _embedded(texts[:near], embedder)
        k = int(min(MOST_TOPICS, max(1, len(vectors_ND) // ROWS_OF_A_TOPIC)))
        centre_KD = _centres(_unit(vectors_ND), k, seed)
        of_N = (_unit(vectors_ND) @ centre_KD.T).argmax(1) if len(vectors_ND) else np.zeros(0, np.int64)
        topics = _named(texts[: len(vectors_ND)], of_N, k)
        return cls(known, vectors_ND, centre_KD, topics, None if labels is None else tuple(labels), embedder)

    def measure(self, rows: Sequence[Row], at_once: int = 2_000) -> Measured:
        """Every view of every row."""
        parts = [self._measure(rows[i : i + at_once]) for i in range(0, len(rows), at_once)]
        if not parts:
            return self._measure(rows)
        return Measured(
            tuple(one for part in parts for one in part.ids),
            {view: np.concatenate([part.numbers[view] for part in parts]) for view in parts[0].numbers},
            {view: tuple(w for part in parts for w in part.words[view]) for view in parts[0].words},
            np.concatenate([part.vectors_ND for part in parts]),
        )

    def _measure(self, rows: Sequence[Row]) -> Measured:
        from luthier.data.words import words_in

        texts = [row.asked for row in rows]
        words = words_in(texts)
        count_N = words.counts()
        is_new = ~_is_in(words.hashes, self.known)
        new_N = np.bincount(np.repeat(np.arange(len(rows)), count_N), weights=is_new, minlength=len(rows))
        vectors_ND = (
            _embedded(texts, self.embedder) if rows else np.zeros((0, self.near_MD.shape[1]), np.int8)
        )
        unit_ND = _unit(vectors_ND)
        empty_N: NDArray[np.bool_] = (vectors_ND == 0).all(axis=1)
        topic_N = (unit_ND @ self.centre_KD.T).argmax(1) if len(rows) else np.zeros(0, np.int64)
        private_N, injection_N = _private(texts), _injections(texts)
        numbers = {
            "length": np.array([float(len(text)) for text in texts]),
            "unknown": np.where(count_N > 0, new_N / np.maximum(count_N, 1), np.nan),
            "unlike": np.where(empty_N, np.nan, 1 - _nearest(unit_ND, _unit(self.near_MD))),
            "private": private_N,
            "injection": injection_N,
            "answer_length": _floats(None if r.answer is None else float(len(r.answer)) for r in rows),
            "confidence": _floats(r.probability for r in rows),
            "refused": _floats(None if r.refused is None else float(r.refused) for r in rows),
            "right": _floats(r.right for r in rows),
        }
        if self.labels is not None:
            numbers["answer_length"][:] = np.nan
        told: dict[str, tuple[str | None, ...]] = {
            "topic": tuple(
                None if e else self.topics[k] for e, k in zip(empty_N.tolist(), topic_N.tolist(), strict=True)
            ),
            "language": tuple(languages(texts)),
            "answer": tuple(self._label(r) for r in rows),
        }
        return Measured(tuple(r.id for r in rows), numbers, told, vectors_ND)

    def _label(self, row: Row) -> str | None:
        if self.labels is None or row.answer is None:
            return None
        return row.answer if row.answer in self.labels else OTHER


# -- bins --------------------------------------------------------------------------------------------------------------------


def _spread(value: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    return (value - low) / (high - low) * (BINS - 1)


BINNED: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "length": lambda x: _spread(np.log10(x + 1), 0.0, 4.4),
    "unknown": lambda x: _spread(np.sqrt(x), 0.0, 1.0),
    "unlike": lambda x: _spread(x, 0.0, 1.0),
    "private": lambda x: x,
    "injection": lambda x: x,
    "answer_length": lambda x: _spread(np.log10(x + 1), 0.0, 4.4),
    "confidence": lambda x: _spread(-np.log2(1 - np.clip(x, 0, 1) + 2**-12), 0.0, 12.0),
    "refused": lambda x: x,
    "right": lambda x: x,
}
"""From values to bins, before they are rounded down and clipped."""


def bins(measured: Measured, view: str, order: Sequence[str] = ()) -> NDArray[np.int64]:
    """The bin of each row [N], -1 where it says nothing. Words are binned by their place in `order`, others go last.

    Rare words stand at the end of `order`, so that what is seldom lies at the edge, where bets are fine.
    """
    if view in WORDED:
        place = {word: min(n, BINS - 2) for n, word in enumerate(order)}
        return np.array(
            [-1 if word is None else place.get(word, BINS - 1) for word in measured.words[view]], np.int64
        )
    value_N = measured.numbers[view]
    there_N = np.isfinite(value_N)
    told_N = BINNED[view](np.where(there_N, value_N, 0.0))
    return np.where(there_N, np.clip(told_N, 0, BINS - 1), -1).astype(np.int64)


# -- what is measured --------------------------------------------------------------------------------------------------------


def languages(texts: Sequence[str]) -> list[str]:
    """By the vote of function words and letters (data/languages); `unclear` where that says nothing."""
    import polars as pl

    from luthier.data.languages import LANGUAGES, name, vote

    if not texts:
        return []
    best, _, clear = vote(pl.Series(list(texts)), np.arange(len(texts)), len(texts)).winner()
    return [name(LANGUAGES[int(k)]) if sure else "unclear" for k, sure in zip(best, clear, strict=True)]


def _embedded(texts: Sequence[str], embedder: EmbedderSpec) -> NDArray[np.int8]:
    """Vectors; what leaves this machine for them has had its private values masked."""
    from luthier.data.private.masking import masked

    told = [masked([text])[0][0] for text in texts] if embedder.sends is not None else list(texts)
    return embedder.made().embed(told)


def _private(texts: Sequence[str]) -> NDArray[np.float64]:
    """How many different private values: masks that stand there, and what would be masked now."""
    from luthier.data.private.masking import masked
    from luthier.data.private.pseudonyms import MASK

    out = np.zeros(len(texts))
    for n, text in enumerate(texts):
        (told,), _ = masked([text])
        out[n] = len(set(MASK.findall(told)))
    return out


def _injections(texts: Sequence[str]) -> NDArray[np.float64]:
    """1 where the rule `injection` finds something."""
    import pyarrow as pa

    from luthier.data.opened import Opened
    from luthier.data.records import RECORD
    from luthier.data.rules.injection import Injection, injection

    if not texts:
        return np.zeros(0)
    n = len(texts)
    said = {
        "id": [str(i) for i in range(n)],
        "messages": [[{"role": "user", "content": text}] for text in texts],
    }
    columns = [
        pa.array(said[field.name], field.type) if field.name in said else pa.nulls(n, field.type)
        for field in RECORD
    ]
    found = injection.run(Opened(pa.record_batch(columns, schema=RECORD)), Injection(do="mark")).counts
    hit_N = np.zeros(n, bool)
    for count_N in (found or {}).values():
        hit_N |= np.asarray(count_N) > 0
    return hit_N.astype(np.float64)


def _floats(values: Any) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _is_in(hashes: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.bool_]:
    if not len(known):
        return np.zeros(len(hashes), bool)
    at = np.searchsorted(known, hashes).clip(0, len(known) - 1)
    return np.asarray(known[at] == hashes)


def _unit(vectors_ND: NDArray[np.int8]) -> NDArray[np.float32]:
    told = vectors_ND.astype(np.float32)
    return told / np.maximum(np.sqrt((told * told).sum(1, keepdims=True)), 1e-9)


def _nearest(unit_ND: NDArray[np.float32], near_MD: NDArray[np.float32]) -> NDArray[np.float64]:
    """The mean cosine with the nearest few, [N]."""
    few = min(NEAREST, len(near_MD))
    if not few or not len(unit_ND):
        return np.zeros(len(unit_ND))
    alike_NM = unit_ND @ near_MD.T
    return np.sort(np.partition(alike_NM, -few, axis=1)[:, -few:], axis=1).mean(1).astype(np.float64)


def _centres(unit_ND: NDArray[np.float32], k: int, seed: int) -> NDArray[np.float32]:
    """Spherical k-means (Dhillon & Modha 2001), started as k-means++ does (Arthur & Vassilvitskii 2007)."""
    if not len(unit_ND):
        return np.zeros((1, unit_ND.shape[1]), np.float32)
    generator = np.random.default_rng(seed)
    centre_KD = unit_ND[generator.integers(len(unit_ND))][None]
    while len(centre_KD) < k:
        far_N = np.maximum(1 - (unit_ND @ centre_KD.T).max(1), 0).astype(np.float64)
        if far_N.sum() <= 0:
            break
        at = generator.choice(len(unit_ND), p=far_N / far_N.sum())
        centre_KD = np.concatenate([centre_KD, unit_ND[at][None]])
    for _ in range(25):
        of_N = (unit_ND @ centre_KD.T).argmax(1)
        moved_KD = np.stack(
            [unit_ND[of_N == j].sum(0) if (of_N == j).any() else centre_KD[j] for j in range(len(centre_KD))]
        )
        moved_KD /= np.maximum(np.linalg.norm(moved_KD, axis=1, keepdims=True), 1e-9)
        if np.allclose(moved_KD, centre_KD, atol=1e-5):
            break
        centre_KD = moved_KD
    return centre_KD.astype(np.float32)


def _named(texts: Sequence[str], of_N: NDArray[np.int64], k: int) -> tuple[str, ...]:
    """Each topic by the words that most set it apart: those whose share of its rows is furthest above their share of all."""
    from collections import Counter

    from luthier.data.private.masking import masked
    from luthier.data.words import words_in

    sets = []
    for text in texts:
        (safe,), _ = masked([text[:2_000]])
        words = words_in([safe])
        n = len(words.hashes)
        told = {w.decode("utf-8", "replace") for w in words.spoken(0, n)} if n else set()
        sets.append({w for w in told if len(w) > 3 and w.isalpha()})
    everywhere = Counter(w for told in sets for w in told)
    names: list[str] = []
    for j in range(k):
        mine = [told for told, of in zip(sets, of_N, strict=True) if of == j]
        here = Counter(w for told in mine for w in told)
        score = {
            w: n / max(1, len(mine)) - everywhere[w] / max(1, len(sets))
            for w, n in here.items()
            if everywhere[w] >= min(5, len(sets))
        }
        best = sorted(score, key=lambda w: (-score[w], w))[:3]
        name = ", ".join(best) or f"topic {j + 1}"
        names.append(name if name not in names else f"{name} ({j + 1})")
    return tuple(names)
