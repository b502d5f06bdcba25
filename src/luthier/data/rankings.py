"""Answers in order, the best first, become pairs of a better and a worse one: a row of k answers is k - 1 pairs of neighbours,
or all of them. With scores the order follows from those, and equal ones make no pair.

Not here: what a pair is (conversations, mapping).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from .connectors import cells
from .connectors.protocol import BadRow, Block, Part
from .json_text import loads
from .maps import RankingSpec
from .paths import reach, value_of

MOST_ANSWERS = 500  # of a row whose answers are compared each with each

if TYPE_CHECKING:
    from .mapping import Layout


class Reads(Protocol):
    """What is needed of a connector here."""

    def read(self, part: Part, columns: Sequence[str]) -> Iterator[Block]: ...


CHOSEN, REJECTED = "(better)", "(worse)"
"""The columns of a pair's two answers."""


def paired(layout: Layout) -> Layout:
    """The layout of the pairs."""
    told = layout.map.model_copy(update={"ranking": None, "chosen": CHOSEN, "rejected": REJECTED})
    return replace(layout, map=told)


def ranked(connector: Reads, part: Part, layout: Layout) -> Iterator[Block]:
    """Blocks with a row for each pair."""
    assert layout.map.ranking is not None
    for block in connector.read(part, layout.columns):
        yield _pairs(block, layout, layout.map.ranking)


def _pairs(block: Block, layout: Layout, wish: RankingSpec) -> Block:
    problems: cells.Problems = {}
    paths = {name: steps for name, steps in layout.paths.items() if name == wish.answers}
    column = reach(block, paths, problems).columns.get(wish.answers, [None] * len(block))
    rows: list[int] = []
    better: list[str] = []
    worse: list[str] = []
    for row, cell in enumerate(column if isinstance(column, list) else column.to_pylist()):
        if row in problems:
            continue
        try:
            found = _ordered(cell, wish)
        except ValueError as error:
            problems[row] = f"{wish.answers!r} {error}"
            continue
        for one, other in found:
            rows.append(row)
            better.append(one)
            worse.append(other)
    bad = [
        BadRow(
            block.lines[row], why, _shown(column, row), block.names[row] if block.names is not None else None
        )
        for row, why in sorted(problems.items())
    ]
    columns: dict[str, Any] = {
        name: [told[row] for row in rows] if isinstance(told, list) else told.take(pa.array(rows, pa.int64()))
        for name, told in block.columns.items()
    }
    return Block(
        columns | {CHOSEN: better, REJECTED: worse},
        block.place,
        [block.lines[row] for row in rows],
        [block.names[row] for row in rows] if block.names is not None else None,
        [*block.bad, *bad],
    )


def _shown(column: Any, row: int) -> str:
    return str(column[row] if isinstance(column, list) else column[row].as_py())[:200]


def _ordered(cell: Any, wish: RankingSpec) -> list[tuple[str, str]]:
    """Pairs, the better first. Raises ValueError, in words."""
    if isinstance(cell, str):
        cell = loads(cell) if cell.strip() else None
    if cell is None:
        raise ValueError("is empty")
    if not isinstance(cell, list):
        raise ValueError("holds no list of answers")
    if wish.pairs == "all" and len(cell) > MOST_ANSWERS:
        raise ValueError(
            f"holds {len(cell):,} answers, and each with each are too many pairs for more than {MOST_ANSWERS}; use pairs: adjacent"
        )
    found = [_answer(one, n, wish) for n, one in enumerate(cell)]
    if wish.score is not None:
        found.sort(key=lambda told: -told[1])  # the order of the list where scores are equal
    choose = pairwise(found) if wish.pairs == "adjacent" else combinations(found, 2)
    pairs = [(a[0], b[0]) for a, b in choose if a[0] != b[0] and (wish.score is None or a[1] > b[1])]
    if not pairs:
        raise ValueError("holds no two answers of which one is better")
    return pairs


def _answer(one: Any, n: int, wish: RankingSpec) -> tuple[str, float]:
    text = one if wish.text is None else value_of(one, wish.text) if isinstance(one, dict) else None
    if text is None or isinstance(text, list | dict):
        hint = f" under {wish.text!r}" if wish.text else "; `text` says where it stands in an object"
        raise ValueError(f"has no text in answer {n + 1}{hint}")
    if wish.score is None:
        return cells.text_of(text), 0.0
    score = cells.number_of(value_of(one, wish.score)) if isinstance(one, dict) else None
    if score is None:
        raise ValueError(f"has no number in answer {n + 1} under {wish.score!r}")
    return cells.text_of(text), score
