"""Hostile, damaged and odd files, made when they are needed: nothing binary lies in the repository, and nothing is random.

    CASES     name -> Case: what writes the files into an empty folder, and the source that reads them
    python tests/data/hostile/make.py FOLDER      write them all, to look at

What each must lead to stands in test_hostile.py.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import socket
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

GOOD = b'{"text": "good"}\n'


@dataclass(frozen=True)
class Case:
    write: Callable[[Path], None]
    source: dict[str, Any] = field(default_factory=dict)


CASES: dict[str, Case] = {}


def case(name: str, content: bytes | Callable[[], bytes] | Callable[[Path], None], **source: Any) -> None:
    """Content is bytes, or makes bytes, or (`_in` in its name) fills a folder."""

    def write(folder: Path) -> None:
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        elif content.__name__.endswith("_in"):
            content(folder)  # type: ignore[call-arg]
        else:
            (folder / name).write_bytes(content())  # type: ignore[call-arg, arg-type]

    CASES[name] = Case(write, {"files": name, **source})


def lines(*rows: bytes) -> bytes:
    return GOOD + b"".join(row + b"\n" for row in rows) + GOOD


def cut(data: bytes, keep: float = 0.6) -> bytes:
    return data[: int(len(data) * keep)]


def some(n: int = 2_000) -> bytes:
    """Rows that do not pack to nothing."""
    return b"".join(b'{"text": "%d is not %d"}\n' % (i * 7919 % 10007, i * 104729 % 10007) for i in range(n))


def repeated(opening: bytes, piece: bytes, times: int, pack: Callable[[], Any]) -> bytes:
    """Packed piece by piece, so that making a bomb takes no memory either."""
    out = io.BytesIO()
    packer = pack()
    out.write(packer.compress(opening))
    for _ in range(times):
        out.write(packer.compress(piece))
    out.write(packer.flush())
    return out.getvalue()


def gzip_packer() -> Any:
    import zlib

    return zlib.compressobj(9, zlib.DEFLATED, 31)


BOMB = (b'{"text": "' + b"x" * 1_000_000 + b'"}\n') * 10
TIMES = 40  # 400 MB in all


def zstd_bomb() -> bytes:
    out = io.BytesIO()
    with pa.CompressedOutputStream(out, "zstd") as packed:
        for _ in range(TIMES):
            packed.write(BOMB)
        packed.flush()
        return out.getvalue()


# packed, and cut off, damaged or far larger than they look
case("truncated.jsonl.gz", lambda: cut(gzip.compress(some())))
case("no-gzip.jsonl.gz", b"hello, I am no gzip\n")
case("damaged.jsonl.gz", lambda: (lambda data: data[:-8] + b"\0\0\0\0" + data[-4:])(gzip.compress(some(20))))
case("twice.jsonl.gz", lambda: gzip.compress(gzip.compress(some(20), mtime=0), mtime=0))
case("truncated.jsonl.zst", lambda: cut(pa.compress(some(), "zstd", asbytes=True)))
case("truncated.jsonl.bz2", lambda: cut(bz2.compress(some())))
case("truncated.jsonl.xz", lambda: cut(lzma.compress(some())))
case(
    "greedy.jsonl.xz",
    lambda: (lambda d: d[:1] + b"\xff\xff\xff\xff" + d[5:])(lzma.compress(some(20), lzma.FORMAT_ALONE)),
)
case("bomb.jsonl.gz", lambda: repeated(b"", BOMB, TIMES, gzip_packer))
case("bomb.jsonl.bz2", lambda: repeated(b"", BOMB, TIMES, bz2.BZ2Compressor))
case("bomb.jsonl.xz", lambda: repeated(b"", BOMB, TIMES, lambda: lzma.LZMACompressor(preset=0)))
case("bomb.jsonl.zst", zstd_bomb)

# encodings
case("mixed.jsonl", lines('{"text": "Grüße"}'.encode("latin-1")))
case("mixed.csv", "text,n\nGrüße,1\n".encode() + "Grüße,2\n".encode("latin-1") + b"fine,3\n")
case("mixed.txt", b"first\n\ncaf\xe9\n\nthird\n")
case("overlong.jsonl", lines(b'{"text": "\xc0\xaf"}'))
case("bom.jsonl", b"\xef\xbb\xbf" + GOOD)
case("bom-inside.jsonl", GOOD + b"\xef\xbb\xbf" + GOOD)
case("utf16.jsonl", '{"text": "wide"}\n'.encode("utf-16"))
case("utf16-no-mark.csv", "text,n\nwide,1\n".encode("utf-16-le"))
case("utf32.txt", "wide".encode("utf-32"))
case("crlf.jsonl", b'{"text": "a"}\r\n\r\n{"text": "b"}\r\n')
case("cr-alone.csv", b"text,n\ra,1\rb,2\r")
case("nul.jsonl", lines(b'{"text": "a\0b"}', b'{"text": "a\\u0000b"}'))
case("nul.csv", b"text,n\na\0b,1\n")

# JSON
case("digits.jsonl", lines(b'{"text": ' + b"1" * 5000 + b"}"))
case("deep.jsonl", lines(b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"))
case("deep-201.jsonl", lines(b'{"x": ' + b"[" * 200 + b"]" * 200 + b', "text": "201"}', b'{"x": ' + b"[" * 199 + b"]" * 199 + b', "text": "200"}'))  # fmt: skip
case("surrogates.jsonl", lines(b'{"text": "\\ud800"}', b'{"text": "\\ud83d\\ude00"}'))
case("keys-twice.jsonl", lines(b'{"text": "a", "text": "b"}'))
case("not-a-number.jsonl", lines(b'{"text": NaN}', b'{"text": 1e999}', b'{"text": -Infinity}'))
case("no-object.jsonl", lines(b'"text"', b"[1]", b"null", b"{'text': 'a'}", b'{"text": "a"} x'))
case("array-values.json", b'[{"text": "a"},\n{"text": 1e999},\n{"text": "b", "x": [NaN]},\n{"x": ' + b"[" * 3000 + b"]" * 3000 + b'},\n{"text": "c", "text": ""},\n7,\n{"text": "\\udc00"}, {"text": "d"}]')  # fmt: skip
case("array-broken.json", b'[{"text": "a"},\n{"text": "b" "c"},\n{"text": "d"}]')
case("array-open.json", b'[{"text": "a"},\n{"text": "b')
case("new-keys.jsonl", lambda: b"".join(
    json.dumps({"text": "a", **{f"k{i}-{j}": 0 for j in range(1_000)}}).encode() + b"\n" for i in range(200)
))  # fmt: skip


def long_line_in(folder: Path) -> None:
    with open(folder / "long-line.jsonl", "wb") as out:
        out.write(GOOD + b'{"text": "')
        for _ in range(200):
            out.write(b"x" * 1_000_000)
        out.write(b'"}\n')


case("long-line.jsonl", long_line_in)


def long_line_csv_in(folder: Path) -> None:
    with open(folder / "long-line.csv", "wb") as out:
        out.write(b"text,n\na,1\n")
        for _ in range(200):
            out.write(b"y" * 1_000_000)


def long_paragraph_in(folder: Path) -> None:
    with open(folder / "long-paragraph.txt", "wb") as out:
        for _ in range(1000):
            out.write(b"z" * 99_999 + b"\n")


def long_document_in(folder: Path) -> None:
    with open(folder / "long-document.md", "wb") as out:
        for _ in range(100):
            out.write(b"# z" * 300_000 + b"\n")


case("long-line.csv", long_line_csv_in)
case("long-paragraph.txt", long_paragraph_in)
case("long-document.md", long_document_in, format="document")

# CSV
case("line-breaks.csv", b'text,n\n"two\r\nlines",1\n"a ""word""",2\n')
case("open-quote.csv", b'text,n\na,1\n"b,2\nc,3\nd,4\n')
case("odd-quote.csv", b'text,n\na,1\n"b"c,2\n"d",3\n')
case("ragged.csv", b"text,n\na,1\nb,2,3\nc\n\nd,4\n")
case("header-twice.csv", b"text,text\na,b\n")
case(
    "many-columns.csv",
    lambda: ",".join(f"c{i}" for i in range(200_000)).encode() + b",text\n" + b"," * 200_000 + b"a\n",
)
case("header-alone.csv", b"text,n\n")

# Parquet, Arrow


def parquet(table: pa.Table, **how: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **how)
    return out.getvalue()


def ipc(table: pa.Table, compression: str | None = None) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_file(out, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as file:
        file.write_table(table)
    return out.getvalue()


SMALL = pa.table({"text": ["a", "b", "c"]})


def huge_page() -> bytes:
    return parquet(pa.table({"text": ["0" * 300_000_000]}), compression="zstd", use_dictionary=False)


def unfolding() -> bytes:
    """One text of a megabyte that 4,000 rows share: 4 GB of text in a file of 100 kB."""
    long = "".join(f"{i * 7919 % 100003} " for i in range(170_000))
    return parquet(pa.table({"text": pa.array([long] * 4_000)}), compression="zstd")


def wild_offsets() -> bytes:
    data = bytearray(ipc(pa.table({"text": ["aaaa", "bbbb", "cccc"]})))
    at = data.index(struct.pack("<4i", 0, 4, 8, 12))
    data[at : at + 16] = struct.pack("<4i", 0, 4, 1 << 30, 12)
    return bytes(data)


def ipc_bomb() -> bytes:
    return ipc(pa.table({"text": ["0" * 200_000_000]}), "zstd")


case("no-parquet.parquet", b"PAR0 hello, I am no Parquet file, PAR0")
case("truncated.parquet", lambda: cut(parquet(SMALL)))
case("magic-alone.parquet", b"PAR1" + b"\xff\xff\xff\x7f" + b"PAR1")
case("huge-page.parquet", huge_page)
case("unfolding.parquet", unfolding)
case("no-arrow.arrow", b"hello, I am no Arrow file")
case("truncated.feather", lambda: cut(ipc(SMALL)))
case("wild-offsets.arrow", wild_offsets)
case("bomb.arrow", ipc_bomb)

# workbooks

_XML = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"


def workbook(
    sheets: dict[str, str],
    shared: list[str] = (),
    *,
    styles: str = "",
    more: dict[str, bytes] | None = None,  # type: ignore[assignment]
) -> bytes:
    """A workbook by hand, from the XML of each sheet's rows."""
    parts = {
        "xl/workbook.xml": f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}"><sheets>'
        + "".join(f'<sheet name="{name}" sheetId="{i}" r:id="r{i}"/>' for i, name in enumerate(sheets, 1))
        + "</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">'
        + "".join(f'<Relationship Id="r{i}" Type="{_OFFICE}/worksheet" Target="worksheets/s{i}.xml"/>' for i in range(1, len(sheets) + 1))
        + f'<Relationship Id="ss" Type="{_OFFICE}/sharedStrings" Target="sharedStrings.xml"/>'
        + f'<Relationship Id="st" Type="{_OFFICE}/styles" Target="styles.xml"/></Relationships>',
        "xl/sharedStrings.xml": f'<sst xmlns="{_MAIN}">' + "".join(f"<si><t>{text}</t></si>" for text in shared) + "</sst>",
        "xl/styles.xml": f'<styleSheet xmlns="{_MAIN}">{styles}</styleSheet>',
        "_rels/.rels": f'<Relationships xmlns="{_PACKAGE}/relationships"><Relationship Id="r1" Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types"><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Default Extension="xml" ContentType="application/xml"/></Types>',
    }  # fmt: skip
    for i, rows in enumerate(sheets.values(), 1):
        parts[f"xl/worksheets/s{i}.xml"] = (
            f'<worksheet xmlns="{_MAIN}"><sheetData>{rows}</sheetData></worksheet>'
        )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, xml in parts.items():
            archive.writestr(zipfile.ZipInfo(name), (_XML + xml).encode(), zipfile.ZIP_DEFLATED)
        for name, content in (more or {}).items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def row(number: int, *cells: str) -> str:
    """`cells` are XML, or text."""
    told = [
        cell
        if cell.startswith("<c")
        else f'<c r="{chr(65 + i)}{number}" t="inlineStr"><is><t>{cell}</t></is></c>'
        for i, cell in enumerate(cells)
    ]
    return f'<row r="{number}">{"".join(told)}</row>'


FORMULAS = row(1, "text", "n") + row(
    2, '<c r="A2" t="str"><f>HYPERLINK("http://evil","x")</f><v>shown</v></c>', '<c r="B2"><f>1+1</f><v>2</v></c>'
) + row(3, "=cmd|'/c calc'!A1", "@SUM(1)") + row(4, "+1", "-2")  # fmt: skip
SHEET = row(1, "text") + row(2, "a")


def shared_bomb() -> bytes:
    """200,000 cells that show one text of 32,000 characters: 6 GB in a file of half a megabyte."""
    cells = "".join(f'<row r="{i}"><c r="A{i}" t="s"><v>1</v></c></row>' for i in range(2, 200_002))
    return workbook({"S": '<row r="1"><c r="A1" t="s"><v>0</v></c></row>' + cells}, ["text", "x" * 32_000])


LAUGHS = b'<!DOCTYPE l [<!ENTITY a "ha">' + b"".join(
    b'<!ENTITY %c "%s">' % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(9)
) + b"]><l>&j;</l>"  # fmt: skip

case("formulas.xlsx", lambda: workbook({"S": FORMULAS}))
case("zip-slip.xlsx", lambda: workbook({"S": SHEET}, more={"../../etc/cron.d/evil": b"* * * * * root true"}))
case("bomb.xlsx", lambda: workbook({"S": SHEET}, more={"xl/media/big.bin": b"\0" * 200_000_000}))
case("shared-bomb.xlsx", shared_bomb)
case(
    "far-cell.xlsx", lambda: workbook({"S": SHEET + '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'})
)
case("laughs.xlsx", lambda: workbook({"S": SHEET}, more={"xl/laughs.xml": LAUGHS}))
case(
    "two-sheets.xlsx", lambda: workbook({"First": SHEET, "Empty": "", "Other": row(1, "other") + row(2, "b")})
)
case("no-workbook.xlsx", b"hello, I am no workbook")
case("truncated.xlsx", lambda: cut(workbook({"S": SHEET})))

# documents


def pdf(*pages: str | None) -> bytes:
    """Text on each page, or a picture (None)."""
    picture = b"<< /Type /XObject /Subtype /Image /Width 1 /Height 1 /ColorSpace /DeviceGray /BitsPerComponent 8 /Length 1 >>\nstream\n\0\nendstream"  # fmt: skip
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        picture,
    ]
    kids = []
    for text in pages:
        shown = b"/I Do" if text is None else b"BT /F 12 Tf 72 700 Td (" + text.encode("latin-1") + b") Tj ET"
        what = b"/XObject << /I 4 0 R >>" if text is None else b"/Font << /F 3 0 R >>"
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(shown), shown))
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << %s >> /Contents %d 0 R >>" % (what, len(objects))
        )  # fmt: skip
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(kids), b" ".join(kids))
    out, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, len(out))
    return out + b"xref\n0 %d\n0000000000 65535 f \n%s" % (len(objects) + 1, table) + end


def encrypted_pdf() -> bytes:
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf("secret"))))
    writer.encrypt("a password", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


case("pages.pdf", lambda: pdf("first page", None, "third page"))
case("pictures.pdf", lambda: pdf(None))
case("encrypted.pdf", encrypted_pdf)
case("truncated.pdf", lambda: cut(pdf("first page", "second page"), 0.5))
case("no-pdf.pdf", b"hello, I am no PDF")
case("deep.html", lambda: b"<div>" * 400_000 + b"text")
case("lying-charset.html", b'<meta charset="utf-8"><p>caf\xe9</p>')
case("no-charset.html", b'<meta charset="zip"><p>caf\xe9</p>')
case(
    "script.html", b"<title>T</title><script>alert('no text')</script><h2>Head</h2><p>a &lt;b&gt; &amp;c</p>"
)

# the file system
case("empty.jsonl", b"")
case("blank.jsonl", b"\n \r\n\t\n")
case("empty.jsonl.gz", b"")
case("empty.parquet", b"")
case("empty.xlsx", b"")
case("empty.pdf", b"")


def folder_in(folder: Path) -> None:
    (folder / "folder.jsonl").mkdir()


def socket_in(folder: Path) -> None:
    here = os.getcwd()
    os.chdir(folder)  # the name of a socket may not be long
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket.jsonl")
    os.chdir(here)


def pipe_in(folder: Path) -> None:
    os.mkfifo(folder / "pipe.jsonl")
    (folder / "a.jsonl").write_bytes(GOOD)


def self_link_in(folder: Path) -> None:
    (folder / "self.jsonl").symlink_to(folder / "self.jsonl")


def broken_link_in(folder: Path) -> None:
    (folder / "broken.jsonl").symlink_to(folder / "nowhere")
    (folder / "a.jsonl").write_bytes(GOOD)


def circle_in(folder: Path) -> None:
    (folder / "d").mkdir()
    (folder / "d" / "a.jsonl").write_bytes(GOOD)
    for name in ("back", "again", "up"):
        (folder / "d" / name).symlink_to(folder)


def odd_names_in(folder: Path) -> None:
    for name in (b"a\nb.jsonl", b"\x1b[31mred.jsonl", b"caf\xe9.jsonl", "\u202egnp.jsonl".encode()):
        (Path(os.fsdecode(os.fsencode(folder) + b"/" + name))).write_bytes(b"no JSON\n" + GOOD)


case("folder.jsonl", folder_in)
case("socket.jsonl", socket_in)
case("pipes", pipe_in, files="*.jsonl")
case("self.jsonl", self_link_in)
case("links", broken_link_in, files="*.jsonl")
case("circle", circle_in, files="**/*.jsonl")
case("odd-names", odd_names_in, files="*.jsonl")
case("device", lambda: b"", files="/dev/zero", format="text")


def main(folder: Path) -> Iterator[str]:
    for name, made in CASES.items():
        (folder / name).mkdir(parents=True)
        made.write(folder / name)
        yield name


if __name__ == "__main__":
    for told in main(Path(sys.argv[1])):
        print(told)
