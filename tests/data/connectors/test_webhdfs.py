"""HDFS over its REST API: the real fsspec client against a small name node and data node of the tests (tests/webhdfs.py), as a source
and as a place to export to. No real cluster."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.core.errors import DataError, SpecError, StoreError

pytest.importorskip("requests", reason="requests is not installed (pip install 'luthier[hdfs]')")

_spec = importlib.util.spec_from_file_location("tests_webhdfs", Path(__file__).parents[2] / "webhdfs.py")
assert _spec and _spec.loader
_webhdfs = importlib.util.module_from_spec(_spec)
sys.modules["tests_webhdfs"] = _webhdfs
_spec.loader.exec_module(_webhdfs)


@pytest.fixture
def hdfs() -> Iterator[Any]:
    with _webhdfs.cluster() as cluster:
        yield cluster


def lines(n: int, start: int = 0) -> bytes:
    return b"".join(
        json.dumps({"id": i, "text": f"row {i}"}).encode() + b"\n" for i in range(start, start + n)
    )


def test_files_are_found_and_read_through_redirects(source: Any, rows_of: Any, hdfs: Any) -> None:
    hdfs.put("/data/2026-01/a.jsonl", lines(3))
    hdfs.put("/data/2026-02/b c.jsonl", lines(2, 10))
    hdfs.put("/data/2026-02/notes.txt", b"no")
    found = source({"files": "webhdfs://luthier@${NODE}/data/2026-*/*.jsonl"}, NODE=hdfs.name_node)
    assert [row["id"] for row in rows_of(found, "id")] == [0, 1, 2, 10, 11]
    assert [part.at["place"] for part in found.parts()] == ["2026-01/a.jsonl", "2026-02/b c.jsonl"]
    assert found.estimate().rows == 5


def test_parquet_is_read_in_pieces_and_only_the_wanted_ones(source: Any, hdfs: Any, tmp_path: Path) -> None:
    n = 30_000
    table = pa.table({"id": range(n), "noise": [f"{i * 2654435761 % 2**64:020}" * 20 for i in range(n)]})
    pq.write_table(table, tmp_path / "a.parquet", compression="none", use_dictionary=False)
    data = (tmp_path / "a.parquet").read_bytes()
    assert len(data) > 2 * (5 << 20)  # more than the client reads at once
    hdfs.put("/data/a.parquet", data)
    found = source({"files": f"webhdfs://{hdfs.name_node}/data/a.parquet"})
    assert sum(sum(block.columns["id"].to_pylist()) for block in found.blocks(["id"])) == n * (n - 1) // 2
    assert any(start > 0 for _, _, start, _ in hdfs.asked)
    assert all(length < len(data) for _, _, _, length in hdfs.asked)


def test_a_fingerprint_follows_the_bytes_and_not_who_read_them(source: Any, rows_of: Any, hdfs: Any) -> None:
    hdfs.put("/data/a.jsonl", lines(3))
    written = {"files": f"webhdfs://{hdfs.name_node}/data/a.jsonl"}
    before = source(written).fingerprint()
    rows_of(source(written), "id")
    assert hdfs.reads and source(written).fingerprint() == before  # the time of access has changed
    hdfs.put("/data/a.jsonl", lines(3, 1))
    assert source(written).fingerprint() != before


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("nothing.jsonl", "there is no such file"),
        ("secret.jsonl", "Permission denied"),
        ("none/*.jsonl", "there is no such file"),
    ],
)
def test_what_a_name_node_refuses_is_told(source: Any, rows_of: Any, hdfs: Any, path: str, told: str) -> None:
    hdfs.put("/data/secret.jsonl", lines(1))
    with pytest.raises(DataError, match=told) as caught:
        rows_of(source({"files": "webhdfs://${NODE}/data/" + path}, NODE=hdfs.name_node), "id")
    assert caught.value.remedy


@pytest.mark.parametrize(
    "trouble",
    [
        (500, b'{"RemoteException": {"exception": "IOException", "message": "Blocklist is empty"}}'),
        (503, b"<html>busy</html>"),
        (
            404,
            lines(3),
        ),  # as long as the file: a client that does not look at the status takes it for the file
    ],
)
def test_an_error_of_a_data_node_is_never_taken_for_data(
    source: Any, rows_of: Any, hdfs: Any, trouble: Any
) -> None:
    hdfs.put("/data/a.jsonl", lines(3))
    hdfs.trouble = trouble
    with pytest.raises(DataError, match=r"a\.jsonl: cannot be read"):
        rows_of(source({"files": f"webhdfs://{hdfs.name_node}/data/a.jsonl"}), "id")


def test_a_cluster_that_is_not_there_is_told(source: Any, rows_of: Any) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        rows_of(source({"files": "webhdfs://127.0.0.1:1/data/a.jsonl"}), "id")


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    from contextlib import closing

    from luthier.app.app import App
    from luthier.app.line import Make, prepared

    (tmp_path / "rows.jsonl").write_bytes(lines(40))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: r\nbase: tiny\ndata: {sources: [{files: rows.jsonl, map: {text: text}}], split: {test: 0.2}}\n"
    )
    app = App(tmp_path / "home", {})
    wish = app.recipes.read(recipe, ())
    with closing(app.recipes.context(wish, None)) as at:
        return app, prepared(wish, at, Make(at))


def test_a_dataset_leaves_to_hdfs_and_is_read_back(
    source: Any, rows_of: Any, hdfs: Any, dataset: Any
) -> None:
    app, made = dataset
    to = f"webhdfs://{hdfs.name_node}/out/tickets"
    told = app.data.export(made.digest, to, format="jsonl")
    assert set(hdfs.files) == {f"/out/tickets/{name}" for name in told["files"]}
    found = [
        row
        for side in ("train", "validation", "test")
        for row in rows_of(source({"files": f"{to}/{side}.jsonl"}), "text")
    ]
    assert sorted(row["text"] for row in found) == sorted(f"row {i}" for i in range(40))
    with pytest.raises(SpecError, match="already there"):
        app.data.export(made.digest, to)
    hdfs.trouble = (507, b"full")
    with pytest.raises(StoreError, match="status 507"):
        app.data.export(made.digest, f"{to}-2")
    assert not any("tickets-2" in path for path in hdfs.files)
