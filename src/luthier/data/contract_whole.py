"""What a contract promises of all rows of a source: which columns there are, values that never repeat, how many rows, how old
the newest, and how many rows may break it.

Looked up by whoever prepares, over the columns that it is about, in bounded memory. Not here: single rows (contract.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError, did_you_mean

from .contract import ContractSpec, FreshSpec, RowsSpec

if TYPE_CHECKING:
    from .connectors.protocol import Block, Connector, Head


def check_columns(contract: ContractSpec, head: Head, place: str) -> None:
    """Raises DataError for a column that is missing, or is there and may not be."""
    for name in contract.columns:
        if name not in head.columns:
            raise DataError(
                f"{place}: the contract promises the column {name!r}, and it is not there.",
                remedy=did_you_mean(name, head.columns),
            )
    extra = [name for name in head.columns if name not in contract.columns]
    if contract.others == "refuse" and extra:
        raise DataError(
            f"{place}: there is a column {extra[0]!r} that the contract does not promise.",
            remedy="List it in the contract, or set others: allow.",
        )


def check_whole(
    contract: ContractSpec, connector: Connector, place: str, folder: Path, check: Callable[[], None]
) -> None:
    """What needs all rows: unique values, how many rows, how old the newest. Raises DataError. Reads the columns it is about;
    `folder` is where it may put what does not fit in memory."""
    unique = [name for name, spec in contract.columns.items() if spec.unique]
    fresh = contract.fresh.column if contract.fresh else None
    if not unique and fresh is None and contract.rows is None:
        return
    columns = [*unique, *([fresh] if fresh else [])] or list(contract.columns)[:1]
    seen = _Seen(folder, unique)
    rows, newest = 0, None
    try:
        for part in connector.parts():
            for block in connector.read(part, list(dict.fromkeys(columns))):
                check()
                rows += len(block)
                seen.add(block)
                newest = _newest(block, fresh, newest) if fresh else None
        for name in unique:
            seen.refuse_twice(name)
    finally:
        seen.close()
    if contract.rows is not None:
        _check_rows(contract.rows, rows, place)
    if contract.fresh is not None:
        _check_fresh(contract.fresh, newest, place)


def refuse_broken(contract: ContractSpec, broken: int, rows: int, place: str) -> None:
    """Raises DataError where more rows break the contract than it allows."""
    if broken > contract.broken * rows:
        raise DataError(
            f"{place}: {broken:,} of {rows:,} rows break the contract, more than the {contract.broken:.4g} of them that it allows.",
            remedy="`luthier data contract check` names them. Correct them, or set `broken` in the contract, as in 1%.",
        )


def _check_rows(wish: RowsSpec, rows: int, place: str) -> None:
    for bound, wrong, words in ((wish.at_least, -1, "at least"), (wish.at_most, 1, "at most")):
        if bound is not None and (rows - bound) * wrong > 0:
            raise DataError(
                f"{place}: the contract promises {words} {bound:,} rows, and there are {rows:,}.",
                remedy="Ask who delivers it, or correct the contract.",
            )


def _newest(block: Block, column: str, before: Any) -> Any:
    from .grouped import TIME, place_of

    found = block.columns.get(column, [])
    for cell in found if isinstance(found, list) else found.to_pylist():
        if cell is None or cell == "":
            continue
        try:
            place, kind = place_of(cell)
        except ValueError:
            continue  # what the row breaks is told where it is judged
        if kind == TIME and (before is None or place > before):
            before = place
    return before


def _check_fresh(wish: FreshSpec, newest: Any, place: str) -> None:
    if newest is None:
        raise DataError(
            f"{place}: the contract promises fresh rows, and {wish.column!r} holds no time.",
            remedy="Name a column of times, as in 2026-01-31T09:30:00Z.",
        )
    age_s = datetime.now(UTC).timestamp() - float(newest) / 1e6
    if age_s > wish.within:
        told = datetime.fromtimestamp(float(newest) / 1e6, UTC).isoformat(" ", "minutes")
        raise DataError(
            f"{place}: the newest {wish.column!r} is {told}, {age_s / 86_400:.1f} days ago, and the contract promises "
            f"{wish.within / 86_400:g} days at most.",
            remedy="Ask who delivers it, or correct the contract.",
        )


class _Seen:
    """Values that must not repeat, as hashes that may spill to disk."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._names, self._rows, self._made = list(names), 0, False
        self._database: Any = None
        if names:
            import duckdb

            folder.mkdir(parents=True, exist_ok=True)
            self._database = duckdb.connect(
                str(folder / "unique.duckdb"),
                config={
                    "memory_limit": "500MB",
                    "temp_directory": str(folder / "spill"),
                    "autoinstall_known_extensions": False,
                    "autoload_known_extensions": False,
                },
            )

    def add(self, block: Block) -> None:
        import numpy as np
        import pyarrow as pa

        from .connectors.cells import texts
        from .records import hashed

        if not self._names or not len(block):
            return
        n = len(block)
        columns = {
            "row": pa.array(range(self._rows, self._rows + n), pa.int64()),
            "origin": pa.array(block.origins()),
        }
        for k, name in enumerate(self._names):
            told, _ = texts(block.columns.get(name, [None] * n), name, block.place)
            there = told.is_valid().to_numpy(zero_copy_only=False)
            places = pa.array(np.cumsum(there) - 1, mask=~there)
            columns[f"u{k}"] = hashed(told.drop_null()).take(places)
        self._rows += n
        self._database.register("more", pa.table(columns))
        self._database.execute(
            "INSERT INTO seen SELECT * FROM more" if self._made else "CREATE TABLE seen AS SELECT * FROM more"
        )
        self._database.unregister("more")
        self._made = True

    def refuse_twice(self, name: str) -> None:
        """Raises DataError for the first value that stands in two rows."""
        if not self._made:
            return
        k = self._names.index(name)
        found = self._database.execute(
            f"SELECT min_by(origin, row), arg_min(origin, row, 2)[2] FROM seen WHERE u{k} IS NOT NULL GROUP BY u{k} "
            "HAVING count(*) > 1 ORDER BY min(row) LIMIT 1"
        ).fetchone()
        if found:
            raise DataError(
                f"{found[1]}: {name!r} is the same as in {found[0]}, and the contract promises that it is unique.",
                remedy="Correct one of the rows, or the contract.",
            )

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
