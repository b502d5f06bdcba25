"""What each step did to the rows: counts that must add up, and a few examples with reasons.

An account of a part of the rows is added to that of another part, in any order, with the same result: examples are those
of the lowest ids. Seconds are no part of what is stored; they are events.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

EXAMPLES = 5
WINDOW = 240
HIDDEN = "(not shown: the recipe takes private data out)"


@dataclass(frozen=True, order=True)
class Example:
    """`after` is empty for a row that was removed."""

    id: str
    before: str
    after: str
    reason: str

    def plain(self) -> dict[str, Any]:
        return {**vars(self), "after": self.after or None}


@dataclass
class Account:
    """Of one step. `plain` checks rows in + added = rows out + removed."""

    rule: str
    settings: dict[str, Any]
    version: int
    rows_in: int = 0
    rows_out: int = 0
    removed: int = 0
    changed: int = 0
    added: int = 0
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)

    def count(self, rows_in: int, rows_out: int) -> None:
        self.rows_in += rows_in
        self.rows_out += rows_out

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Its time."""
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start

    def show(self, examples: Sequence[Example]) -> None:
        """Keep the lowest few."""
        self.examples = sorted({*self.examples, *examples})[:EXAMPLES]

    def add(self, other: Account) -> None:
        """What another part of the rows adds."""
        for name in ("rows_in", "rows_out", "removed", "changed", "added", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.counts.update(other.counts)
        self.notes += [note for note in other.notes if note not in self.notes]
        self.show(other.examples)

    def plain(self) -> dict[str, Any]:
        """As it is stored in rules.json."""
        if self.rows_in + self.added != self.rows_out + self.removed:
            raise AssertionError(
                f"{self.rule}: {self.rows_in} rows in, {self.rows_out} out, {self.removed} removed, {self.added} added"
            )
        return {
            "rule": self.rule,
            "version": self.version,
            "spec": self.settings,
            "rows_in": self.rows_in,
            "rows_out": self.rows_out,
            "removed": self.removed,
            "changed": self.changed,
            "added": self.added,
            "counts": dict(sorted(self.counts.items())),
            "notes": self.notes,
            "examples": [one.plain() for one in self.examples],
        }


def changed(name: str, before: Sequence[str], after: Sequence[str], reason: str) -> Example:
    """The first text that differs, around its first difference."""
    pairs = zip(before, after, strict=True)
    old, new = next(((a, b) for a, b in pairs if a != b), ("", ""))
    old, new = window(old, new)
    return Example(name, old, new, reason)


def removed(name: str, texts: Sequence[str], reason: str) -> Example:
    return Example(name, cut("\n".join(texts)), "", reason)


def lowest(names: Sequence[str]) -> list[int]:
    """Places of the few lowest names, each once: rows that are the same must not crowd out others in one batch and not in another.

    >>> lowest(["d", "a", "b", "a"])
    [1, 2, 0]
    """
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        places.setdefault(name, place)
    return [places[name] for name in sorted(places)[:EXAMPLES]]


def window(old: str, new: str) -> tuple[str, str]:
    """The same stretch of both texts around their first difference.

    >>> window("a" * 500 + "  b", "a" * 500 + " b")[1].endswith("a b")
    True
    """
    at = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    start = max(0, at - WINDOW // 3) if max(len(old), len(new)) > WINDOW else 0
    return cut(old, start), cut(new, start)


def cut(text: str, start: int = 0) -> str:
    piece = text[start : start + WINDOW]
    return ("…" if start else "") + piece + ("…" if start + WINDOW < len(text) else "")
