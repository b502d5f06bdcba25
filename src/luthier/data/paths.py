r"""A place inside a row: a column, and the way from its value to the one that is meant.

    ticket.body                     the key `body` of the object in the column `ticket`
    turns[0].text                   the key `text` of the first object of a list
    choices[-1].message.content     of the last
    a\.b                            the column or key whose name has a dot

A column whose name is the whole text wins. A step into text reads that text as JSON, so `payload.user.name` finds its way
through JSON in a cell of a CSV file or a database. What is not there is missing; a step into what has no inside (a number
where an object should be) is a problem of its row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from luthier.core.errors import DataError, did_you_mean

from .connectors import cells
from .connectors.protocol import Block
from .connectors.values import plain
from .json_text import loads

Steps = list[str | int]
"""The column first. Lists, not tuples: they travel as JSON."""

_NAME = r"(?:[^.\[\]\\]|\\.)+"
_PATH = re.compile(rf"{_NAME}(?:\.{_NAME}|\[-?[0-9]{{1,9}}\])*", re.DOTALL)
_STEP = re.compile(rf"\[(-?[0-9]+)\]|\.?({_NAME})", re.DOTALL)


def steps_of(text: str) -> Steps:
    r"""Raises ValueError for what is no path.

    >>> steps_of("ticket.body"), steps_of("turns[0].text"), steps_of(r"a\.b")
    (['ticket', 'body'], ['turns', 0, 'text'], ['a.b'])
    """
    if not _PATH.fullmatch(text):
        raise ValueError(f"{text!r} is no path; write one as in ticket.body or turns[0].text")
    return [
        int(match[1]) if match[1] is not None else re.sub(r"\\(.)", r"\1", match[2])
        for match in _STEP.finditer(text)
    ]


def paths_of(names: Sequence[str], columns: Sequence[str], place: str) -> dict[str, Steps]:
    """For each name that is no plain column, its steps. Raises DataError for what is neither."""
    found: dict[str, Steps] = {}
    for name in names:
        if name in columns or not re.search(r"[.\[\]\\]", name):
            continue
        try:
            found[name] = steps_of(name)
        except ValueError as error:
            raise DataError(
                f"{place}: there is no column {name!r}, and {error}.",
                remedy=did_you_mean(name, list(columns)) + " (see `map:`)",
            ) from None
    return found


def value_of(row: Mapping[str, Any], name: str) -> Any:
    """What a column or path holds in a row of plain values; None where it is not there. JSON in text is opened."""
    try:
        steps: Steps = [name] if name in row else steps_of(name)
        return _opened(_inside(_opened(row.get(str(steps[0]))), steps[1:]))
    except ValueError:
        return None


def reach(block: Block, paths: Mapping[str, Steps], problems: cells.Problems) -> Block:
    """The block with a column for each path, under its name as it was written."""
    if not paths:
        return block
    columns = dict(block.columns)
    opened: dict[tuple[str | int, ...], list[Any]] = {}
    for written, (first, *steps) in paths.items():
        way: list[str | int] = [first]  # as far as the column's own type leads
        column = block.columns.get(str(first), [None] * len(block))
        while steps and not isinstance(column, list) and pa.types.is_struct(column.type):
            way.append(steps.pop(0))
            column = _field(column, way[-1], written, block.place)
        if not steps:
            columns[written] = column
            continue
        if not isinstance(column, list):
            column = plain(column.to_pylist(maps_as_pydicts="strict"))
        if any(isinstance(cell, str) for cell in column):
            if tuple(way) not in opened:  # JSON in text is read once for all its paths
                opened[tuple(way)] = [_opened(cell) for cell in column]
            column = opened[tuple(way)]
        columns[written] = _walked(column, steps, written, problems)
    return replace(block, columns=columns)


def _field(column: pa.Array, step: str | int, written: str, place: str) -> pa.Array:
    names = [field.name for field in column.type]
    if step not in names:
        raise DataError(
            f"{place}: {written!r} leads nowhere: there is no {step!r} beside {', '.join(names)[:200]}.",
            remedy=did_you_mean(str(step), names) + " (see `map:`)",
        )
    return pc.struct_field(column, names.index(str(step)))


def _opened(cell: Any) -> Any:
    """Text that is JSON as what it says; any other as it is, for `_inside` to complain of."""
    if not isinstance(cell, str):
        return cell
    try:
        return loads(cell) if cell.strip() else None
    except ValueError:
        return cell


def _walked(column: Sequence[Any], steps: Steps, written: str, problems: cells.Problems) -> list[Any]:
    found: list[Any] = []
    for row, cell in enumerate(column):
        try:
            found.append(_inside(cell, steps))
        except ValueError as error:
            problems.setdefault(row, f"{written!r} leads nowhere: {error}")
            found.append(None)
    return found


def _inside(cell: Any, steps: Steps) -> Any:
    for step in steps:
        if isinstance(cell, str):
            if not cell.strip():
                return None
            cell = loads(cell)
        if cell is None:
            return None
        if isinstance(step, str):
            if not isinstance(cell, dict):
                more = "; say which of it, as in [0]" if isinstance(cell, list) else ""
                raise ValueError(f"{step!r} is looked for in {_kind(cell)}, not in an object{more}")
            cell = cell.get(step)
        elif not isinstance(cell, list):
            raise ValueError(f"[{step}] is looked for in {_kind(cell)}, not in a list")
        else:
            cell = cell[step] if -len(cell) <= step < len(cell) else None
    return cell


def _kind(cell: Any) -> str:
    names = {list: "a list", dict: "an object", bool: "true or false", str: "text"}
    return names.get(type(cell), "a number")
