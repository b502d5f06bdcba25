"""The one form of a row, as an Arrow schema, and its stable id.

A record is a conversation (`messages`) or a plain `text`, never both. A conversation may bring a second, worse last
answer (`rejected`), and any record a judgement of its answer (`rating`: 1 and 0 for thumbs up and down). A record that a
rule made of another says of which (`made_from`, an id) and which rule it was (`made_by`). Where functions may be called,
`tools` lists them as JSON, and calls and their answers are turns `call` and `tool` (tools.py). `kept` is a JSON object of what the
map keeps of a row beside that (map.keep); datasets that keep nothing have no such column in their files.
Shapes, per batch of B rows:
    turns     T rows: every message of every row in order, then every plain text, then every rejected answer, each
              with the row it belongs to
    contents  T strings, the same order: what an editing rule edits (data/opened)

An id is 128 bits of BLAKE2b over the mapped content before any rule, as 32 hexadecimal digits. It names the
content, not the place: rows may be reordered, files renamed, rules changed, and the id stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from . import digests

TURN = pa.struct([("role", pa.string()), ("content", pa.string())])
TURNS = pa.list_(TURN)

RECORD = pa.schema(
    [
        ("id", pa.string()),
        ("messages", TURNS),
        ("text", pa.string()),
        ("label", pa.string()),
        ("group", pa.string()),
        ("source", pa.string()),
        ("origin", pa.string()),
        ("weight", pa.float32()),
        ("rejected", pa.string()),
        ("rating", pa.float64()),
        ("made_from", pa.string()),
        ("made_by", pa.string()),
        ("tools", pa.string()),
        ("kept", pa.string()),
    ]
)
KEPT = "kept"


def message_counts(messages: pa.Array) -> np.ndarray:
    """How many messages each row has, [B]; 0 for a plain text."""
    return pc.fill_null(pc.list_value_length(messages), 0).to_numpy(zero_copy_only=False).astype(np.int64)


def build_messages(
    counts: np.ndarray, roles: pa.Array, contents: pa.Array, missing: pa.Array | None = None
) -> pa.Array:
    """Lists of turns from flat columns; `missing` [B] marks rows that have no list at all."""
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    flat = pa.StructArray.from_arrays([roles, contents], fields=list(TURN))
    return pa.ListArray.from_arrays(pa.array(offsets), flat, type=TURNS, mask=missing)


def turns(batch: pa.RecordBatch) -> pl.DataFrame:
    """Columns row, role ("system", "user", "assistant", "text", "rejected") and content, T rows."""
    rows = [np.repeat(np.arange(batch.num_rows, dtype=np.uint32), message_counts(batch["messages"]))]
    roles = [_series(batch["messages"].flatten().field("role"))]
    for name in ("text", "rejected"):
        if batch[name].null_count == batch.num_rows:
            continue
        told = np.flatnonzero(batch[name].is_valid().to_numpy(zero_copy_only=False)).astype(np.uint32)
        rows.append(told)
        roles.append(pl.repeat(name, len(told), dtype=pl.String, eager=True))
    role = roles[0] if len(roles) == 1 else pl.concat(roles)
    return pl.DataFrame({"row": np.concatenate(rows), "role": role, "content": contents(batch)})


def contents(batch: pa.RecordBatch) -> pl.Series:
    """The content of every turn, T strings, in the order of `turns`."""
    told = [_series(batch["messages"].flatten().field("content"))]
    told += [
        _series(batch[name].drop_null())
        for name in ("text", "rejected")
        if batch[name].null_count < batch.num_rows
    ]
    return told[0] if len(told) == 1 else pl.concat(told)


def replace(batch: pa.RecordBatch, **columns: pa.Array) -> pa.RecordBatch:
    """The batch with some columns replaced."""
    return pa.record_batch([columns.get(name, batch[name]) for name in RECORD.names], schema=RECORD)


def last_contents(messages: pa.Array) -> pa.Array:
    """The last message of each conversation [B], null for a plain text."""
    counts = message_counts(messages)
    index = pa.array(np.cumsum(counts) - 1, mask=counts == 0)
    return messages.flatten().field("content").take(index)


def hashed(texts: Iterable[str] | pa.Array, *, fold: bool = False, salt: str = "") -> pa.Array:
    """128-bit hashes as hexadecimal digits [B]."""
    if salt:
        told = texts if isinstance(texts, pa.Array) else pa.array(list(texts), pa.string())
        texts = pc.binary_join_element_wise(salt, told, "")
    return digests.of(texts, folds=fold)


def content_ids(
    messages: pa.Array,
    text: pa.Array,
    rejected: pa.Array | None = None,
    rating: pa.Array | None = None,
    tools: pa.Array | None = None,
) -> pa.Array:
    """Ids from content [B]. Every piece carries its length, so that no two contents share one form; a rejected answer,
    a rating and tools add a piece of their own, so that a row without them has the id it would have if they did not exist."""
    flat = messages.flatten()
    content = flat.field("content")
    piece = pc.binary_join_element_wise(
        flat.field("role"), pc.binary_length(content).cast(pa.string()), content, ":"
    )
    counts = message_counts(messages)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    joined = pc.binary_join(pa.ListArray.from_arrays(offsets, piece), "")
    form = pc.if_else(text.is_valid(), pc.binary_join_element_wise("text:", text, ""), joined)
    if rejected is not None:
        form = _with_piece(form, "rejected", rejected)
    if rating is not None:
        told = [None if value is None else repr(value + 0.0) for value in rating.to_pylist()]  # -0.0 is 0.0
        form = _with_piece(form, "rating", pa.array(told, pa.string()))
    if tools is not None:
        form = _with_piece(form, "tools", tools)
    return hashed(form)


def _with_piece(form: pa.Array, name: str, content: pa.Array) -> pa.Array:
    """A piece before the form: no form without it begins so, and its length says where it ends."""
    length = pc.binary_length(content).cast(pa.string())
    return pc.coalesce(pc.binary_join_element_wise(name, length, content, form, "\0"), form)


def made_ids(parents: pa.Array, rule: str, numbers: Sequence[int]) -> pa.Array:
    """Ids of rows that a rule made, from the id of the row each was made of and its number among those."""
    told = [f"made:{rule}:{n}:{parent}" for parent, n in zip(parents.to_pylist(), numbers, strict=True)]
    return hashed(told)


def named_ids(source: str, values: pa.Array) -> pa.Array:
    """Ids from a column that names rows [B]; they differ from every content id."""
    return hashed(pc.binary_join_element_wise("id:", source, values, "\x00"))


def with_instruction(batch: pa.RecordBatch, instruction: str | None, role: str) -> pa.RecordBatch:
    """Put the task's instruction before every conversation that has no system message of its own."""
    messages = batch["messages"]
    counts = message_counts(messages)
    if not instruction or not counts.any():
        return batch
    flat = messages.flatten()
    starts = np.cumsum(counts) - counts
    first = flat.field("role").take(pa.array(np.minimum(starts, max(len(flat) - 1, 0))))
    needs = (counts > 0) & pc.not_equal(first, "system").to_numpy(zero_copy_only=False)
    if role == "user":
        opening = np.zeros(len(flat), bool)
        opening[starts[needs]] = True
        is_user = pc.equal(flat.field("role"), "user")
        mask = pc.and_(pa.array(opening), is_user)
        content = flat.field("content")
        longer = pc.if_else(mask, pc.binary_join_element_wise(instruction, content, "\n\n"), content)
        return replace(batch, messages=build_messages(counts, flat.field("role"), longer, messages.is_null()))
    extra = len(flat)  # the instruction stands behind all contents, and is taken where it is needed
    index = pa.array(np.insert(np.arange(extra), starts[needs], extra))
    roles = pa.concat_arrays([flat.field("role"), pa.array(["system"])]).take(index)
    content = pa.concat_arrays([flat.field("content"), pa.array([instruction])]).take(index)
    return replace(batch, messages=build_messages(counts + needs, roles, content, messages.is_null()))


def _series(array: pa.Array) -> pl.Series:
    return pl.Series(pl.from_arrow(array), dtype=pl.String)
