"""What a connector is: it reads rows as bounded blocks and knows the place of every row. It does not know what
columns mean.

    head       a few rows as plain values, to recognise their layout
    parts      what any process can read alone, in reading order
    read       the rows of one part, only the wanted columns
    blocks     all rows
    estimate   how much there is, without reading it all
    fingerprint  the identity of the content, so that unchanged data is not prepared twice

Errors are DataError, and name the place ("tickets.jsonl:12"), the rule and the remedy. Secrets never appear in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import pyarrow as pa

Secret = Callable[[str], str]
"""Puts values in place of ${VAR}; core.stage.Context.secret."""


@dataclass(frozen=True)
class BadRow:
    """A row that could not be read: where it starts, why not, and what it begins with. `name` as in Block.names. `rule`: what
    keeps it out, where that is not the reading."""

    line: int
    reason: str
    preview: str
    name: str | None = None
    rule: str | None = None


@dataclass(frozen=True)
class Block:
    """Some rows. A column is an Arrow array, or a list of plain values where a format has no types of its own.

    `place` is the file as people know it, `lines` the 1-based line (or row, in formats without lines) of each row. Where rows
    have names and no lines, `names` holds them. `bad` are rows that stood among these and could not be read, where the source
    keeps such rows out (`map.on_bad_row: set_aside`).
    """

    columns: dict[str, list[Any] | pa.Array]
    place: str
    lines: Sequence[int]
    names: Sequence[str] | None = None
    bad: Sequence[BadRow] = ()

    def __len__(self) -> int:
        return len(self.lines)

    def origins(self) -> list[str]:
        if self.names is not None:
            return [f"{self.place}?{name}" for name in self.names]
        return [f"{self.place}:{line}" for line in self.lines]

    def bad_origins(self) -> list[str]:
        return [f"{self.place}:{b.line}" if b.name is None else f"{self.place}?{b.name}" for b in self.bad]


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


@dataclass(frozen=True)
class Part:
    """A stretch of a source: plain values without a secret, for another process that has the same source before it.

    `at` is for the connector that made it; `size_bytes` what is stored.
    """

    at: Mapping[str, Any]
    size_bytes: int


class Connector(Protocol):
    """Made from (source, base folder, secret). One reader at a time; `read` may be called again for another pass. A class that needs
    variables of the environment, beyond those that a source refers to, names them in `environment`."""

    def head(self, n: int) -> Head:
        """At most `n` rows. Raises DataError when there are none."""

    def parts(self) -> Sequence[Part]:
        """All there is, in a fixed order. Raises DataError for a source that is not there."""

    def read(self, part: Part, columns: Sequence[str]) -> Iterator[Block]:
        """The rows of one part in order, as blocks of at most a few megabytes. Raises DataError for a missing column."""

    def blocks(self, columns: Sequence[str]) -> Iterator[Block]:
        """All parts, one after the other. Raises DataError when there is no row."""

    def done_bytes(self) -> int:
        """How many stored bytes of the part (or of all, by `blocks`) are read, for progress."""

    def estimate(self) -> Estimate:
        """How much there is. Cheap: reads at most a megabyte of each kind of file."""

    def fingerprint(self, cache: MutableMapping[str, str] | None = None) -> str:
        """A digest that changes when any byte or any file's name changes. `cache` remembers hashes of local files."""


@runtime_checkable
class Moving(Protocol):
    """A connector whose source goes on while it is read (a table's newest version, a topic): where it stands is fixed once, with
    the fingerprint, is part of the identity, and leads another connector to the very same rows."""

    def pinned(self) -> dict[str, Any]:
        """Where it stands, as plain values without a secret."""

    def pin(self, what: Mapping[str, Any]) -> None:
        """Stand there, whatever is the newest now."""


Count = Callable[[Sequence[Part]], Sequence[int]]
"""Asks `Divisible.count` about each of some parts, wherever and in whatever order."""


@runtime_checkable
class Divisible(Protocol):
    """A connector whose parts may be too large for one process."""

    def divide(self, parts: Sequence[Part], about_bytes: int, count: Count) -> Sequence[Part]:
        """The same rows in the same order and with the same places, in parts of about that size where that is possible."""

    def count(self, part: Part) -> int:
        """What `divide` has to know of a part before it can number its rows: cheap, though it reads the part once."""
