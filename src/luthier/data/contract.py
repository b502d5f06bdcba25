"""A data contract: what a source has promised about its columns, and what happens to rows that break it.

    a row breaks it      type, required, min, max, values, pattern, length     the row is quarantined (removed.parquet, rule
                                                                              `contract`); more than `broken` of them: refused
    the whole breaks it  a column is missing or too many, a unique value       refused, with the place
                         repeats, too few or too many rows, nothing fresh

Rows are judged where they are read, by the same function on every engine. What needs all rows (unique, fresh, how many) is
looked up before, by whoever prepares, in bounded memory: only the columns that it is about are read for it.

Not here: how the whole is looked up (contract_whole.py), the Open Data Contract Standard (odcs.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from luthier.core.errors import DataError
from luthier.core.spec import Spec, parse, read_yaml
from luthier.core.units import Count, Seconds, Share

if TYPE_CHECKING:
    from .connectors.protocol import Block, Connector, Part

RULE = "contract"
Kind = Literal["string", "integer", "number", "boolean", "timestamp", "date", "object", "array"]
Value = str | bool | int | float


class ColumnSpec(Spec):
    type: Kind | None = None
    """What its values are; text that reads as one will do, since CSV knows nothing else."""
    required: bool = False
    """Whether every row has a value."""
    unique: bool = False
    """Whether no value may stand in two rows; if one does, nothing is read."""
    min: int | float | str | None = None
    """The lowest number, or the earliest time as in 2026-01-31."""
    max: int | float | str | None = None
    """The highest number, or the latest time."""
    values: list[Value] | None = None
    """The only values there may be."""
    pattern: str | None = None
    """A regular expression that the whole value must match."""
    min_length: Count | None = None
    """The fewest characters."""
    max_length: Count | None = None
    """The most characters."""

    @model_validator(mode="after")
    def _can_be_kept(self) -> ColumnSpec:
        for name in ("min", "max"):
            bound = getattr(self, name)
            if isinstance(bound, str):
                _time(bound)
        low, high = self.min, self.max
        if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
            raise ValueError(f"min {self.min} is above max {self.max}")
        if self.min_length is not None and self.max_length is not None and self.min_length > self.max_length:
            raise ValueError(f"min_length {self.min_length} is above max_length {self.max_length}")
        if self.values is not None and not self.values:
            raise ValueError("values is empty, so every row would break it")
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise ValueError(f"{self.pattern!r} is no regular expression: {error}") from None
        return self


class FreshSpec(Spec):
    column: str
    """The column of times."""
    within: Seconds
    """How old the newest may be when the rows are prepared, as in `7 days`."""


class RowsSpec(Spec):
    at_least: Count | None = None
    """The fewest rows."""
    at_most: Count | None = None
    """The most rows."""

    @model_validator(mode="after")
    def _can_be_kept(self) -> RowsSpec:
        if self.at_least is None and self.at_most is None:
            raise ValueError("rows says nothing; write at_least, at_most or both")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least {self.at_least} is above at_most {self.at_most}")
        return self


class ContractSpec(Spec):
    """What a source has promised."""

    columns: dict[str, ColumnSpec] = Field(min_length=1)
    """What each column keeps to, by name."""
    others: Literal["allow", "refuse"] = "allow"
    """Whether there may be columns that are not listed."""
    broken: Share = 0.0
    """The largest share of rows that may break it and be set aside; more refuse the whole."""
    rows: RowsSpec | None = None
    """How many rows there must be."""
    fresh: FreshSpec | None = None
    """How old the newest row may be."""

    @model_validator(mode="after")
    def _names_its_columns(self) -> ContractSpec:
        if self.fresh is not None and self.fresh.column not in self.columns:
            raise ValueError(f"fresh is about {self.fresh.column!r}, which is not in columns; list it there")
        return self


def _time(text: str) -> None:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither a number nor a time as in 2026-01-31") from None


def contract_of(written: ContractSpec | str | None, base: Path) -> ContractSpec | None:
    """A contract as written, or that of a file: ours, or one of the Open Data Contract Standard. Raises SpecError, DataError."""
    if not isinstance(written, str):
        return written
    path = base / Path(written).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"the contract {written} cannot be read: {error}.", remedy="Check the path."
        ) from None
    tree = read_yaml(text, written)
    if isinstance(tree.value, dict) and tree.value.get("kind") == "DataContract":
        from .odcs import from_odcs

        return from_odcs(tree.value, written)
    return parse(ContractSpec, tree, remedy="docs/mapping.md explains contracts; nothing has been read.")


# rows


@dataclass(frozen=True)
class Kept:
    """A connector whose rows are held to a contract: protocol.Connector.read, with those that break it among the bad."""

    connector: Connector
    contract: ContractSpec

    def read(self, part: Part, columns: Sequence[str]) -> Iterator[Block]:
        for block in self.connector.read(part, list(dict.fromkeys([*columns, *self.contract.columns]))):
            yield judged(block, self.contract)


def judged(block: Block, contract: ContractSpec) -> Block:
    """The block with the rows that break the contract among the bad."""
    from .connectors.protocol import BadRow

    why: dict[int, str] = {}
    for name, spec in contract.columns.items():
        column = block.columns.get(name, [None] * len(block))
        cells = column if isinstance(column, list) else column.to_pylist()
        for row, fault in _faults(cells, spec):
            why.setdefault(row, f"{name!r} {fault}")
    if not why:
        return block
    keep = [row for row in range(len(block)) if row not in why]
    names = block.names
    bad = [
        BadRow(block.lines[row], fault, _shown(block, row), None if names is None else names[row], RULE)
        for row, fault in sorted(why.items())
    ]
    return replace(
        block,
        columns={name: _taken(column, keep) for name, column in block.columns.items()},
        lines=[block.lines[row] for row in keep],
        names=None if names is None else [names[row] for row in keep],
        bad=[*block.bad, *bad],
    )


def _taken(column: Any, rows: list[int]) -> Any:
    import pyarrow as pa

    return (
        [column[row] for row in rows] if isinstance(column, list) else column.take(pa.array(rows, pa.int64()))
    )


def _shown(block: Block, row: int) -> str:
    cells = (column[row] for column in block.columns.values())
    plain = (cell.as_py() if hasattr(cell, "as_py") else cell for cell in cells)
    return " | ".join(str(cell) for cell in plain if cell is not None)[:200]


def _faults(cells: Sequence[Any], spec: ColumnSpec) -> Iterator[tuple[int, str]]:
    from .connectors.cells import text_of

    allowed = None if spec.values is None else {text_of(value) for value in spec.values}
    texts = [None if cell is None or isinstance(cell, list | dict) else text_of(cell) for cell in cells]
    odd = _mismatches(texts, spec.pattern) if spec.pattern is not None else set()
    for row, (cell, text) in enumerate(zip(cells, texts, strict=True)):
        if cell is None:
            if spec.required:
                yield row, "is missing"
            continue
        shown = repr(text[:60]) if text is not None else "a list" if isinstance(cell, list) else "an object"
        if spec.type is not None and not _IS[spec.type](cell):
            yield row, f"is {shown}, not {_ARTICLE[spec.type]}"
        elif (fault := _beyond(cell, spec)) is not None:
            yield row, f"is {shown}, {fault}"
        elif allowed is not None and text not in allowed:
            yield row, f"is {shown}, which is none of its {len(allowed)} values"
        elif row in odd:
            yield row, f"is {shown}, which does not match {spec.pattern!r}"
        elif text is not None and spec.min_length is not None and len(text) < spec.min_length:
            yield row, f"has {len(text)} characters, fewer than {spec.min_length}"
        elif text is not None and spec.max_length is not None and len(text) > spec.max_length:
            yield row, f"has {len(text)} characters, more than {spec.max_length}"


def _mismatches(texts: Sequence[str | None], pattern: str) -> set[int]:
    """By RE2, whose time grows with the text and no faster."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        fits = pc.match_substring_regex(pa.array(texts, pa.string()), rf"\A(?s:{pattern})\z")
    except pa.ArrowInvalid as error:
        raise DataError(
            f"the contract's pattern {pattern!r} cannot be used: {str(error).splitlines()[0]}.",
            remedy="Look-around and back references are not known here.",
        ) from None
    return {row for row, fit in enumerate(fits.to_pylist()) if fit is False}


def _beyond(cell: Any, spec: ColumnSpec) -> str | None:
    from .grouped import place_of

    for bound, sign, words in ((spec.min, 1, "below"), (spec.max, -1, "above")):
        if bound is None:
            continue
        try:
            (place, kind), (limit, wanted) = place_of(cell), place_of(bound)
        except ValueError:
            return f"neither {words} nor above {bound}"
        if kind != wanted:
            return f"which {bound} is not to be compared with"
        if (limit - place) * sign > 0:
            return f"{words} {bound}"
    return None


def _reads_as(cell: Any, read: Callable[[str], object]) -> bool:
    if not isinstance(cell, str):
        return False
    try:
        read(cell)
    except ValueError:
        return False
    return True


def _is_json(kind: type) -> Callable[[Any], bool]:
    def told(cell: Any) -> bool:
        from .json_text import loads

        try:
            return isinstance(loads(cell) if isinstance(cell, str) else cell, kind)
        except ValueError:
            return False

    return told


def _is_number(cell: Any) -> bool:
    from .connectors.cells import number_of

    text = isinstance(cell, str) and cell.strip().lower() in ("true", "false")
    return not isinstance(cell, bool) and not text and number_of(cell) is not None


_IS: dict[str, Callable[[Any], bool]] = {
    "string": lambda cell: isinstance(cell, str),
    "integer": lambda cell: (
        (isinstance(cell, int) and not isinstance(cell, bool))
        or (isinstance(cell, str) and re.fullmatch(r"\s*[+-]?[0-9]+\s*", cell) is not None)
    ),
    "number": _is_number,
    "boolean": lambda cell: isinstance(cell, bool) or str(cell).strip().lower() in ("true", "false"),
    "timestamp": lambda cell: isinstance(cell, date) or _reads_as(cell, datetime.fromisoformat),
    "date": lambda cell: (
        (isinstance(cell, date) and not isinstance(cell, datetime)) or _reads_as(cell, date.fromisoformat)
    ),
    "object": _is_json(dict),
    "array": _is_json(list),
}
KINDS: tuple[Kind, ...] = ("boolean", "integer", "number", "date", "timestamp", "object", "array", "string")
"""The narrowest first."""


def is_kind(kind: Kind, cell: Any) -> bool:
    """Whether a cell that is there is of a kind."""
    return _IS[kind](cell)


_ARTICLE = {kind: f"{'an' if kind[0] in 'aio' else 'a'} {kind}" for kind in _IS} | {"string": "text"}
