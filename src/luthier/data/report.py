"""What each step did to the rows: counts that must add up, and a few examples with reasons.

Deterministic: the same rows in the same order give the same report. Seconds are not in it; they are events.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .records import row_text

EXAMPLES = 5
WINDOW = 240


@dataclass
class Tally:
    """One step's account. `close` checks rows in = rows out + removed."""

    rule: str
    settings: dict[str, Any]
    version: int
    rows_in: int = 0
    rows_out: int = 0
    removed: int = 0
    changed: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    examples: list[dict[str, Any]] = field(default_factory=list)

    def count(self, rows_in: int, rows_out: int) -> None:
        self.rows_in += rows_in
        self.rows_out += rows_out

    def see_changes(self, before: pa.RecordBatch, after: pa.RecordBatch, why: pa.Array) -> None:
        self.changed += len(why) - why.null_count
        for row in self._first(why):
            pairs = zip(row_text(before, row), row_text(after, row), strict=True)
            old, new = next(((a, b) for a, b in pairs if a != b), ("", ""))
            old, new = window(old, new)
            self._add(before["id"][row].as_py(), old, new, why[row].as_py())

    def see_removals(self, batch: pa.RecordBatch, why: pa.Array) -> None:
        self.removed += len(why) - why.null_count
        for row in self._first(why):
            self._add(batch["id"][row].as_py(), cut("\n".join(row_text(batch, row))), None, why[row].as_py())

    def see_unread(self, origins: list[str], previews: list[str], reasons: list[str]) -> None:
        self.removed += len(origins)
        for origin, preview, reason in list(zip(origins, previews, reasons, strict=True))[
            : EXAMPLES - len(self.examples)
        ]:
            self._add(origin, preview, None, reason)

    def close(self) -> dict[str, Any]:
        """The account as it is stored in rules.json."""
        if self.rows_in != self.rows_out + self.removed:
            raise AssertionError(
                f"{self.rule}: {self.rows_in} rows in, {self.rows_out} out, {self.removed} removed"
            )
        return {
            "rule": self.rule,
            "version": self.version,
            "spec": self.settings,
            "rows_in": self.rows_in,
            "rows_out": self.rows_out,
            "removed": self.removed,
            "changed": self.changed,
            "notes": self.notes,
            "examples": self.examples,
        }

    def _first(self, why: pa.Array) -> list[int]:
        room = EXAMPLES - len(self.examples)
        return pc.indices_nonzero(why.is_valid())[:room].to_pylist() if room > 0 else []

    def _add(self, name: str, before: str, after: str | None, reason: str) -> None:
        self.examples.append({"id": name, "before": before, "after": after, "reason": reason})


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
