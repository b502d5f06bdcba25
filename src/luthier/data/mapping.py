"""Rows of any layout become records, or come back with the reason why not. Vectorised: one block, one batch.

What can be wrong with a row that reads well: the answer or label is missing, a cell is not text, a rating no number,
a conversation has no answer, speaks out of turn or with an unknown voice (`conversations`). `map.on_bad_row` decides what follows from it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from . import conversations
from .connectors import cells
from .connectors.protocol import Block
from .json_text import dumps
from .maps import ConstantSpec, MapSpec, Part, RatingSpec, columns_of, is_template, template_pieces
from .paths import Steps, paths_of, reach
from .rankings import paired
from .records import RECORD, TURNS, build_messages, content_ids, last_contents, named_ids
from .shapes import Shape
from .tools import CALL


@dataclass(frozen=True)
class Layout:
    """A map made definite: which columns to read and how messages name their parts. `paths` says for every name of the map
    that is no plain column where its value stands."""

    map: MapSpec
    keys: tuple[str, str]
    classify: bool
    source: str
    weight: float
    paths: dict[str, Steps] = field(default_factory=dict)
    json: bool = False
    """Answers are JSON: a cell that holds an object or a list is written as such."""

    @classmethod
    def of(
        cls,
        shape: Shape,
        written: MapSpec | None,
        group_by: str | None,
        *,
        classify: bool,
        source: str,
        weight: float,
        columns: Sequence[str] = (),
        json: bool = False,
    ) -> Layout:
        """The shape's map, completed by what the recipe says beside it; `columns` are those that the source has. Raises
        DataError for a name that is neither a column nor a path."""
        extra: dict[str, Any] = {}
        if written:
            extra = {
                "id": written.id, "group": written.group, "on_bad_row": written.on_bad_row, "keep": written.keep
            }  # fmt: skip
            extra |= {"rating": written.rating} if written.rating is not None else {}
        chosen = shape.map.model_copy(update=extra)
        if chosen.group is None and group_by is not None:
            chosen = chosen.model_copy(update={"group": group_by})
        plain = cls(chosen, shape.keys, classify, source, weight, json=json)
        return replace(plain, paths=paths_of(plain.names, columns, source))

    @property
    def names(self) -> list[str]:
        """The columns and paths that the map names."""
        m = self.map
        parts: list[Part | RatingSpec | None] = [
            m.system,
            m.user,
            m.answer,
            m.rejected,
            m.text,
            m.messages,
            m.tools,
            m.rating,
            m.ranking.answers if m.ranking else None,
            m.id,
            m.group,
        ]
        named = [name for part in parts if part is not None for name in columns_of(part)]
        return list(dict.fromkeys([*(m.conversation.columns if m.conversation else []), *named, *m.keep]))

    @property
    def columns(self) -> list[str]:
        """The columns to read."""
        return list(dict.fromkeys(str(self.paths.get(name, [name])[0]) for name in self.names))


@dataclass(frozen=True)
class Bad:
    """Rows that could not become records: place, reason, what they begin with, and what keeps them out where that is not the
    reading."""

    origins: list[str]
    reasons: list[str]
    previews: list[str]
    rules: list[str | None]

    def by_rule(self) -> list[tuple[str | None, Bad]]:
        """Those of each rule, the reading first."""
        found = sorted(set(self.rules), key=lambda rule: rule or "")
        return [(rule, self.without([other != rule for other in self.rules])) for rule in found]

    def without(self, gone: list[bool]) -> Bad:
        """Those that are not marked."""
        keep = [n for n, mark in enumerate(gone) if not mark]
        return Bad(
            [self.origins[n] for n in keep],
            [self.reasons[n] for n in keep],
            [self.previews[n] for n in keep],
            [self.rules[n] for n in keep],
        )


def to_records(block: Block, layout: Layout) -> tuple[pa.RecordBatch, Bad]:
    """Records in the order of the rows, with ids that do not yet tell identical rows apart."""
    n = len(block)
    problems: cells.Problems = {}
    raw = block
    if layout.map.ranking is not None:
        layout = paired(layout)
    if layout.map.conversation is None:  # else they were followed when its rows were gathered
        block = reach(block, layout.paths, problems)
    text = rejected = tools = pa.nulls(n, pa.string())
    if layout.map.text is not None:
        text = _part(block, layout.map.text, "text", problems)
        messages = pa.nulls(n, TURNS)
    elif layout.map.conversation is not None:
        system = _part(block, layout.map.system, None, problems) if layout.map.system is not None else None
        messages = conversations.grouped(block, system, layout.map.conversation, problems)
    elif layout.map.user is not None:
        messages = _pairs(block, layout, problems)
        if layout.map.rejected is not None:
            rejected = _part(block, layout.map.rejected, "rejected answer", problems)
    elif layout.map.tools is not None:
        messages, rejected, tools = conversations.with_tools(block, layout.map, layout.keys, problems)
        if layout.classify:
            _refuse_calls(messages, problems)
    else:
        messages, rejected = conversations.read(block, layout.map, layout.keys, problems)
    rating = _rating(block, layout.map.rating, problems)
    named = _optional(block, layout.map.id, "id", problems)
    group = _optional(block, layout.map.group, None, problems)
    good = np.ones(n, bool)
    good[list(problems)] = False
    keep = pa.array(good)
    columns = (messages, text, named, group, rejected, rating, tools)
    messages, text, named, group, rejected, rating, tools = (array.filter(keep) for array in columns)
    by_name = layout.map.id is not None
    ids = named_ids(layout.source, named) if by_name else content_ids(messages, text, rejected, rating, tools)
    origins = block.origins()
    batch = pa.record_batch(
        [
            ids,
            messages,
            text,
            last_contents(messages) if layout.classify else pa.nulls(len(ids), pa.string()),
            group,
            pa.repeat(layout.source, len(ids)),
            pa.array(origins, pa.string()).filter(keep),
            pa.repeat(pa.scalar(layout.weight, pa.float32()), len(ids)),
            rejected,
            rating,
            pa.nulls(len(ids), pa.string()),
            pa.nulls(len(ids), pa.string()),
            tools,
            _kept(block, layout.map.keep).filter(keep),
        ],
        schema=RECORD,
    )
    rows = sorted(problems)
    return batch, Bad(
        [*(origins[i] for i in rows), *block.bad_origins()],
        [*(problems[i] for i in rows), *(bad.reason for bad in block.bad)],
        [*(_preview(raw, i) for i in rows), *(bad.preview for bad in block.bad)],
        [*(None for _ in rows), *(bad.rule for bad in block.bad)],
    )


def _kept(block: Block, names: Sequence[str]) -> pa.Array:
    """What is kept of each row, as JSON [B]; null where nothing is. A cell that is no text and no number is not kept."""
    if not names:
        return pa.nulls(len(block), pa.string())
    columns = [_texts(block, name, {}).to_pylist() for name in names]
    rows = (
        {name: value.strip() for name, value in zip(names, row, strict=True) if value and value.strip()}
        for row in zip(*columns, strict=True)
    )
    return pa.array(
        [json.dumps(row, ensure_ascii=False, sort_keys=True) if row else None for row in rows], pa.string()
    )


def _refuse_calls(messages: pa.Array, problems: cells.Problems) -> None:
    for row, turns in enumerate(messages.to_pylist()):
        if turns and turns[-1]["role"] == CALL:
            problems.setdefault(row, "the conversation ends with a call, which is no label")


def _pairs(block: Block, layout: Layout, problems: cells.Problems) -> pa.Array:
    n = len(block)
    m = layout.map
    assert m.user is not None and m.answer is not None  # MapSpec and shapes guarantee it
    system = _part(block, m.system, None, problems) if m.system is not None else pa.nulls(n, pa.string())
    user = _part(block, m.user, "user text", problems)
    if layout.json and isinstance(m.answer, str) and not is_template(m.answer):
        block = replace(block, columns={**block.columns, m.answer: _json_texts(block, m.answer, problems)})
    answer = _part(block, m.answer, "label" if layout.classify or m.label else "answer", problems)
    has_system = system.is_valid().to_numpy(zero_copy_only=False)
    index = np.stack([np.arange(n), np.arange(n) + n, np.arange(n) + 2 * n], axis=1)
    wanted = np.stack([has_system, np.ones(n, bool), np.ones(n, bool)], axis=1)
    order = pa.array(index[wanted])
    roles = pa.array(np.repeat(["system", "user", "assistant"], n)).cast(pa.string()).take(order)
    contents = pc.fill_null(pa.concat_arrays([system, user, answer]), "").take(order)
    return build_messages(wanted.sum(axis=1), roles, contents)


def _part(block: Block, part: Part, needed: str | None, problems: cells.Problems) -> pa.Array:
    """The text of one part of the map [B]; marks rows where it is `needed` and missing."""
    columns = [_texts(block, name, problems) for name in columns_of(part)]
    if isinstance(part, ConstantSpec):
        return pa.repeat(cells.text_of(part.constant), len(block))
    if isinstance(part, list):
        text = reduce(_under, (_nonblank(column) for column in columns))
    elif is_template(part):
        filled = iter(columns)
        pieces = [
            x
            for literal, name in template_pieces(part)
            for x in ([literal, next(filled)] if name else [literal])
        ]
        text = pc.binary_join_element_wise(*pieces, "")
    else:
        text = columns[0]
    if needed:
        _need(text, needed, part if isinstance(part, str) else ", ".join(part), problems)
    return text


def _nonblank(text: pa.Array) -> pa.Array:
    return pc.if_else(
        pc.fill_null(pc.match_substring_regex(text, r"\S"), False), text, pa.scalar(None, pa.string())
    )


def _under(above: pa.Array, below: pa.Array) -> pa.Array:
    """Two texts with a blank line between, or the one that is there."""
    return pc.coalesce(pc.binary_join_element_wise(above, below, "\n\n"), above, below)


def _need(text: pa.Array, what: str, column: str, problems: cells.Problems) -> None:
    for row in np.flatnonzero(text.is_null().to_numpy(zero_copy_only=False)):
        problems.setdefault(int(row), f"the {what} is missing ({column!r} is empty)")


def _optional(block: Block, column: str | None, what: str | None, problems: cells.Problems) -> pa.Array:
    if column is None:
        return pa.nulls(len(block), pa.string())
    text = _texts(block, column, problems)
    if what:
        _need(text, what, column, problems)
    return text


def _rating(block: Block, wish: str | ConstantSpec | RatingSpec | None, problems: cells.Problems) -> pa.Array:
    if wish is None:
        return pa.nulls(len(block), pa.float64())
    if isinstance(wish, ConstantSpec):
        return pa.repeat(pa.scalar(cells.number_of(wish.constant), pa.float64()), len(block))
    if isinstance(wish, RatingSpec):
        return _judged(block, wish, problems)
    rating, found = cells.numbers(block.columns.get(wish, [None] * len(block)), wish, block.place)
    for row, why in found.items():
        problems.setdefault(row, why)
    _need(rating, "rating", wish, problems)
    return rating


def _judged(block: Block, wish: RatingSpec, problems: cells.Problems) -> pa.Array:
    """Judgements on a scale or in words, as 1 and 0 or what the words are worth."""
    words = {word.casefold(): worth for word, worth in wish.words.items()}
    told = _texts(block, wish.column, problems)
    rating: list[float | None] = []
    for row, text in enumerate(told.to_pylist()):
        worth = None if text is None else words.get(text.strip().casefold())
        number = cells.number_of(text) if worth is None and wish.good is not None else None
        if number is not None and wish.good is not None and wish.bad is not None:
            worth = 1.0 if number >= wish.good else 0.0 if number <= wish.bad else None
        if worth is None and text is not None:
            problems.setdefault(row, f"{wish.column!r} holds {text[:60]!r}, which is neither good nor bad")
        rating.append(worth)
    array = pa.array(rating, pa.float64())
    _need(told, "rating", wish.column, problems)
    return array


def _texts(block: Block, name: str, problems: cells.Problems) -> pa.Array:
    text, found = cells.texts(block.columns.get(name, [None] * len(block)), name, block.place)
    for row, why in found.items():
        problems.setdefault(row, why)
    return text


def _json_texts(block: Block, name: str, problems: cells.Problems) -> list[str | None]:
    """Cells that are no text as JSON; a text is JSON already, or is told to be none later."""
    column = block.columns.get(name, [None] * len(block))
    found: list[str | None] = []
    for row, cell in enumerate(
        column.to_pylist() if isinstance(column, pa.Array | pa.ChunkedArray) else column
    ):
        try:
            found.append(cell if cell is None or isinstance(cell, str) else dumps(cell))
        except (TypeError, ValueError) as error:
            problems.setdefault(row, f"{name!r} holds what JSON cannot: {error}")
            found.append("")
    return found


def _preview(block: Block, row: int, longest: int = 200) -> str:
    cells_: list[Any] = [column[row] for column in block.columns.values()]
    shown = " | ".join(
        str(cell.as_py() if isinstance(cell, pa.Scalar) else cell) for cell in cells_ if cell is not None
    )
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"
