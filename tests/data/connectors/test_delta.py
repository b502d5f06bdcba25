"""Delta tables that delta-rs wrote for real, read back: versions, partitions, renamed columns, deletion vectors, watermarks; and logs
that were tampered with."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from luthier.core.errors import DataError, MissingPart
from luthier.data.connectors import connect
from luthier.data.connectors.protocol import Part
from luthier.data.spec import SourceSpec

deltalake = pytest.importorskip(
    "deltalake", reason="deltalake is not installed (pip install 'luthier[delta]')"
)

TICKETS = pa.table(
    {
        "id": range(1, 7),
        "body": [f"my problem {i}" for i in range(1, 7)],
        "queue": ["billing", "login", None, "billing", "a b/%&=é", "login"],
        "day": pa.array([f"2026-01-0{i}T12:00:00" for i in range(1, 7)]).cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC")),
    }
)  # fmt: skip
MORE = TICKETS.set_column(0, "id", pa.array(range(11, 17))).set_column(
    1, "body", pa.array([f"another {i}" for i in range(11, 17)])
)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    deltalake.write_deltalake(tmp_path / "tickets", TICKETS)
    deltalake.write_deltalake(tmp_path / "tickets", MORE, mode="append")
    return tmp_path / "tickets"


def ids(rows: list[dict[str, Any]]) -> list[int]:
    return sorted(row["id"] for row in rows)


def log_of(table: Path, version: int) -> tuple[Path, list[dict[str, Any]]]:
    path = table / "_delta_log" / f"{version:020}.json"
    return path, [json.loads(line) for line in path.read_text().splitlines()]


def test_a_table_is_read_by_version_and_by_time(source: Any, rows_of: Any, table: Path) -> None:
    newest = source({"delta": "tickets"})
    assert ids(rows_of(newest, "id")) == [*range(1, 7), *range(11, 17)]
    assert newest.pinned() == {"version": 1} and len(newest.parts()) == 2
    first = source({"delta": {"url": "tickets", "version": 0}})
    assert sorted(row["body"] for row in rows_of(first, "body")) == TICKETS["body"].to_pylist()
    head = first.head(2)
    assert (head.columns, len(head.rows), head.format) == (["id", "body", "queue", "day"], 2, "delta")
    estimate = newest.estimate()
    assert (estimate.files, estimate.rows, estimate.exact) == (2, 12, True)
    [block] = list(first.blocks(["id"]))
    assert block.origins()[0].startswith("tickets/part-") and block.origins()[0].endswith(".parquet:1")
    made_ms = deltalake.DeltaTable(table).history()[0]["timestamp"]
    assert made_ms  # the newest commit's time: everything is there by then
    later = source({"delta": {"url": "tickets", "timestamp": "2100-01-01T00:00:00Z"}})
    assert later.pinned() == {"version": 1}


def test_a_fingerprint_is_a_tables_version(source: Any, table: Path) -> None:
    first, newest = ({"delta": {"url": "tickets", "version": 0}}, {"delta": "tickets"})
    before = [source(wish).fingerprint() for wish in (first, newest)]
    assert before == [source(wish).fingerprint() for wish in (first, newest)] and before[0] != before[1]
    deltalake.write_deltalake(table, MORE, mode="append")
    after = [source(wish).fingerprint() for wish in (first, newest)]
    assert after[0] == before[0] and after[1] != before[1]
    bounded = {"delta": {"url": "tickets", "version": 0, "watermark": "id", "since": 3}}
    assert source(bounded).fingerprint() != before[0]


def test_what_was_pinned_is_read_whatever_came_since(
    source: Any, rows_of: Any, tmp_path: Path, table: Path
) -> None:
    pinned = json.loads(json.dumps(source({"delta": "tickets"}).pinned()))
    mark = source({"delta": "tickets"}).fingerprint()
    deltalake.write_deltalake(table, MORE, mode="append")
    again = connect(SourceSpec.model_validate({"delta": "tickets"}), tmp_path, lambda text: text, pinned)
    assert len(rows_of(again, "id")) == 12 and again.fingerprint() == mark
    assert len(rows_of(source({"delta": "tickets"}), "id")) == 18


def test_a_part_is_plain_and_read_without_the_library(
    source: Any, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [Part(json.loads(json.dumps(p.at)), p.size_bytes) for p in source({"delta": "tickets"}).parts()]
    monkeypatch.setitem(__import__("sys").modules, "deltalake", None)
    elsewhere = source({"delta": "tickets"})
    found = [v for part in parts for b in elsewhere.read(part, ["id"]) for v in b.columns["id"].to_pylist()]
    assert sorted(found) == [*range(1, 7), *range(11, 17)]
    assert elsewhere.done_bytes() == parts[-1].size_bytes
    with pytest.raises(MissingPart, match=r"luthier\[delta\]"):
        elsewhere.parts()


def test_partition_values_come_from_the_log(source: Any, rows_of: Any, tmp_path: Path) -> None:
    deltalake.write_deltalake(tmp_path / "t", TICKETS, partition_by=["queue", "day"])
    found = sorted(rows_of(source({"delta": "t"}), "id", "queue", "day"), key=lambda row: row["id"])
    assert [row["queue"] for row in found] == TICKETS["queue"].to_pylist()
    assert found[0]["day"] == "2026-01-01 12:00:00.000000Z"
    assert rows_of(source({"delta": "t"}), "queue")  # nothing of a file itself is wanted
    login = {"delta": {"url": "t", "watermark": "queue", "since": "billing"}}
    assert ids(rows_of(source(login), "id")) == [2, 6]  # "a b..." sorts before, and null is in no bounds


def test_renamed_columns_are_found_by_their_physical_names_inside_too(
    source: Any, rows_of: Any, tmp_path: Path
) -> None:
    turns = [
        [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}"}] for i in range(4)
    ]
    mapped = {
        "delta.columnMapping.mode": "name",
        "delta.minReaderVersion": "2",
        "delta.minWriterVersion": "5",
    }
    rows = pa.table({"id": range(4), "messages": [*turns[:2], None, turns[3]]})
    deltalake.write_deltalake(tmp_path / "t", rows, configuration=mapped)
    [file] = (tmp_path / "t").rglob("*.parquet")
    assert "messages" not in pa.parquet.read_schema(file).names  # it is called by a number there
    found = sorted(rows_of(source({"delta": "t"}), "id", "messages"), key=lambda row: row["id"])
    assert [row["messages"] for row in found] == [*turns[:2], None, turns[3]]


def test_rows_of_a_deletion_vector_are_not_read(source: Any, rows_of: Any, tmp_path: Path) -> None:
    pyroaring = pytest.importorskip("pyroaring", reason="pyroaring writes the vector of this test")
    deltalake.write_deltalake(tmp_path / "t", TICKETS, configuration={"delta.enableDeletionVectors": "true"})
    _, lines = log_of(tmp_path / "t", 0)
    [add] = [line["add"] for line in lines if "add" in line]
    gone = struct.pack("<I", 1681511377) + pyroaring.BitMap64([1, 4]).serialize()
    vector = {"storageType": "i", "pathOrInlineDv": z85(gone), "sizeInBytes": len(gone), "cardinality": 2}
    remove = {"path": add["path"], "dataChange": True, "deletionTimestamp": 1, "partitionValues": {}}
    commit = [{"remove": remove}, {"add": {**add, "deletionVector": vector}}]
    log_of(tmp_path / "t", 0)[0].with_name(f"{1:020}.json").write_text("\n".join(map(json.dumps, commit)))
    newest = source({"delta": "t"})
    [block] = list(newest.blocks(["id"]))
    assert (block.columns["id"].to_pylist(), list(block.lines)) == ([1, 3, 4, 6], [1, 3, 4, 6])
    assert newest.estimate().rows == 4
    assert len(rows_of(source({"delta": {"url": "t", "version": 0}}), "id")) == 6
    with pytest.raises(DataError, match="1 of 1 files of version 0 were rewritten by version 1"):
        source({"delta": {"url": "t", "since_version": 0}}).parts()
    elsewhere = {**vector, "storageType": "p", "pathOrInlineDv": "file:///etc/passwd", "offset": 1}
    commit[1]["add"]["deletionVector"] = elsewhere
    log_of(tmp_path / "t", 1)[0].write_text("\n".join(map(json.dumps, commit)))
    with pytest.raises(DataError, match=r"not the table's own\.\n") as caught:
        source({"delta": "t"}).parts()
    assert "passwd" not in str(caught.value)


def test_a_deletion_vector_is_of_one_file_though_others_are_called_alike(
    source: Any, rows_of: Any, tmp_path: Path
) -> None:
    pyroaring = pytest.importorskip("pyroaring", reason="pyroaring writes the vector of this test")
    deltalake.write_deltalake(
        tmp_path / "t",
        pa.table({"day": ["1", "1", "1", "2", "2", "2"], "id": range(6)}),
        partition_by=["day"],
        configuration={"delta.enableDeletionVectors": "true"},
    )
    log, lines = log_of(tmp_path / "t", 0)
    for line in lines:
        if "add" in line:
            old = tmp_path / "t" / line["add"]["path"]
            old.rename(old.with_name("part-00000.parquet"))
            line["add"]["path"] = f"day={line['add']['partitionValues']['day']}/part-00000.parquet"
    log.write_text("\n".join(map(json.dumps, lines)))
    [add] = [one["add"] for one in lines if "add" in one and one["add"]["path"].startswith("day=2")]
    gone = struct.pack("<I", 1681511377) + pyroaring.BitMap64([0]).serialize()
    vector = {"storageType": "i", "pathOrInlineDv": z85(gone), "sizeInBytes": len(gone), "cardinality": 1}
    remove = {
        "path": add["path"],
        "dataChange": True,
        "deletionTimestamp": 1,
        "partitionValues": add["partitionValues"],
    }
    commit = [{"remove": remove}, {"add": {**add, "deletionVector": vector}}]
    log.with_name(f"{1:020}.json").write_text("\n".join(map(json.dumps, commit)))
    assert ids(rows_of(source({"delta": "t"}), "id")) == [0, 1, 2, 4, 5]


def test_a_watermark_of_a_partition_is_what_it_says_and_not_how_it_is_written(
    source: Any, rows_of: Any, tmp_path: Path
) -> None:
    hours = [datetime(2026, 1, 1, hour, tzinfo=UTC) for hour in (9, 10, 12, 23)]
    deltalake.write_deltalake(tmp_path / "t", pa.table({"at": hours, "id": range(4)}), partition_by=["at"])
    wish = {"url": "t", "watermark": "at", "since": "2026-01-01T09:30:00Z", "until": "2026-01-01T12:00:00Z"}
    assert ids(rows_of(source({"delta": wish}), "id")) == [1, 2]
    deltalake.write_deltalake(
        tmp_path / "n", pa.table({"n": [9, 10, 11], "id": range(3)}), partition_by=["n"]
    )
    assert ids(rows_of(source({"delta": {"url": "n", "watermark": "n", "since": 9}}), "id")) == [1, 2]
    with pytest.raises(DataError, match="cannot be compared with the column 'n', which holds int64"):
        rows_of(source({"delta": {"url": "n", "watermark": "n", "since": "2026-01-01"}}), "id")


def z85(data: bytes) -> str:
    """Base 85 as the Delta protocol writes bytes (ZeroMQ's alphabet)."""
    signs = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    found = ""
    for (number,) in struct.iter_unpack(">I", data + b"\0" * (-len(data) % 4)):
        digits = [signs[number // 85**place % 85] for place in (4, 3, 2, 1, 0)]
        found += "".join(digits)
    return found


def test_only_what_is_new_is_read_by_version(source: Any, rows_of: Any, table: Path) -> None:
    new = {"delta": {"url": "tickets", "since_version": 0}}
    assert ids(rows_of(source(new), "id")) == [*range(11, 17)]
    deltalake.DeltaTable(table).delete("id = 12")
    assert ids(rows_of(source(new), "id")) == [11, *range(13, 17)]  # what was there at version 0 is untouched
    deltalake.DeltaTable(table).optimize.compact()
    with pytest.raises(
        DataError, match=r"1 of 1 files of version 0 were rewritten by version 3(.|\n)*watermark:"
    ):
        source(new).parts()


@pytest.mark.parametrize(
    ("bounds", "want"),
    [
        ({"watermark": "id", "since": 4}, [5, 6]),
        ({"watermark": "id", "since": 2, "until": 4}, [3, 4]),
        ({"watermark": "day", "since": "2026-01-04T12:00:00Z"}, [5, 6]),
        ({"watermark": "day", "since": "2026-01-04 11:59:59", "until": "2026-01-05T12:00:00"}, [4, 5]),
        ({"watermark": "body", "until": "my problem 1"}, [1]),
    ],
)
def test_a_watermark_bounds_rows(
    source: Any, rows_of: Any, tmp_path: Path, bounds: dict[str, Any], want: list[int]
) -> None:
    deltalake.write_deltalake(tmp_path / "t", TICKETS)
    connector = source({"delta": {"url": "t", **bounds}})
    assert ids(rows_of(connector, "id")) == want
    [block] = list(connector.blocks(["id"]))
    assert list(block.lines) == want and set(block.columns) == {"id"}


def test_a_column_that_came_later_is_empty_before(source: Any, rows_of: Any, table: Path) -> None:
    wider = MORE.append_column("tone", pa.array(["calm"] * 6))
    deltalake.write_deltalake(table, wider, mode="append", schema_mode="merge")
    assert (
        sorted(str(row["tone"]) for row in rows_of(source({"delta": "tickets"}), "tone"))
        == ["None"] * 12 + ["calm"] * 6
    )


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "file:///etc/passwd", "../outside.parquet", "a/../../outside.parquet", "%2e%2e/outside.parquet",
     "s3://elsewhere/x.parquet", "..\\outside.parquet", "/%2e%2e/x", "a\0b"],
)  # fmt: skip
def test_a_log_that_points_outside_is_refused(source: Any, table: Path, path: str, tmp_path: Path) -> None:
    deltalake.write_deltalake(tmp_path / "outside", TICKETS)
    [secret] = (tmp_path / "outside").glob("*.parquet")
    (tmp_path / "outside.parquet").write_bytes(secret.read_bytes())
    log, lines = log_of(table, 1)
    for line in lines:
        if "add" in line:
            line["add"]["path"] = path
    log.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(DataError) as caught:
        list(source({"delta": "tickets"}).blocks(["id"]))
    assert "outside the table" in str(caught.value) and len(str(caught.value)) < 500


def test_a_link_that_leads_outside_is_refused(source: Any, rows_of: Any, table: Path, tmp_path: Path) -> None:
    [file] = [table / line["add"]["path"] for line in log_of(table, 1)[1] if "add" in line]
    moved = tmp_path / "moved.parquet"
    file.rename(moved)
    file.symlink_to(moved)
    with pytest.raises(DataError, match="outside the table"):
        rows_of(source({"delta": "tickets"}), "id")
    os.unlink(file)
    file.hardlink_to(moved)
    assert len(rows_of(source({"delta": "tickets"}), "id")) == 12


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda table: (table / "_delta_log" / f"{0:020}.json").write_text("{not json\n"), "cannot be read"),
        (lambda table: next(table.glob("*.parquet")).write_bytes(b"PAR1 nothing PAR1"), "not a readable Parquet file"),
        (lambda table: next(table.glob("*.parquet")).unlink(), "cannot be read"),
    ],
)  # fmt: skip
def test_a_damaged_table_is_told_in_words(
    source: Any, rows_of: Any, table: Path, harm: Callable[[Path], Any], told: str
) -> None:
    harm(table)
    with pytest.raises(DataError, match=told) as caught:
        rows_of(source({"delta": "tickets"}), "id")
    assert caught.value.remedy and len(str(caught.value)) < 600


def test_a_feature_that_is_not_read_is_refused(
    source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from luthier.data.connectors import delta

    deltalake.write_deltalake(tmp_path / "t", TICKETS, configuration={"delta.enableDeletionVectors": "true"})
    monkeypatch.setattr(delta, "READS", {"variantType"})
    with pytest.raises(DataError, match="the table needs deletionVectors, which is not read here"):
        source({"delta": "t"}).parts()


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"url": "t", "version": 1, "timestamp": "2026-01-01T00:00:00Z"}, "version and timestamp"),
        ({"url": "t", "timestamp": "yesterday"}, "write a time with its zone"),
        ({"url": "t", "timestamp": "2026-01-01T00:00:00"}, "write a time with its zone"),
        ({"url": "t", "version": -1}, "version"),
        ({"url": "t", "version": 1, "since_version": 1}, "is not before version 1"),
        ({"url": "t", "since": 1}, "name its column with watermark:"),
        ({"url": "t", "watermark": "id"}, "bounds nothing"),
        ({"url": "s3://me:hunter2@b/t"}, "a secret is written in the URL"),
    ],
)
def test_a_wish_that_cannot_be_is_refused(wish: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        SourceSpec.model_validate({"delta": wish})


@pytest.mark.parametrize(
    ("wish", "column", "told", "remedy"),
    [
        ({"url": "tickts"}, "id", "there is no Delta table at tickts", "_delta_log"),
        ({"url": "tickets", "version": 9}, "id", "version 9 cannot be read", "Without version:"),
        ({"url": "tickets"}, "bdy", "there is no column 'bdy'", "did you mean 'body'"),
        ({"url": "tickets", "watermark": "dy", "since": 1}, "id", "there is no column 'dy'", "(see `watermark:`)"),
        ({"url": "tickets", "watermark": "id", "since": "x"}, "id", "'x' cannot be compared with the column 'id'", "as the column's values look"),
        ({"url": "tickets", "watermark": "id", "since": 99}, "id", "no rows in it within the bounds", "Point"),
    ],
)  # fmt: skip
def test_a_fault_is_told_in_words(
    source: Any, rows_of: Any, table: Path, wish: dict[str, Any], column: str, told: str, remedy: str
) -> None:
    with pytest.raises(DataError) as caught:
        rows_of(source({"delta": wish}), column)
    assert told in str(caught.value) and remedy in (caught.value.remedy or "")


def test_a_table_on_s3(
    source: Any, rows_of: Any, table: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    for path in table.rglob("*"):
        if path.is_file():
            bucket.put_file(str(path), f"company/lake/tickets/{path.relative_to(table)}")
    found = source({"delta": "s3://${BUCKET}/lake/tickets"}, BUCKET="company")
    assert ids(rows_of(found, "id")) == [*range(1, 7), *range(11, 17)]
    with pytest.raises(DataError) as caught:
        rows_of(source({"delta": "s3://${BUCKET}/lake/tickts"}, BUCKET="company"), "id")
    assert "${BUCKET}" in str(caught.value) and "company" not in str(caught.value)
