"""How a file looks: every layout that its first rows could have, how sure that is, and how many of those rows it really fits.

A guess from names is held against the rows themselves: they are mapped as a recipe would, and what does not fit is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from luthier.core.errors import DataError

from .connectors import connect
from .connectors.protocol import Block, Head, Secret
from .mapping import Layout, to_records
from .maps import MapSpec
from .shapes import Shape, detect
from .spec import SourceSpec

ROWS = 1_000


@dataclass(frozen=True)
class Look:
    """A layout, how many of the rows that were looked at become records, and why the first other one does not."""

    shape: Shape
    fits: int
    first_fault: str | None

    @property
    def written(self) -> dict[str, object]:
        """The map as a recipe writes it."""
        told = self.shape.map.plain()
        return {k: value for k, value in told.items() if value != MapSpec.model_fields[k].default}


@dataclass(frozen=True)
class Looked:
    """`looks` are the likeliest layout and what else it could be."""

    head: Head
    looks: list[Look]

    @property
    def sure(self) -> bool:
        """Whether nothing else comes near."""
        first, *rest = self.looks
        return not any(one.shape.confidence >= first.shape.confidence * 0.9 for one in rest)


def look(source: SourceSpec, base: Path, secret: Secret = str) -> Looked:
    """Raises DataError when there are no rows, or no layout is likely."""
    head = connect(source, base, secret).head(ROWS)
    shape = detect(head.columns, head.rows, source.default_name)
    return Looked(head, [_held(one, head, source.default_name) for one in (shape, *shape.others)])


def _held(shape: Shape, head: Head, place: str) -> Look:
    layout = Layout.of(shape, None, None, classify=False, source=place, weight=1.0, columns=head.columns)
    cells = {name: [row.get(name) for row in head.rows] for name in layout.columns}
    try:
        records, bad = to_records(Block(cells, place, range(1, len(head.rows) + 1)), layout)
    except DataError as error:
        return Look(shape, 0, error.message)
    first = f"{bad.origins[0]}: {bad.reasons[0]}" if bad.origins else None
    return Look(shape, records.num_rows, first)
