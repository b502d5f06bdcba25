"""Rows of any layout become records, or come back with the reason why not. Vectorised: one block, one batch.

What can be wrong with a row that reads well: the answer or label is missing, a cell is not text, a conversation has
no answer, speaks out of turn or with an unknown voice. `map.on_bad_row` decides what follows from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .connectors import cells
from .connectors.protocol import Block
from .records import RECORD, TURNS, build_messages, content_ids, message_counts, named_ids
from .shapes import Shape
from .spec import MapSpec, Part, columns_of, is_template, template_pieces

VOICES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
    "chatgpt": "assistant", "bard": "assistant", "bot": "assistant", "model": "assistant", "ai": "assistant",
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """A map made definite: which columns to read and how messages name their parts."""

    map: MapSpec
    keys: tuple[str, str]
    classify: bool
    source: str
    weight: float

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
    ) -> Layout:
        """The shape's map, completed by what the recipe says beside it."""
        extra = (
            {"id": written.id, "group": written.group, "on_bad_row": written.on_bad_row} if written else {}
        )
        chosen = shape.map.model_copy(update=extra)
        if chosen.group is None and group_by is not None:
            chosen = chosen.model_copy(update={"group": group_by})
        return cls(chosen, shape.keys, classify, source, weight)

    @property
    def columns(self) -> list[str]:
        m = self.map
        parts: list[Part | None] = [m.system, m.user, m.answer, m.text, m.messages, m.id, m.group]
        return list(dict.fromkeys(name for part in parts if part is not None for name in columns_of(part)))


@dataclass(frozen=True)
class Bad:
    """Rows that could not become records: place, reason, and what they begin with."""

    origins: list[str]
    reasons: list[str]
    previews: list[str]


def to_records(block: Block, layout: Layout) -> tuple[pa.RecordBatch, Bad]:
    """Records in the order of the rows, with ids that do not yet tell identical rows apart."""
    n = len(block)
    problems: cells.Problems = {}
    text = pa.nulls(n, pa.string())
    if layout.map.messages is not None:
        column = block.columns.get(layout.map.messages, [None] * n)
        messages, found = cells.conversations(column, layout.map.messages, layout.keys, block.place)
        problems.update(found)
        messages = _voices(messages)
        _check_turns(messages, layout.map.messages, problems)
    elif layout.map.text is not None:
        text = _part(block, layout.map.text, "text", problems)
        messages = pa.nulls(n, TURNS)
    else:
        messages = _pairs(block, layout, problems)
    named = _optional(block, layout.map.id, "id", problems)
    group = _optional(block, layout.map.group, None, problems)
    good = np.ones(n, bool)
    good[list(problems)] = False
    keep = pa.array(good)
    messages, text, named, group = (array.filter(keep) for array in (messages, text, named, group))
    ids = named_ids(layout.source, named) if layout.map.id is not None else content_ids(messages, text)
    origins = block.origins()
    batch = pa.record_batch(
        [
            ids,
            messages,
            text,
            _last_contents(messages) if layout.classify else pa.nulls(len(ids), pa.string()),
            group,
            pa.repeat(layout.source, len(ids)),
            pa.array(origins, pa.string()).filter(keep),
            pa.repeat(pa.scalar(layout.weight, pa.float32()), len(ids)),
        ],
        schema=RECORD,
    )
    rows = sorted(problems)
    return batch, Bad(
        [origins[i] for i in rows], [problems[i] for i in rows], [_preview(block, i) for i in rows]
    )


def _pairs(block: Block, layout: Layout, problems: cells.Problems) -> pa.Array:
    n = len(block)
    m = layout.map
    assert m.user is not None and m.answer is not None  # MapSpec and shapes guarantee it
    system = _part(block, m.system, None, problems) if m.system is not None else pa.nulls(n, pa.string())
    user = _part(block, m.user, "user text", problems)
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


def _texts(block: Block, name: str, problems: cells.Problems) -> pa.Array:
    text, found = cells.texts(block.columns.get(name, [None] * len(block)), name, block.place)
    for row, why in found.items():
        problems.setdefault(row, why)
    return text


def _voices(messages: pa.Array) -> pa.Array:
    """Roles by their one name; an unknown role stays as it is and is found by `_check_turns`."""
    flat = messages.flatten()
    known = pc.index_in(pc.utf8_lower(flat.field("role")), pa.array(list(VOICES)))
    roles = pc.coalesce(pa.array(list(VOICES.values())).take(known), flat.field("role"))
    return build_messages(message_counts(messages), roles, flat.field("content"), messages.is_null())


def _check_turns(messages: pa.Array, column: str, problems: cells.Problems) -> None:
    flat = messages.flatten()
    counts = message_counts(messages)
    rows = np.repeat(np.arange(len(messages)), counts)
    ends = np.cumsum(counts)
    first = np.zeros(len(flat), bool)
    first[(ends - counts)[counts > 0]] = True

    def mark(turns: np.ndarray, why: str) -> None:
        for row in rows[turns]:
            problems.setdefault(int(row), why)

    for row in np.flatnonzero(counts == 0):
        problems.setdefault(int(row), f"the conversation is missing ({column!r} is empty)")
    role = np.array(flat.field("role").to_pylist(), dtype=object)
    known = np.isin(role.astype(str), ["system", "user", "assistant"])
    for turn in np.flatnonzero(~known):
        problems.setdefault(
            int(rows[turn]), f"a message speaks as {role[turn]!r}; known: system, user, assistant"
        )
    mark(flat.field("content").is_null().to_numpy(zero_copy_only=False), "a message has no content")
    mark((role == "system") & ~first, "a system message stands after the first message")
    if len(role):
        last = np.flatnonzero(counts > 0)
        for row in last[role[ends[last] - 1] != "assistant"]:
            problems.setdefault(
                int(row), "the conversation does not end with the assistant, so there is no answer to learn"
            )


def _last_contents(messages: pa.Array) -> pa.Array:
    """The last message of each conversation [B], null for a plain text."""
    counts = message_counts(messages)
    ends = np.cumsum(counts) - 1
    index = pa.array(ends, mask=counts == 0)
    return messages.flatten().field("content").take(index)


def _preview(block: Block, row: int, longest: int = 200) -> str:
    cells_: list[Any] = [column[row] for column in block.columns.values()]
    shown = " | ".join(
        str(cell.as_py() if isinstance(cell, pa.Scalar) else cell) for cell in cells_ if cell is not None
    )
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"
