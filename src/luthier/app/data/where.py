"""Conditions on rows, as typed: FIELD OP VALUE, such as `label=billing`, `turns>=3`, `user~refund`.

    text      id label group source origin side text says user assistant system rule reason      = != ~ (contains)
    numbers   weight rating turns characters                                                     = != < <= > >=

`says` is everything that is said in a row. `~` is deaf to case; `=` is not. Several conditions must all hold. Compiled to
Polars expressions over batches of a split, so nothing is ever evaluated as code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.core.errors import SpecError, did_you_mean

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

ROLES = ("user", "assistant", "system")
TEXTS = ("id", "label", "group", "source", "origin", "side", "text", "says", *ROLES, "rule", "reason")
NUMBERS = ("weight", "rating", "turns", "characters")
_CONDITION = re.compile(r"\s*([A-Za-z_]+)\s*(!=|>=|<=|=|<|>|~)(.*)", re.DOTALL)


@dataclass(frozen=True)
class Condition:
    """`value` is a number for a field of numbers."""

    field: str
    op: str
    value: Any

    def __str__(self) -> str:
        return f"{self.field}{self.op}{self.value}"


def read(text: str, fields: Sequence[str] = (*TEXTS, *NUMBERS)) -> Condition:
    """A condition as typed. Raises SpecError.

    >>> read("label = billing"), read("turns>=3")
    (Condition(field='label', op='=', value='billing'), Condition(field='turns', op='>=', value=3.0))
    """
    found = _CONDITION.fullmatch(text)
    if not found:
        raise SpecError(
            f"{text[:80]!r} is no condition.", remedy="Write FIELD OP VALUE, e.g. label=billing or turns>=3"
        )
    name, op, value = found[1], found[2], found[3].strip()
    if name not in fields:
        raise SpecError(
            f"{text[:80]!r}: there is no field {name!r}.", remedy=did_you_mean(name, list(fields))
        )
    if name in NUMBERS:
        return Condition(name, _number_op(op, text), _number(value, text))
    if op not in ("=", "!=", "~"):
        raise SpecError(
            f"{text[:80]!r}: {name} is text, and {op} compares numbers.", remedy="Use =, != or ~ (contains)."
        )
    if not value and op == "~":
        raise SpecError(f"{text[:80]!r} looks for nothing.", remedy="Write what must be contained.")
    return Condition(name, op, value)


def _number_op(op: str, text: str) -> str:
    if op == "~":
        raise SpecError(
            f"{text[:80]!r}: ~ looks into texts, and this is a number.", remedy="Use =, !=, <, <=, > or >=."
        )
    return op


def _number(value: str, text: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise SpecError(
            f"{text[:80]!r}: {value[:40]!r} is not a number.", remedy="Write for example turns>=3"
        )
    return number


def frame(batch: pa.RecordBatch, side: str) -> pl.DataFrame:
    """A batch of a split, or of removed.parquet (whose preview then is all it says), with every column that a condition
    may ask for."""
    import polars as pl

    from luthier.data.reading import REMOVED
    from luthier.data.records import RECORD

    told = pl.DataFrame(pl.from_arrow(batch))
    if side == "removed":
        told = told.rename({"preview": "text"})
    empty = pl.DataFrame(
        pl.from_arrow(RECORD.empty_table().append_column("rule", REMOVED.empty_table()["rule"]))
    ).with_columns(reason=pl.lit(None, pl.String))
    missing = [
        pl.lit(None, dtype).alias(name) for name, dtype in empty.schema.items() if name not in told.columns
    ]
    return told.with_columns(*missing, pl.lit(side).alias("side"))


def expression(conditions: Sequence[Condition], words: Sequence[str] = ()) -> pl.Expr:
    """All of the conditions, and every word somewhere in what is said."""
    import polars as pl

    wanted = pl.lit(True)
    for one in conditions:
        wanted = wanted & _holds(one)
    for word in words:
        wanted = wanted & _contains(says(), word)
    return wanted


def says() -> pl.Expr:
    """Everything that is said in a row, as one text."""
    import polars as pl

    spoken = pl.col("messages").list.eval(pl.element().struct.field("content")).list.join("\n")
    return pl.concat_str([spoken, pl.col("text"), pl.col("rejected")], separator="\n", ignore_nulls=True)


def _column(name: str) -> pl.Expr:
    import polars as pl

    said = pl.element().struct.field("content")
    if name in ROLES:
        mine = pl.element().filter(pl.element().struct.field("role") == name).struct.field("content")
        return pl.col("messages").list.eval(mine).list.join("\n")
    if name == "says":
        return says()
    if name == "turns":
        return pl.col("messages").list.len().fill_null(1)
    if name == "characters":
        spoken = pl.col("messages").list.eval(said.str.len_chars()).list.sum().fill_null(0)
        return (
            spoken
            + pl.col("text").str.len_chars().fill_null(0)
            + pl.col("rejected").str.len_chars().fill_null(0)
        )
    return pl.col(name)


def _contains(column: pl.Expr, word: str) -> pl.Expr:
    return column.str.to_lowercase().str.contains(word.lower(), literal=True).fill_null(False)


def _holds(one: Condition) -> pl.Expr:
    column = _column(one.field)
    match one.op:
        case "~":
            return _contains(column, one.value)
        case "=":
            return column.eq_missing(one.value)
        case "!=":
            return column.ne_missing(one.value)
        case "<":
            return (column < one.value).fill_null(False)
        case "<=":
            return (column <= one.value).fill_null(False)
        case ">":
            return (column > one.value).fill_null(False)
    return (column >= one.value).fill_null(False)
