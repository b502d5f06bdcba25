"""drop_empty: a row in which a user or assistant turn, or the plain text, is blank teaches nothing. Nor does a pair whose
rejected answer is blank, or is the chosen one.

A blank system message is no reason: many templates render it as none. Nor is what a tool is given or answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.core.spec import Spec

from .rule import RowRule, Said

if TYPE_CHECKING:
    from luthier.data.opened import Opened


class DropEmpty(Spec):
    pass


def _run(rows: Opened, settings: DropEmpty) -> Said:  # noqa: ARG001  every rule has this signature
    import numpy as np

    from luthier.data.opened import SEEN

    blank = ~rows.have(SEEN) & ~rows.says("system", "tool", "argument")
    blank &= ~rows.matching(blank, r"\S")
    why = {
        row: f"the {rows.role[int(turn)]} turn is empty"
        for row, turn in enumerate(rows.first(blank).tolist())
        if turn >= 0
    }
    chosen, rejected = rows.last(~rows.says("text", "rejected", "argument")), rows.last(rows.says("rejected"))
    pairs = np.flatnonzero((chosen >= 0) & (rejected >= 0))
    both = zip(rows.some(chosen[pairs]), rows.some(rejected[pairs]), strict=True)
    for row, (one, other) in zip(pairs.tolist(), both, strict=True):
        if one == other:
            why.setdefault(row, "the rejected answer is the chosen one")
    return Said(removed=rows.reasons(why))


drop_empty = RowRule(
    "drop_empty", 1, DropEmpty, "Removes rows with an empty turn, and pairs of one answer.", _run
)
