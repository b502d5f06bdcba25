"""A batch of records, opened once for all the row rules that pass over it.

    batch   B rows, as they came                 text   T contents: every turn of every row, then every plain text, then
    row     [T] which row a content belongs to          every rejected answer (the order of records.turns)
    role    [T] who says it                      label  [B]
    alive   [B] False for a row that a rule before has removed: it is still here, but no rule may fail because of it

Where rows have tools, the text of a turn `call` is the function's name, which stays what it is whatever a rule says; the texts
and numbers in its arguments follow after all turns as texts of the role `argument`, and are put back into the call's JSON.

What several rules need of the texts (bytes, which kinds of characters occur) is made when it is first asked for and kept
until a rule edits. A rule edits through what it returns, never in place.

Not here: what rules decide (rules/), and the order they run in (engines/group).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from luthier.core.artifact import canonical

from . import compiled, digests
from .json_text import loads
from .records import build_messages, message_counts, replace, turns
from .tools import ARGUMENT, Arguments

# What kinds of bytes a text has, as bits: a rule looks only where its own can be.
(BLANK, TAB, BREAK, CONTROL, DIGIT, UPPER, LOWER, AT, TAG, FROM_0300, NOT_ASCII, BRACKET, FENCE, SIGN) = (
    1 << k for k in range(14)
)
SEEN = DIGIT | UPPER | LOWER | AT | TAG | BRACKET | FENCE | SIGN
"""What every reader sees: no blank and no control character."""


def _kinds() -> np.ndarray:
    table = np.full(256, SIGN, np.uint16)
    table[:32] = CONTROL
    table[127] = CONTROL
    table[ord(" ")] = BLANK
    table[ord("\t")] = TAB
    table[ord("\n")] = BREAK
    table[ord("0") : ord("9") + 1] = DIGIT
    table[ord("A") : ord("Z") + 1] = UPPER
    table[ord("a") : ord("z") + 1] = LOWER
    table[ord("@")] = AT
    table[[ord("<"), ord("&")]] = TAG
    table[ord("[")] = BRACKET
    table[[ord("`"), ord("~")]] = FENCE
    table[128:] = NOT_ASCII
    table[0xCC:] = NOT_ASCII | FROM_0300  # lead bytes of U+0300, where combining marks begin, and above
    return table


KINDS = _kinds()
FEW = 32


def _marks(told: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Which kinds of bytes texts have, as bits, uint16 [T]."""
    found = np.zeros(len(edges) - 1, np.uint16)
    if (library := compiled.library()) is not None:
        told, edges = np.ascontiguousarray(told), np.ascontiguousarray(edges)
        compiled.call(library.luthier_marks, told, edges, len(found), KINDS, found)
        return found
    full = np.flatnonzero(np.diff(edges))  # reduceat takes an empty stretch for its neighbour
    if len(full):
        found[full] = np.bitwise_or.reduceat(KINDS[told], edges[:-1][full])
    return found


def some(texts: pl.Series, places: np.ndarray) -> pl.Series:
    """The texts at `places`, [n]. Taking them by an expression of Polars costs a millisecond whatever their number."""
    return texts[pl.Series(places.astype(np.uint32))] if len(places) else texts.clear()


def strings(texts: pl.Series, places: np.ndarray) -> list[str]:
    """The texts at `places`, [n]."""
    return [texts[k] for k in places.tolist()] if len(places) < FEW else some(texts, places).to_list()


def _with_arguments(frame: pl.DataFrame, turns_: int) -> tuple[pl.DataFrame, Arguments]:
    """The texts of rows with tools; `turns_` of them are turns."""
    inside = Arguments.of(frame["role"][:turns_].to_list(), frame["content"][:turns_].to_list())
    rows = frame["row"][:turns_].to_list()
    names = pl.Series([one["name"] for one in inside.told], dtype=pl.String)
    content = frame["content"].scatter(inside.calls, names) if inside.calls else frame["content"]
    frame = frame.with_columns(content=content)
    more = pl.DataFrame(
        {
            "row": pl.Series(
                [rows[inside.calls[owner]] for owner in inside.owners], dtype=frame["row"].dtype
            ),
            "role": pl.repeat(ARGUMENT, len(inside.texts), dtype=pl.String, eager=True),
            "content": pl.Series(inside.texts, dtype=pl.String),
        }
    )
    return pl.concat([frame[:turns_], more, frame[turns_:]]), inside


class Opened:
    """Raises nothing; `close` gives the batch with the texts and labels as they now are."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.batch = batch
        self.alive = np.ones(batch.num_rows, bool)
        frame = turns(batch)
        self._arguments: Arguments | None = None
        if batch["tools"].null_count < batch.num_rows:
            frame, self._arguments = _with_arguments(frame, int(message_counts(batch["messages"]).sum()))
        self.row: np.ndarray = frame["row"].to_numpy()
        self.role: pl.Series = frame["role"]
        self._text: pl.Series = frame["content"]
        self._label: pa.Array = batch["label"]
        self._columns: dict[str, pa.Array] = {}
        self._inputs: dict[bool, pa.Array] = {}

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    @property
    def text(self) -> pl.Series:
        """[T]"""
        return self._text

    @property
    def label(self) -> pl.Series:
        """[B]"""
        return pl.Series(pl.from_arrow(self._label), dtype=pl.String)

    def column(self, name: str) -> pa.Array:
        """[B], as rules before have left it. Texts are in `text`."""
        return self._columns.get(name, self._label if name == "label" else self.batch[name])

    def edit(
        self,
        text: pl.Series | None = None,
        label: pa.Array | None = None,
        columns: dict[str, pa.Array] | None = None,
        edited: np.ndarray | None = None,
    ) -> None:
        """For who runs the rules: the result of one becomes what the next sees. `edited` are the places of the only texts that are not
        what they were."""
        if text is not None:
            self._text = text
            self._inputs.clear()
            marks = self.__dict__.get("marks")
            for name in ("bytes", "marks", "words"):
                self.__dict__.pop(name, None)
            if marks is not None and edited is not None:
                marks[edited] = _marks(*digests.bytes_of(some(text, edited).to_arrow()))
                self.__dict__["marks"] = marks
        if label is not None:
            self._label = label
        self._columns |= columns or {}

    @cached_property
    def bytes(self) -> tuple[np.ndarray, np.ndarray]:
        """(UTF-8 of all texts one after the other, uint8 [N]; where each begins and the last ends, int64 [T + 1])."""
        return digests.bytes_of(self._text.to_arrow())

    @cached_property
    def marks(self) -> np.ndarray:
        """Which kinds of bytes each text has, as bits, uint16 [T]."""
        return _marks(*self.bytes)

    def have(self, *kinds: int) -> np.ndarray:
        """Texts in which any of these kinds of bytes occurs, bool [T]."""
        wanted = 0
        for kind in kinds:
            wanted |= kind
        return (self.marks & np.uint16(wanted)) != 0

    def some(self, places: np.ndarray) -> pl.Series:
        """The texts at `places` as they now are, [n]."""
        return some(self._text, places)

    def matching(self, where: np.ndarray, pattern: str) -> np.ndarray:
        """Those of the texts `where` [T] which the pattern matches, bool [T]; it is not asked of others."""
        found = np.zeros(len(where), bool)
        if len(places := np.flatnonzero(where)):
            found[places[self.some(places).str.contains(pattern).to_numpy()]] = True
        return found

    def says(self, *roles: str) -> np.ndarray:
        """Texts of these roles, bool [T]."""
        names, codes = self._roles
        return np.array([name in roles for name in names], bool)[codes]

    def roles(self, names: Sequence[str]) -> np.ndarray:
        """Of each text the place of its role among `names`, -1 where it is none of them, int64 [T]."""
        told, codes = self._roles
        return np.array([names.index(name) if name in names else -1 for name in told], np.int64)[codes]

    @cached_property
    def _roles(self) -> tuple[list[str], np.ndarray]:
        """(the roles there are, of each text [T] which one)."""
        told = self.role.to_arrow().dictionary_encode()
        return told.dictionary.to_pylist(), told.indices.to_numpy()

    def per_row(self, values: np.ndarray, how: Literal["any", "sum", "max"] = "any") -> np.ndarray:
        """From texts [T] to rows [B]; 0 or False for a row without any text."""
        if how == "sum":
            return np.bincount(self.row, weights=values, minlength=len(self))
        out = np.zeros(len(self), values.dtype)
        (np.logical_or if how == "any" else np.maximum).at(out, self.row, values)
        return out

    def reasons(self, why: dict[int, str]) -> pa.Array:
        """From row to reason, to reasons [B], null for the others."""
        if not why:
            return pa.nulls(len(self), pa.string())
        out: list[str | None] = [None] * len(self)
        for row, reason in why.items():
            out[row] = reason
        return pa.array(out, pa.string())

    def first(self, mask: np.ndarray) -> np.ndarray:
        """For each row [B] the first text for which `mask` [T] holds, -1 where there is none."""
        out = np.full(len(self), -1, np.int64)
        hits = np.flatnonzero(mask)[::-1]
        out[self.row[hits]] = hits
        return out

    def last(self, mask: np.ndarray) -> np.ndarray:
        """For each row [B] the last text for which `mask` [T] holds, -1 where there is none."""
        out = np.full(len(self), -1, np.int64)
        hits = np.flatnonzero(mask)
        out[self.row[hits]] = hits
        return out

    def named(self, why: list[tuple[str, np.ndarray]]) -> pa.Array:
        """Reasons [B]: the names, in order, of what changed any of a row's texts; `why` holds (name, places of texts)."""
        told: dict[int, str] = {}
        for name, places in why:
            for row in np.unique(self.row[places]).tolist():
                told[row] = f"{told[row]}, {name}" if row in told else name
        return self.reasons(told)

    @cached_property
    def _by_row(self) -> tuple[np.ndarray, np.ndarray]:
        """(places of texts, row after row; where each row's begin, and the end)."""
        ends = np.cumsum(np.bincount(self.row, minlength=len(self)))
        return np.argsort(self.row, kind="stable"), np.concatenate([[0], ends])

    def places(self, row: int) -> np.ndarray:
        """Where the texts of a row stand, in order; the rejected answer is the last."""
        order, begins = self._by_row
        return order[begins[row] : begins[row + 1]]

    def of_row(self, row: int) -> list[str]:
        """The texts of one row as they now are."""
        return strings(self._text, self.places(row))

    def joined(self, *roles: str) -> list[str]:
        """The texts of these roles in each row [B], joined by a line break; empty where there is none."""
        return self._per_row(pl.col("text").str.join("\n"), self.says(*roles))

    def whole(self) -> list[str]:
        """Every turn of each row [B], the rejected one too, with its role, and its tools, as one string for comparing. Blanks stand
        around each turn, so that folding takes a turn's own at its edges for the same."""
        # the texts inside of calls stand in their JSON, whatever the order of its keys
        found = self._per_row(pl.format("\x00{}\x00 {} ", "role", "text").str.join(""), ~self.says(ARGUMENT))
        for row, told in self.with_tools().items():
            found[row] += f"\x00tools\x00 {told} "
        return found

    def answers(self) -> list[str]:
        """The last assistant turn of each row [B]; empty for a plain text."""
        return self._per_row(pl.col("text").last(), self.says("assistant"))

    def called(self, which: np.ndarray | None = None) -> dict[int, str]:
        """Row -> what it calls, one after the other, as canonical JSON; of rows with any call, or any of those texts [T]."""
        inside = self._arguments
        if inside is None:
            return {}
        turns_ = int(message_counts(self.batch["messages"]).sum())
        new = inside.edited(self._text.slice(turns_, len(inside.texts)).to_list())
        found: dict[int, list[Any]] = {}
        for place, told in zip(inside.calls, inside.told, strict=True):
            if which is not None and not which[place]:
                continue
            found.setdefault(int(self.row[place]), []).append(loads(new[place]) if place in new else told)
        return {row: canonical(calls).decode() for row, calls in found.items()}

    def with_tools(self) -> dict[int, str]:
        """Row -> what it calls and what it could have called; of rows with tools."""
        if self._arguments is None:
            return {}
        calls, tools = self.called(), self.column("tools")
        return {
            row: f"{calls.get(row, '')}\n{tools[row].as_py()}"
            for row in pc.indices_nonzero(tools.is_valid()).to_pylist()
        }

    def hashed_inputs(self, *, fold: bool) -> pa.Array:
        """128-bit hashes of what the user says [B], made once."""
        if fold not in self._inputs:
            texts, begins = self._stand(self.says("user", "text"))
            first = np.zeros(len(texts), bool)
            first[begins[:-1][begins[:-1] < begins[1:]]] = True
            self._inputs[fold] = digests.of_rows(
                *self.bytes, texts, begins, folds=fold, heads=("\n", ""), before=first
            )
        return self._inputs[fold]

    def hashed_whole(self, *, fold: bool) -> pa.Array:
        """128-bit hashes of `whole` [B]."""
        names, codes = self._roles
        texts, begins = self._stand(np.ones(len(self.row), bool))
        heads = [f"\x00{name}\x00 " for name in names]
        found = digests.of_rows(
            *self.bytes, texts, begins, folds=fold, heads=heads, before=codes[texts], after=" "
        )
        if self._arguments is None:
            return found
        told = self.whole()
        return self._some_anew(found, {row: told[row] for row in self.with_tools()}, fold)

    def hashed_answers(self, *, fold: bool) -> pa.Array:
        """128-bit hashes of `answers` [B], and of what is called."""
        last = self.last(self.says("assistant"))
        begins = np.concatenate([[0], np.cumsum(last >= 0)])
        found = digests.of_rows(*self.bytes, last[last >= 0], begins, folds=fold)
        calls = self.called()
        if not calls:
            return found
        said = self.answers()
        return self._some_anew(found, {row: f"{said[row]}\n{told}" for row, told in calls.items()}, fold)

    def _some_anew(self, digests_: pa.Array, texts: dict[int, str], fold: bool) -> pa.Array:
        """The digests [B], those of some rows of other texts."""
        mask = np.zeros(len(self), bool)
        mask[list(texts)] = True
        return pc.replace_with_mask(
            digests_, pa.array(mask), digests.of([texts[row] for row in sorted(texts)], folds=fold)
        )

    def _stand(self, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(places of these texts, row after row; where each row's begin, and the end)."""
        order, begins = self._by_row
        inside = which[order]
        return order[inside], np.concatenate([[0], np.cumsum(inside)])[begins]

    def _per_row(self, what: pl.Expr, which: np.ndarray) -> list[str]:
        mask = pl.Series(which)
        frame = pl.DataFrame(
            {"row": self.row[which], "role": self.role.filter(mask), "text": self._text.filter(mask)}
        )
        told = frame.group_by("row", maintain_order=True).agg(what.alias("told"))
        out = [""] * len(self)
        for row, text in told.iter_rows():
            out[row] = text
        return out

    def previews(self, rows: np.ndarray, longest: int) -> list[str]:
        """The beginning of what the user says in each of these rows, for people."""
        wanted = self.says("user", "text")
        mine = [places[wanted[places]] for places in map(self.places, rows.tolist())]
        every = iter(strings(self._text, np.concatenate([np.zeros(0, np.int64), *mine])))
        told = ["\n".join(islice(every, len(places))) for places in mine]
        return [text if len(text) <= longest else text[: longest - 1] + "…" for text in told]

    def _strings(self) -> pa.Array:
        """The contents in the order of records.turns, as they now are."""
        if self._arguments is None and self._text.null_count() == 0:
            return digests.strings_of(*self.bytes)
        if self._arguments is None:
            return self._text.to_arrow().cast(pa.string())
        inside, turns_ = self._arguments, int(message_counts(self.batch["messages"]).sum())
        after = turns_ + len(inside.texts)
        before = self.batch["messages"].flatten().field("content")
        new = inside.edited(self._text.slice(turns_, len(inside.texts)).to_list())
        calls = [new.get(place, before[place].as_py()) for place in inside.calls]
        told = self._text.slice(0, turns_).scatter(inside.calls, calls)
        return pl.concat([told, self._text.slice(after)]).to_arrow().cast(pa.string())

    def close(self) -> pa.RecordBatch:
        """The rows with their texts and labels as they now are."""
        strings = self._strings()
        messages = self.batch["messages"]
        counts = message_counts(messages)
        at = int(counts.sum())
        roles = messages.flatten().field("role")
        new = {"messages": build_messages(counts, roles, strings.slice(0, at), messages.is_null())}
        for name in ("text", "rejected"):
            told = self.batch[name].is_valid()
            n = len(told) - self.batch[name].null_count
            new[name] = pc.replace_with_mask(self.batch[name], told, strings.slice(at, n))
            at += n
        return replace(self.batch, **new, label=self._label, **self._columns)
