"""agree: rows that are asked the same and answer differently. What is asked is all that stands before the
last answer.

    drop        all rows of such an input go
    majority    the answer that most of its rows give stays; where several do, all go
    mark        all stay, and the report says how many there are

Inputs and answers are compared folded: case, Unicode variants and whitespace do not matter. A row with a
rejected answer or a rating is one of several by design and is left alone, and so is plain text. Rows that are
the same throughout agree; to leave one of them is the matter of `deduplicate`.

For labels this is the oldest check of annotation there is; for free answers, `mark` first: many questions
have several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from luthier.core.spec import Spec

from .primitives import Agree as Decision
from .rule import KeyedRule

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.data.opened import Opened


class Agree(Spec):
    how: Literal["drop", "majority", "mark"] = "drop"
    """What happens to rows of an input with several answers."""


def _keys(rows: Opened, settings: Agree) -> pa.RecordBatch:  # noqa: ARG001  every rule has this signature
    import numpy as np
    import polars as pl
    import pyarrow as pa

    from luthier.data.records import hashed

    last = rows.last(rows.says("assistant"))
    judged = (last >= 0) & rows.column("rejected").is_null().to_numpy(zero_copy_only=False)
    judged &= rows.column("rating").is_null().to_numpy(zero_copy_only=False)
    before = ~rows.says("text", "rejected")
    before &= np.arange(len(rows.row)) < last[rows.row]
    mask = pl.Series(before)
    frame = pl.DataFrame(
        {"row": rows.row[before], "role": rows.role.filter(mask), "text": rows.text.filter(mask)}
    )
    turn = pl.format("\x00{} {} ", "role", "text")  # the blanks are folded into those of the text
    told = frame.group_by("row", maintain_order=True).agg(turn.str.join(""))
    asked = [""] * len(rows)
    for row, text in told.iter_rows():
        asked[row] = text
    for row, calls in rows.called(before).items():
        asked[row] += f"\x00calls {calls} "
    answers = rows.answers()
    for row, calls in rows.called(~before).items():
        answers[row] += f"\n{calls}"
    keep = pa.array(judged)
    return pa.record_batch(
        {
            "input": _where(keep, hashed(asked, fold=True)),
            "answer": _where(keep, hashed(answers, fold=True)),
        }
    )


def _where(keep: pa.Array, hashes: pa.Array) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.if_else(keep, hashes, pa.scalar(None, pa.string()))


agree = KeyedRule(
    "agree",
    2,
    Agree,
    "Settles inputs that stand there with different answers.",
    _keys,
    primitive=lambda settings: Decision(settings.how),
)
