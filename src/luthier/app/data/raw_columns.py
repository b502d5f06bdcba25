"""The first rows of a source, column by column: what kinds of values, how many are empty, how long texts are, and what has the
form of private data. Nothing that is told here or shown of a row holds a private value: each is masked first.

Not here: what the columns mean (data/shapes.py), and names of people, which no form tells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luthier.data.connectors.protocol import Head

    from .find import Looking

LONGEST = 600
DEEPEST = 20
KINDS_OF_VALUES: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "true or false"),  # before the numbers: Python takes it for one
    (int, "whole number"),
    ((float, Decimal), "number"),
    (str, "text"),
    (datetime, "time"),
    ((date, time), "date"),
    (Mapping, "object"),
    ((list, tuple), "list"),
    (bytes, "bytes"),
)


def columns_of_rows(head: Head) -> list[dict[str, Any]]:
    """For each column: {"name", "types": {kind: rows}, "empty": rows, "distinct": values, "longest": characters of a text}."""
    names = shown_alone(head.columns)
    return [
        {"name": told, **_column([row.get(name) for row in head.rows])}
        for name, told in zip(head.columns, names, strict=True)
    ]


def _column(cells: Sequence[Any]) -> dict[str, Any]:
    told = [cell for cell in cells if not is_empty(cell)]
    texts = [len(cell) for cell in told if isinstance(cell, str)]
    return {
        "types": dict(Counter(kind_of(cell) for cell in told).most_common()),
        "empty": len(cells) - len(told),
        "distinct": len({repr(cell) for cell in told}),
        "longest": max(texts, default=None),
    }


def is_empty(cell: Any) -> bool:
    """
    >>> is_empty(None), is_empty("  "), is_empty([]), is_empty(0), is_empty(False)
    (True, True, True, False, False)
    """
    return cell is None or (isinstance(cell, str) and not cell.strip()) or cell in ([], {})


def kind_of(cell: Any) -> str:
    """
    >>> kind_of(True), kind_of(3), kind_of(0.5), kind_of({"role": "user"})
    ('true or false', 'whole number', 'number', 'object')
    """
    return next((name for of, name in KINDS_OF_VALUES if isinstance(cell, of)), type(cell).__name__)


def private_of_rows(head: Head, most: int, look: Looking) -> dict[str, Any]:
    """{"rows": looked at, "with": rows that hold any, "kinds": {kind: values}, "columns": {column: {kind: values}}}."""
    from luthier.data.private import KINDS
    from luthier.data.private.find import candidates
    from luthier.data.private.found import settle

    wanted, holding = frozenset(KINDS), 0
    by_column: dict[str, Counter[str]] = {}
    rows = head.rows[:most]
    for n, row in enumerate(rows):
        here = False
        for name, cell in row.items():
            found = [one.kind for text in leaves(cell) for one in settle(candidates(text, wanted))]
            if found:
                by_column.setdefault(name, Counter()).update(found)
                here = True
        holding += here
        if n % 100 == 0:
            look.progress("look for private data", n, len(rows))
    kinds = sum(by_column.values(), Counter[str]())
    ordered = lambda counts: {kind: counts[kind] for kind in KINDS if counts[kind]}  # noqa: E731
    return {
        "rows": len(rows),
        "with": holding,
        "kinds": ordered(kinds),
        "columns": {
            told: ordered(by_column[name])
            for name, told in zip(head.columns, shown_alone(head.columns), strict=True)
            if name in by_column
        },
    }


def leaves(cell: Any, deep: int = 0) -> Iterator[str]:
    """Every text and number in a cell, as text; what stands deeper than DEEPEST is taken as it is written.

    >>> list(leaves({"a": ["x", 7], "b": None, "c": True}))
    ['x', '7']
    """
    if deep < DEEPEST and isinstance(cell, Mapping):
        for inner in cell.values():
            yield from leaves(inner, deep + 1)
    elif deep < DEEPEST and isinstance(cell, list | tuple):
        for inner in cell:
            yield from leaves(inner, deep + 1)
    elif cell is not None and not isinstance(cell, bool | bytes):
        yield str(cell)


def shown_rows(head: Head, n: int) -> list[dict[str, str]]:
    """The first rows as texts, private values masked and long ones cut."""
    names = shown_alone(head.columns)
    return [
        {told: masked(_text(row.get(name))) for name, told in zip(head.columns, names, strict=True)}
        for row in head.rows[:n]
    ]


def _text(cell: Any) -> str:
    from luthier.data.json_text import dumps

    if cell is None or isinstance(cell, str):
        return cell or ""
    if isinstance(cell, Mapping | list):
        try:
            return dumps(cell)
        except (TypeError, ValueError, RecursionError):  # a date inside, say, or a number that is none
            return str(cell)
    return str(cell).lower() if isinstance(cell, bool) else str(cell)


def shown_alone(names: Sequence[str]) -> list[str]:
    """Names or labels as they may be shown, masked, and no two of them alike: where the first line of a file is no header, columns are
    called by what is in it.

    >>> shown_alone(["a@x.com", "b@x.com", "billing"])
    ['[EMAIL_1]', '[EMAIL_2]', 'billing']
    """
    from luthier.data.private import masking

    told, _ = masking.masked(names)
    cut = [one if len(one) <= LONGEST else one[: LONGEST - 1] + "…" for one in told]
    times = Counter(cut)
    return [one if times[one] == 1 else f"{one} ({n + 1})" for n, one in enumerate(cut)]


def masked(text: str) -> str:
    """A text without what has the form of private data, and no longer than LONGEST; masked before it is cut, since half of a
    number has no form.

    >>> masked("write to jo@firm.com")
    'write to [EMAIL_1]'
    """
    from luthier.data.private import masking

    (told,), _ = masking.masked([text])
    return told if len(told) <= LONGEST else told[: LONGEST - 1] + "…"
