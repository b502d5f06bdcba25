"""select: of many rows, the few that a model learns most from.

    {select: {n: 5000}}                                                 different from each other: diversity
    {select: {n: 5000, way: coverage, per: label}}                      what is frequent is chosen more often, every label its share
    {select: {n: 5000, by: learning_value, score: "rating"}}            the best by a score, none too like another

Rows are vectors of their words, weighted by how rare these are among all rows (TF-IDF) and projected to 256 coordinates by a hash;
or of an embedder. data/diversity says how rows are chosen of them. The same rows are chosen whatever order they come in, but not
of more rows those of fewer: a larger selection need not hold the smaller one (`sample` does that).

Not here: a measure of how much a model learns from a row; `score` is any expression over the row (data/expressions), so a rule
before may have worked it out. Whether a selection serves better than as many rows drawn by lot, a trained model says: compare.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from luthier.core.errors import DataError
from luthier.core.spec import Spec
from luthier.core.units import Share
from luthier.data.embedders.embedder import EmbedderSpec

from .rule import GatherRule, Said

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from luthier.data.opened import Opened
    from luthier.data.terms import Terms

    from .rule import Gathered

SIZE, SHARES = 256, 4


class Select(Spec):
    n: int | None = Field(default=None, ge=1)
    """How many rows stay."""
    share: Share | None = None
    """In place of `n`, the share of rows that stays."""
    by: Literal["diversity", "learning_value"] = "diversity"
    """Whether rows are to differ, or to be the highest by `score` and differ."""
    way: Literal["spread", "coverage"] = "spread"
    """For diversity: `spread` leaves no row of all far from a chosen one, so it seeks what is rare and odd; `coverage` stands for
    all rows, so it takes more where there are more."""
    score: str | None = None
    """For the learning value: an expression that gives a number for each row, as in `rating` or `len(assistant)`."""
    apart: float = Field(default=0.9, gt=0, le=1)
    """For the learning value: a row is passed over if its cosine with a chosen one is not below it, as long as others are left."""
    per: Literal["label", "source", "none"] = "none"
    """Of what every part keeps its share of the chosen."""
    embedder: EmbedderSpec | None = None
    """What makes the vectors, in place of the rows' words."""
    on: Literal["conversation", "user", "assistant"] = "conversation"
    """What is looked at: what both say, or only one of them; a plain text counts as either."""

    @model_validator(mode="after")
    def _fits(self) -> Select:
        if (self.n is None) == (self.share is None):
            raise ValueError("select needs n or share, one of them, as in {select: {n: 5000}}")
        if self.share == 0:
            raise ValueError("share 0 leaves no rows; write for example 10%")
        if (self.by == "learning_value") != (self.score is not None):
            raise ValueError(
                "score and by: learning_value belong together, as in {by: learning_value, score: rating}"
            )
        if self.by == "learning_value" and self.way != "spread":
            raise ValueError(
                f"way: {self.way} is for diversity; by the learning value rows go by their score"
            )
        if self.by == "diversity" and "apart" in self.model_fields_set and self.apart != 0.9:
            raise ValueError(
                "apart is for by: learning_value; rows chosen for diversity are as far apart as they can be"
            )
        if self.score is not None:
            from luthier.data.expressions import parse

            node = parse(self.score)
            if node.type != "number":
                raise ValueError(
                    f"{self.score[:60]!r} gives a {node.type}, and a score is a number; use len(x) or number(x)"
                )
        return self


def _features(rows: Opened, settings: Select) -> pa.RecordBatch:
    import numpy as np
    import pyarrow as pa

    from luthier.data.terms import ROLES, terms_of

    columns: dict[str, pa.Array] = {}
    if settings.embedder is None:
        columns |= terms_of(rows, settings.on).columns()
    else:
        vectors = settings.embedder.made().embed(rows.joined(*ROLES[settings.on]))
        flat = pa.array(vectors.reshape(-1))
        columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    if settings.per != "none":
        part = rows.column(settings.per)
        if part.null_count:
            raise DataError(
                f"select per {settings.per} needs one for every row, and some have none.",
                remedy="Use task: {kind: classify}, or per: source or none.",
            )
        columns["part"] = part.cast(pa.string())
    if settings.score is not None:
        from luthier.data.expressions import evaluated, parse

        told = evaluated(parse(settings.score), rows).cast(float).fill_null(np.nan).to_numpy()
        columns["score"] = pa.array(told, pa.float64())
    return pa.record_batch(columns)


def _learn(features: Gathered, settings: Select, note: Callable[[str], None]) -> pa.Table:
    """Column: id, of the rows that stay."""
    import numpy as np
    import pyarrow as pa

    n = settings.n if settings.n is not None else max(round(features.rows * (settings.share or 0)), 1)
    ids = pa.chunked_array([batch["id"] for batch in features.read()]).combine_chunks()
    if n >= features.rows:
        note(f"all {features.rows} rows stay; {n} were to be chosen")
        return pa.table({"id": ids})
    vectors = features.column("vector") if settings.embedder else _projected(features)
    scores = features.column("score") if settings.score is not None else None
    parts = {"": np.arange(features.rows)}
    if settings.per != "none":
        names = np.array(features.column("part"), dtype=object)
        parts = {name: np.flatnonzero(names == name) for name in sorted(set(names.tolist()))}
    quotas = quotas_of({name: len(rows) for name, rows in parts.items()}, n)
    chosen = [rows[_chosen(vectors[rows], None if scores is None else scores[rows], quotas[name], settings, note)]
              for name, rows in parts.items() if quotas[name]]  # fmt: skip
    stay = np.sort(np.concatenate(chosen))
    note(_told(vectors, stay))
    return pa.table({"id": ids.take(pa.array(stay))})


def _chosen(
    vectors: np.ndarray, scores: np.ndarray | None, n: int, settings: Select, note: Callable[[str], None]
) -> np.ndarray:
    import numpy as np

    from luthier.data import diversity

    if scores is None:
        return diversity.select(vectors, n, settings.way, note)
    if lacking := int(np.isnan(scores).sum()):
        note(f"{lacking} rows have no score, and come last")
    order = np.argsort(
        np.where(np.isnan(scores), np.inf, -scores), kind="stable"
    )  # features come in the order of ids
    return diversity.apart(vectors, order, n, settings.apart)


def _told(vectors: np.ndarray, stay: np.ndarray) -> str:
    """How near the rows are to a chosen one, measured on some of them: every k-th by id."""
    import numpy as np

    from luthier.data.vectors import cosines

    some = vectors[:: max(1, len(vectors) // 2000)]
    near = np.full(len(some), -1.0)
    for start in range(0, len(stay), 2000):
        np.maximum(near, cosines(some, vectors[stay[start : start + 2000]]).max(axis=1), out=near)
    return (
        f"{len(stay)} of {len(vectors)} rows stay; to the nearest of them rows have a cosine of {near.mean():.2f} on average, "
        f"{near.min():.2f} at the least (of {len(some)} rows)"
    )


def _projected(features: Gathered) -> np.ndarray:
    """TF-IDF vectors through a sparse Johnson-Lindenstrauss transform, int8 [N, 256]. A word that stands there n times
    counts √n."""
    import numpy as np

    from luthier.data.terms import frequencies, read
    from luthier.data.vectors import quantised

    found = frequencies(terms for _, terms in read(features.read()))
    idf = np.log((features.rows + 1) / (found + 1))
    out = np.empty((features.rows, SIZE), np.int8)
    start = 0
    for _, terms in read(features.read(), 5_000):
        out[start : start + len(terms)] = quantised(_project(terms, idf))
        start += len(terms)
    return out


def _project(terms: Terms, idf: np.ndarray) -> np.ndarray:
    """float64 [B, 256]"""
    import numpy as np

    from luthier.data.words import STEP, mix

    weight = np.sqrt(terms.counts) * idf[terms.ids]
    drawn = mix(terms.ids.astype(np.uint64) * STEP)
    owner, out = terms.owner * SIZE, np.zeros(len(terms) * SIZE)
    for k in range(SHARES):
        told = drawn >> np.uint64(16 * k)
        where = (told & np.uint64(SIZE - 1)).astype(np.int64)
        sign = 1.0 - 2.0 * ((told >> np.uint64(15)) & np.uint64(1)).astype(np.float64)
        out += np.bincount(owner + where, weights=weight * sign, minlength=len(out))
    return out.reshape(-1, SIZE)


def quotas_of(sizes: dict[str, int], n: int) -> dict[str, int]:
    """n seats for parts in proportion, by Webster's method, and none gets more than it has rows.

    >>> quotas_of({"a": 90, "b": 9, "c": 1}, 10), quotas_of({"a": 1, "b": 1}, 5)
    ({'a': 9, 'b': 1, 'c': 0}, {'a': 1, 'b': 1})
    """
    from heapq import heapify, heapreplace

    seats = dict.fromkeys(sizes, 0)
    waiting = [(1 / (2 * size), name) for name, size in sizes.items() if size]
    heapify(waiting)
    for _ in range(min(n, sum(sizes.values()))):
        _, name = waiting[0]
        seats[name] += 1
        heapreplace(waiting, ((2 * seats[name] + 1) / (2 * sizes[name]), name))
    return seats


def _run(rows: Opened, settings: Select, learnt: pa.Table) -> Said:
    import pyarrow as pa
    import pyarrow.compute as pc

    stays = pc.is_in(rows.column("id"), value_set=learnt["id"].combine_chunks())
    why = f"not among the {len(learnt)} that were chosen by {settings.by.replace('_', ' ')}"
    return Said(removed=pc.if_else(stays, pa.scalar(None, pa.string()), why))


select = GatherRule(
    "select", 1, Select, "Keeps the few rows that a model learns most from.", _features, _learn, _run,
    source="k-center (Gonzalez 1985; Sener and Savarese 2018), facility location (Lin and Bilmes 2011), DEITA (Liu et al. 2024)",
    mark=lambda settings: settings.embedder.mark() if settings.embedder else None,
)  # fmt: skip
