"""Cells become text in one predictable way, whatever the format: true and false in lower case, whole numbers as
digits, other numbers in their shortest form that reads back the same (1.0, 0.1), times in ISO 8601.

A cell that is no text (a list, an object) is a problem of its row, told with the row's place.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from luthier.core.errors import DataError
from luthier.data.records import TURNS, build_messages

Problems = dict[int, str]


def texts(column: list[Any] | pa.Array, name: str, place: str) -> tuple[pa.Array, Problems]:
    """A string array, null where the cell is missing, and the rows whose cell is not text."""
    if isinstance(column, pa.Array | pa.ChunkedArray):
        return _arrow_texts(column, name, place), {}
    try:
        return pa.array(column, pa.string()), {}
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        pass  # some cells are not strings: the slow, exact way
    problems: Problems = {}
    values: list[str | None] = []
    for row, cell in enumerate(column):
        if isinstance(cell, list | dict):
            problems[row] = f"{name!r} holds {'a list' if isinstance(cell, list) else 'an object'}, not text"
            cell = None
        values.append(None if cell is None else text_of(cell))
    return pa.array(values, pa.string()), problems


def numbers(column: list[Any] | pa.Array, name: str, place: str) -> tuple[pa.Array, Problems]:
    """A float64 array, null where the cell is missing or no number, and the rows whose cell is neither a number nor a
    truth value. Formats without types (CSV) bring both as text: `1`, `0.5`, `true`, `False`. A word such as "up" is
    refused: what it is worth is for a person to say."""
    if isinstance(column, pa.Array | pa.ChunkedArray):
        kind = column.type
        if pa.types.is_nested(kind):
            raise DataError(
                f"{place}: the column {name!r} holds {kind}, not numbers.", remedy="Map a column of numbers."
            )
        column = column.to_pylist()
    problems: Problems = {}
    values: list[float | None] = []
    for row, cell in enumerate(column):
        values.append(None if cell is None else number_of(cell))
        if cell is not None and values[-1] is None:
            shown = repr(cell if isinstance(cell, str) else str(cell))
            problems[row] = (
                f"{name!r} holds {shown[:60]}, not a number; write 1 or true for good, 0 or false for bad"
            )
    return pa.array(values, pa.float64()), problems


def number_of(cell: Any) -> float | None:
    """
    >>> number_of(True), number_of(3), number_of("0.5"), number_of("False"), number_of("up"), number_of("nan")
    (1.0, 3.0, 0.5, 0.0, None, None)
    """
    if isinstance(cell, str) and cell.strip().lower() in ("true", "false"):
        return float(cell.strip().lower() == "true")
    if not isinstance(cell, bool | int | float | Decimal | str) or "_" in str(
        cell
    ):  # Python would read 1_000
        return None
    try:
        value = float(cell)
    except (ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def text_of(cell: Any) -> str:
    """
    >>> text_of(True), text_of(7), text_of(1.0), text_of("x")
    ('true', '7', '1.0', 'x')
    """
    return str(cell).lower() if isinstance(cell, bool) else str(cell)


def _arrow_texts(column: pa.Array, name: str, place: str) -> pa.Array:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_floating(kind):
        return pa.array(
            [None if value is None else text_of(value) for value in column.to_pylist()], pa.string()
        )
    if pa.types.is_nested(kind):
        raise DataError(
            f"{place}: the column {name!r} holds {kind}, not text.",
            remedy="Map a column of text, or `messages:` for a list of messages.",
        )
    try:
        return column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"{place}: the column {name!r} ({kind}) cannot be read as text: {error}.",
            remedy="Convert it to text.",
        ) from None


def conversations(
    column: list[Any] | pa.Array, name: str, keys: tuple[str, str], place: str
) -> tuple[pa.Array, Problems]:
    """Lists of (role, content) as they stand, and the rows whose cell is not a list of messages."""
    if isinstance(column, pa.Array | pa.ChunkedArray):
        if not _of_parts(column.type, keys[1]):
            return _arrow_conversations(column, name, keys, place), {}
        column = column.to_pylist(maps_as_pydicts="strict")
    role, content = keys
    try:
        shape = pa.list_(pa.struct([(role, pa.string()), (content, pa.string())]))
        return pa.array(column, shape).cast(TURNS) if keys == ("role", "content") else _renamed(
            pa.array(column, shape)
        ), {}
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        pass  # some cell is not a plain list of messages: the slow, exact way
    problems: Problems = {}
    values: list[list[dict[str, Any]] | None] = []
    for row, cell in enumerate(column):
        try:
            values.append(
                None if cell is None else [turn_of(message, role, content) for message in cell_list(cell)]
            )
        except ValueError as error:
            problems[row] = f"{name!r}: {error}"
            values.append(None)
    return pa.array(values, TURNS), problems


def cell_list(cell: Any) -> list[Any]:
    if not isinstance(cell, list):
        raise ValueError("it is not a list of messages")
    return cell


def turn_of(message: Any, role: str, content: str) -> dict[str, Any]:
    """Role and content of a message as it stands. Raises ValueError."""
    if not isinstance(message, dict):
        raise ValueError("a message is not an object")
    if message.get(role) is not None and not isinstance(message[role], str):
        raise ValueError(f"a message's {role!r} is not text")
    said = message.get(content)
    if isinstance(said, list):  # OpenAI's content parts
        if not all(
            isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
            for part in said
        ):
            raise ValueError("a message has parts that are not text")
        said = "".join(part["text"] for part in said)
    if isinstance(said, dict):
        raise ValueError(f"a message's {content!r} is an object, not text")
    return {"role": message.get(role), "content": None if said is None else text_of(said)}


def _of_parts(kind: pa.DataType, content: str) -> bool:
    """Whether messages hold OpenAI's content parts, which are read one by one."""
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_struct(
        kind.value_type
    ):
        return False
    return any(one.name == content and pa.types.is_nested(one.type) for one in kind.value_type)


def _arrow_conversations(column: pa.Array, name: str, keys: tuple[str, str], place: str) -> pa.Array:
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if (
        not is_list
        or not pa.types.is_struct(kind.value_type)
        or not {*keys} <= {f.name for f in kind.value_type}
    ):
        raise DataError(
            f"{place}: the column {name!r} holds {kind}, not lists of messages with {keys[0]} and {keys[1]}.",
            remedy="Map user: and assistant: instead, or convert the column.",
        )
    counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    flat = column.flatten()
    role, content = (flat.field(key).cast(pa.string()) for key in keys)
    return build_messages(counts, role, content, column.is_null())


def _renamed(column: pa.Array) -> pa.Array:
    counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    flat = column.flatten()
    return build_messages(counts, flat.field(0), flat.field(1), column.is_null())
