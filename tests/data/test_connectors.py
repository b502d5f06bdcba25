from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.core.errors import DataError, LuthierError, MissingPart, SpecError
from luthier.core.spec import resolve
from luthier.core.testing import FakeContext
from luthier.data.connectors import csv_rows, fingerprints
from luthier.data.connectors.files import FilesConnector
from luthier.data.spec import DataSpec, SourceSpec

ROWS = [
    {"text": 'Grüße, "world"', "label": "a"},
    {"text": "two\nlines", "label": "b"},
    {"text": "x;y\tz", "label": "a"},
]


def connect(base: Path, files: Any, environ: dict[str, str] | None = None, **more: Any) -> FilesConnector:
    return FilesConnector(
        SourceSpec.model_validate({"files": files, **more}), base, lambda text: resolve(text, environ or {})
    )


def rows_of(connector: FilesConnector, *columns: str) -> list[dict[str, Any]]:
    found = []
    for block in connector.blocks(columns):
        cells = {name: c if isinstance(c, list) else c.to_pylist() for name, c in block.columns.items()}
        found += [{name: cells[name][i] for name in cells} for i in range(len(block))]
    return found


def origins_of(connector: FilesConnector, *columns: str) -> list[str]:
    return [origin for block in connector.blocks(columns) for origin in block.origins()]


def delimited(separator: str) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=separator)
    writer.writerow(["text", "label"])
    writer.writerows([row["text"], row["label"]] for row in ROWS)
    return out.getvalue().encode()


def parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), out)
    return out.getvalue()


LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
FORMATS = {
    "t.jsonl": LINES,
    "t.ndjson": LINES,
    "t.json": json.dumps(ROWS, indent=2).encode(),
    "t.csv": delimited(","),
    "bom.csv": b"\xef\xbb\xbf" + delimited(","),
    "semicolon.csv": delimited(";"),
    "t.tsv": delimited("\t"),
    "t.parquet": parquet(),
    "t.jsonl.gz": gzip.compress(LINES),
    "t.csv.gz": gzip.compress(delimited(",")),
    "two-members.jsonl.gz": gzip.compress(LINES[:60]) + gzip.compress(LINES[60:]),
    "t.jsonl.zst": pa.compress(LINES, "zstd", asbytes=True),
    "T.JSONL": LINES,
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FORMATS[name])
    connector = connect(tmp_path, name)
    assert rows_of(connector, "text", "label") == ROWS
    assert rows_of(connector, "label") == [{"label": row["label"]} for row in ROWS]
    assert connector.head(2).rows == ROWS[:2]
    assert connector.head(2).columns == ["text", "label"]
    estimate = connector.estimate()
    assert (estimate.rows, estimate.exact, estimate.size_bytes) == (3, True, len(FORMATS[name]))


def test_origins_are_lines_even_where_a_quoted_field_breaks_the_line(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b'text,label\na,1\n"two\nlines",2\n\nb,3\n')
    assert origins_of(connect(tmp_path, "t.csv"), "text") == ["t.csv:2", "t.csv:3", "t.csv:6"]


def test_an_empty_csv_field_is_a_missing_value(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,label\na,\n")
    assert rows_of(connect(tmp_path, "t.csv"), "text", "label") == [{"text": "a", "label": None}]


def test_plain_text_is_read_by_paragraphs(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("one\nstill one\n\n\ntwo\n")
    connector = connect(tmp_path, "t.txt")
    assert rows_of(connector, "text") == [{"text": "one\nstill one"}, {"text": "two"}]
    assert origins_of(connector, "text") == ["t.txt:1", "t.txt:5"]


def test_a_glob_reads_files_by_name_and_tolerates_empty_ones_among_them(tmp_path: Path) -> None:
    (tmp_path / "d" / "x").mkdir(parents=True)
    (tmp_path / "d" / "x" / "b.jsonl").write_text('{"a": "2"}\n')
    (tmp_path / "d" / "x" / "a.jsonl").write_text('{"a": "1"}\n')
    (tmp_path / "d" / "x" / "c.jsonl").write_text("")
    connector = connect(tmp_path, "d/*/*.jsonl")
    assert origins_of(connector, "a") == ["x/a.jsonl:1", "x/b.jsonl:1"]
    assert connector.done_bytes() == connector.estimate().size_bytes


def test_a_url_is_read_through_fsspec_and_its_secret_never_shows(tmp_path: Path) -> None:
    with fsspec.open("memory://bucket-k3y/t.jsonl", "wb") as out:
        out.write(LINES)
    environ = {"BUCKET": "bucket-k3y"}
    connector = connect(tmp_path, "memory://${BUCKET}/t.jsonl", environ)
    assert rows_of(connector, "text") == [{"text": row["text"]} for row in ROWS]
    assert origins_of(connector, "text")[0] == "t.jsonl:1"
    assert connector.fingerprint() == connect(tmp_path, "memory://${BUCKET}/t.jsonl", environ).fingerprint()
    for broken in (
        "memory://${BUCKET}/absent.jsonl",
        "memory://${BUCKET}-no/x.jsonl",
        "memory://${BUCKET}/*.csv",
    ):
        with pytest.raises(DataError) as caught:
            connect(tmp_path, broken, environ).files  # noqa: B018
        assert "k3y" not in str(caught.value)
    with pytest.raises(SpecError, match="BUCKET is not set"):
        connect(tmp_path, "memory://${BUCKET}/t.jsonl").files  # noqa: B018


BAD_FILES = {
    "no such file": ("rows.jsonl", None, "there is no such file", "did you mean 'rows2.jsonl'"),
    "no such folder": ("absent/rows.jsonl", None, "no folder", "Relative paths start at"),
    "a glob that finds nothing": ("*.csv", None, "there is no such file", "rows2.jsonl"),
    "a folder": ("folder", None, "is a folder", "folder/*.jsonl"),
    "an empty file": ("e.jsonl", b"", "the file is empty", "Point"),
    "an empty array": ("e.json", b"[]", "there are no rows", "Point"),
    "only a header": ("e.csv", b"a,b\n", "there are no rows", "Point"),
    "an unknown suffix": ("e.xlsx", b"x", "the suffix '.xlsx' says nothing", "Set `format:`"),
    "no suffix": ("data", b"x", "the suffix '(none)'", "Set `format:`"),
    "a row too long": (
        "r.csv",
        b"a,b\n1,2\n1,2,3\n",
        "r.csv:3: this row has 3 fields, and the header has 2",
        "separator",
    ),
    "a row too short": ("r.csv", b"a,b\n1,2\n\n1\n", "r.csv:4: this row has 1 fields", "separator"),
    "an open quote": ("r.csv", b'a,b\n1,2\n"1,2\n', "r.csv:3: this is not valid CSV", "quote"),
    "a repeated column": ("r.csv", b"a,a\n1,2\n", "the column 'a' stands twice", "Rename"),
    "csv in another encoding": (
        "u.csv",
        b"a,b\n1,2\ncaf\xe9,2\n",
        "u.csv:3: not UTF-8: byte 0xe9 at position 4",
        "iconv",
    ),
    "text in another encoding": ("u.txt", b"a\ncaf\xe9\n", "u.txt:2: not UTF-8", "iconv"),
    "no parquet": ("p.parquet", b"hello", "not a readable Parquet file", "Write it again"),
    "parquet cut off": ("p.parquet", parquet()[:-20], "not a readable Parquet file", "Write it again"),
    "gzip cut off": ("g.jsonl.gz", gzip.compress(LINES)[:-20], "damaged or cut off", "again"),
    "no gzip": ("g.jsonl.gz", b"hello", "damaged or cut off", "again"),
    "no zstd": ("g.jsonl.zst", b"hello hello hello", "g.jsonl.zst: cannot be read", "again"),
    "parquet in gzip": ("p.parquet.gz", b"x", "compressed inside", "Decompress"),
    "an unknown scheme": ("nosuch://x/y.jsonl", None, "Protocol not known", "scheme"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_named_with_the_rule_and_the_remedy(tmp_path: Path, case: str) -> None:
    name, content, told, remedy = BAD_FILES[case]
    (tmp_path / "rows2.jsonl").write_text("{}")
    (tmp_path / "folder").mkdir()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(LuthierError) as caught:
        rows_of(connect(tmp_path, name), "a")
    assert told in caught.value.message
    assert remedy in (caught.value.remedy or "")
    assert caught.value.exit_code == 3


def test_a_missing_driver_says_what_to_install(tmp_path: Path) -> None:
    try:
        import s3fs  # noqa: F401

        pytest.skip("s3fs is installed")
    except ImportError:
        pass
    with pytest.raises(MissingPart, match=r"luthier\[s3\]"):
        connect(tmp_path, "s3://bucket/x.jsonl").files  # noqa: B018


@pytest.mark.parametrize("name", ["t.jsonl", "t.json", "t.csv", "t.parquet"])
def test_a_missing_column_is_named_with_the_nearest(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FORMATS[name])
    with pytest.raises(DataError, match=r"there is no column 'lable'(.|\n)*did you mean 'label'"):
        rows_of(connect(tmp_path, name), "text", "lable")


def test_a_file_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(LINES)
    (tmp_path / "t.jsonl").chmod(0)
    if os.access(tmp_path / "t.jsonl", os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(DataError, match="PermissionError"):
        rows_of(connect(tmp_path, "t.jsonl"), "text")


def test_a_fingerprint_follows_bytes_and_names_and_is_remembered(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(LINES)
    cache: dict[str, str] = {}
    first = connect(tmp_path, "t.jsonl").fingerprint(cache)
    assert connect(tmp_path, "t.jsonl").fingerprint() == first
    assert len(cache) == 1
    cache.update(dict.fromkeys(cache, "remembered"))
    assert connect(tmp_path, "t.jsonl").fingerprint(cache) != first
    path.write_bytes(LINES + b"\n")
    assert connect(tmp_path, "t.jsonl").fingerprint(cache) != first
    path.write_bytes(LINES)
    assert connect(tmp_path, "*.jsonl").fingerprint() == first
    path.rename(tmp_path / "u.jsonl")
    assert connect(tmp_path, "u.jsonl").fingerprint() != first


def test_fingerprints_go_with_each_source_as_written(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(LINES)
    data = DataSpec.model_validate({"sources": [{"files": "${NAME}.jsonl"}]})
    [(written, mark)] = fingerprints(data, tmp_path, FakeContext(tmp_path, environ={"NAME": "t"}))
    assert written["files"] == "${NAME}.jsonl"
    assert len(mark) == 64


def test_an_estimate_reads_only_the_beginning(tmp_path: Path) -> None:
    chance = random.Random(0)
    text = "".join(
        json.dumps({"text": chance.randbytes(250).hex()}) + "\n" for _ in range(4000)
    )  # 2 MB; half are read
    (tmp_path / "t.jsonl").write_text(text)
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("t.jsonl", "t.jsonl.gz"):
        estimate = connect(tmp_path, name).estimate()
        assert not estimate.exact
        assert estimate.rows == pytest.approx(4000, rel=0.1)


def test_blocks_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a\n" + "x\n" * 5000)
    assert [len(block) for block in connect(tmp_path, "t.csv").blocks(["a"])] == [
        csv_rows.ROWS,
        csv_rows.ROWS,
        1000,
    ]
    row = json.dumps({"text": "x" * 100_000}) + "\n"
    (tmp_path / "t.jsonl").write_text(row * 60)  # 6 MB in blocks of 2 MB: 20 or 21 rows each
    assert max(len(block) for block in connect(tmp_path, "t.jsonl").blocks(["text"])) <= 21
