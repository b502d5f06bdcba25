"""rank: rows that are most like a goal stay. The goal is a sentence in the recipe, or files: a description of what the model is
for, or examples of it.

    {rank: {goal: "questions about invoices and refunds", share: 50%}}
    {rank: {to: [seeds.jsonl], method: cosine, n: 5000}}
    {rank: {to: goal.txt, method: embedding, embedder: {endpoint: {url: ..., model: ...}}, at_least: 0.4}}

    bm25        words of the goal that stand in the row, rare ones more (Robertson and Zaragoza, 2009; k1 1.2, b 0.75, k3 8)
    cosine      of TF-IDF vectors, the goal's being the mean of its texts' (Salton and Buckley, 1988; a word n times counts √n)
    embedding   the cosine of vectors that an embedder makes, the goal's being the mean of its texts'

How rare a word is, all rows say together. Every row's score stands in the trail, that of a row that goes in its reason. A score
is a whole number of millionths, and of equal ones the lowest ids stay.

Not here: whether a row is good; words are all that the first two methods know, and all that the embedder `hashed` knows.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from luthier.core.errors import DataError
from luthier.core.spec import Spec
from luthier.core.units import Share
from luthier.data.embedders.embedder import EmbedderSpec

from .file_texts import stamps, texts_in
from .rule import GatherRule, Said

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from luthier.data.opened import Opened
    from luthier.data.terms import Terms

    from .rule import Gathered

K1, B, K3 = 1.2, 0.75, 8.0
UNIT = 1_000_000


class Rank(Spec):
    by: Literal["similarity"] = "similarity"
    """What rows are ranked by: how like they are to the goal."""
    goal: str | None = None
    """What the model is for, in words."""
    to: str | Annotated[list[str], Field(min_length=1)] | None = None
    """In place of `goal`, files that say it or are examples of it: a path, glob or URL, or a list of them, in any format that
    sources have; every string in them counts."""
    method: Literal["bm25", "cosine", "embedding"] = "bm25"
    """How likeness is measured."""
    embedder: EmbedderSpec | None = None
    """For the method `embedding`, what makes the vectors; `hashed` where it is left out."""
    n: int | None = Field(default=None, ge=1)
    """How many rows stay."""
    share: Share | None = None
    """In place of `n`, the share of rows that stays."""
    at_least: float | None = Field(default=None, ge=0)
    """In place of `n`, the least score of a row that stays; of the cosines the largest is 1, BM25 has no largest."""
    on: Literal["conversation", "user", "assistant"] = "conversation"
    """What is compared: what both say, or only one of them; a plain text counts as either."""
    pairs: bool = False
    """Whether two words in a row count as a word of their own, too; not for the method `embedding`."""

    @model_validator(mode="after")
    def _one_of_each(self) -> Rank:
        if (self.to is None) == (self.goal is None):
            raise ValueError("rank needs goal or to, one of them, as in {rank: {to: goal.txt, n: 5000}}")
        if self.goal is not None and not self.goal.strip():
            raise ValueError("goal is blank; write what the model is for")
        if sum(one is not None for one in (self.n, self.share, self.at_least)) != 1:
            raise ValueError("rank needs n, share or at_least, one of them, as in {share: 50%}")
        if self.share == 0:
            raise ValueError("share 0 leaves no rows; write for example 10%")
        if self.method != "embedding" and self.embedder is not None:
            raise ValueError(
                f"the method {self.method} uses no embedder; write method: embedding, or leave it out"
            )
        if self.method == "embedding" and self.pairs:
            raise ValueError("pairs are of words, and the method embedding looks at none; leave it out")
        if self.method != "bm25" and (self.at_least or 0) > 1:
            raise ValueError(
                f"no cosine is above 1, and at_least is {self.at_least:g}; write for example 0.3"
            )
        return self

    @property
    def vectors(self) -> EmbedderSpec:
        return self.embedder or EmbedderSpec.hashed()


def _goal(settings: Rank) -> tuple[str, ...]:
    """The texts of the goal that have a word. Raises DataError where none has."""
    from luthier.data.words import words_in

    if settings.goal is not None:
        told: tuple[str, ...] = (settings.goal,)
    else:
        patterns = (settings.to,) if isinstance(settings.to, str) else tuple(settings.to or ())
        told = _texts(patterns, stamps(patterns))
    told = tuple(text for text, n in zip(told, words_in(list(told)).counts().tolist(), strict=True) if n)
    if not told:
        raise DataError(
            f"rank: the goal ({settings.goal or settings.to}) has no word.",
            remedy="Say there in words what the model is for.",
        )
    return told


@lru_cache(maxsize=4)
def _texts(patterns: tuple[str, ...], stamps: tuple[tuple[str, int, int], ...]) -> tuple[str, ...]:  # noqa: ARG001
    return tuple(texts_in(patterns)[0])


def _features(rows: Opened, settings: Rank) -> pa.RecordBatch:
    import pyarrow as pa

    from luthier.data.terms import ROLES, terms_of

    if settings.method != "embedding":
        return pa.record_batch(terms_of(rows, settings.on, pairs=settings.pairs).columns())
    vectors = settings.vectors.made().embed(rows.joined(*ROLES[settings.on]))
    flat = pa.array(vectors.reshape(-1))
    return pa.record_batch({"vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])})


def _learn(features: Gathered, settings: Rank, note: Callable[[str], None]) -> pa.Table:
    """Of words, a line for each that matters, with which a row is scored again; of vectors, a line for each row. The cut is in
    the schema's metadata."""
    import numpy as np

    if settings.method == "embedding":
        table = _likeness(features, settings)
        scores = table["score"].to_numpy()
    else:
        from luthier.data.terms import read

        table = _weights(features, settings)
        scorer = _Scorer(table, settings)
        scores = np.concatenate([scorer.scores(terms) for _, terms in read(features.read())])
    cut = _cut(features, scores, settings)
    low, middle, high = (int(np.quantile(scores, q, method="lower")) / UNIT for q in (0, 0.5, 1))
    note(
        f"scores from {low:.4g} to {high:.4g}, the median {middle:.4g}; those from {cut[0] / UNIT:.4g} on stay"
    )
    if not high:
        note("no row has anything in common with the goal: it says nothing of them")
    return table.replace_schema_metadata(
        {"cut": json.dumps(cut), "mean": (table.schema.metadata or {}).get(b"mean", b"0")}
    )


def _cut(features: Gathered, scores: np.ndarray, settings: Rank) -> tuple[int, str | None]:
    """(the lowest score that stays, the last id of that score that stays; None: all of them)."""
    import numpy as np

    if settings.at_least is not None:
        return int(np.ceil(settings.at_least * UNIT)), None
    n = settings.n if settings.n is not None else round(features.rows * (settings.share or 0))
    if n >= features.rows:
        return 0, None
    order = np.argsort(-scores, kind="stable")  # features come in the order of ids
    last = int(order[max(n, 1) - 1])
    start = 0
    for batch in features.read():
        if last < start + batch.num_rows:
            return int(scores[last]), str(batch["id"][last - start].as_py())
        start += batch.num_rows
    raise AssertionError("there are as many rows as scores")


def _weights(features: Gathered, settings: Rank) -> pa.Table:
    """Columns: term, idf, goal (what the term weighs in the goal). For BM25 those of the goal, for the cosine all."""
    import numpy as np
    import pyarrow as pa

    from luthier.data.terms import BITS, frequencies, read, terms_in

    found = frequencies(terms for _, terms in read(features.read()))
    words = sum(int(terms.counts.sum()) for _, terms in read(features.read()))
    goal = terms_in(list(_goal(settings)), pairs=settings.pairs)
    n = features.rows
    if settings.method == "bm25":
        idf = np.log1p((n - found + 0.5) / (found + 0.5))
        often = np.bincount(goal.ids, weights=goal.counts, minlength=1 << BITS)
        weight = idf * often * (K3 + 1) / (K3 + often)
        kept = np.flatnonzero((often > 0) & (found > 0))
    else:
        idf = np.log((n + 1) / (found + 1)) + 1
        each = np.sqrt(goal.counts) * idf[goal.ids]
        each /= np.sqrt(goal.per_row(each * each))[goal.owner]
        weight = np.bincount(goal.ids, weights=each, minlength=1 << BITS)
        weight /= np.sqrt(weight @ weight)
        kept = np.flatnonzero(found > 0)
    columns = {"term": pa.array(kept.astype(np.int32)), "idf": idf[kept], "goal": weight[kept]}
    return pa.table(columns).replace_schema_metadata({"mean": repr(max(words / n, 1e-9))})


class _Scorer:
    """Scores of rows by their terms, the same wherever: sums are made term after term."""

    def __init__(self, table: pa.Table, settings: Rank) -> None:
        import numpy as np

        from luthier.data.terms import BITS

        self._bm25 = settings.method == "bm25"
        self._mean = float(table.schema.metadata[b"mean"])
        terms = table["term"].to_numpy()
        self._goal, self._idf = np.zeros(1 << BITS), np.zeros(1 << BITS)
        self._goal[terms], self._idf[terms] = table["goal"].to_numpy(), table["idf"].to_numpy()

    def scores(self, terms: Terms) -> np.ndarray:
        """In millionths, int64 [B]."""
        import numpy as np

        goal = self._goal[terms.ids]
        if self._bm25:
            words = terms.per_row(terms.counts.astype(np.float64))
            often = terms.counts.astype(np.float64)
            room = (K1 * (1 - B + B * words / self._mean))[terms.owner]
            told = terms.per_row(goal * often * (K1 + 1) / (often + room))
        else:
            each = np.sqrt(terms.counts) * self._idf[terms.ids]
            long = np.sqrt(terms.per_row(each * each))
            told = np.divide(terms.per_row(each * goal), long, out=np.zeros(len(terms)), where=long > 0)
        return np.rint(told * UNIT).astype(np.int64)


def _likeness(features: Gathered, settings: Rank) -> pa.Table:
    """Columns: id, score."""
    import numpy as np
    import pyarrow as pa

    from luthier.data.vectors import cosines, lengths, quantised

    goal = settings.vectors.made().embed(_goal(settings))
    goal = goal[lengths(goal) > 0]
    if not len(goal):
        raise DataError(
            "rank: the embedder finds nothing in the goal.",
            remedy="Say there in words what the model is for.",
        )
    mean = quantised((goal / lengths(goal)[:, None]).sum(axis=0)[None])
    ids, scores = [], []
    for batch in features.read():
        vectors = batch["vector"].flatten().to_numpy().reshape(batch.num_rows, -1)
        scores.append(np.rint(np.maximum(cosines(vectors, mean)[:, 0], 0) * UNIT).astype(np.int64))
        ids.append(batch["id"])
    return pa.table({"id": pa.chunked_array(ids).combine_chunks(), "score": np.concatenate(scores)})


def _run(rows: Opened, settings: Rank, learnt: pa.Table) -> Said:
    import pyarrow.compute as pc

    from luthier.data.terms import terms_of

    ids = rows.column("id")
    if settings.method == "embedding":
        scores = learnt["score"].combine_chunks().take(pc.index_in(ids, value_set=learnt["id"])).to_numpy()
    else:
        scores = _Scorer(learnt, settings).scores(terms_of(rows, settings.on, pairs=settings.pairs))
    least, last = json.loads(learnt.schema.metadata[b"cut"])
    limit = (
        f"is below {settings.at_least:g}" if settings.at_least is not None
        else f"is not among the highest {settings.n}" if settings.n is not None
        else f"is not among the highest {settings.share:g} of the rows"
    )  # fmt: skip
    kept, gone = {}, {}
    for row, (name, score) in enumerate(zip(ids.to_pylist(), scores.tolist(), strict=True)):
        told = f"score {score / UNIT:.4g}"
        if score > least or (score == least and (last is None or name <= last)):
            kept[row] = told
        else:
            gone[row] = f"{told} {limit}"
    return Said(changed=rows.reasons(kept), removed=rows.reasons(gone))


def _mark(settings: Rank) -> str | None:
    return settings.vectors.mark() if settings.method == "embedding" else None


rank = GatherRule(
    "rank", 1, Rank, "Keeps the rows that are most like a goal or examples of it.", _features, _learn, _run,
    source="BM25 after Robertson and Zaragoza (2009); TF-IDF after Salton and Buckley (1988)", reads=("to",), mark=_mark,
)  # fmt: skip
