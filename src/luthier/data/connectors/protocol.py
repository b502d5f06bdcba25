"""What a connector is: it reads rows as bounded blocks and knows the place of every row. It does not know what
columns mean.

    head       a few rows as plain values, to recognise their layout
    blocks     all rows, only the wanted columns
    estimate   how much there is, without reading it all
    fingerprint  the identity of the content, so that unchanged data is not prepared twice

Errors are DataError, and name the place ("tickets.jsonl:12"), the rule and the remedy. Secrets never appear in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

Secret = Callable[[str], str]
"""Puts values in place of ${VAR}; core.stage.Context.secret."""


@dataclass(frozen=True)
class Block:
    """Some rows. A column is an Arrow array, or a list of plain values where a format has no types of its own.

    `place` is the file as people know it, `lines` the 1-based line (or row, in formats without lines) of each row.
    """

    columns: dict[str, list[Any] | pa.Array]
    place: str
    lines: Sequence[int]

    def __len__(self) -> int:
        return len(self.lines)

    def origins(self) -> list[str]:
        return [f"{self.place}:{line}" for line in self.lines]


@dataclass(frozen=True)
class Estimate:
    """`rows` is None when it cannot be told; `exact` when it was counted, not extrapolated."""

    files: int
    size_bytes: int
    rows: int | None
    exact: bool


@dataclass(frozen=True)
class Head:
    """The first rows as plain values, with the names of all their columns in order."""

    columns: list[str]
    rows: list[dict[str, Any]]
    format: str


class Connector(Protocol):
    """Made from (source, base folder, secret). One reader at a time; `blocks` may be called again for another pass."""

    def head(self, n: int) -> Head:
        """At most `n` rows. Raises DataError when there are none."""

    def blocks(self, columns: Sequence[str]) -> Iterator[Block]:
        """All rows in a fixed order, as blocks of at most a few megabytes. Raises DataError for a missing column."""

    def done_bytes(self) -> int:
        """How many stored bytes the present pass has read, for progress."""

    def estimate(self) -> Estimate:
        """How much there is. Cheap: reads at most a megabyte of each kind of file."""

    def fingerprint(self, cache: MutableMapping[str, str] | None = None) -> str:
        """A digest that changes when any byte or any file's name changes. `cache` remembers hashes of local files."""
