"""Where bad rows are set aside, they are counted, kept with place and reason, and the rows around them are read as if they were
not there."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.errors import DataError
from luthier.data.connectors import csv_rows, json_rows, text_rows

BAD_LINES = [b"{", b"\xff", b'{"text": NaN}', b"[]", b'{"text": "a", "text": "b"}', b'{"text": "\\ud800"}', b'{"text": ' + b"[" * 300 + b"]" * 300 + b"}"]  # fmt: skip


def read(reader: Any, data: bytes, **how: Any) -> tuple[list[str], list[int], list[int]]:
    """Texts, their lines, and the lines of those set aside."""
    told: list[str] = []
    lines: list[int] = []
    bad: list[int] = []
    for block in reader.read(io.BytesIO(data), "t", ["text"], **how):
        told += block.columns["text"]
        lines += block.lines
        bad += [one.line for one in block.bad]
    return told, lines, bad


texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0\ufeff"), min_size=1, max_size=8)


@given(st.lists(texts | st.sampled_from(BAD_LINES), max_size=30), st.integers(1, 60), st.booleans())
@settings(max_examples=60, deadline=None)
def test_json_rows_around_bad_ones_are_all_read(rows: list[str | bytes], size: int, in_array: bool) -> None:
    written = [one if isinstance(one, bytes) else json.dumps({"text": one}).encode() for one in rows]
    good = [(n, one) for n, one in enumerate(rows, 1) if isinstance(one, str)]
    bad = [n for n, one in enumerate(rows, 1) if isinstance(one, bytes)]
    data = b"\n".join(written)
    if in_array:  # what is not well-formed has no end in an array
        keep = [n for n, one in enumerate(rows) if isinstance(one, str) or one not in BAD_LINES[:2]]
        data = b"[" + b",\n".join(written[n] for n in keep) + b"]"
        good = [(line, rows[n]) for line, n in enumerate(keep, 1) if isinstance(rows[n], str)]  # type: ignore[misc]
        bad = [line for line, n in enumerate(keep, 1) if isinstance(rows[n], bytes)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "BLOCK_BYTES", size)
        # a first line that begins with a bracket would be an array
        shift = 0 if in_array else 1
        data = data if in_array else b'{"text": "first"}\n' + data
        told, lines, aside = read(json_rows, data, aside=True)
    assert told[shift:] == [one for _, one in good]
    assert lines[shift:] == [n + shift for n, _ in good]
    assert aside == [n + shift for n in bad]


BAD_CSV = [b"only one field\n", b"a,b,c\n", b'"b"c,d\n', b"\xff,x\n", b'"x\xfe",y\n']
fields = st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff"), min_size=1, max_size=8)


@given(st.lists(fields | st.sampled_from(BAD_CSV), max_size=25), st.integers(1, 6))
@settings(max_examples=80, deadline=None)
def test_csv_rows_around_bad_ones_are_all_read(rows: list[str | bytes], size: int) -> None:
    data, line = b"text,n\r\n", 2
    good: list[tuple[int, str]] = []
    bad: list[int] = []
    for one in rows:
        if isinstance(one, bytes):
            piece = one
            bad.append(line)
        else:
            out = io.StringIO(newline="")
            csv.writer(out, quoting=csv.QUOTE_ALL).writerow([one, "1"])
            piece = out.getvalue().encode()
            good.append((line, one))
        data += piece
        line += len(io.StringIO(piece.decode("utf-8", "replace"), newline="").readlines())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_rows, "ROWS", size)
        told, lines, aside = read(csv_rows, data, aside=True)
        assert (told, lines) == ([one for _, one in good], [n for n, _ in good])
        assert aside == bad
        if not bad:
            assert read(csv_rows, data) == (told, lines, [])


def test_a_quote_that_never_closes_costs_one_row_however_long_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(csv_rows, "LONGEST_ROW_BYTES", 500)
    rows = [f"row {i},{i}" for i in range(300)]
    rows[100] = 'row "100",100'  # a quote inside a field is none
    rows[7] = '"row 7,7'
    rows[250] = '"row 250,250'
    data = ("text,n\n" + "\n".join(rows) + "\n").encode()
    told, lines, bad = read(csv_rows, data, aside=True)
    assert bad == [9, 252]
    assert told == [row.partition(",")[0] for i, row in enumerate(rows) if i not in (7, 250)]
    assert lines == [i + 2 for i in range(300) if i not in (7, 250)]
    with pytest.raises(
        DataError, match=r"t:9: this is not valid CSV: a row does not end within 500 characters"
    ):
        read(csv_rows, data)


def test_paragraphs_around_bad_ones_are_all_read() -> None:
    data = b"one\n\ncaf\xe9\nmore of it\n\nthree\nfour\n\n\xff"
    assert read(text_rows, data, aside=True) == (["one", "three\nfour"], [1, 6], [3, 9])


def test_bad_rows_of_several_files_are_in_the_account_and_the_quarantine(
    prepare: Any, tmp_path: Path
) -> None:
    good = [json.dumps({"text": f"text {i}", "label": "ab"[i % 2]}) for i in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join([*good, '{"text": "cut', '{"text": "no label"}']) + "\n")
    (tmp_path / "b.csv").write_bytes(b"text,label\nmore,a\ntoo,many,fields\ncaf\xe9,b\n")
    told = {"map": {"user": "text", "label": "label", "on_bad_row": "set_aside"}}
    done = prepare(
        {"sources": [{"files": "a.jsonl", **told}, {"files": "b.csv", **told}]}, {"kind": "classify"}
    )
    removed = {row["origin"]: (row["rule"], row["reason"], row["preview"]) for row in done.removed()}
    assert removed == {
        "a.jsonl:41": (
            "read",
            "this is not valid JSON: Unterminated string starting at (column 10)",
            '{"text": "cut',
        ),
        "a.jsonl:42": ("read", "the label is missing ('label' is empty)", "no label"),
        "b.csv:3": ("read", "this row has 3 fields, and the header has 2 (text, label)", "too,many,fields\n"),
        "b.csv:4": ("read", "not UTF-8: byte 0xe9 at position 4 of the line, in 'café,b\\n'", "caf�,b\n"),
    }
    account = done.rule("read")
    assert (account["rows_in"], account["rows_out"], account["removed"]) == (45, 41, 4)
    assert done.bytes() == prepare({"sources": [{"files": "a.jsonl", **told}, {"files": "b.csv", **told}]}, {"kind": "classify"}).bytes()  # fmt: skip


def test_where_nothing_is_said_of_bad_rows_the_first_stops_and_offers_the_way_on(
    prepare: Any, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(
        DataError, match=r"a\.jsonl:2: this is not valid JSON(.|\n)*or set map: \{on_bad_row: set_aside\}"
    ):
        prepare({"sources": [{"files": "a.jsonl"}]})


def test_a_file_whose_quotes_never_close_nearby_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line closes a field and opens another, so that every row reads on to the end."""
    monkeypatch.setattr(csv_rows, "MOST_AGAIN", 50_000)
    text = "a,b\n" + 'x","y\n' * 20_000
    with pytest.raises(DataError, match="cannot be read as CSV"):
        list(csv_rows.read(io.BytesIO(text.encode()), "t.csv", None, aside=True))


def test_bad_paragraphs_come_in_blocks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_rows, "BLOCK_BYTES", 100_000)
    text = b"\xff" + b"x" * 2_000 + b"\n\n"
    blocks = list(text_rows.read(io.BytesIO(text * 5_000), "t.txt", None, aside=True))
    assert len(blocks) > 1 and sum(len(block.bad) for block in blocks) == 5_000
