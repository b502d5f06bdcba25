"""Arrow, workbooks, documents and further packings: the same rows as any other file gives."""

from __future__ import annotations

import bz2
import importlib.util
import json
import lzma
import sys
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from luthier.core.errors import DataError, MissingPart
from luthier.data.connectors import apart, html_text
from luthier.data.connectors.cells import texts
from luthier.data.spec import SourceSpec

sys.path.insert(0, str(Path(__file__).parents[1] / "hostile"))
from make import pdf, row, workbook

ROWS = [
    {"text": 'Grüße, "world"', "label": "a"},
    {"text": "two\nlines", "label": "b"},
    {"text": "=1+1", "label": "a"},
]
LINES = "".join(json.dumps(one) + "\n" for one in ROWS).encode()
TABLE = pa.Table.from_pylist(ROWS)
needs_excel = pytest.mark.skipif(importlib.util.find_spec("python_calamine") is None, reason="python-calamine is not installed (pip install 'luthier[excel]')")  # fmt: skip
needs_html = pytest.mark.skipif(importlib.util.find_spec("selectolax") is None, reason="selectolax is not installed (pip install 'luthier[documents]')")  # fmt: skip
needs_pdf = pytest.mark.skipif(importlib.util.find_spec("pypdf") is None, reason="pypdf is not installed (pip install 'luthier[documents]')")  # fmt: skip


def ipc(stream: bool, compression: str | None = None) -> bytes:
    out = pa.BufferOutputStream()
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with make(out, TABLE.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as file:
        file.write_table(TABLE, max_chunksize=2)
    return out.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("t.jsonl.bz2", bz2.compress(LINES)),
        ("t.jsonl.xz", lzma.compress(LINES)),
        ("two.jsonl.xz", lzma.compress(LINES[:60]) + lzma.compress(LINES[60:]) + b"\0\0\0\0"),
        ("two.jsonl.bz2", bz2.compress(LINES[:60]) + bz2.compress(LINES[60:])),
        ("t.arrow", ipc(False)),
        ("t.feather", ipc(False, "lz4")),
        ("t.ipc", ipc(False, "zstd")),
        ("t.arrows", ipc(True)),
        ("packed.arrows", ipc(True, "zstd")),
    ],
)
def test_every_format_gives_the_same_rows(
    source: Any, rows_of: Any, tmp_path: Path, name: str, data: bytes
) -> None:
    (tmp_path / name).write_bytes(data)
    connector = source({"files": name})
    assert rows_of(connector, "text", "label") == ROWS
    assert rows_of(connector, "label") == [{"label": one["label"]} for one in ROWS]
    assert connector.head(2).rows == ROWS[:2]
    assert (connector.estimate().rows, connector.estimate().exact) == (3, True)
    assert connector.done_bytes() == len(data)
    with pytest.raises(DataError, match=r"there is no column 'lable'(.|\n)*did you mean 'label'"):
        rows_of(connector, "lable")


def test_a_dictionary_and_a_wide_row_become_small_blocks(source: Any, tmp_path: Path) -> None:
    long = "x" * 100_000
    table = pa.table(
        {"text": pa.array([long] * 300), "n": pa.array([str(i) for i in range(300)]).dictionary_encode()}
    )
    pq.write_table(table, tmp_path / "t.parquet")
    with pa.ipc.new_file(tmp_path / "t.arrow", table.schema) as file:
        file.write_table(table)
    for name in ("t.parquet", "t.arrow"):
        blocks = list(source({"files": name}).blocks(["text", "n"]))
        assert sum(len(block) for block in blocks) == 300
        assert max(len(block) for block in blocks) <= 80  # 8 MB
        assert texts(blocks[-1].columns["n"], "n", "t")[0].to_pylist()[-1] == "299"
        assert blocks[-1].origins()[-1] == f"{name}:300"


DATES = '<numFmts count="1"><numFmt numFmtId="170" formatCode="yyyy-mm-dd hh:mm"/></numFmts><fonts count="1"><font/></fonts><fills count="1"><fill/></fills><borders count="1"><border/></borders><cellStyleXfs count="1"><xf/></cellStyleXfs><cellXfs count="3"><xf numFmtId="0"/><xf numFmtId="14" applyNumberFormat="1"/><xf numFmtId="170" applyNumberFormat="1"/></cellXfs>'  # fmt: skip
CELLS = row(3, "text", "whole", "part", "yes", "day", "moment", "error", "") + row(
    4, "a &amp; b", '<c r="B4"><v>17</v></c>', '<c r="C4"><v>0.1</v></c>', '<c r="D4" t="b"><v>1</v></c>',
    '<c r="E4" s="1"><v>46024</v></c>', '<c r="F4" s="2"><v>46024.5</v></c>', '<c r="G4" t="e"><v>#DIV/0!</v></c>', "note",
) + row(6, "later")  # fmt: skip


@needs_excel
def test_a_workbook_gives_values_as_people_see_them(source: Any, rows_of: Any, tmp_path: Path) -> None:
    (tmp_path / "b.xlsx").write_bytes(workbook({"Notes": "", "Tickets": CELLS}, styles=DATES))
    connector = source({"files": "b.xlsx"})
    names = ["text", "whole", "part", "yes", "day", "moment"]
    first, second = rows_of(connector, *names)
    assert first == {"text": "a & b", "whole": 17, "part": 0.1, "yes": True, "day": "2026-01-02", "moment": "2026-01-02 12:00:00.000000"}  # fmt: skip
    assert second == {"text": "later", **dict.fromkeys(names[1:])}
    assert [o for block in connector.blocks(["text"]) for o in block.origins()] == [
        "b.xlsx#Tickets:4",
        "b.xlsx#Tickets:6",
    ]
    assert connector.head(1).columns == [*names, "error"]  # the last column has no name, so it is none
    # the same words as a Parquet file of the table
    for value, kind in ((date(2026, 1, 2), pa.date32()), (datetime(2026, 1, 2, 12), pa.timestamp("us"))):
        assert texts(pa.array([value], kind), "c", "p")[0].to_pylist()[0] in first.values()


@needs_excel
def test_sheets_of_a_workbook(source: Any, rows_of: Any, tmp_path: Path) -> None:
    one, two = row(1, "text") + row(2, "a"), row(1, "text") + row(2, "b")
    (tmp_path / "same.xlsx").write_bytes(workbook({"Q1": one, "Q2": two}))
    assert rows_of(source({"files": "same.xlsx"}), "text") == [{"text": "a"}, {"text": "b"}]
    assert rows_of(source({"files": "same.xlsx", "sheet": "Q2"}), "text") == [{"text": "b"}]
    with pytest.raises(DataError, match=r"there is no sheet 'Q3' in it(.|\n)*It has: Q1, Q2"):
        rows_of(source({"files": "same.xlsx", "sheet": "Q3"}), "text")
    (tmp_path / "b.xlsx").write_bytes(workbook({"Q1": row(1, "text", "text") + row(2, "a", "b")}))
    with pytest.raises(DataError, match=r"b\.xlsx#Q1:1: the column 'text' stands twice"):
        rows_of(source({"files": "b.xlsx"}), "text")


def test_a_sheet_is_part_of_the_written_form_only_where_it_is_named() -> None:
    assert "sheet" not in SourceSpec.model_validate({"files": "b.xlsx"}).plain()
    named = SourceSpec.model_validate({"files": "b.xlsx", "sheet": "Q1"})
    assert named.plain()["sheet"] == "Q1"
    assert SourceSpec.model_validate(named.plain()) == named
    with pytest.raises(ValidationError, match="did you mean 'sheet'"):
        SourceSpec.model_validate({"files": "b.xlsx", "sheets": "Q1"})


PAGE = """<!doctype html><html><head><title>A page</title><style>p {}</style></head><body>
<nav><a href="/">Home</a></nav><h1>Main   <em>title</em></h1><p>First
paragraph<br>with a break &amp; <b>bold</b>.</p><ul><li>one</li><li>two</li></ul>
<pre>  kept
    blanks</pre><table><tr><th>A</th><th>B</th></tr><tr><td>1</td><td>2</td></tr></table><script>no()</script>tail</body></html>"""


@needs_html
def test_the_text_of_a_page_keeps_its_headings(source: Any, rows_of: Any, tmp_path: Path) -> None:
    (tmp_path / "p.html").write_text(PAGE)
    [found] = rows_of(source({"files": "p.html"}), "text")
    assert found["text"] == (
        "Home\n\n# Main title\n\nFirst paragraph\nwith a break & bold.\n\n- one\n- two\n\n  kept\n    blanks\n\nA | B\n1 | 2\n\ntail"
    )
    (tmp_path / "latin.html").write_bytes('<meta charset="ISO-8859-1"><h2>Grüße</h2>“'.encode("cp1252"))
    assert rows_of(source({"files": "latin.html"}), "text") == [{"text": "## Grüße\n\n“"}]
    (tmp_path / "title.html").write_text("<title> Only a\n title </title><p>x")
    assert rows_of(source({"files": "title.html"}), "text") == [{"text": "# Only a title\n\nx"}]


@needs_html
def test_deep_pages_are_walked_without_recursion() -> None:
    from selectolax.lexbor import LexborHTMLParser

    assert html_text.written(LexborHTMLParser("<i>" * 5_000 + "deep" + "</i>" * 5_000).root).strip() == "deep"


def test_markdown_and_text_are_one_row_a_file(source: Any, rows_of: Any, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# Title\n\nfirst\n\nsecond\n")
    (tmp_path / "docs" / "b.txt").write_text("\ufeffother", encoding="utf-8")
    (tmp_path / "docs" / "c.rst").write_text("  \n")
    connector = source({"files": "docs/*", "format": "document"})
    assert rows_of(connector, "text") == [{"text": "# Title\n\nfirst\n\nsecond"}, {"text": "other"}]
    assert [o for block in connector.blocks(["text"]) for o in block.origins()] == ["a.md:1", "b.txt:1"]
    # by its name alone, Markdown is read by paragraphs as it always was
    assert rows_of(source({"files": "docs/a.md"}), "text") == [
        {"text": "# Title"},
        {"text": "first"},
        {"text": "second"},
    ]


@needs_pdf
def test_a_pdf_is_read_page_by_page_and_what_has_no_text_is_set_aside(
    prepare: Any, source: Any, rows_of: Any, tmp_path: Path
) -> None:
    (tmp_path / "docs").mkdir()
    pages = [f"page {i} of the handbook" for i in range(30)]
    (tmp_path / "docs" / "a.pdf").write_bytes(pdf(*pages[:20], None, *pages[20:]))
    (tmp_path / "docs" / "b.pdf").write_bytes(b"no PDF")
    connector = source({"files": "docs/a.pdf", "map": {"text": "text", "on_bad_row": "set_aside"}})
    assert [one["text"] for one in rows_of(connector, "text")] == pages
    done = prepare({"sources": [{"files": "docs/*.pdf", "map": {"text": "text", "on_bad_row": "set_aside"}}]})
    assert sorted(one["text"] for one in done.rows()) == sorted(pages)
    removed = {one["origin"]: one["reason"] for one in done.removed()}
    assert (
        removed["a.pdf:21"] == "the page shows pictures and no text; read it with OCR first, or leave it out"
    )
    assert removed["b.pdf:1"].startswith("this is not a readable PDF")
    assert (done.rule("read")["rows_in"], done.rule("read")["removed"]) == (32, 2)


@needs_html
def test_a_reader_that_is_left_halfway_is_not_used_again(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<p>a")
    with open(tmp_path / "a.html", "rb") as stream:
        halfway = apart.rows_apart("html_text", stream, "documents")
        assert next(halfway) == [1, "a"]
        before = len(apart._idle)
        halfway.close()
        assert len(apart._idle) == before
        stream.seek(0)
        assert list(apart.rows_apart("html_text", stream, "documents")) == [[1, "a"]]
        assert len(apart._idle) == before + 1


def test_a_missing_library_says_what_to_install(
    source: Any, rows_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hidden").mkdir()
    for name in ("python_calamine", "pypdf", "selectolax"):
        (tmp_path / "hidden" / f"{name}.py").write_text(f"raise ModuleNotFoundError('no', name={name!r})")
    monkeypatch.syspath_prepend(str(tmp_path / "hidden"))
    monkeypatch.setattr(apart, "_idle", [])
    for name, extra in (("a.xlsx", "excel"), ("a.pdf", "documents"), ("a.html", "documents")):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(MissingPart, match=rf"luthier\[{extra}\]"):
            rows_of(source({"files": name}), "text")
    while apart._idle:
        apart._idle.pop().stop()


@pytest.mark.parametrize(("suffix", "pack"), [("bz2", bz2.compress), ("xz", lzma.compress)])
def test_streams_that_follow_one_another_are_read_to_the_end_or_refused(
    source: Any, rows_of: Any, tmp_path: Path, suffix: str, pack: Any
) -> None:
    one, two = (pack(b"".join(b'{"id": %d}\n' % n for n in numbers)) for numbers in (range(3), range(3, 5)))
    file = tmp_path / f"rows.jsonl.{suffix}"
    wish = {"files": file.name}
    file.write_bytes(one + two)
    assert [row["id"] for row in rows_of(source(wish), "id")] == [0, 1, 2, 3, 4]
    file.write_bytes(one + bytes(200_000) + two)  # a tape's padding
    assert [row["id"] for row in rows_of(source(wish), "id")] == [0, 1, 2, 3, 4]
    for damaged in (one + b"XXXX" + two[4:], one + two[:-6], one + b"behind"):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match="damaged or cut off"):
            rows_of(source(wish), "id")


def test_messages_of_parts_are_read_from_parquet_as_from_json_lines(
    source: Any, rows_of: Any, tmp_path: Path
) -> None:
    from luthier.data.connectors.cells import conversations

    parts = [{"type": "text", "text": "Hello "}, {"type": "text", "text": "there"}]
    turns = [
        [
            {"role": "user", "content": parts},
            {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]},
        ]
    ]
    typed, problems = conversations(pa.array(turns), "messages", ("role", "content"), "rows.parquet")
    plain, _ = conversations(turns, "messages", ("role", "content"), "rows.jsonl")
    assert problems == {} and typed.to_pylist() == plain.to_pylist()
    assert typed.to_pylist()[0][0] == {"role": "user", "content": "Hello there"}


def test_a_footer_of_lists_in_lists_is_nested_too_deeply() -> None:
    from luthier.data.connectors.parquet_footer import _Thrift

    with pytest.raises(ValueError, match="nested too deeply"):
        _Thrift(b"\x19" * 2_000).record()
