"""A large side is a folder of shards; its bytes follow from its rows alone, and one reader reads both forms."""

from __future__ import annotations

import json
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.errors import DataError
from luthier.data import shards
from luthier.data.engines.spool import SortedSide
from luthier.data.lineage import find_row, rows
from luthier.data.records import RECORD
from luthier.data.shards import Side

WORDS = pa.schema([("id", pa.string()), ("says", pa.string())])


def ids(n: int) -> list[str]:
    return [blake2b(str(k).encode(), digest_size=16).hexdigest() for k in range(n)]


def written(folder: Path, batches: list[list[dict[str, str]]]) -> dict[str, bytes]:
    """A side made of these batches; its files."""
    side = SortedSide(folder / "out" / "train.parquet", WORDS, folder / "work", ("says",))
    for batch in batches:
        side.write(pa.RecordBatch.from_pylist(batch, WORDS))
    (folder / "out").mkdir()
    shards.write_manifest(folder / "out", {"train": side.close()})
    out = folder / "out"
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(40)), st.integers(1, 40), st.sampled_from([64, 300, 10**6]))
def test_bytes_follow_from_rows_and_not_from_order_or_batches(tmp_path_factory, order, at_once, limit):
    lines = [{"id": name, "says": f"row {n}"} for n, name in enumerate(ids(40))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_BYTES", limit)
        plain = written(tmp_path_factory.mktemp("a"), [lines])
        mixed = [lines[n] for n in order]
        other = written(tmp_path_factory.mktemp("b"), [mixed[k : k + at_once] for k in range(0, 40, at_once)])
    assert plain == other


def test_a_side_is_cut_by_its_ids_and_read_as_one(tmp_path, monkeypatch):
    lines = [{"id": name, "says": "x" * 8} for name in ids(64)]
    monkeypatch.setattr(shards, "SHARD_BYTES", 64 * 40 // 8)  # a row is 32 + 8 bytes: 8 shards
    monkeypatch.setattr("luthier.data.engines.spool.OPEN_AT_ONCE", 3)  # three passes over the rows
    files = written(tmp_path, [lines])
    assert sorted(files) == ["manifest.json", *(f"train/{n:05d}.parquet" for n in range(8))]
    side = Side(tmp_path / "out" / "train.parquet")
    told = [row for batch in side.batches(rows=5) for row in batch.to_pylist()]
    assert told == sorted(lines, key=lambda line: line["id"]) == side.table().to_pylist()
    assert side.rows == 64 and side.columns == WORDS.names
    for n, path in enumerate(side.paths):
        assert all(int(name[0], 16) // 2 == n for name in pq.read_table(path)["id"].to_pylist())
    assert side.lines_of([lines[5]["id"], "f" * 33]) == [lines[5]]
    side.verify()


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=6), min_size=1), st.integers(1, 9))
def test_shards_are_in_the_order_of_ids_whatever_these_are(names, bits):
    which = shards.shard_of(pa.array(sorted(names, key=str.encode)), bits).tolist()
    assert which == sorted(which) and which[0] >= 0 and which[-1] < 1 << bits


def test_content_is_counted_alike_in_any_batches():
    row = dict.fromkeys(RECORD.names) | {
        "id": "ab",
        "messages": [{"role": "user", "content": "é"}, {"role": "assistant", "content": "yes"}],
        "weight": 1.0,
    }
    batch = pa.RecordBatch.from_pylist([row, row | {"messages": None, "text": "abc"}], RECORD)
    # "ab" twice; user and é (2 bytes), assistant and yes; abc
    assert shards.content_bytes(batch) == 2 * 2 + (4 + 2 + 9 + 3) + 3
    assert shards.content_bytes(batch.slice(1)) == 2 + 3


def test_files_that_are_not_those_of_the_manifest_are_refused(tmp_path):
    written(tmp_path, [[{"id": name, "says": "x"} for name in ids(9)]])
    path = tmp_path / "out" / "train.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"has .* bytes, and manifest.json beside it tells of") as told:
        Side(path)
    assert "prepare or export it again" in str(told.value.remedy)
    path.write_bytes(whole[:8] + bytes([whole[8] ^ 1]) + whole[9:])
    with pytest.raises(DataError, match="other bytes"):
        Side(path).verify()
    path.unlink()
    with pytest.raises(DataError, match="is not there"):
        Side(path)


def test_one_file_without_a_manifest_is_read_too(tmp_path):
    pq.write_table(pa.table({"id": ["a"], "says": ["x"]}), tmp_path / "train.parquet")
    side = Side(tmp_path / "train.parquet")
    assert side.rows == 1 and side.lines_of(["a"]) == [{"id": "a", "says": "x"}]
    missing = Side(tmp_path / "test.parquet")
    assert not missing.there and list(missing.batches()) == []
    with pytest.raises(DataError, match=r"no test\.parquet"):
        missing.table()


def test_a_dataset_of_shards_holds_what_one_of_files_does(prepare: Any, jsonl: Any, monkeypatch: Any):
    jsonl([{"user": f"question {n}", "assistant": f"answer {n}"} for n in range(300)])
    data = {"sources": [{"files": "rows.jsonl"}], "rules": {"quality": [{"length": {"min": 11}}]}}
    whole = prepare(data)
    monkeypatch.setattr(shards, "SHARD_BYTES", 2_000)
    divided = prepare(data)
    assert not (divided.out / "train.parquet").exists() and (divided.out / "train" / "00003.parquet").exists()
    for side in ("train", "validation", "test", "removed", "trail"):
        one, many = (Side(done.out / f"{side}.parquet") for done in (whole, divided))
        if one.rows:
            assert one.table() == many.table()
    for one, many in ((whole.rules, divided.rules), (whole.facts, divided.facts)):
        assert one == many
    some = [row["id"] for row in rows(divided.out)]
    assert some == [row["id"] for row in rows(whole.out)]
    assert find_row(divided.out, some[7]) == find_row(whole.out, some[7]) is not None
    told = json.loads((divided.out / "manifest.json").read_text())["sides"]["train"]
    assert sum(file["rows"] for file in told["files"]) == told["rows"] == divided.facts["counts"]["train"]
