"""Wherever a file is cut, its stretches hold the rows, the places and the errors that the whole file has."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.errors import DataError
from luthier.data.connectors import json_rows
from luthier.data.connectors.protocol import Block, Part
from luthier.data.connectors.stretches import Stretch, byte_stretches, lines_before, newlines

lines = st.lists(
    st.sampled_from(['{"a": 1}', '{"a": "é\u2028"}', "", "  ", "broken", "[1]", '{"a": "x"}\r', "日" * 9]),
    max_size=12,
)

LINE = re.compile(rb"[^\n]*\n|[^\n]+")


@given(lines, st.booleans(), st.integers(1, 90))
@settings(max_examples=300, deadline=None)
def test_every_line_is_in_one_stretch(told: list[str], ended: bool, about: int) -> None:
    raw = ("\n".join(told) + "\n" * ended).encode()
    edges = byte_stretches(len(raw), about)
    assert edges[0][0] == 0 and edges[-1][1] == len(raw)
    before = lines_before([newlines(io.BytesIO(raw), *one) for one in edges])
    whole = LINE.findall(raw)
    found: list[bytes] = []
    for (begin, end), n in zip(edges, before, strict=True):
        mine = LINE.findall(io.BufferedReader(Stretch(io.BytesIO(raw), begin, end)).read())
        assert mine == whole[n : n + len(mine)]
        found += mine
    assert found == whole


@given(lines, st.integers(1, 90), st.integers(1, 30))
@settings(max_examples=200, deadline=None)
def test_rows_and_bad_rows_have_the_lines_they_have_in_the_whole_file(
    told: list[str], about: int, block: int
) -> None:
    raw = ('{"first": 0}\n' + "\n".join(told)).encode()

    def rows(stream: Any, before: int = 0) -> list[Any]:
        read = json_rows.read(stream, "t", ["a"], aside=True, before=before)
        return [
            one
            for b in read
            for one in sorted(
                [*zip(b.lines, b.columns["a"], strict=True), *((x.line, x.reason) for x in b.bad)],
                key=lambda found: found[0],
            )
        ]

    whole = rows(io.BytesIO(raw))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "BLOCK_BYTES", block)
        edges = byte_stretches(len(raw), about)
        before = lines_before([newlines(io.BytesIO(raw), *one) for one in edges])
        found = []
        for edge, n in zip(edges, before, strict=True):
            found += rows(io.BufferedReader(Stretch(io.BytesIO(raw), *edge)), n)
    assert found == whole


def divided(connector: Any, about_bytes: int) -> list[Part]:
    def count(parts: Sequence[Part]) -> list[int]:
        return [connector.count(part) for part in parts]

    parts: list[Part] = connector.divide(connector.parts(), about_bytes, count)
    return parts


def told_by(blocks: Sequence[Block]) -> list[tuple[str, Any]]:
    return [one for b in blocks for one in zip(b.origins(), b.columns["a"], strict=True)]


ROWS = [{"a": f"row {n} " + "x" * (n % 90)} for n in range(500)]
AS_LINES = "".join(json.dumps(row) + "\n" * (1 + (n % 7 == 0)) for n, row in enumerate(ROWS))


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet"])
def test_a_large_file_is_read_in_pieces(source: Any, tmp_path: Any, name: str) -> None:
    if name == "t.jsonl":
        (tmp_path / name).write_text("\ufeff" + AS_LINES, encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / name, row_group_size=37, compression=None)
    connector = source({"files": name})
    whole = told_by(list(connector.blocks(["a"])))
    assert len(whole) == 500
    for about in (1_000, 4_000, 10_000):
        parts = divided(connector, about)
        # a stretch is no larger than asked, a row group no smaller; 37 rows with 45 signs of filling on average are 2.2 KB
        assert len(parts) >= (tmp_path / name).stat().st_size / max(about, 4_500) / 2 > 1
        assert sum(part.size_bytes for part in parts) == (tmp_path / name).stat().st_size
        found, done = [], 0
        for part in [Part(json.loads(json.dumps(part.at)), part.size_bytes) for part in parts]:
            for block in connector.read(part, ["a"]):
                found += told_by([block])
                assert 0 <= connector.done_bytes() <= part.size_bytes
            done += connector.done_bytes()
        assert found == whole
        assert done == (tmp_path / name).stat().st_size
        with pytest.raises(DataError, match=r"there is no column 'b'(.|\n)*known: a"):
            list(connector.read(parts[-1], ["b"]))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.json", json.dumps(ROWS, indent=1)),
        ("t.csv", "a\n" + '"x\ny"\n' * 2000),
        ("t.txt", "paragraph\n\n" * 2000),
    ],
)
def test_what_cannot_be_cut_stays_whole(source: Any, tmp_path: Any, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    connector = source({"files": name})
    assert divided(connector, 1_000) == connector.parts()


def test_small_files_are_not_even_looked_at(source: Any, tmp_path: Any) -> None:
    (tmp_path / "t.jsonl").write_text('{"a": 1}\n')
    connector = source({"files": "t.jsonl"})
    parts = connector.parts()
    (tmp_path / "t.jsonl").unlink()
    assert connector.divide(parts, 1_000, lambda asked: [0 for _ in asked]) == parts
