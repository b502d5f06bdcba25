"""Where a dataset leaves to: S3, Azure Blob, databases; in which forms; and what goes wrong on the way. What was exported is read
again by Luthier's own connectors."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from luthier.app.data import export_files, export_table
from luthier.app.data.find import SPLITS, Looking
from luthier.core.errors import DataError, Interrupted, LuthierError, SpecError, StoreError
from luthier.core.spec import resolve
from luthier.data.connectors import connect
from luthier.data.spec import SourceSpec

HOSTILE = ["=cmd|' /C calc'!A0", 'a,b\n"c"\r\nd', "-5", "tab\tand émoji 🙂", "'quoted'", "\\N", "null"]


@pytest.fixture
def dataset(shop: Any) -> Any:
    """Sixty plain rows, and some whose text tries every quotation mark."""
    more = [{"text": f"{text} {n}", "queue": "billing", "customer": text} for n, text in enumerate(HOSTILE)]
    shop.rows([*shop_rows(), *more])
    return shop.prepare()


def shop_rows() -> list[dict[str, Any]]:
    return [
        {"text": f"Message {i}: help.", "queue": ["a", "b"][i % 2], "customer": f"c{i}"} for i in range(60)
    ]


def read(
    written: dict[str, Any], *columns: str, environ: dict[str, str] | None = None
) -> list[dict[str, Any]]:
    connector = connect(
        SourceSpec.model_validate(written), Path("/"), lambda text: resolve(text, environ or {})
    )
    found = []
    for block in connector.blocks(columns):
        cells = {name: c if isinstance(c, list) else c.to_pylist() for name, c in block.columns.items()}
        found += [{name: cells[name][i] for name in columns} for i in range(len(block))]
    return found


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """Of all sides, as JSON Lines were exported."""
    return [json.loads(one) for side in SPLITS for one in (folder / f"{side}.jsonl").read_text().splitlines()]


def texts_of(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps([row["messages"]], sort_keys=True) for row in rows)


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_s3_takes_a_dataset_and_gives_it_back(shop: Any, dataset: Any, bucket: Any, form: str) -> None:
    shop.app._environ = {"BUCKET": "company"}
    told = shop.app.data.export(dataset.digest, "s3://${BUCKET}/out/tickets", format=form)
    assert told["to"] == "s3://${BUCKET}/out/tickets"
    assert sorted(bucket.find("company/out")) == [f"company/out/tickets/{name}" for name in told["files"]]
    manifest = ["manifest.json"] if form == "parquet" else []
    assert told["files"] == ["dataset.json", *manifest, *(f"{side}.{form}" for side in sorted(SPLITS))]
    for side in SPLITS:
        rows = read({"files": f"s3://company/out/tickets/{side}.{form}"}, "messages")
        assert texts_of(rows) == texts_of(shop.table(dataset, side)) and len(rows) == told["rows"][side]
    before = bucket.cat("company/out/tickets/train." + form)
    with pytest.raises(SpecError, match=r"s3://\$\{BUCKET\}/out/tickets is already there"):
        shop.app.data.export(dataset.digest, "s3://${BUCKET}/out/tickets", format="csv")
    assert bucket.cat("company/out/tickets/train." + form) == before
    event = shop.app.store.ledger.last(kind="exported", subject=dataset.digest)
    assert event.data == {name: told[name] for name in ("to", "format", "rows")}


def test_azure_takes_a_dataset_and_gives_it_back(shop: Any, dataset: Any, container: Any) -> None:
    fs, name = container
    told = shop.app.data.export(dataset.digest, f"abfs://{name}/out/tickets")
    assert {path.partition("/")[2] for path in fs.find(name)} >= {
        f"out/tickets/{one}" for one in told["files"]
    }
    for side in SPLITS:
        rows = read({"files": f"abfs://{name}/out/tickets/{side}.parquet"}, "messages", "id")
        assert [row["id"] for row in rows] == [row["id"] for row in shop.table(dataset, side)]
    with pytest.raises(SpecError, match="already there"):
        shop.app.data.export(dataset.digest, f"abfs://{name}/out/tickets")


def test_azure_is_a_source_too(shop: Any, container: Any) -> None:
    fs, name = container
    text = shop.rows(shop_rows()).read_text()
    for n in range(2):
        fs.pipe_file(f"{name}/in/part-{n}.jsonl", text.encode())
    written = {"files": f"abfs://{name}/in/*.jsonl"}
    connector = connect(SourceSpec.model_validate(written), Path("/"), lambda text: text)
    assert [part.at["place"] for part in connector.parts()] == ["part-0.jsonl", "part-1.jsonl"]
    assert [row["text"] for row in read(written, "text")] == [row["text"] for row in shop_rows()] * 2
    first = connector.fingerprint()
    fs.pipe_file(f"{name}/in/part-1.jsonl", text.replace("help", "Help").encode())
    fs.invalidate_cache()
    assert connect(SourceSpec.model_validate(written), Path("/"), lambda text: text).fingerprint() != first
    with pytest.raises(DataError, match=r"nothing\.jsonl: there is no such file"):
        read({"files": f"abfs://{name}/in/nothing.jsonl"}, "text")


@pytest.fixture(params=["sqlite", "duckdb", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "duckdb":
        pytest.importorskip("duckdb_engine", reason="duckdb_engine is not installed")
    if request.param == "postgresql":
        found: str = request.getfixturevalue("postgres_url").replace("postgresql://", "postgresql+psycopg://")
        return found
    return f"{request.param}:///{tmp_path}/out.db"


def test_a_table_holds_every_row_in_order(shop: Any, dataset: Any, url: str) -> None:
    shop.app._environ = {"DATABASE_URL": url}
    told = shop.app.data.export(dataset.digest, "${DATABASE_URL}", table="tickets")
    want = [row for side in SPLITS for row in ({**r, "side": side} for r in shop.table(dataset, side))]
    assert told == {
        "to": "${DATABASE_URL}", "table": "tickets", "dataset": dataset.digest,
        "rows": {side: sum(row["side"] == side for row in want) for side in SPLITS},
    }  # fmt: skip
    columns = ["side", "id", "messages", "text", "label", "group", "source", "origin", "weight", "rating"]
    source = {"sql": {"url": "${DATABASE_URL}", "table": "tickets", "key": "position"}}
    found = read(source, *columns, environ=shop.app._environ)
    for row in found:
        row["messages"] = json.loads(row["messages"]) if isinstance(row["messages"], str) else row["messages"]
    assert found == [{name: row[name] for name in columns} for row in want]
    with pytest.raises(SpecError, match="there is a table tickets already"):
        shop.app.data.export(dataset.digest, "${DATABASE_URL}", table="tickets")
    assert len(read(source, "id", environ=shop.app._environ)) == len(want)


def test_a_table_that_fails_half_way_is_not_there(shop: Any, dataset: Any, url: str) -> None:
    class Stop:
        calls = 0

        def is_set(self) -> bool:
            self.calls += 1
            return self.calls > 1  # the first block of rows is in by then

    with pytest.raises(Interrupted):
        shop.app.data.export(dataset.digest, url, table="tickets", stop=Stop())
    assert not sa.inspect(sa.create_engine(url, poolclass=sa.pool.NullPool)).has_table("tickets")
    assert shop.app.store.ledger.last(kind="exported", subject=dataset.digest) is None
    shop.app.data.export(dataset.digest, url, table="tickets")


@pytest.mark.postgres
def test_what_postgresql_cannot_take_is_told_and_leaves_nothing(shop: Any, postgres_url: str) -> None:
    shop.rows([*shop_rows(), {"text": "a", "queue": "nul\0l", "customer": "c"}])
    dataset = shop.prepare("data.rules={}")
    with pytest.raises(DataError, match=r"NUL character in 'label'"):
        shop.app.data.export(dataset.digest, postgres_url, table="t")
    with pytest.raises(DataError, match=r"no such schema(.|\n)*--table"):
        shop.app.data.export(dataset.digest, postgres_url, table="nowhere.t")
    engine = sa.create_engine(postgres_url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.exec_driver_sql("create role reader login")
        connection.exec_driver_sql("revoke create on schema public from public")
    shop.app._environ = {"WHO": "reader"}
    with pytest.raises(DataError, match=r"may not create a table there"):
        shop.app.data.export(dataset.digest, postgres_url.replace("luthier@", "${WHO}@"), table="t")
    engine.dispose()


@pytest.mark.postgres
def test_a_database_that_takes_rows_away_is_noticed(
    shop: Any, dataset: Any, postgres_url: str, monkeypatch: Any
) -> None:
    copy = export_table._copy

    def lossy(connection: Any, table: Any, blocks: Any) -> None:
        copy(connection, table, (lines[1:] for lines in blocks))

    monkeypatch.setattr(export_table, "_copy", lossy)
    with pytest.raises(StoreError, match=r"and .* was written to it"):
        shop.app.data.export(dataset.digest, postgres_url, table="t")
    url = postgres_url.replace("postgresql://", "postgresql+psycopg://")
    assert not sa.inspect(sa.create_engine(url, poolclass=sa.pool.NullPool)).has_table("t")


def test_csv_is_flat_and_runs_nothing_in_a_spreadsheet(shop: Any, dataset: Any, tmp_path: Path) -> None:
    told = shop.app.data.export(dataset.digest, tmp_path / "out", format="csv")
    guarded = 0
    for side in SPLITS:
        rows = list(
            csv.DictReader(io.StringIO((tmp_path / "out" / f"{side}.csv").read_bytes().decode(), newline=""))
        )
        want = shop.table(dataset, side)
        assert list(rows[0]) == ["id", "system", "user", "assistant", "label", "group", "weight"]
        assert [row["id"] for row in rows] == [row["id"] for row in want]
        for row, one in zip(rows, want, strict=True):
            said = {turn["role"]: turn["content"] for turn in one["messages"]}
            for name in ("system", "user", "assistant", "group"):
                cell = said.get(name, one.get(name))
                assert row[name] in (cell, f"'{cell}")
                guarded += row[name] != cell
                assert not row[name].startswith(("=", "@", "+"))
    assert (
        guarded == told["guarded_cells"] == 3
    )  # the formula as text and as group, "-5 2"; the group "-5" is a number
    assert texts_of(
        [
            {"messages": [row["id"]]}
            for side in SPLITS
            for row in read({"files": f"{tmp_path}/out/{side}.csv"}, "id")
        ]
    ) == texts_of([{"messages": [row["id"]]} for side in SPLITS for row in shop.table(dataset, side)])


def test_csv_refuses_what_is_not_flat_before_anything_is_written(shop: Any, tmp_path: Path) -> None:
    roles = ["user", "assistant", "user", "assistant"]
    rows = [{"messages": [{"role": r, "content": f"{r} {n}"} for r in roles]} for n in range(4)]
    shop.rows(rows)
    shop.write("name: chat\nbase: tiny\ndata: {sources: [{files: rows.jsonl}], split: {test: 0.25}}\n")
    dataset = shop.prepare()
    with pytest.raises(
        SpecError, match=r"its messages are user, assistant, user, assistant(.|\n)*--format jsonl"
    ):
        shop.app.data.export(dataset.digest, tmp_path / "out", format="csv")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*partial"))


@pytest.mark.parametrize(
    ("row", "map_", "line"),
    [
        ({"q": "Hi", "a": "Yes"}, "{user: q, assistant: a}", ["messages"]),
        ({"t": "Plain."}, "{text: t}", ["text"]),
        ({"q": "Hi", "a": "Yes", "b": "No"}, "{user: q, chosen: a, rejected: b}", ["prompt", "chosen", "rejected"]),
        ({"q": "Hi", "a": "Yes", "r": 1}, "{user: q, assistant: a, rating: r}", ["prompt", "completion", "label"]),
        ({"q": "Hi", "a": "Yes", "r": 0}, "{user: q, assistant: a, rating: r}", ["prompt", "completion", "label"]),
    ],
)  # fmt: skip
def test_json_lines_have_the_form_that_their_kind_of_row_is_known_by(
    shop: Any, tmp_path: Path, row: dict[str, Any], map_: str, line: list[str]
) -> None:
    shop.rows(
        [
            {key: f"{cell} {n}" if isinstance(cell, str) else cell for key, cell in row.items()}
            for n in range(8)
        ]
    )
    recipe = "name: r\nbase: tiny\ndata: {{sources: [{{files: {}, map: {}}}], split: {{test: 0.25}}}}\n"
    shop.write(recipe.format("rows.jsonl", map_))
    dataset = shop.prepare()
    shop.app.data.export(dataset.digest, tmp_path / "out", format="jsonl")
    lines = lines_of(tmp_path / "out")
    assert len(lines) == 8 and all(list(one) == line for one in lines)
    # read again, without being told what the columns mean, they are the same records
    shop.rows(lines, "again.jsonl")
    shop.write("name: r\nbase: tiny\ndata: {sources: [{files: again.jsonl}], split: {test: 0.25}}\n")
    again = shop.prepare()
    assert sorted(r["id"] for r in shop.every_row(again)) == sorted(r["id"] for r in shop.every_row(dataset))


def test_bytes_that_are_not_what_was_written_are_noticed(
    shop: Any, dataset: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    real = export_files.Here.open

    def flipping(self: Any, name: str, mode: str) -> Any:
        stream = real(self, name, mode)
        if mode == "rb" and name.startswith("test"):
            found = bytearray(stream.read())
            found[100] ^= 1
            return io.BytesIO(bytes(found))
        return stream

    monkeypatch.setattr(export_files.Here, "open", flipping)
    with pytest.raises(StoreError, match=r"test\.parquet under .* does not hold what was written"):
        shop.app.data.export(dataset.digest, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*partial"))


def test_an_export_to_s3_that_fails_takes_away_what_it_wrote(
    shop: Any, dataset: Any, bucket: Any, monkeypatch: Any
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("luthier.app.data.export._metadata", full)
    with pytest.raises(StoreError, match="No space left"):
        shop.app.data.export(dataset.digest, "s3://company/out", croissant=True)
    bucket.invalidate_cache()
    assert bucket.find("company/out") == []
    bucket.pipe_file("company/half/train.parquet", b"PAR1")
    with pytest.raises(SpecError, match=r"without dataset\.json: no export, or one that was cut off"):
        shop.app.data.export(dataset.digest, "s3://company/half")


@pytest.mark.parametrize(
    ("to", "more", "told"),
    [
        ("postgresql://me:hunter2@db/x", {"table": "t"}, "a password is written"),
        ("postgresql://db/x?user=me&password=hunter2", {"table": "t"}, "a password is written"),
        ("s3://key:hunter2@bucket/x", {}, "a password is written"),
        ("postgresql://db/x", {}, "--table NAME"),
        ("${DB}", {}, "is a database"),
        ("folder", {"table": "t"}, "folder is none"),
        ("s3://bucket/x", {"table": "t"}, "is none"),
        ("sqlite:///x.db", {"table": "t; drop table t"}, "no name of a table"),
        ("sqlite:///x.db", {"table": "t", "format": "csv"}, "do not go together"),
        ("sqlite:///x.db", {"table": "t", "croissant": True}, "describes files"),
        ("folder", {"format": "jsonl", "croissant": True}, "do not go together"),
        ("folder", {"format": "xml"}, "there is no format 'xml'"),
        ("nosuch://x/y", {}, "Write a folder, or a URL"),
        ("${NOT_SET}/x", {}, "the environment variable NOT_SET is not set"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_spent(
    shop: Any, dataset: Any, to: str, more: dict[str, Any], told: str, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    shop.app._environ = {"DB": "postgresql://me:hunter2@db/x"}
    before = set(tmp_path.rglob("*"))
    with pytest.raises(SpecError) as caught:
        shop.app.data.export(dataset.digest, to, **more)
    assert told in str(caught.value) and caught.value.remedy
    assert "hunter2" not in str(caught.value)
    assert {path for path in set(tmp_path.rglob("*")) - before if path.is_file()} <= set(
        (tmp_path / "home").rglob("*")
    )


@pytest.mark.parametrize("to", ["postgresql://me:${PW}@127.0.0.1:1/x", "${URL}", "s3://nowhere/${PW}/x"])
def test_no_error_shows_a_secret(shop: Any, dataset: Any, to: str, bucket: Any) -> None:
    shop.app._environ = {"PW": "hunter2!", "URL": "postgresql://me:hunter2!@127.0.0.1:1/x"}
    with pytest.raises(LuthierError) as caught:
        shop.app.data.export(dataset.digest, to, table=None if to.startswith("s3") else "t")
    assert "hunter2" not in str(caught.value) and caught.value.remedy
    assert caught.value.__cause__ is None


def test_progress_counts_rows(shop: Any, dataset: Any, tmp_path: Path) -> None:
    class Eyes:
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def progress(self, what: str, done: float, total: float | None, facts: Any) -> None:
            self.seen.append((what, done, total))

    eyes = Eyes()
    look = Looking(eyes)  # type: ignore[arg-type]
    look._began -= 10
    from luthier.app.data.export import export

    export(shop.app.store, dataset, str(tmp_path / "out"), look, {}, form="jsonl")
    total = sum(
        pq.read_metadata(path).num_rows for path in (shop.file(dataset, f"{s}.parquet") for s in SPLITS)
    )
    assert ("writing rows", total, total) in eyes.seen


def test_csv_keeps_a_lone_carriage_return_inside_its_cell(shop: Any, tmp_path: Path) -> None:
    shop.rows([{"q": f"one\rtwo {n}", "a": f"Answer {n}"} for n in range(8)])
    shop.write(
        "name: r\nbase: tiny\ndata: {sources: [{files: rows.jsonl, map: {user: q, assistant: a}}], rules: {}}\n"
    )
    dataset = shop.prepare()
    shop.app.data.export(dataset.digest, tmp_path / "out", format="csv")
    found = [
        row["user"]
        for side in SPLITS
        if (path := tmp_path / "out" / f"{side}.csv").exists()
        for row in csv.DictReader(io.StringIO(path.read_bytes().decode(), newline=""))
    ]
    assert sorted(found) == [f"one\rtwo {n}" for n in range(8)]


def test_json_lines_write_calls_as_trainers_read_them(shop: Any, tmp_path: Path) -> None:
    tool = {
        "type": "function",
        "function": {"name": "send", "description": "", "parameters": {"type": "object"}},
    }
    called = {"id": "call_1", "type": "function", "function": {"name": "send", "arguments": '{"to":"a"}'}}
    rows = [
        {
            "tools": [tool],
            "messages": [
                {"role": "user", "content": f"Send number {n}."},
                {"role": "assistant", "content": None, "tool_calls": [called]},
                {"role": "tool", "tool_call_id": "call_1", "content": "sent"},
                {"role": "assistant", "content": "Done."},
            ],
        }
        for n in range(8)
    ]
    shop.rows(rows)
    recipe = "name: r\nbase: tiny\ndata: {sources: [{files: %s}], split: {test: 0.25}}\n"
    shop.write(recipe % "rows.jsonl")
    dataset = shop.prepare()
    shop.app.data.export(dataset.digest, tmp_path / "out", format="jsonl")
    lines = lines_of(tmp_path / "out")
    first = lines[0]["messages"]
    assert lines[0]["tools"] == [tool] and [turn["role"] for turn in first] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert first[1]["tool_calls"][0]["function"] == called["function"]
    assert first[2]["tool_call_id"] == first[1]["tool_calls"][0]["id"]
    shop.rows(lines, "again.jsonl")
    shop.write(recipe % "again.jsonl")
    assert {r["id"] for r in shop.every_row(shop.prepare())} == {r["id"] for r in shop.every_row(dataset)}
    with pytest.raises(SpecError, match="does not fit on one line of cells"):
        shop.app.data.export(dataset.digest, tmp_path / "flat", format="csv")


def test_a_bucket_that_is_not_there_is_not_made(
    shop: Any, dataset: Any, bucket: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")  # where a bucket may be made without saying where
    with pytest.raises(StoreError, match="cannot be written"):
        shop.app.data.export(dataset.digest, "s3://tickts/out")
    bucket.invalidate_cache()
    assert not bucket.exists("tickts")


def test_artificial_rows_are_in_no_count(shop: Any, tmp_path: Path) -> None:
    shop.write(
        "name: r\nbase: tiny\ndata: {sources: [{files: rows.jsonl, map: {user: text, assistant: queue}}], split: {test: 0.25}, canaries: {}}\n"
    )
    dataset = shop.prepare()
    told = shop.app.data.inspect(dataset.digest)
    assert told["canaries"] > 0 and sum(told["rows"].values()) == 60 == told["duplicates"]["exact"] + 60
    assert sum(one["rows"] for one in told["lengths"]["characters"]["sides"].values()) == 60
    done = shop.app.data.export(dataset.digest, tmp_path / "task", format="lm-eval")
    assert (
        done["rows"]["train"] == 0 and done["rows"]["test"] == told["rows"]["test"] and "canaries" not in done
    )
