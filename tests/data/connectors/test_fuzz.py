"""Whatever bytes a file has, its reader gives rows or a DataError with a remedy: nothing else, ever. Half of the examples are valid
files with a few bytes changed, because those get further. benchmarks/data/fuzz_rows.py does the same for hours."""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import io
import json
import lzma
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luthier.core.errors import DataError
from luthier.core.spec import resolve
from luthier.data.connectors import connect
from luthier.data.spec import SourceSpec

sys.path.insert(0, str(Path(__file__).parents[1] / "hostile"))
from make import ipc, parquet, pdf, row, workbook

TABLE = pa.table(
    {
        "text": ["a", "", None, "Grüße 😀"],
        "n": [1, 2, 3, None],
        "d": pa.array(["x", "x", "y", "x"]).dictionary_encode(),
    }
)
TURNS = pa.table(
    {"text": ["a"], "messages": [[{"role": "user", "content": "hi"}, {"role": "assistant", "content": None}]]}
)
LINES = "".join(json.dumps({"text": f"row {i} é", "x": [{"y": None}]}) + "\n" for i in range(4)).encode()
CSV = 'text,n\n"a ""b"" c",1\r\n"two\nlines",2\nüml,3\n'.encode()


def ipc_stream() -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, TABLE.schema) as file:
        file.write_table(TABLE)
    return out.getvalue()


SEEDS: dict[str, list[Callable[[], bytes]]] = {
    "t.jsonl": [lambda: LINES, lambda: b"[" + b",".join(LINES.splitlines()) + b"]"],
    "t.csv": [lambda: CSV],
    "t.tsv": [lambda: CSV.replace(b",", b"\t")],
    "t.txt": [lambda: "one\ntwo\n\nthree é\n".encode()],
    "t.jsonl.gz": [lambda: gzip.compress(LINES, mtime=0)],
    "t.csv.bz2": [lambda: bz2.compress(CSV)],
    "t.jsonl.xz": [lambda: lzma.compress(LINES)],
    "t.jsonl.zst": [lambda: pa.compress(LINES, "zstd", asbytes=True)],
    "t.parquet": [lambda: parquet(TABLE), lambda: parquet(TURNS, compression="zstd"), lambda: parquet(TABLE, use_dictionary=False, compression="gzip")],
    "t.arrow": [lambda: ipc(TABLE), lambda: ipc(TURNS, "zstd"), ipc_stream],
    "t.xlsx": [lambda: workbook({"S": row(1, "text", "n") + row(2, "a", "1")})],
    "t.html": [lambda: b"<title>T</title><h1>a<p><table><td>b<pre>c\n d</pre></table>&amp;&#0;&nbsp;"],
    "t.pdf": [lambda: pdf("first page", None)],
}  # fmt: skip
NEEDS = {"t.xlsx": "python_calamine", "t.pdf": "pypdf", "t.html": "selectolax"}
APART = tuple(NEEDS)


def changed(seed: bytes) -> st.SearchStrategy[bytes]:
    """A valid file with some of its bytes changed, removed or doubled."""
    place = st.integers(0, len(seed))
    change = st.tuples(place, st.integers(0, 12), st.binary(max_size=12))

    def apply(changes: list[tuple[int, int, bytes]]) -> bytes:
        data = bytearray(seed)
        for at, removed, added in changes:
            data[at : at + removed] = added
        return bytes(data)

    return st.lists(change, min_size=1, max_size=4).map(apply)


def read_all(folder: Path, name: str, data: bytes, on_bad_row: str) -> int:
    """Everything that a preparation asks of a connector; how many rows came."""
    (folder / name).write_bytes(data)
    source = SourceSpec.model_validate({"files": name, "map": {"text": "text", "on_bad_row": on_bad_row}})
    connector = connect(source, folder, lambda text: resolve(text, {}))
    connector.estimate()
    connector.head(10)
    rows = 0
    for block in connector.blocks(["text"]):
        for column in block.columns.values():
            assert len(column) == len(block)
            for cell in column if isinstance(column, list) else column.to_pylist():
                str(cell).encode()
        assert len(block.origins()) == len(block)
        assert all(bad.reason and bad.preview.encode() is not None for bad in block.bad)
        rows += len(block)
    return rows


@pytest.mark.parametrize("name", SEEDS)
@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes_give_rows_or_a_data_error(tmp_path_factory: Any, name: str, data: Any) -> None:
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    seed = data.draw(st.sampled_from([made() for made in SEEDS[name]]))
    content = data.draw(st.binary(max_size=60) | changed(seed))
    for on_bad_row in ("refuse", "set_aside"):
        try:
            read_all(folder, name, content, on_bad_row)
        except DataError as error:
            assert error.remedy
            assert error.message.startswith(name)
            assert str(error).encode()


@pytest.mark.parametrize("name", SEEDS)
def test_the_seeds_themselves_are_read(tmp_path: Path, name: str) -> None:
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    for made in SEEDS[name]:
        assert read_all(tmp_path, name, made(), "set_aside") >= 1


def test_a_parquet_of_many_kinds_of_columns_is_read_or_told(tmp_path: Path) -> None:
    odd = pa.table({
        "text": ["a"], "f": [1.5], "b": [b"\xff"], "l": [[1]], "s": [{"x": 1}], "t": pa.array([0], pa.timestamp("ns")),
        "m": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), "u": pa.array([2**63], pa.uint64()), "n": pa.nulls(1),
    })  # fmt: skip
    pq.write_table(odd, tmp_path / "t.parquet")
    connector = connect(SourceSpec.model_validate({"files": "t.parquet"}), tmp_path, lambda text: text)
    assert connector.head(1).rows[0]["text"] == "a"
