"""Every hostile file leads to one error that names place, rule and remedy, or to rows that are set aside with the reason: never a
traceback, never a wait without end, never memory without bound.

All cases are read in one process of their own (`read.py`), each twice: where bad rows stop, and where they are set aside.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
OFFERED = "; or set map: {on_bad_row: set_aside} to keep such rows out, with the reason on record."
MOST_MB = 400
"""Above what the process held before: a row of 64 MB four times over, as bytes, text, value and message."""


@dataclass(frozen=True)
class Told:
    """An error; `*` stands for anything."""

    message: str
    remedy: str
    offered: str = ""


@dataclass(frozen=True)
class Read:
    """How many rows were read, the first three, and every one that was set aside."""

    rows: int
    first: list[str]
    bad: list[str] | None = None


# fmt: off
WANT: dict[str, Told | Read | tuple[Told, Told | Read]] = {
    'truncated.jsonl.gz': Told('truncated.jsonl.gz: cannot be read: the compressed data is damaged or cut off (Compressed file ended before the end-of-stream marker was reached).', 'Fetch or compress the file again.'),
    'no-gzip.jsonl.gz': Told("no-gzip.jsonl.gz: cannot be read: the compressed data is damaged or cut off (Not a gzipped file (b'he')).", 'Fetch or compress the file again.'),
    'damaged.jsonl.gz': Told('damaged.jsonl.gz: cannot be read: the compressed data is damaged or cut off (CRC check failed *).', 'Fetch or compress the file again.'),
    'twice.jsonl.gz': (Told("twice.jsonl.gz:1: not UTF-8: byte 0x8b at position 2 of the line, in '\\x1f*.", 'Convert the file, for example: iconv -f WINDOWS-1252 -t UTF-8 IN > OUT', OFFERED), Told("twice.jsonl.gz:1: no row can be read; of this one, not UTF-8: byte 0x8b at position 2 of the line, in '\\x1f*.", 'Is it the right format?')),
    'truncated.jsonl.zst': Told('truncated.jsonl.zst: cannot be read: the compressed data is damaged or cut off (Truncated compressed stream).', 'Fetch or compress the file again.'),
    'truncated.jsonl.bz2': Told('truncated.jsonl.bz2: cannot be read: the compressed data is damaged or cut off (the file ends before the end-of-stream marker).', 'Fetch or compress the file again.'),
    'truncated.jsonl.xz': Told('truncated.jsonl.xz: cannot be read: the compressed data is damaged or cut off (the file ends before the end-of-stream marker).', 'Fetch or compress the file again.'),
    'greedy.jsonl.xz': Told('greedy.jsonl.xz: cannot be read: the compressed data is damaged or cut off (xz decompress failed: Memory usage limit exceeded).', 'Fetch or compress the file again.'),
    'bomb.jsonl.gz': Told('bomb.jsonl.gz: * stored bytes hold more than 200 times as many (* so far): this looks like a decompression bomb.', 'If it is data, store it less tightly packed (decompressed, or in another format) and read that.'),
    'bomb.jsonl.bz2': Told('bomb.jsonl.bz2: * stored bytes hold more than 200 times as many (* so far): this looks like a decompression bomb.', 'If it is data, store it less tightly packed (decompressed, or in another format) and read that.'),
    'bomb.jsonl.xz': Told('bomb.jsonl.xz: * stored bytes hold more than 200 times as many (* so far): this looks like a decompression bomb.', 'If it is data, store it less tightly packed (decompressed, or in another format) and read that.'),
    'bomb.jsonl.zst': Told('bomb.jsonl.zst: * stored bytes hold more than 200 times as many (* so far): this looks like a decompression bomb.', 'If it is data, store it less tightly packed (decompressed, or in another format) and read that.'),
    'mixed.jsonl': (Told('mixed.jsonl:2: not UTF-8: byte 0xfc at position 13 of the line, in \'{"text": "Grüße"}\'.', 'Convert the file, for example: iconv -f WINDOWS-1252 -t UTF-8 IN > OUT', OFFERED), Read(2, ['mixed.jsonl:1 good', 'mixed.jsonl:3 good'], ['mixed.jsonl:2: not UTF-8: byte 0xfc at position 13 of the line, in \'{"text": "Grüße"}\''])),
    'mixed.csv': (Told("mixed.csv:3: not UTF-8: byte 0xfc at position 3 of the line, in 'Grüße,2\\n'.", 'Convert the file, for example: iconv -f WINDOWS-1252 -t UTF-8 IN > OUT', OFFERED), Read(2, ['mixed.csv:2 Grüße', 'mixed.csv:4 fine'], ["mixed.csv:3: not UTF-8: byte 0xfc at position 3 of the line, in 'Grüße,2\\n'"])),
    'mixed.txt': (Told("mixed.txt:3: not UTF-8: byte 0xe9 at position 4 of the line, in 'café\\n'.", 'Convert the file, for example: iconv -f WINDOWS-1252 -t UTF-8 IN > OUT', OFFERED), Read(2, ['mixed.txt:1 first', 'mixed.txt:5 third'], ["mixed.txt:3: not UTF-8: byte 0xe9 at position 4 of the line, in 'café\\n'"])),
    'overlong.jsonl': (Told('overlong.jsonl:2: not UTF-8: byte 0xc0 at position 11 of the line, in \'{"text": "À¯"}\'.', 'Convert the file, for example: iconv -f WINDOWS-1252 -t UTF-8 IN > OUT', OFFERED), Read(2, ['overlong.jsonl:1 good', 'overlong.jsonl:3 good'], ['overlong.jsonl:2: not UTF-8: byte 0xc0 at position 11 of the line, in \'{"text": "À¯"}\''])),
    'bom.jsonl': Read(1, ['bom.jsonl:1 good']),
    'bom-inside.jsonl': (Told('bom-inside.jsonl:2: this is not valid JSON: Expecting value (column 1).\n  \\ufeff{"text": "good"}', 'Correct or remove it; nothing was read past it and nothing was dropped', OFFERED), Read(1, ['bom-inside.jsonl:1 good'], ['bom-inside.jsonl:2: this is not valid JSON: Expecting value (column 1)'])),
    'utf16.jsonl': Told('utf16.jsonl: this is UTF-16 (or no text at all), and text is read as UTF-8.', 'Convert the file, for example: iconv -f UTF-16 -t UTF-8 IN > OUT'),
    'utf16-no-mark.csv': Told('utf16-no-mark.csv: this is UTF-16 (or no text at all), and text is read as UTF-8.', 'Convert the file, for example: iconv -f UTF-16 -t UTF-8 IN > OUT'),
    'utf32.txt': Told('utf32.txt: this is UTF-32 (or no text at all), and text is read as UTF-8.', 'Convert the file, for example: iconv -f UTF-32 -t UTF-8 IN > OUT'),
    'crlf.jsonl': Read(2, ['crlf.jsonl:1 a', 'crlf.jsonl:3 b']),
    'cr-alone.csv': Read(2, ['cr-alone.csv:2 a', 'cr-alone.csv:3 b']),
    'nul.jsonl': (Told('nul.jsonl:2: this is not valid JSON: Invalid control character at (column 12).\n  {"text": "a\\x00b"}', 'Correct or remove it; nothing was read past it and nothing was dropped', OFFERED), Read(3, ['nul.jsonl:1 good', 'nul.jsonl:3 a\x00b', 'nul.jsonl:4 good'], ['nul.jsonl:2: this is not valid JSON: Invalid control character at (column 12)'])),
    'nul.csv': Read(1, ['nul.csv:2 a\x00b']),
    'digits.jsonl': (Told('digits.jsonl:2: this is not valid JSON: a number has 5,000 digits.\n  {"text": 1111*', 'Correct or remove it; nothing was read past it and nothing was dropped', OFFERED), Read(2, ['digits.jsonl:1 good', 'digits.jsonl:3 good'], ['digits.jsonl:2: this is not valid JSON: a number has 5,000 digits'])),
    'deep.jsonl': (Told('deep.jsonl:2: this is not valid JSON: it is nested too deeply.\n  {"text": [[[[[*', 'Correct or remove it; nothing was read past it and nothing was dropped', OFFERED), Read(2, ['deep.jsonl:1 good', 'deep.jsonl:3 good'], ['deep.jsonl:2: this is not valid JSON: it is nested too deeply'])),
    'deep-201.jsonl': (Told('deep-201.jsonl:2: this is not valid JSON: it is nested too deeply.\n  {"x": [[[[[*', 'Correct or remove it; nothing was read past it and nothing was dropped', OFFERED), Read(3, ['deep-201.jsonl:1 good', 'deep-201.jsonl:3 200', 'deep-201.jsonl:4 good'], ['deep-201.jsonl:2: this is not valid JSON: it is nested too deeply'])),
    'surrogates.jsonl': (Told('surrogates.jsonl:2: this is not valid JSON: it holds half a surrogate pair (\\ud800 to \\udfff), which is no character.\n  {"text": "\\ud800"}', 'Correct or remove it; nothing was read past it and nothing was dropped', OFFERED), Read(3, ['surrogates.jsonl:1 good', 'surrogates.jsonl:3 😀', 'surrogates.jsonl:4 good'], ['surrogates.jsonl:2: this is not valid JSON: it holds half a surrogate pair (\\ud800 to \\udfff), which is no character'])),
    'keys-twice.jsonl': (Told('keys-twice.jsonl:2: this is not valid JSON: the key \'text\' stands twice in one object.\n  {"text": "a", "text": "b"}', 'Correct or remove it; nothing was read past it and nothing was dropped', OFFERED), Read(2, ['keys-twice.jsonl:1 good', 'keys-twice.jsonl:3 good'], ["keys-twice.jsonl:2: this is not valid JSON: the key 'text' stands twice in one object"])),
    'not-a-number.jsonl': (Told('not-a-number.jsonl:2: this is not valid JSON: NaN is not JSON.\n  {"text": NaN}', 'Correct or remove it; nothing was read past it and nothing was dropped', OFFERED), Read(2, ['not-a-number.jsonl:1 good', 'not-a-number.jsonl:5 good'], ['not-a-number.jsonl:2: this is not valid JSON: NaN is not JSON', 'not-a-number.jsonl:3: this is not valid JSON: the number 1e999 is too large', 'not-a-number.jsonl:4: this is not valid JSON: -Infinity is not JSON'])),
    'no-object.jsonl': (Told('no-object.jsonl:2: this is not valid JSON: a row must be an object {...}, and this is a string.\n  "text"', 'Correct or remove it; nothing was read past it and nothing was dropped', OFFERED), Read(2, ['no-object.jsonl:1 good', 'no-object.jsonl:7 good'], ['no-object.jsonl:2: this is not valid JSON: a row must be an object {...}, and this is a string', 'no-object.jsonl:3: this is not valid JSON: a row must be an object {...}, and this is an array', 'no-object.jsonl:4: this is not valid JSON: a row must be an object {...}, and this is null', 'no-object.jsonl:5: this is not valid JSON: Expecting property name enclosed in double quotes (column 2)', 'no-object.jsonl:6: this is not valid JSON: Extra data (column 15)'])),
    'array-values.json': (Told('array-values.json:2: this is not valid JSON: the number 1e999 is too large.\n  {"text": 1e999},\\n{"text": "b", "x": [NaN]},\\n{"x": [[[[[*', 'Correct or remove it; nothing was read past it and nothing was dropped', OFFERED), Read(2, ['array-values.json:1 a', 'array-values.json:7 d'], ['array-values.json:2: this is not valid JSON: the number 1e999 is too large', 'array-values.json:3: this is not valid JSON: NaN is not JSON', 'array-values.json:4: this is not valid JSON: it is nested too deeply', "array-values.json:5: this is not valid JSON: the key 'text' stands twice in one object", 'array-values.json:6: this is not valid JSON: a row must be an object {...}, and this is a number', 'array-values.json:7: this is not valid JSON: it holds half a surrogate pair (\\ud800 to \\udfff), which is no character'])),
    'array-broken.json': (Told('array-broken.json:2: this is not valid JSON: Expecting \',\' delimiter (column 14).\n  {"text": "b" "c"},\\n{"text": "d"}]', 'Correct or remove it; nothing was read past it and nothing was dropped', OFFERED), Told('array-broken.json:2: this is not valid JSON: Expecting \',\' delimiter (column 14).\n  {"text": "b" "c"},\\n{"text": "d"}]', 'Correct or remove it; nothing was read past it and nothing was dropped; written as JSON Lines, a row that is broken does not stop the others.')),
    'array-open.json': (Told('array-open.json:2: this is not valid JSON: Unterminated string starting at (column 25).\n  {"text": "b', 'Correct or remove it; nothing was read past it and nothing was dropped', OFFERED), Told('array-open.json:2: this is not valid JSON: Unterminated string starting at (column 25).\n  {"text": "b', 'Correct or remove it; nothing was read past it and nothing was dropped; written as JSON Lines, a row that is broken does not stop the others.')),
    'new-keys.jsonl': Read(200, ['new-keys.jsonl:1 a', 'new-keys.jsonl:2 a', 'new-keys.jsonl:3 a']),
    'long-line.jsonl': Told('long-line.jsonl:2: a line is longer than 64,000,000 bytes.', 'Is it the right file? If so, set `format:`.'),
    'long-line.csv': Told('long-line.csv:3: a line is longer than 64,000,000 bytes.', 'Is it the right file? If so, set `format:`.'),
    'long-paragraph.txt': Told('long-paragraph.txt:1: a paragraph (blank lines divide them) is longer than 64,000,000 bytes.', 'Is it the right file? If so, set `format:`.'),
    'long-document.md': Told('long-document.md: a document is longer than 64,000,000 bytes.', 'Is it the right file? If so, set `format:`.'),
    'line-breaks.csv': Read(2, ['line-breaks.csv:2 two\r\nlines', 'line-breaks.csv:4 a "word"']),
    'open-quote.csv': (Told('open-quote.csv:3: this is not valid CSV: unexpected end of data.', 'Fields with separators, quotes or line breaks stand in "..."; a quote inside is written ""', OFFERED), Read(3, ['open-quote.csv:2 a', 'open-quote.csv:4 c', 'open-quote.csv:5 d'], ['open-quote.csv:3: this is not valid CSV: unexpected end of data'])),
    'odd-quote.csv': (Told('odd-quote.csv:3: this is not valid CSV: \',\' expected after \'"\'.', 'Fields with separators, quotes or line breaks stand in "..."; a quote inside is written ""', OFFERED), Read(2, ['odd-quote.csv:2 a', 'odd-quote.csv:4 d'], ['odd-quote.csv:3: this is not valid CSV: \',\' expected after \'"\''])),
    'ragged.csv': (Told('ragged.csv:3: this row has 3 fields, and the header has 2 (text, n).\n  b, 2, 3', 'Is a separator inside a field? Such a field must stand in "..."', OFFERED), Read(2, ['ragged.csv:2 a', 'ragged.csv:6 d'], ['ragged.csv:3: this row has 3 fields, and the header has 2 (text, n)', 'ragged.csv:4: this row has 1 fields, and the header has 2 (text, n)'])),
    'header-twice.csv': Told("header-twice.csv:1: the column 'text' stands twice in the header.", 'Rename one of them.'),
    'many-columns.csv': Read(1, ['many-columns.csv:2 a']),
    'header-alone.csv': Told('header-alone.csv: there are no rows in it.', 'Point `files:` at data.'),
    'no-parquet.parquet': Told('no-parquet.parquet: this is not a readable Parquet file: it does not end as a Parquet file does: cut off, encrypted, or none.', 'Write it again, or set `format:`.'),
    'truncated.parquet': Told('truncated.parquet: this is not a readable Parquet file: it does not end as a Parquet file does: cut off, encrypted, or none.', 'Write it again, or set `format:`.'),
    'magic-alone.parquet': Told("magic-alone.parquet: this is not a readable Parquet file: its footer is damaged.", 'Write it again, or set `format:`.'),
    'huge-page.parquet': Told('huge-page.parquet: * stored bytes hold more than 200 times as many (* so far): this looks like a decompression bomb.', 'If it is data, store it less tightly packed (decompressed, or in another format) and read that.'),
    'unfolding.parquet': Read(4000, ['unfolding.parquet:1 0 7919 15838 23757 31676 39595', 'unfolding.parquet:2 0 7919 15838 23757 31676 39595', 'unfolding.parquet:3 0 7919 15838 23757 31676 39595']),
    'no-arrow.arrow': Told("no-arrow.arrow: this is not a readable Arrow file: a message's head is damaged.", 'Write it again (pyarrow.feather.write_feather), or set `format:`.'),
    'truncated.feather': Told('truncated.feather: this is not a readable Arrow file: the file ends within a message.', 'Write it again (pyarrow.feather.write_feather), or set `format:`.'),
    'wild-offsets.arrow': Told('wild-offsets.arrow: this is not a readable Arrow file: In column 0: Invalid: Offset invariant failure: offset for slot 2 out of bounds: 1073741824 > 12.', 'Write it again (pyarrow.feather.write_feather), or set `format:`.'),
    'bomb.arrow': Told('bomb.arrow: * stored bytes hold more than 200 times as many (* so far): this looks like a decompression bomb.', 'If it is data, store it less tightly packed (decompressed, or in another format) and read that.'),
    'formulas.xlsx': Read(3, ['formulas.xlsx#S:2 shown', "formulas.xlsx#S:3 =cmd|'/c calc'!A1", 'formulas.xlsx#S:4 +1']),
    'zip-slip.xlsx': Told("zip-slip.xlsx: a part of it is called '../../etc/cron.d/evil', which leads out of the file.", 'Open it in its own program and save it again, or export it as CSV.'),
    'bomb.xlsx': Told('bomb.xlsx: * stored bytes hold more than 200 times as many: this looks like a decompression bomb.', 'Open it in its own program and save it again, or export it as CSV.'),
    'shared-bomb.xlsx': Told('shared-bomb.xlsx: this file cannot be read safely: its reader *', 'Export it again, or convert it to JSON Lines, CSV or Parquet.'),
    'far-cell.xlsx': Told('far-cell.xlsx: this file cannot be read safely: its reader *', 'Export it again, or convert it to JSON Lines, CSV or Parquet.'),
    'laughs.xlsx': Read(1, ['laughs.xlsx#S:2 a']),
    'two-sheets.xlsx': Told('two-sheets.xlsx#Other: the columns are other, and those of two-sheets.xlsx#First are text.', 'Name the sheet to read, for example sheet: Tickets'),
    'no-workbook.xlsx': Told('no-workbook.xlsx: this is not a readable workbook (Cannot detect file format).', 'Open it in its own program and save it again, or export it as CSV.'),
    'truncated.xlsx': Told('truncated.xlsx: this is not a readable workbook (Cannot detect file format).', 'Open it in its own program and save it again, or export it as CSV.'),
    'pages.pdf': (Told('pages.pdf:2: the page shows pictures and no text; read it with OCR first, or leave it out.', 'Leave the file out', OFFERED), Read(2, ['pages.pdf:1 first page', 'pages.pdf:3 third page'], ['pages.pdf:2: the page shows pictures and no text; read it with OCR first, or leave it out'])),
    'pictures.pdf': (Told('pictures.pdf:1: the page shows pictures and no text; read it with OCR first, or leave it out.', 'Leave the file out', OFFERED), Told('pictures.pdf:1: no row can be read; of this one, the page shows pictures and no text; read it with OCR first, or leave it out.', 'Is it the right format?')),
    'encrypted.pdf': (Told('encrypted.pdf: the PDF is encrypted.', 'Save it without a password', OFFERED), Told('encrypted.pdf:1: no row can be read; of this one, the PDF is encrypted.', 'Is it the right format?')),
    'truncated.pdf': (Told('truncated.pdf: this is not a readable PDF (Stream has ended unexpectedly).', 'Print it into a new PDF', OFFERED), Told('truncated.pdf:1: no row can be read; of this one, this is not a readable PDF (Stream has ended unexpectedly).', 'Is it the right format?')),
    'no-pdf.pdf': (Told('no-pdf.pdf: this is not a readable PDF (Stream has ended unexpectedly).', 'Print it into a new PDF', OFFERED), Told('no-pdf.pdf:1: no row can be read; of this one, this is not a readable PDF (Stream has ended unexpectedly).', 'Is it the right format?')),
    'deep.html': (Told('deep.html: this file cannot be read safely: its reader *', 'Export it again, or convert it to JSON Lines, CSV or Parquet', OFFERED), Told('deep.html:1: no row can be read; of this one, this file cannot be read safely: its reader *', 'Is it the right format?')),
    'lying-charset.html': (Told('lying-charset.html: not UTF-8: byte 0xe9 at position 29 of the line, in \'arset="utf-8"><p>café</p>\'.', 'Convert the file, for example: iconv -f WINDOWS-1252 -t UTF-8 IN > OUT', OFFERED), Told('lying-charset.html:1: no row can be read; of this one, not UTF-8: byte 0xe9 at position 29 of the line, in \'arset="utf-8"><p>café</p>\'.', 'Is it the right format?')),
    'no-charset.html': (Told("no-charset.html: it says that its encoding is 'zip', and there is none.", "Correct the page's charset", OFFERED), Told("no-charset.html:1: no row can be read; of this one, it says that its encoding is 'zip', and there is none.", 'Is it the right format?')),
    'script.html': Read(1, ['script.html:1 # T\n\n## Head\n\na <b> &c']),
    'empty.jsonl': Told('empty.jsonl: there are no rows in it: the file is empty.', 'Point `files:` at data.'),
    'blank.jsonl': Told('blank.jsonl: there are no rows in it.', 'Point `files:` at data.'),
    'empty.jsonl.gz': Told('empty.jsonl.gz: there are no rows in it: the file is empty.', 'Point `files:` at data.'),
    'empty.parquet': Told('empty.parquet: this is not a readable Parquet file: the file is too short.', 'Write it again, or set `format:`.'),
    'empty.xlsx': Told('empty.xlsx: this is not a readable workbook (Cannot detect file format).', 'Open it in its own program and save it again, or export it as CSV.'),
    'empty.pdf': (Told('empty.pdf: this is not a readable PDF (Cannot read an empty file).', 'Print it into a new PDF', OFFERED), Told('empty.pdf:1: no row can be read; of this one, this is not a readable PDF (Cannot read an empty file).', 'Is it the right format?')),
    'folder.jsonl': Told('folder.jsonl is a folder.', 'Name its files, for example folder.jsonl/*.jsonl'),
    'socket.jsonl': Told('FOLDER/socket.jsonl is no file: a socket, a pipe, a device or a link that leads nowhere.', 'Name files, or a pattern that finds files alone.'),
    'pipes': Told('FOLDER/pipe.jsonl is no file: a socket, a pipe, a device or a link that leads nowhere.', 'Name files, or a pattern that finds files alone.'),
    'self.jsonl': Told("self.jsonl: cannot be read: OSError: [Errno 40] Too many levels of symbolic links: 'FOLDER/self.jsonl'.", 'Check the path, the rights to read it, and the credentials.'),
    'links': Told('FOLDER/broken.jsonl is no file: a socket, a pipe, a device or a link that leads nowhere.', 'Name files, or a pattern that finds files alone.'),
    'circle': Read(1, ['d/a.jsonl:1 good']),
    'odd-names': (Told('\\x1b[31mred.jsonl:1: this is not valid JSON: Expecting value (column 1).\n  no JSON', 'Correct or remove it; nothing was read past it and nothing was dropped', OFFERED), Read(4, ['\\x1b[31mred.jsonl:2 good', 'a\\nb.jsonl:2 good', 'caf\\udce9.jsonl:2 good'], ['\\x1b[31mred.jsonl:1: this is not valid JSON: Expecting value (column 1)', 'a\\nb.jsonl:1: this is not valid JSON: Expecting value (column 1)', 'caf\\udce9.jsonl:1: this is not valid JSON: Expecting value (column 1)', '\\u202egnp.jsonl:1: this is not valid JSON: Expecting value (column 1)'])),
    'device': Told('/dev/zero is no file: a socket, a pipe, a device or a link that leads nowhere.', 'Name files, or a pattern that finds files alone.'),
}
# fmt: on
NEEDS = {".xlsx": "python_calamine", ".pdf": "pypdf", ".html": "selectolax"}


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    path = os.pathsep.join(place for place in sys.path if place)
    done = subprocess.run(
        [sys.executable, str(HERE / "read.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    told = {one["name"]: one for one in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 0, f"died after {list(told)[-1:]}: {done.stderr[-2000:]}"
    return told


def matches(pattern: str, text: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), text, re.DOTALL) is not None


@pytest.mark.parametrize("name", WANT)
def test_a_hostile_file_is_told_or_set_aside(found: dict[str, dict[str, Any]], name: str) -> None:
    package = NEEDS.get(Path(name).suffix)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    wanted = WANT[name]
    refused, set_aside = wanted if isinstance(wanted, tuple) else (wanted, wanted)
    for got, want in ((found[name]["refuse"], refused), (found[name]["set_aside"], set_aside)):
        assert "crash" not in got, got["crash"]
        assert got["seconds"] < 50
        if isinstance(want, Told):
            assert got.get("kind") == "DataError"
            assert matches(want.message, got["error"]), got["error"]
            assert got["remedy"] == want.remedy + want.offered
            assert len(got["error"]) < 600
            assert all(sign.isprintable() or sign == "\n" for sign in got["error"])
        else:
            assert got.get("error") is None
            assert got["rows"] == want.rows
            assert [f"{origin} {text[:30]}" for origin, text in got["texts"][:3]] == want.first
            told = [f"{origin}: {reason}" for origin, reason, _ in got["bad"]]
            assert len(told) == len(want.bad or [])
            assert all(matches(p, t) for p, t in zip(want.bad or [], told, strict=True)), told
            assert all(len(preview) <= 200 for _, _, preview in got["bad"])
    assert found[name]["peak_mb"] < MOST_MB


def test_every_case_is_expected_and_there_are_enough(found: dict[str, dict[str, Any]]) -> None:
    assert list(found) == list(WANT)
    assert len(WANT) >= 40
