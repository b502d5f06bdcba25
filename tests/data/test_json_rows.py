from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.errors import DataError
from luthier.data.connectors import faults, json_rows

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
some_rows = st.lists(st.dictionaries(st.text(max_size=5), values, max_size=4), max_size=8)


def read(data: bytes, columns: list[str] | None = None) -> tuple[list[dict[str, Any]], list[int]]:
    rows, lines = [], []
    for block in json_rows.read(io.BytesIO(data), "t.json", columns):
        lines += block.lines
        rows += [{name: column[i] for name, column in block.columns.items()} for i in range(len(block))]
    return rows, lines


@given(some_rows, st.sampled_from(["\n", "\r\n", "\n\n \n"]), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_lines_and_arrays_hold_the_same_rows_whatever_the_block_size(
    rows: list[dict[str, Any]], ending: str, size: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "BLOCK_BYTES", size)
        names = sorted({key for row in rows for key in row})
        as_lines = "".join(json.dumps(row, ensure_ascii=False) + ending for row in rows).encode()
        pretty = json.dumps(rows, indent=1, ensure_ascii=False).encode()
        want = [{name: row.get(name) for name in names} for row in rows]
        assert read(as_lines, names)[0] == want
        assert read(pretty, names)[0] == want
        assert read(b"\xef\xbb\xbf" + as_lines, names)[0] == want


def test_every_row_knows_its_line() -> None:
    assert read(b'\n{"a":1}\n\n{"a":2}')[1] == [2, 4]
    assert read(b'[\n {"a":1},\n\n {"a":\n2}, {"a":3}\n]\n')[1] == [2, 4, 5]
    assert read(b"[]") == ([], [])
    assert read(b"") == ([], [])


GOOD = b'{"a": "x"}\n'


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"a": "x"', "t.json:3: this is not valid JSON: Expecting ',' delimiter (column 10)"),
        (b"hello", "Expecting value"),
        (b"{'a': 1}", "Expecting property name"),
        (b'{"a": 1} {"a": 2}', "Extra data"),
        (b'{"a": "x", "a": "y"}', "the key 'a' stands twice"),
        (b'{"m": [{"role": "u", "role": "v"}]}', "the key 'role' stands twice"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1e999}', "the number 1e999 is too large"),
        (b'{"a": ' + b"1" * 5000 + b"}", "a number has 5,000 digits"),
        (b'{"a": "\\ud800"}', "half a surrogate pair"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b"[1, 2]", "a row must be an object {...}, and this is an array"),
        (b'"text"', "and this is a string"),
        (b"null", "and this is null"),
        (b"12", "and this is a number"),
        (b'{"a": "\xff"}', "t.json:3: not UTF-8: byte 0xff at position 8"),
    ],
)
def test_what_is_ambiguous_or_broken_is_refused_with_its_line(line: bytes, told: str) -> None:
    with pytest.raises(DataError) as caught:
        read(GOOD + GOOD + line + b"\n" + GOOD)
    assert told in str(caught.value)
    assert "t.json:3" in str(caught.value)
    assert caught.value.remedy
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("tail", "told"),
    [
        (b'{"a": "x"', "t.json:3"),
        (b'{"a": "x', "t.json:3: this is not valid JSON: Unterminated string"),
        (b'{"a": 1}', "t.json:3: this is not valid JSON: after an object there must be , or ]"),
        (b'{"a": 1} {"a": 2}]', "t.json:3: this is not valid JSON: after an object"),
        (b'{"a": 1},]', "t.json:3: this is not valid JSON: Expecting value"),
        (b'{"a": 1}]\nx', "t.json:4: this is not valid JSON: something follows"),
        (b"12]", "t.json:3: this is not valid JSON: a row must be an object"),
        (b'{"a": "x", "a": "y"}]', "t.json:3: this is not valid JSON: the key 'a' stands twice"),
        (
            b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]",
            "t.json:3: this is not valid JSON: it is nested too deeply",
        ),
        (b'{"a": "\\udc00"}]', "t.json:3: this is not valid JSON: it holds half a surrogate pair"),
        (b'{"a": "\xff"}]', "t.json:3: not UTF-8: byte 0xff at position 8"),
    ],
)
def test_a_broken_array_is_refused_with_its_line(tail: bytes, told: str) -> None:
    with pytest.raises(DataError) as caught:
        read(b'[{"a": "x"},\n{"a": "y"},\n' + tail)
    assert told in str(caught.value)


def test_a_line_without_end_is_refused_before_it_fills_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "LONGEST_ROW_BYTES", 1000)
    monkeypatch.setattr(faults, "LONGEST_ROW_BYTES", 1000)
    monkeypatch.setattr(json_rows, "BLOCK_BYTES", 300)
    with pytest.raises(DataError, match="longer than 1,000 bytes"):
        read(b'{"a": "' + b"x" * 5000)
    with pytest.raises(DataError, match="longer than 1,000 bytes"):
        read(b'[{"a": "' + b"x" * 5000)
