"""Iceberg tables that pyiceberg wrote for real (an SQL catalog, local files), read back; snapshots with deletes and with paths of an
attacker are written here, manifest by manifest; a REST catalog is a small server in the test."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from luthier.core.errors import DataError, MissingPart
from luthier.data.connectors import connect
from luthier.data.connectors.protocol import Part
from luthier.data.spec import SourceSpec

pyiceberg = pytest.importorskip(
    "pyiceberg", reason="pyiceberg is not installed (pip install 'luthier[iceberg]')"
)

from pyiceberg.catalog import load_catalog  # noqa: E402
from pyiceberg.manifest import (  # noqa: E402
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestWriterV2,
    write_manifest_list,
)
from pyiceberg.typedef import Record  # noqa: E402

TICKETS = pa.table(
    {"id": range(1, 7), "body": [f"my problem {i}" for i in range(1, 7)], "queue": ["a", "b", None] * 2}
)
MORE = pa.table({"id": range(11, 17), "body": [f"another {i}" for i in range(11, 17)], "queue": ["a"] * 6})


def catalog_of(folder: Path) -> Any:
    found = load_catalog(
        "t", type="sql", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}/lake"
    )
    found.create_namespace_if_not_exists("sales")
    return found


@pytest.fixture
def table(tmp_path: Path) -> Any:
    found = catalog_of(tmp_path).create_table("sales.tickets", schema=TICKETS.schema)
    found.append(TICKETS)
    found.append(MORE)
    return found


@pytest.fixture
def wish(tmp_path: Path) -> dict[str, Any]:
    return {
        "table": "sales.tickets",
        "catalog": {"name": "t", "type": "sql", "uri": f"sqlite:///{tmp_path}/catalog.db"},
    }


def ids(rows: list[dict[str, Any]]) -> list[int]:
    return sorted(row["id"] for row in rows)


def test_a_table_is_read_by_catalog_by_folder_and_by_metadata_file(
    source: Any, rows_of: Any, table: Any, wish: dict[str, Any]
) -> None:
    found = [source({"iceberg": one}) for one in (wish, "lake/sales/tickets", table.metadata_location)]
    for connector in found:
        assert ids(rows_of(connector, "id")) == [*range(1, 7), *range(11, 17)]
        assert connector.pinned() == {"snapshot": table.metadata.current_snapshot_id, "schema": 0}
    assert (
        len({connector.fingerprint() for connector in found[1:]}) == 1
    )  # the same table, whichever way it is named
    head = found[0].head(2)
    assert (head.columns, len(head.rows), head.format) == (["id", "body", "queue"], 2, "iceberg")
    estimate = found[0].estimate()
    assert (estimate.files, estimate.rows, estimate.exact) == (2, 12, True)
    block = next(found[1].blocks(["id"]))
    assert block.origins()[0].startswith("tickets/data/00000-0-") and block.origins()[0].endswith(
        ".parquet:1"
    )


def test_a_fingerprint_is_a_tables_snapshot_and_stays_when_pinned(
    source: Any, rows_of: Any, table: Any, wish: dict[str, Any], tmp_path: Path
) -> None:
    first = table.metadata.snapshots[0].snapshot_id
    wishes = [{**wish, "snapshot": first}, wish]
    before = [source({"iceberg": one}).fingerprint() for one in wishes]
    assert before[0] != before[1]
    pinned = json.loads(json.dumps(source({"iceberg": wish}).pinned()))
    table.append(MORE)
    after = [source({"iceberg": one}).fingerprint() for one in wishes]
    assert after[0] == before[0] and after[1] != before[1]
    spec = SourceSpec.model_validate({"iceberg": wish})
    again = connect(spec, tmp_path, lambda text: text, pinned)
    assert len(rows_of(again, "id")) == 12 and again.fingerprint() == before[1]
    assert ids(rows_of(source({"iceberg": wishes[0]}), "id")) == [*range(1, 7)]
    table.manage_snapshots().create_tag(first, "audited").commit()
    tagged = source({"iceberg": {**wish, "ref": "audited"}})
    assert ids(rows_of(tagged, "id")) == [*range(1, 7)]


def test_a_part_is_plain_and_read_by_another_process(source: Any, table: Any, wish: dict[str, Any]) -> None:
    parts = [Part(json.loads(json.dumps(p.at)), p.size_bytes) for p in source({"iceberg": wish}).parts()]
    elsewhere = source({"iceberg": wish})
    found = [v for part in parts for b in elsewhere.read(part, ["id"]) for v in b.columns["id"].to_pylist()]
    assert sorted(found) == [*range(1, 7), *range(11, 17)]
    assert elsewhere.done_bytes() == parts[-1].size_bytes


def test_columns_are_found_by_their_numbers(
    source: Any, rows_of: Any, table: Any, wish: dict[str, Any]
) -> None:
    with table.update_schema() as update:
        update.rename_column("queue", "team")
        update.delete_column("body")
    with table.update_schema() as update:
        update.add_column("body", pyiceberg.types.StringType())  # another column of the same name
    found = sorted(rows_of(source({"iceberg": wish}), "id", "team", "body"), key=lambda row: row["id"])
    assert [row["team"] for row in found[:6]] == TICKETS["queue"].to_pylist()
    assert {row["body"] for row in found} == {None}
    before = source({"iceberg": {**wish, "snapshot": table.metadata.snapshots[0].snapshot_id}})
    assert sorted(row["body"] for row in rows_of(before, "body")) == TICKETS["body"].to_pylist()


def test_renamed_fields_inside_are_found_too(
    source: Any, rows_of: Any, tmp_path: Path, wish: dict[str, Any]
) -> None:
    turns = [
        [{"who": "user", "content": f"q{i}"}, {"who": "assistant", "content": f"a{i}"}] for i in range(3)
    ]
    rows = pa.table({"messages": [*turns[:2], None, turns[2]]})
    table = catalog_of(tmp_path).create_table("sales.tickets", schema=rows.schema)
    table.append(rows)
    with table.update_schema() as update:
        update.rename_column("messages.who", "role")
    found = [row["messages"] for row in rows_of(source({"iceberg": wish}), "messages")]
    want = [turns[0], turns[1], [], turns[2]]  # pyiceberg writes a missing list as an empty one
    assert found == [[{"role": t["who"], "content": t["content"]} for t in one] for one in want]


def test_files_that_were_taken_over_are_read_by_name_and_by_partition(
    source: Any, rows_of: Any, tmp_path: Path, wish: dict[str, Any]
) -> None:
    """As Hive leaves them: no numbers of fields, and the partition's column in the path alone."""
    catalog = catalog_of(tmp_path)
    schema = pa.schema([("id", pa.int64()), ("body", pa.string()), ("queue", pa.string())])
    table = catalog.create_table("sales.tickets", schema=schema)
    with table.update_spec() as update:
        update.add_identity("queue")
    plain = tmp_path / "lake" / "sales" / "tickets" / "data" / "old.parquet"
    plain.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": [1, 2], "body": ["x", "y"], "queue": ["a", "a"]}), plain)
    table.add_files([f"file://{plain}"])
    pq.write_table(pa.table({"id": [1, 2], "body": ["x", "y"]}), plain)
    found = rows_of(source({"iceberg": wish}), "id", "body", "queue")
    assert found == [{"id": 1, "body": "x", "queue": "a"}, {"id": 2, "body": "y", "queue": "a"}]


class Deletes(ManifestWriterV2):
    """A manifest of delete files, which pyiceberg does not write itself."""

    def content(self) -> ManifestContent:
        return ManifestContent.DELETES

    @property
    def _meta(self) -> dict[str, str]:
        return {**super()._meta, "content": "deletes"}


def commit(table: Any, writer: Any, sequence: int = 9, **file: Any) -> Path:
    """A further snapshot of the table with one more file, as any writer may leave it; its metadata file."""
    metadata, io, number = table.metadata, table.io, 4242
    values = {
        "file_format": FileFormat.PARQUET,
        "partition": Record(),
        "record_count": 1,
        "file_size_in_bytes": 100,
        **file,
    }
    entry = ManifestEntry.from_args(
        status=ManifestEntryStatus.ADDED, snapshot_id=number, sequence_number=sequence,
        data_file=DataFile.from_args(_table_format_version=2, **values),
    )  # fmt: skip
    entry.data_file._spec_id = 0
    root = f"{table.location()}/metadata"
    out = io.new_output(f"{root}/more-m0.avro")
    with writer(metadata.spec(), metadata.schema(), out, number, "null") as manifest:
        manifest.add_entry(entry)
    listed = f"{root}/snap-{number}.avro"
    with write_manifest_list(2, io.new_output(listed), number, None, 9, "null") as all_:
        all_.add_manifests([manifest.to_manifest_file(), *table.current_snapshot().manifests(io)])
    told = json.loads(metadata.model_dump_json())
    snapshot = {**told["snapshots"][-1], "snapshot-id": number, "sequence-number": 9, "manifest-list": listed}
    told |= {
        "snapshots": [*told["snapshots"], snapshot],
        "current-snapshot-id": number,
        "last-sequence-number": 9,
    }
    told["refs"] = {"main": {"snapshot-id": number, "type": "branch"}}
    path = Path(root.removeprefix("file://")) / "99999-more.metadata.json"
    path.write_text(json.dumps(told))
    return path


def test_rows_of_position_deletes_are_not_read(source: Any, rows_of: Any, table: Any, tmp_path: Path) -> None:
    data = next(
        t.file.file_path
        for t in table.scan().plan_files()
        if t.file.lower_bounds[1] == (1).to_bytes(8, "little")
    )
    path = f"{table.location()}/data/deletes.parquet"
    deletes = pa.table({"file_path": [data, data, data + "x"], "pos": pa.array([4, 1, 2], pa.int64())})
    pq.write_table(deletes, path.removeprefix("file://"))
    commit(table, Deletes, content=DataFileContent.POSITION_DELETES, file_path=path)
    newest = source({"iceberg": "lake/sales/tickets"})
    assert ids(rows_of(newest, "id")) == [1, 3, 4, 6, *range(11, 17)]
    assert {tuple(block.lines) for block in newest.blocks(["id"])} == {(1, 3, 4, 6), (1, 2, 3, 4, 5, 6)}
    before = {"table": "lake/sales/tickets", "since_snapshot": table.metadata.snapshots[0].snapshot_id}
    with pytest.raises(DataError, match="1 of 1 files of snapshot"):
        source({"iceberg": before}).parts()


def deletes_of(table: Any, name: str, keys: dict[str, tuple[int, pa.DataType, list[Any]]]) -> str:
    """A file of keys, {column: (number of the field, type, cells)}, as Flink writes one."""
    fields = [pa.field(k, kind, metadata={"PARQUET:field_id": str(n)}) for k, (n, kind, _) in keys.items()]
    columns = [pa.array(cells, kind) for _, kind, cells in keys.values()]
    path = f"{table.location()}/data/{name}.parquet"
    pq.write_table(pa.table(columns, schema=pa.schema(fields)), path.removeprefix("file://"))
    return path


@pytest.mark.parametrize(
    ("keys", "numbers", "sequence", "left"),
    [
        # by one column, under another name than today's; both files are older
        ({"was": (1, pa.int64(), [2, 5, 11, 99])}, [1], 9, [1, 3, 4, 6, 12, 13, 14, 15, 16]),
        # TICKETS has number 1 and MORE number 2: a delete of number 2 says nothing of MORE, one of 1 nothing of either
        ({"id": (1, pa.int64(), [2, 5, 11])}, [1], 2, [1, 3, 4, 6, *range(11, 17)]),
        ({"id": (1, pa.int64(), [2, 5, 11])}, [1], 1, [*range(1, 7), *range(11, 17)]),
        # by two columns, all of which must be equal, null to null: the queues are a, b, null, a, b, null
        (
            {"queue": (3, pa.string(), [None, "a", None]), "id": (1, pa.int64(), [3, 5, 1])},
            [3, 1], 9, [1, 2, 4, 5, 6, *range(11, 17)],
        ),
        ({"queue": (3, pa.string(), [None, "b"])}, [3], 9, [1, 4, *range(11, 17)]),
    ],
)  # fmt: skip
def test_rows_of_equality_deletes_are_not_read(
    source: Any, rows_of: Any, table: Any, keys: Any, numbers: list[int], sequence: int, left: list[int]
) -> None:
    path = deletes_of(table, "gone", keys)
    content = DataFileContent.EQUALITY_DELETES
    commit(table, Deletes, sequence, content=content, file_path=path, equality_ids=numbers)
    newest = source({"iceberg": "lake/sales/tickets"})
    assert ids(rows_of(newest, "id")) == left
    assert {row["body"] for row in rows_of(newest, "body")} == {
        f"my problem {n}" if n < 10 else f"another {n}" for n in left
    }
    assert (newest.estimate().rows is None) == (sequence > 1)
    for part in newest.parts():  # a worker has nothing but the part
        again = source({"iceberg": "lake/sales/tickets"})
        assert [block.lines for block in again.read(part, ["id"])] == [
            block.lines for block in newest.read(part, ["id"])
        ]


def test_equality_deletes_of_a_partition_are_for_it_alone(source: Any, rows_of: Any, tmp_path: Path) -> None:
    found = catalog_of(tmp_path).create_table("sales.tickets", schema=TICKETS.schema)
    with found.update_spec() as update:
        update.add_identity("queue")
    found.append(pa.table({"id": [1, 2, 1, 2], "body": ["x"] * 4, "queue": ["a", "a", "b", "b"]}))
    path = deletes_of(found, "gone", {"id": (1, pa.int64(), [1])})
    file = {"file_path": path, "equality_ids": [1], "partition": Record("a")}
    commit(found, Deletes, content=DataFileContent.EQUALITY_DELETES, **file)
    rows = rows_of(source({"iceberg": "lake/sales/tickets"}), "id", "queue")
    assert sorted((row["queue"], row["id"]) for row in rows) == [("a", 2), ("b", 1), ("b", 2)]


def test_rows_added_since_are_refused_where_old_ones_were_deleted(source: Any, table: Any) -> None:
    path = deletes_of(table, "gone", {"id": (1, pa.int64(), [1])})
    commit(table, Deletes, content=DataFileContent.EQUALITY_DELETES, file_path=path, equality_ids=[1])
    before = {"table": "lake/sales/tickets", "since_snapshot": table.metadata.snapshots[0].snapshot_id}
    with pytest.raises(DataError, match="1 of 1 files of snapshot"):
        source({"iceberg": before}).parts()


def test_a_file_of_deletes_without_its_key_is_refused(source: Any, rows_of: Any, table: Any) -> None:
    path = deletes_of(table, "gone", {"body": (2, pa.string(), ["my problem 1"])})
    commit(table, Deletes, content=DataFileContent.EQUALITY_DELETES, file_path=path, equality_ids=[1, 2])
    with pytest.raises(DataError, match=r"gone\.parquet: this file of deletes has no column 'id'"):
        rows_of(source({"iceberg": "lake/sales/tickets"}), "id")


@pytest.mark.parametrize(
    ("file", "told"),
    [
        (
            {
                "content": DataFileContent.EQUALITY_DELETES,
                "equality_ids": [1],
                "file_format": FileFormat.AVRO,
            },
            "equality deletes in AVRO files",
        ),
        (
            {"content": DataFileContent.EQUALITY_DELETES, "equality_ids": [99]},
            "equality deletes by a field within another",
        ),
        ({"content": DataFileContent.POSITION_DELETES, "file_format": FileFormat.PUFFIN}, "deletion vectors"),
    ],
)
def test_deletes_that_are_not_read_are_refused(
    source: Any, table: Any, file: dict[str, Any], told: str
) -> None:
    commit(table, Deletes, file_path=f"{table.location()}/data/deletes.puffin", **file)
    with pytest.raises(
        DataError, match=rf"the table has {told}, which are not read here(.|\n)*rewrite_data_files"
    ):
        source({"iceberg": "lake/sales/tickets"}).parts()


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "file:///etc/passwd", "TABLE/../../../outside.parquet", "s3://elsewhere/x.parquet", "TABLEx/data/x.parquet",
     "http://127.0.0.1:1/x.parquet", "TABLE/data/link.parquet"],
)  # fmt: skip
@pytest.mark.parametrize(
    "content", [DataFileContent.DATA, DataFileContent.POSITION_DELETES, DataFileContent.EQUALITY_DELETES]
)
def test_a_manifest_that_points_outside_is_refused(
    source: Any, table: Any, tmp_path: Path, path: str, content: DataFileContent
) -> None:
    pq.write_table(TICKETS, tmp_path / "outside.parquet")
    (tmp_path / "lake/sales/tickets/data/link.parquet").symlink_to(tmp_path / "outside.parquet")
    writer = ManifestWriterV2 if content == DataFileContent.DATA else Deletes
    more = {"equality_ids": [1]} if content == DataFileContent.EQUALITY_DELETES else {}
    commit(table, writer, content=content, file_path=path.replace("TABLE", table.location()), **more)
    with pytest.raises(DataError, match="outside the table"):
        source({"iceberg": "lake/sales/tickets"}).parts()


@pytest.mark.parametrize("where", ["manifest-list", "manifest"])
def test_metadata_that_points_outside_is_refused(source: Any, table: Any, tmp_path: Path, where: str) -> None:
    path = Path(table.metadata_location.removeprefix("file://"))
    told = json.loads(path.read_text())
    real = table.current_snapshot().manifest_list
    outside = tmp_path / "outside.avro"
    outside.write_bytes(Path(real.removeprefix("file://")).read_bytes())
    if where == "manifest-list":
        told["snapshots"][-1]["manifest-list"] = f"file://{outside}"
    else:
        inner = table.current_snapshot().manifests(table.io)[0].manifest_path
        moved = inner.replace(
            "/lake/sales/tickets/", "/lake/sales/ticketx/"
        )  # as long, so the file stays readable
        known = tmp_path / "lake/sales/tickets/metadata/plain.avro"
        with write_manifest_list(2, table.io.new_output(f"file://{known}"), 1, None, 9, "null") as all_:
            all_.add_manifests(table.current_snapshot().manifests(table.io))
        told["snapshots"][-1]["manifest-list"] = f"file://{known}"
        assert inner.encode() in known.read_bytes()
        known.write_bytes(known.read_bytes().replace(inner.encode(), moved.encode()))
    path.write_text(json.dumps(told))
    with pytest.raises(DataError, match="outside the table"):
        source({"iceberg": str(path)}).parts()


def test_no_table_chooses_the_code_that_reads_it(
    source: Any,
    rows_of: Any,
    table: Any,
    wish: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    marker = tmp_path / "imported"
    (tmp_path / "evil_io.py").write_text(
        f"open({str(marker)!r}, 'w')\nclass Evil:\n    def __init__(self, p): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = Path(table.metadata_location.removeprefix("file://"))
    told = json.loads(path.read_text())
    told["properties"] |= {"py-io-impl": "evil_io.Evil", "write.py-location-provider.impl": "evil_io.Evil"}
    path.write_text(json.dumps(told))
    for one in (wish, "lake/sales/tickets"):
        assert len(rows_of(source({"iceberg": one}), "id")) == 12
    assert not marker.exists() and "evil_io" not in sys.modules


def test_files_elsewhere_are_read_where_the_recipe_says_so(
    source: Any, rows_of: Any, table: Any, tmp_path: Path
) -> None:
    [other] = [tmp_path / "other"]
    other.mkdir()
    pq.write_table(
        pa.table(
            {"id": [99]}, schema=pa.schema([pa.field("id", pa.int64(), metadata={"PARQUET:field_id": "1"})])
        ),
        other / "x.parquet",
    )
    commit(table, ManifestWriterV2, content=DataFileContent.DATA, file_path=f"file://{other}/x.parquet")
    with pytest.raises(DataError, match="outside the table"):
        source({"iceberg": "lake/sales/tickets"}).parts()
    allowed = {"table": "lake/sales/tickets", "also_under": ["other"]}
    assert 99 in ids(rows_of(source({"iceberg": allowed}), "id"))


def test_only_what_is_new_is_read(source: Any, rows_of: Any, table: Any, wish: dict[str, Any]) -> None:
    first = table.metadata.snapshots[0].snapshot_id
    new = {"iceberg": {**wish, "since_snapshot": first}}
    assert ids(rows_of(source(new), "id")) == [*range(11, 17)]
    table.delete("id = 1")
    with pytest.raises(DataError, match=r"1 of 1 files of snapshot \d+ were rewritten(.|\n)*watermark:"):
        source(new).parts()
    bounded = source({"iceberg": {**wish, "watermark": "id", "since": 5, "until": 12}})
    assert ids(rows_of(bounded, "id")) == [6, 11, 12]


@contextmanager
def rest_catalog(table: Any, **config: str) -> Iterator[str]:
    """As much of the REST catalog's protocol as reading one table asks for."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            metadata = json.loads(table.metadata.model_dump_json())
            found = {
                "/v1/config": {"defaults": {}, "overrides": config},
                "/v1/namespaces/sales/tables/tickets": {
                    "metadata-location": table.metadata_location, "metadata": metadata, "config": config,
                },
            }.get(self.path.partition("?")[0])  # fmt: skip
            missing = {"error": {"message": "none", "type": "NoSuchTableException", "code": 404}}
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(found or missing).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_rest_catalog_leads_to_a_table_and_to_no_code_and_no_file_of_this_machine(
    source: Any, rows_of: Any, table: Any, tmp_path: Path
) -> None:
    with rest_catalog(table, **{"py-io-impl": "evil_io.Evil"}) as uri:
        wish = {
            "table": "sales.tickets",
            "catalog": {"type": "rest", "uri": "${CATALOG}", "token": "${TOKEN}"},
        }
        environ = {"CATALOG": uri, "TOKEN": "hunter2"}
        with pytest.raises(DataError, match="outside the table"):
            rows_of(source({"iceberg": wish}, **environ), "id")
        allowed = source({"iceberg": {**wish, "also_under": [str(tmp_path / "lake")]}}, **environ)
        assert ids(rows_of(allowed, "id")) == [*range(1, 7), *range(11, 17)]
        with pytest.raises(DataError, match=r"the catalog has no table sales\.nothing"):
            source({"iceberg": {**wish, "table": "sales.nothing"}}, **environ).parts()
    with pytest.raises(DataError) as caught:
        source({"iceberg": wish}, CATALOG="http://127.0.0.1:1", TOKEN="hunter2").parts()
    assert "${CATALOG}" in str(caught.value) or "127.0.0.1:1" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"table": "a.b", "catalog": {"type": "dynamodb"}}, "catalog needs a type"),
        ({"table": "a.b", "catalog": {"uri": "http://x"}}, "catalog needs a type"),
        ({"table": "a.b", "catalog": {"type": "rest", "py-io-impl": "os.system"}}, "none may name code to load"),
        ({"table": "a.b", "catalog": {"type": "rest", "auth": "x"}}, "none may name code to load"),
        ({"table": "a.b", "catalog": {"type": "rest", "token": "hunter2"}}, "a secret is written in the catalog's token"),
        ({"table": "a.b", "catalog": {"type": "rest", "s3.secret-access-key": "x"}}, "a secret is written"),
        ({"table": "a.b", "catalog": {"type": "sql", "uri": "postgresql://me:hunter2@h/d"}}, "a secret is written"),
        ({"table": "tickets", "catalog": {"type": "sql", "uri": "sqlite:///x"}}, "is no name in a catalog"),
        ({"table": "lake/tickets", "ref": "main", "snapshot": 1}, "ref and snapshot"),
        ({"table": "lake/tickets", "since": 1}, "name its column with watermark:"),
    ],
)  # fmt: skip
def test_a_wish_that_cannot_be_is_refused(wish: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        SourceSpec.model_validate({"iceberg": wish})


@pytest.mark.parametrize(
    ("more", "column", "told", "remedy"),
    [
        ({"table": "lake/sales/tickts"}, "id", "there is no Iceberg table at lake/sales/tickts", "metadata/"),
        ({"snapshot": 5}, "id", "there is no snapshot 5", "The newest are:"),
        ({"ref": "man"}, "id", "there is no branch or tag 'man'", "did you mean 'main'"),
        ({}, "bdy", "there is no column 'bdy'", "did you mean 'body'"),
        ({"watermark": "body", "since": "zzz"}, "id", "no rows in it within the bounds", "Point"),
    ],
)
def test_a_fault_is_told_in_words(
    source: Any, rows_of: Any, table: Any, more: dict[str, Any], column: str, told: str, remedy: str
) -> None:
    with pytest.raises(DataError) as caught:
        rows_of(source({"iceberg": {"table": "lake/sales/tickets", **more}}), column)
    assert told in str(caught.value) and remedy in (caught.value.remedy or "")


def test_an_empty_table_has_no_rows_and_a_missing_library_is_told(
    source: Any, rows_of: Any, tmp_path: Path, wish: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog_of(tmp_path).create_table("sales.tickets", schema=TICKETS.schema)
    with pytest.raises(DataError, match="there are no rows in it"):
        rows_of(source({"iceberg": wish}), "id")
    monkeypatch.delitem(sys.modules, "luthier.data.connectors.iceberg_table", raising=False)
    monkeypatch.setitem(sys.modules, "pyiceberg.catalog", None)
    with pytest.raises(MissingPart, match=r"luthier\[iceberg\]"):
        source({"iceberg": wish}).parts()


def test_a_damaged_table_is_told_in_words(source: Any, rows_of: Any, table: Any, tmp_path: Path) -> None:
    manifest = Path(table.current_snapshot().manifests(table.io)[0].manifest_path.removeprefix("file://"))
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read") as caught:
        rows_of(source({"iceberg": "lake/sales/tickets"}), "id")
    assert caught.value.remedy and len(str(caught.value)) < 600


def test_a_table_on_s3(source: Any, rows_of: Any, bucket: Any, tmp_path: Path) -> None:
    catalog = load_catalog(
        "t", type="sql", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse="s3://company/lake",
        **{"py-io-impl": "pyiceberg.io.fsspec.FsspecFileIO"},
    )  # fmt: skip
    catalog.create_namespace("sales")
    catalog.create_table("sales.tickets", schema=TICKETS.schema).append(TICKETS)
    wish = {
        "table": "sales.tickets",
        "catalog": {"name": "t", "type": "sql", "uri": "sqlite:///${FOLDER}/catalog.db"},
    }
    assert ids(rows_of(source({"iceberg": wish}, FOLDER=str(tmp_path)), "id")) == [*range(1, 7)]
    by_folder = source({"iceberg": "s3a://company/lake/sales/tickets"})
    assert ids(rows_of(by_folder, "id")) == [*range(1, 7)]


def test_partitions_are_read(source: Any, rows_of: Any, tmp_path: Path, wish: dict[str, Any]) -> None:
    table = catalog_of(tmp_path).create_table("sales.tickets", schema=TICKETS.schema)
    with table.update_spec() as update:
        update.add_identity("queue")
    table.append(TICKETS)
    found = sorted(rows_of(source({"iceberg": wish}), "id", "queue"), key=lambda row: row["id"])
    assert [row["queue"] for row in found] == TICKETS["queue"].to_pylist()
    assert len(source({"iceberg": wish}).parts()) == 3
