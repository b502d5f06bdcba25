"""difficulty: how hard a model finds the answer of each row, and which rows stay because of it.

    loss   -ln p of a token of the last answer, on average, given the conversation before it (of a plain text: of the whole)
    ifd    that loss, divided by the loss of the same answer with nothing before it: the Instruction-Following Difficulty
           (Li et al. 2024, "From Quantity to Quality", arXiv 2308.12032, section 2.2). Near 0 the instruction gives the answer
           away; near 1 it hardly helps; from 1 on it misleads, and as there such rows go, unless `range` says otherwise

A score is kept in thousandths and noted in the trail of its row, whether it stays or not. It is the model's, and the machine's: another processor may
round otherwise in the last place. Not here: how a score is computed (answer_loss).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from luthier.core.spec import Spec
from luthier.core.units import Share
from luthier.data.rules.rule import Gathered, GatherRule, Lent, Said

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.data.opened import Opened

VERSION = 1
PARTS = 1000


class Difficulty(Spec):
    model: str
    """The base model that is asked, as in `base`; the one that is to be trained is the natural choice."""
    by: Literal["ifd", "loss"] = "ifd"
    """`ifd`: how little the instruction helps with the answer; `loss`: how unlikely the answer is."""
    range: tuple[float | None, float | None] | None = None
    """The lowest score that stays, and the one from which rows go; null is no bound. By default [null, 1] for ifd, none for loss."""
    n: int | None = Field(default=None, ge=1)
    """How many rows stay, of those in the range."""
    share: Share | None = None
    """Which share of them stays, in place of `n`."""
    prefer: Literal["hard", "easy"] = "hard"
    """Which rows stay where `n` or `share` takes some."""
    weigh: bool = False
    """Whether a row's weight is multiplied by its score: hard rows are learnt harder, and an expression of a later rule finds the score in `weight`, as `select: {by: learning_value, score: weight}` does."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """The number format that is computed in; bf16 is faster on a GPU, and its scores are coarser."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it is computed."""

    @model_validator(mode="after")
    def _fits(self) -> Difficulty:
        if self.n is not None and self.share is not None:
            raise ValueError("n and share both say how many rows stay; keep one")
        if self.share is not None and self.share == 0:
            raise ValueError("share: 0 leaves no row; give a share above 0")
        low, high = self.bounds
        if low is not None and high is not None and low >= high:
            raise ValueError(f"range [{low:g}, {high:g}] holds nothing; the first must be below the second")
        return self

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        return self.range or ((None, 1.0) if self.by == "ifd" else (None, None))


def _features(rows: Opened, given: Lent) -> pa.RecordBatch:
    """score, in thousandths, null where there is none; lacks, why there is none."""
    import pyarrow as pa

    scores: list[int | None] = []
    lacks: list[str | None] = []
    if len(rows):  # an engine asks about no rows to learn the columns, and no model is needed for that
        from .answer_loss import scored

        for score in scored(rows, given):
            scores.append(score if isinstance(score, int) else None)
            lacks.append(None if isinstance(score, int) else score)
    return pa.record_batch({"score": pa.array(scores, pa.int64()), "lacks": pa.array(lacks, pa.string())})


def _learn(rows: Gathered, given: Lent, note: Callable[[str], None]) -> pa.Table:
    """A line per row: id, score, told (the score in words), why (it goes, null where it stays)."""
    import pyarrow as pa

    wish: Difficulty = given.settings
    ids: list[str] = []
    scores: list[int | None] = []
    why: list[str | None] = []
    for batch in rows.read():
        ids += batch["id"].to_pylist()
        scores += batch["score"].to_pylist()
        why += batch["lacks"].to_pylist()
    told = [None if score is None else f"{wish.by} {score / PARTS:.3f}" for score in scores]
    known = sorted(score for score in scores if score is not None)
    if known:
        low, first, middle, third, high = (f"{one / PARTS:.3f}" for one in _quartiles(known))
        note(
            f"{wish.by} of {len(known)} rows: lowest {low}, quartiles {first}, {middle} and {third}, highest {high}"
        )
    for at, reason in _gone(scores, wish):
        why[at] = f"{told[at]} {reason}"
    columns = {"score": pa.array(scores, pa.int64()), "told": pa.array(told, pa.string())}
    return pa.table({"id": ids, **columns, "why": pa.array(why, pa.string())})


def _quartiles(known: Sequence[int]) -> list[int]:
    """Of sorted numbers, one of them each: the lowest, the three quartiles, the highest.

    >>> _quartiles([1, 2, 3, 4, 5]), _quartiles([7])
    ([1, 2, 3, 4, 5], [7, 7, 7, 7, 7])
    """
    return [known[(len(known) - 1) * k // 4] for k in range(5)]


def _gone(scores: Sequence[int | None], wish: Difficulty) -> list[tuple[int, str]]:
    """(place, why) of every row that its score takes out; rows come in the order of their ids, which breaks ties.

    >>> _gone([500, 1200, None, 700], Difficulty(model="m", n=1))
    [(1, 'is not below 1'), (0, 'is not among the 1 hardest of 2')]
    """
    low, high = wish.bounds
    gone: list[tuple[int, str]] = []
    inside: list[tuple[int, int]] = []
    for at, score in enumerate(scores):
        if score is None:
            continue
        if low is not None and score < round(low * PARTS):
            gone.append((at, f"is below {low:g}"))
        elif high is not None and score >= round(high * PARTS):
            gone.append((at, f"is not below {high:g}"))
        else:
            inside.append((-score if wish.prefer == "hard" else score, at))
    limit = wish.n if wish.n is not None else len(inside)
    if wish.share is not None:
        limit = -(-round(wish.share * 1_000_000_000) * len(inside) // 1_000_000_000)  # rounded up
    which = "hardest" if wish.prefer == "hard" else "easiest"
    rest = sorted(inside)[limit:]
    return gone + [(at, f"is not among the {limit} {which} of {len(inside)}") for _, at in rest]


def _run(rows: Opened, given: Lent, learnt: pa.Table) -> Said:
    import pyarrow as pa
    import pyarrow.compute as pc

    at = pc.index_in(rows.column("id"), learnt["id"].combine_chunks())
    told, why = (learnt[name].combine_chunks().take(at) for name in ("told", "why"))
    if not given.settings.weigh:
        return Said(changed=told, removed=why)
    score = pc.divide(
        pc.max_element_wise(pc.fill_null(learnt["score"].combine_chunks().take(at), 0), 1), float(PARTS)
    )
    weight = pc.multiply(rows.column("weight").cast(pa.float64()), score).cast(pa.float32())
    return Said(columns={"weight": weight}, changed=told, removed=why)


difficulty = GatherRule(
    "difficulty", VERSION, Difficulty, "Keeps rows by how hard a model finds their answers.", _features, _learn, _run,
    models=("model",), source="Li et al. 2024 (IFD, arXiv 2308.12032)",
)  # fmt: skip
