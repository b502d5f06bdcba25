"""A contract from what is there: types, what is never missing, what never repeats, which few values there are. And a source
held against a contract without making anything of it.

A proposal says what the first rows keep to, which is no promise yet: a person decides which of it is one.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.core.errors import DataError

from .connectors import connect
from .connectors.cells import text_of
from .connectors.protocol import Head, Secret
from .contract import KINDS, ColumnSpec, ContractSpec, is_kind, judged
from .contract_whole import check_columns, check_whole, refuse_broken
from .propose import IDS
from .spec import SourceSpec

ROWS = 2_000
FEW = 12
"""The most values that are taken for a list of values."""
REPEATED = 5
"""How often each must be met on average to be one."""
SHOWN = 20


def propose_contract(source: SourceSpec, base: Path, secret: Secret = str) -> tuple[ContractSpec, Head]:
    """From the first rows. Raises DataError when there are none."""
    head = connect(source, base, secret).head(ROWS)
    columns = {name: _column(name, [row.get(name) for row in head.rows]) for name in head.columns}
    return ContractSpec(columns=columns, broken=0.01), head


def _column(name: str, cells: Sequence[Any]) -> ColumnSpec:
    there = [cell for cell in cells if cell is not None]
    kind = next((kind for kind in KINDS if there and all(is_kind(kind, cell) for cell in there)), None)
    plain = [text_of(cell) for cell in there if not isinstance(cell, list | dict)]
    distinct = Counter(plain)
    few = kind == "string" and 1 < len(distinct) <= FEW and len(plain) >= REPEATED * len(distinct)
    names = len(distinct) == len(there) == len(cells) > 1 and IDS.search(name) is not None
    return ColumnSpec(
        type=kind,
        required=len(there) == len(cells),
        unique=names,
        values=sorted(distinct) if few else None,
    )


@dataclass(frozen=True)
class Checked:
    """How many rows there are, how many break the contract, the first of them by place, and why the whole is refused."""

    rows: int
    broken: int
    first: dict[str, str]
    refused: list[str]


def check_contract(
    source: SourceSpec,
    contract: ContractSpec,
    base: Path,
    secret: Secret = str,
    check: Callable[[], None] = lambda: None,
) -> Checked:
    """Reads the source once or twice. Raises DataError for a source that cannot be read."""
    connector, place = connect(source, base, secret), source.name or source.default_name
    rows = broken = 0
    first: dict[str, str] = {}
    refused: list[str] = []
    try:
        check_columns(contract, connector.head(ROWS), place)
    except DataError as error:
        return Checked(0, 0, {}, [error.message])
    for part in connector.parts():
        for block in connector.read(part, list(contract.columns)):
            check()
            rows += len(block)
            found = judged(block, contract)
            bad = found.bad[len(block.bad) :]
            broken += len(bad)
            for origin, one in zip(found.bad_origins()[len(block.bad) :], bad, strict=True):
                if len(first) < SHOWN:
                    first[origin] = one.reason
    with tempfile.TemporaryDirectory(prefix="luthier-") as folder:
        try:
            check_whole(contract, connector, place, Path(folder), check)
        except DataError as error:
            refused.append(error.message)
    try:
        refuse_broken(contract, broken, rows, place)
    except DataError as error:
        refused.append(error.message)
    return Checked(rows, broken, first, refused)
