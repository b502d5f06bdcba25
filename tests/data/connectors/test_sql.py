"""Rows out of SQLite, DuckDB and a real PostgreSQL: the same words as a Parquet file gives, in the order of the key, read only."""

from __future__ import annotations

import json
import sqlite3
import time
import tracemalloc
from datetime import UTC, date, datetime
from datetime import time as clock
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from luthier.core.errors import DataError, MissingPart
from luthier.core.testing import FakeContext
from luthier.data.connectors import fingerprints
from luthier.data.connectors.cells import texts
from luthier.data.connectors.values import plain
from luthier.data.spec import DataSpec, SourceSpec

TICKETS = [
    (i, f"my problem {i}", ["billing", "login"][i % 2], f"2026-01-{i % 28 + 1:02}") for i in range(1, 61)
]


def fill(url: str, *, rows: list[tuple[Any, ...]] = TICKETS) -> None:
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "create table tickets (id integer primary key, body text, queue text, day varchar(10))"
        )
        told = "insert into tickets values (:id, :body, :queue, :day)"
        connection.execute(
            sa.text(told), [dict(zip(("id", "body", "queue", "day"), row, strict=True)) for row in rows]
        )


@pytest.fixture(params=["sqlite", "duckdb", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An address of each kind, of a database with sixty tickets."""
    if request.param == "duckdb":
        pytest.importorskip(
            "duckdb_engine", reason="duckdb_engine is not installed (pip install 'luthier[duckdb]')"
        )
    if request.param == "postgresql":
        found: str = request.getfixturevalue("postgres_url").replace("postgresql://", "postgresql+psycopg://")
        fill(found)
        return found
    fill(f"{request.param}:///{tmp_path}/tickets.db")
    return f"{request.param}:///tickets.db"


def change(url: str, tmp_path: Path, statement: str) -> None:
    with sa.create_engine(
        url.replace(":///t", f":///{tmp_path}/t"), poolclass=sa.pool.NullPool
    ).begin() as connection:
        connection.exec_driver_sql(statement)


def test_a_table_is_read_in_the_order_of_its_key_with_places_people_can_find(
    source: Any, rows_of: Any, url: str
) -> None:
    key = {} if "duckdb" not in url else {"key": "id"}  # its driver tells no primary keys
    tickets = source({"sql": {"url": url, "table": "tickets", **key}})
    assert rows_of(tickets, "body", "queue") == [{"body": row[1], "queue": row[2]} for row in TICKETS]
    blocks = list(tickets.blocks(["queue"]))
    assert [len(block) for block in blocks] == [50, 10]
    assert blocks[1].origins()[:2] == ["tickets?id=51", "tickets?id=52"]
    assert blocks[0].columns.keys() == {"queue"}
    head = tickets.head(2)
    assert (head.columns, head.format) == (["id", "body", "queue", "day"], "sql")
    assert head.rows[1] == {"id": 2, "body": "my problem 2", "queue": "billing", "day": "2026-01-03"}
    estimate = tickets.estimate()
    assert (estimate.rows, estimate.exact) == (60, True)
    assert tickets.done_bytes() == estimate.size_bytes > 60 * len("my problem 1 login")
    [part] = tickets.parts()
    assert sum(len(block) for block in tickets.read(part, ["body"])) == 60


def test_a_query_takes_bound_parameters_and_a_watermark_bounds_it(
    source: Any, rows_of: Any, url: str
) -> None:
    query = (
        "select id, body as text, day from tickets where queue = :queue and body not like '%9' -- no nines"
    )
    wish = {"url": url, "query": query, "params": {"queue": "${QUEUE}"}, "key": ["day", "id"]}
    want = [row for row in TICKETS if row[2] == "login" and not row[1].endswith("9")]
    want.sort(key=lambda row: (row[3], row[0]))
    connector = source({"sql": wish, "name": "asked"}, QUEUE="login")
    assert rows_of(connector, "text") == [{"text": row[1]} for row in want]
    assert next(connector.blocks(["text"])).origins()[0] == f"asked?day=2026-01-02&id={want[0][0]}"
    window = {**wish, "watermark": "day", "since": "2026-01-02", "until": "2026-01-06"}
    told = rows_of(source({"sql": window}, QUEUE="login"), "day")
    assert {row["day"] for row in told} == {"2026-01-04", "2026-01-06"}  # greater than since, at most until
    injected = source({"sql": wish}, QUEUE="x' or '1'='1")
    with pytest.raises(DataError, match="there are no rows in it"):
        rows_of(injected, "text")


def test_a_fingerprint_follows_query_parameters_bounds_and_content(
    source: Any, tmp_path: Path, url: str
) -> None:
    table = {"url": url, "table": "tickets", "key": "id"}
    query = {"url": url, "query": "select * from tickets where id > :low", "params": {"low": 3}, "key": "id"}
    wishes = [table, query, {**query, "params": {"low": 4}}, {**table, "watermark": "id", "since": 3},
              {**table, "watermark": "id", "since": 3, "until": 9}, {**table, "identity": "bounds"}]  # fmt: skip
    first = [source({"sql": wish}).fingerprint() for wish in wishes]
    assert len(set(first)) == len(wishes)
    assert first == [source({"sql": wish}).fingerprint() for wish in wishes]
    change(url, tmp_path, "update tickets set body = 'edited' where id = 5")
    second = [source({"sql": wish}).fingerprint() for wish in wishes]
    # the row 5 is in every wish; only `bounds` does not see what was edited in place
    assert [a != b for a, b in zip(first, second, strict=True)] == [True, True, True, True, True, False]
    change(url, tmp_path, "insert into tickets values (61, 'new', 'login', '2026-02-01')")
    third = [source({"sql": wish}).fingerprint() for wish in wishes]
    assert [a != b for a, b in zip(second, third, strict=True)] == [True, True, True, True, False, True]


def test_a_source_cannot_change_the_database(source: Any, rows_of: Any, tmp_path: Path, url: str) -> None:
    for query in (
        "delete from tickets returning id, body",
        "with gone as (delete from tickets returning id, body) select id, body from gone",
        "select 1 as id) x; delete from tickets; --",
    ):
        with pytest.raises(DataError) as caught:
            rows_of(source({"sql": {"url": url, "query": query, "key": "id"}}), "id")
        assert caught.value.remedy
    assert len(rows_of(source({"sql": {"url": url, "table": "tickets", "key": "id"}}), "id")) == 60


@pytest.mark.parametrize(
    ("more", "columns", "told", "remedy"),
    [
        ({"table": "tickets"}, ["bdy"], "tickets: there is no column 'bdy'", "did you mean 'body' or 'day'? (see `map:`)"),
        ({"table": "tickets", "key": "ix"}, ["body"], "column", "key"),
        ({"table": "tickts"}, ["body"], "no such table", "Check the name"),
        ({"query": "select id, bdy from tickets"}, ["id"], "query names a column that is not there", "Check the names"),
        ({"query": "selec id from tickets"}, ["id"], "does not understand the query", "client"),
        ({"table": "tickets", "key": "queue"}, ["body"], "two rows have the key queue = billing", "key: [day, line]"),
        ({"query": "select nullif(id, 7) as id, body from tickets"}, ["body"], "is empty (NULL)", "is not null"),
        ({"table": "tickets", "watermark": "id", "since": 1000}, ["body"], "no rows in it within the bounds", "Point"),
    ],
)  # fmt: skip
def test_a_fault_is_told_in_words(
    source: Any, rows_of: Any, url: str, more: dict[str, Any], columns: list[str], told: str, remedy: str
) -> None:
    with pytest.raises(DataError) as caught:
        rows_of(source({"sql": {"url": url, "key": "id", **more}}), *columns)
    assert told in caught.value.message
    assert remedy in (caught.value.remedy or "")
    assert len(str(caught.value)) < 700


def test_a_table_without_a_primary_key_needs_one_named(source: Any, rows_of: Any, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "a.db") as raw:
        raw.execute("create table lines (body text)")
    with pytest.raises(DataError, match=r"has no primary key(.|\n)*key: id"):
        rows_of(source({"sql": {"url": "sqlite:///a.db", "table": "lines"}}), "body")
    with pytest.raises(DataError, match=r"there is no table 'line'(.|\n)*did you mean 'lines'"):
        rows_of(source({"sql": {"url": "sqlite:///a.db", "table": "line"}}), "body")
    with pytest.raises(DataError, match=r"there is no database file b\.db"):
        rows_of(source({"sql": {"url": "sqlite:///b.db", "table": "line"}}), "body")
    assert not (tmp_path / "b.db").exists()


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"url": "sqlite:///a.db"}, "write either table: or query:"),
        ({"url": "sqlite:///a.db", "table": "a", "query": "select 1"}, "write either table: or query:"),
        ({"url": "sqlite:///a.db", "query": "select 1"}, "a query needs key:"),
        ({"url": "sqlite:///a.db", "query": "select :x", "key": "id"}, "asks for :x, and params does not give it"),
        ({"url": "sqlite:///a.db", "query": "select 1::int, '10:30'", "key": "i", "params": {"y": 1}}, "params gives 'y'"),
        ({"url": "sqlite:///a.db", "table": "a", "since": 3}, "name its column with watermark:"),
        ({"url": "sqlite:///a.db", "table": "a", "key": []}, "key names no column"),
        ({"url": "sqlite:///a.db", "table": "a", "identity": "none"}, "identity"),
        ({"url": "postgresql://me:hunter2@h/d", "table": "a"}, "a password is written in the URL"),
        ({"url": "postgresql://h/d?user=me&password=hunter2", "table": "a"}, "a password is written in the URL"),
    ],
)  # fmt: skip
def test_a_wish_that_cannot_be_is_refused(wish: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        SourceSpec.model_validate({"sql": wish})


def test_the_written_form_is_recorded_with_references_and_without_the_timeout() -> None:
    source = SourceSpec.model_validate(
        {"sql": "${DATABASE_URL}", "query": "select id, body from t", "key": "id"}
    )
    assert source.plain()["sql"] == {
        "url": "${DATABASE_URL}", "table": None, "query": "select id, body from t", "params": {}, "key": "id",
        "watermark": None, "since": None, "until": None, "identity": "content",
    }  # fmt: skip
    slow = SourceSpec.model_validate({"sql": {"url": "sqlite:///a", "table": "t", "timeout_s": 3}})
    assert "timeout_s" not in slow.plain()["sql"]


def test_a_missing_driver_says_what_to_install(
    source: Any, rows_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingPart, match=r"luthier\[postgres\]"):
        rows_of(source({"sql": {"url": "postgresql://h/d", "table": "t", "key": "id"}}), "a")
    with pytest.raises(DataError, match="no driver is installed for 'mongo'"):
        rows_of(source({"sql": {"url": "mongo://h/d", "table": "t", "key": "id"}}), "a")
    with pytest.raises(DataError, match=r"not a database URL(.|\n)*PGPASSWORD"):
        rows_of(source({"sql": {"url": "tickets.db", "table": "t", "key": "id"}}), "a")


def test_a_query_that_takes_too_long_is_stopped(source: Any, rows_of: Any, url: str) -> None:
    if "duckdb" in url:
        pytest.skip("DuckDB has no limit on the time of a statement")
    forever = (
        "with recursive n(id) as (select 1 union all select id + 1 from n) select id from n where id < 0"
    )
    before = time.monotonic()
    with pytest.raises(DataError, match=r"did not answer within 0.2 s(.|\n)*Raise timeout_s"):
        rows_of(source({"sql": {"url": url, "query": forever, "key": "id", "timeout_s": 0.2}}), "id")
    assert time.monotonic() - before < 10


def test_types_become_what_a_parquet_file_of_the_same_table_gives() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 60)
    for value, kind in (
        (Decimal("1.50"), pa.decimal128(9, 2)),
        (date(2026, 1, 2), pa.date32()),
        (moment, pa.timestamp("us")),
        (moment.replace(tzinfo=UTC), pa.timestamp("us", "UTC")),
        (clock(3, 4, 5), pa.time64("us")),
        (True, pa.bool_()),
        (2**40, pa.int64()),
        (0.1, pa.float64()),
        (1.0, pa.float64()),
        ("a\nb", pa.string()),
    ):
        theirs, _ = texts(pa.array([value, None], kind), "c", "p")
        ours, _ = texts([plain(value), None], "c", "p")
        assert ours.to_pylist() == theirs.to_pylist()


@pytest.mark.postgres
def test_postgresql_s_own_types(source: Any, rows_of: Any, postgres_url: str, tmp_path: Path) -> None:
    url = postgres_url.replace("postgresql://", "postgresql+psycopg://")
    with sa.create_engine(url).begin() as connection:
        connection.exec_driver_sql("""
            create schema sales;
            create table sales.all_types (
              id bigint primary key, price numeric(9,2), bare numeric, day date, moment timestamp, exact timestamptz,
              at time, yes boolean, real double precision, body text, doc jsonb, raw json, tags text[], numbers int[], bytes bytea,
              u uuid, nothing text, span interval, "Odd name" text);
            set timezone = 'Asia/Tokyo';
            insert into sales.all_types values
              (1, 1.50, 1e3, '2026-01-02', '2026-01-02 03:04:05.5', '2026-01-02 03:04:05+00', '03:04:05', true, 0.1, E'a\\nb',
               '[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]', '{"a": 1}', '{x,y}', '{1,2}', 'caf\\303\\251',
               '00000000-0000-0000-0000-000000000001', null, '1 day', 'odd'),
              (2, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null);
        """)  # fmt: skip
    connector = source({"sql": {"url": postgres_url, "table": "sales.all_types"}})
    names = connector.head(1).columns
    first, second = rows_of(connector, *names)
    assert first == {
        "id": 1, "price": "1.50", "bare": "1000", "day": "2026-01-02", "moment": "2026-01-02 03:04:05.500000",
        "exact": "2026-01-02 03:04:05.000000Z", "at": "03:04:05.000000", "yes": True, "real": 0.1, "body": "a\nb",
        "doc": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}], "raw": {"a": 1},
        "tags": ["x", "y"], "numbers": [1, 2], "bytes": "café".encode(), "u": "00000000-0000-0000-0000-000000000001",
        "nothing": None, "span": "1 day, 0:00:00", "Odd name": "odd",
    }  # fmt: skip
    assert set(second.values()) == {2, None}
    # a watermark of a time type is compared as a time, though it was written as text
    window = {
        "url": postgres_url,
        "table": "sales.all_types",
        "watermark": "moment",
        "since": "2026-01-02T03:04:05",
    }
    assert rows_of(source({"sql": window}), "id") == [{"id": 1}]
    asked = {"url": postgres_url, "query": "select id, doc->>0 as d, body::varchar from sales.all_types where moment > :since", "params": {"since": "2026-01-01"}, "key": "id"}  # fmt: skip
    assert rows_of(source({"sql": asked}), "id") == [{"id": 1}]
    fingerprint = connector.fingerprint()
    with sa.create_engine(url).begin() as connection:
        connection.exec_driver_sql("update sales.all_types set doc = '[]' where id = 1")
    assert connector.fingerprint() != fingerprint


@pytest.mark.postgres
def test_a_wrong_password_is_told_and_never_shown(
    source: Any, rows_of: Any, postgres_server: Any, postgres_url: str
) -> None:
    folder, _ = postgres_server
    admin = postgres_url.replace("postgresql://", "postgresql+psycopg://")
    hba = folder / "data" / "pg_hba.conf"
    before = hba.read_text()
    with sa.create_engine(admin, poolclass=sa.pool.NullPool).begin() as connection:
        connection.exec_driver_sql("create role guarded login password 'p@ss:w/rd%%'")
        connection.exec_driver_sql("create table told (id int primary key, body text)")
        connection.exec_driver_sql("insert into told values (1, 'x')")
    try:
        hba.write_text("local all guarded scram-sha-256\n" + before)
        with sa.create_engine(admin, poolclass=sa.pool.NullPool).begin() as connection:
            connection.exec_driver_sql("select pg_reload_conf()")
        written = postgres_url.replace("luthier@", "guarded:${PW}@")
        wish = {"sql": {"url": written, "table": "told", "key": "id"}}
        deadline = time.monotonic() + 10
        while True:  # the reload takes a moment
            with pytest.raises(DataError) as caught:
                rows_of(source(wish, PW="hunter2-p@ss"), "body")
            if "refused the user or the password" in str(caught.value) or time.monotonic() > deadline:
                break
        assert "the database refused the user or the password" in caught.value.message
        assert "${PW}" in (caught.value.remedy or "")
        assert "hunter2" not in str(caught.value)
        # the right one, with every character that means something in an address; the user may not read the table yet
        with pytest.raises(DataError, match=r"the user may not read it(.|\n)*grant select"):
            rows_of(source(wish, PW="p@ss:w/rd%"), "body")
        with sa.create_engine(admin, poolclass=sa.pool.NullPool).begin() as connection:
            connection.exec_driver_sql("grant select on told to guarded")
        assert rows_of(source(wish, PW="p@ss:w/rd%"), "body") == [{"body": "x"}]
        whole = f"{admin.replace('luthier@', 'guarded:hunter2@')}"
        with pytest.raises(DataError) as caught:
            rows_of(source({"sql": {"url": "${DB}", "table": "told", "key": "id"}}, DB=whole), "body")
        assert "hunter2" not in str(caught.value)
    finally:
        hba.write_text(before)
        with sa.create_engine(admin, poolclass=sa.pool.NullPool).begin() as connection:
            connection.exec_driver_sql("select pg_reload_conf()")
            connection.exec_driver_sql("drop owned by guarded")
            connection.exec_driver_sql("drop role guarded")


@pytest.mark.postgres
def test_a_column_that_stands_twice_is_told(source: Any, rows_of: Any, postgres_url: str) -> None:
    """SQLite and DuckDB give the second one another name themselves."""
    wish = {"url": postgres_url, "query": "select 1 as id, 'a' as body, 'b' as body", "key": "id"}
    with pytest.raises(
        DataError, match=r"'body' stands twice in the query(.|\n)*select a\.body as first_body"
    ):
        rows_of(source({"sql": wish}), "body")


@pytest.mark.postgres
def test_a_server_that_is_not_there_is_told(source: Any, rows_of: Any) -> None:
    with pytest.raises(DataError, match=r"the database cannot be reached(.|\n)*Check host, port"):
        rows_of(source({"sql": {"url": "postgresql://me@127.0.0.1:1/x", "table": "t", "key": "id"}}), "a")


@pytest.mark.postgres
def test_memory_does_not_grow_with_the_table(source: Any, postgres_url: str) -> None:
    url = postgres_url.replace("postgresql://", "postgresql+psycopg://")
    with sa.create_engine(url).begin() as connection:
        connection.exec_driver_sql("create table big (id int primary key, body text)")
        connection.exec_driver_sql(
            "insert into big select i, repeat('x', 10000) from generate_series(1, 6000) i"
        )  # 60 MB
    connector = source({"sql": {"url": postgres_url, "table": "big"}})
    tracemalloc.start()
    try:
        sizes = [len(block) for block in connector.blocks(["body"])]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(sizes) == 6000
    assert max(sizes) <= 200  # 2 MB of 10 kB rows
    assert peak < 15_000_000


def test_text_that_is_not_utf_8_is_a_bad_row(source: Any, rows_of: Any, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "a.db") as raw:
        raw.execute("create table t (id integer primary key, body text)")
        raw.execute("insert into t values (1, 'good'), (2, cast(x'636166e9' as text)), (3, 'also')")
    wish = {"sql": {"url": "sqlite:///a.db", "table": "t"}}
    with pytest.raises(DataError, match=r"t\?id=2: 'body' is not UTF-8(.|\n)*set_aside"):
        rows_of(source(wish), "body")
    keeps = source({**wish, "map": {"text": "body", "on_bad_row": "set_aside"}})
    assert rows_of(keeps, "body") == [{"body": "good"}, {"body": "also"}]
    [block] = keeps.blocks(["body"])
    assert block.origins() == ["t?id=1", "t?id=3"]
    assert block.bad_origins() == ["t?id=2"]


def test_a_cell_without_end_is_refused(
    source: Any, rows_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthier.data.connectors.sql.LARGEST_CELL", 1000)
    with sqlite3.connect(tmp_path / "a.db") as raw:
        raw.execute("create table t (id integer primary key, body text)")
        raw.execute("insert into t values (1, ?)", ("x" * 1001,))
    with pytest.raises(DataError, match=r"t\?id=1: the column 'body' holds more than 1,000 characters"):
        rows_of(source({"sql": {"url": "sqlite:///a.db", "table": "t"}}), "body")


def test_a_dataset_is_prepared_from_a_table_as_from_a_parquet_file_of_it(
    prepare: Any, tmp_path: Path, url: str
) -> None:
    names = ("id", "body", "queue", "day")
    pq.write_table(
        pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in TICKETS]), tmp_path / "tickets"
    )
    told = {"map": {"user": "body", "label": "queue", "group": "day"}, "name": "tickets"}
    task = {"kind": "classify"}
    from_file = prepare({"sources": [{"files": "tickets", "format": "parquet", **told}]}, task)
    from_table = prepare({"sources": [{"sql": {"url": url, "table": "tickets", "key": "id"}, **told}]}, task)
    for side in ("train", "validation", "test"):
        ours, theirs = from_table.split(side), from_file.split(side)
        assert [{**row, "origin": ""} for row in ours] == [{**row, "origin": ""} for row in theirs]
    assert sorted(row["origin"] for row in from_table.rows())[0] == "tickets?id=1"


def test_a_bad_row_of_a_table_is_quarantined_by_its_key(prepare: Any, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "a.db") as raw:
        raw.execute("create table t (id integer primary key, body text, queue text)")
        raw.executemany(
            "insert into t values (?, ?, ?)", [(i, f"text {i}", "ab"[i % 2]) for i in range(1, 41)]
        )
        raw.execute("insert into t values (41, 'no label', null), (42, cast(x'ff' as text), 'a')")
    wish = {
        "sql": {"url": "sqlite:///a.db", "table": "t"},
        "map": {"user": "body", "label": "queue", "on_bad_row": "set_aside"},
    }
    done = prepare({"sources": [wish]}, {"kind": "classify"})
    assert [
        (row["origin"], row["reason"]) for row in sorted(done.removed(), key=lambda row: row["origin"])
    ] == [
        ("t?id=41", "the label is missing ('queue' is empty)"),
        ("t?id=42", "'body' is not UTF-8"),
    ]
    assert (done.rule("read")["rows_in"], done.rule("read")["removed"]) == (42, 2)


def test_the_secret_is_never_in_what_is_recorded(tmp_path: Path) -> None:
    fill(f"sqlite:///{tmp_path}/hunter2.db")
    data = DataSpec.model_validate(
        {"sources": [{"sql": {"url": "sqlite:///${FILE}.db", "table": "tickets"}}]}
    )
    at = FakeContext(tmp_path, root=tmp_path, environ={"FILE": "hunter2"})
    [(written, mark)] = fingerprints(data, tmp_path, at)
    assert "hunter2" not in json.dumps(written)
    assert len(mark) == 64
