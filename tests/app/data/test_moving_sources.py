"""A source that goes on while it is read stands still for a dataset: what was there when its fingerprint was taken is what is in
it, and is on record; the same again is the dataset that is there already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

RECIPE = """\
name: router
base: tiny
data: {sources: [{delta: table, map: {user: text, label: queue}}], split: {test: 0.2}}
"""


def more(table: Path, first: int, n: int = 20) -> None:
    deltalake = pytest.importorskip("deltalake", reason="deltalake is not installed")
    rows = {"text": [f"Message {i}" for i in range(first, first + n)], "queue": ["a", "b"] * (n // 2)}
    deltalake.write_deltalake(table, pa.table(rows), mode="append")


def test_a_version_is_a_dataset_and_what_comes_while_it_is_read_is_not_in_it(
    shop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from luthier.app import line

    more(shop.folder / "table", 0)
    shop.write(RECIPE)
    first = shop.prepare()
    assert shop.prepare().digest == first.digest and len(shop.every_row(first)) == 20
    taken = line.sources

    def late(*given: Any) -> Any:
        found = taken(*given)
        more(shop.folder / "table", 100)
        return found

    more(shop.folder / "table", 20)
    monkeypatch.setattr(line, "sources", late)
    second = (
        shop.prepare()
    )  # version 1 is the newest when the fingerprint is taken, version 2 when rows are read
    assert len(shop.every_row(second)) == 40 and second.digest != first.digest
    known = shop.app.store.catalog.get(second.parents["source.0"])
    assert known.spec["pinned"] == {"version": 1} and known.spec["delta"]["version"] is None
    assert all(row["origin"].startswith("table/part-") for row in shop.every_row(second))
