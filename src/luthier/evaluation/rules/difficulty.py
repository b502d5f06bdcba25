"""difficulty: how hard a model finds the answer of each row, and which rows stay because of it.

    loss   -ln p of a token of the last answer, on average, given the conversation before it (of a plain text: of the whole)
    ifd    that loss, divided by the loss of the same answer with nothing before it: the Instruction-Following Difficulty
           (Li et al. 2024, "From Quantity to Quality", arXiv 2308.12032, section 2.2). Near 0 the instruction gives the answer
           away; near 1 it hardly helps; from 1 on it misleads, and as there such rows go, unless `range` says otherwise

A score is kept in thousandths and stands in the trail of its row. It is the model's, and the machine's: another processor may
round otherwise in the last place. Not here: how a score is computed (answer_loss).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from luthier.core.spec import Spec
from luthier.core.units import Share
from luthier.data.rules.primitives import Ask
from luthier.data.rules.rule import KeyedRule, Lent

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


@dataclass(frozen=True)
class Scored:
    """Columns: score (in thousandths, null where there is none), told (the score in words), lacks (why there is none)."""

    wish: Difficulty

    def decide(self, rows: str, ask: Ask, note: Callable[[str], None]) -> str:
        self._note(rows, ask, note)
        low, high = (None if bound is None else round(bound * PARTS) for bound in self.wish.bounds)
        outside = [f"SELECT row, lacks AS reason FROM {rows} WHERE score IS NULL"]
        inside = "score IS NOT NULL"
        if low is not None:
            outside.append(
                f"SELECT row, told || ' is below {low / PARTS:g}' AS reason FROM {rows} WHERE score < {low}"
            )
            inside += f" AND score >= {low}"
        if high is not None:
            outside.append(
                f"SELECT row, told || ' is not below {high / PARTS:g}' AS reason FROM {rows} WHERE score >= {high}"
            )
            inside += f" AND score < {high}"
        left = int(ask(f"SELECT count(*) FROM {rows} WHERE {inside}")[0][0])
        limit = self.wish.n
        if self.wish.share is not None:
            limit = -(-round(self.wish.share * 1_000_000_000) * left // 1_000_000_000)  # rounded up
        if limit is not None and limit < left:
            order, which = ("DESC", "hardest") if self.wish.prefer == "hard" else ("ASC", "easiest")
            outside.append(
                f"SELECT row, told || ' is not among the {limit} {which} of {left}' AS reason FROM (SELECT row, told, "
                f"row_number() OVER (ORDER BY score {order}, id) AS place FROM {rows} WHERE {inside}) AS p WHERE place > {limit}"
            )
        return " UNION ALL ".join(outside)

    def _note(self, rows: str, ask: Ask, note: Callable[[str], None]) -> None:
        scored = int(ask(f"SELECT count(score) FROM {rows}")[0][0])
        if not scored:
            return
        places = [1, (scored + 3) // 4, (scored + 1) // 2, (3 * scored + 3) // 4, scored]
        found = dict(
            ask(
                f"SELECT place, score FROM (SELECT score, row_number() OVER (ORDER BY score, id) AS place FROM {rows} "
                f"WHERE score IS NOT NULL) AS p WHERE place IN ({', '.join(map(str, places))})"
            )
        )
        low, first, middle, third, high = (f"{found[place] / PARTS:.3f}" for place in places)
        note(
            f"{self.wish.by} of {scored} rows: lowest {low}, quartiles {first}, {middle} and {third}, highest {high}"
        )


def _keys(rows: Opened, given: Lent) -> pa.RecordBatch:
    import pyarrow as pa

    scores: list[int | None] = []
    lacks: list[str | None] = []
    if len(rows):  # an engine asks about no rows to learn the columns, and no model is needed for that
        from .answer_loss import scored

        for score in scored(rows, given):
            scores.append(score if isinstance(score, int) else None)
            lacks.append(None if isinstance(score, int) else score)
    by = given.settings.by
    told = [None if score is None else f"{by} {score / PARTS:.3f}" for score in scores]
    columns = {
        "score": pa.array(scores, pa.int64()),
        "told": pa.array(told, pa.string()),
        "lacks": pa.array(lacks, pa.string()),
    }
    return pa.record_batch(columns)


difficulty = KeyedRule(
    "difficulty", VERSION, Difficulty, "Keeps rows by how hard a model finds their answers.", _keys,
    lambda given: Scored(given.settings), models=("model",), tells=lambda keys, given: keys["told"],
    source="Li et al. 2024 (IFD, arXiv 2308.12032)",
)  # fmt: skip
