"""Drawings as PNG: the page's own, in its colours, with letters."""

import struct
import zlib

import pytest

from luthier.app.report import charts, png
from luthier.app.report.page import text_of

pytest.importorskip("resvg_py", reason="resvg-py is not installed (pip install 'luthier[plots]')")


def _pixels(data):
    """(width, height, rows of bytes) of an RGB or RGBA PNG without interlacing; filters undone."""
    at, body = 8, b""
    while at < len(data):
        (size,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        if kind == b"IHDR":
            width, height, _, colour = struct.unpack(">IIBB", data[at + 8 : at + 18])
        if kind == b"IDAT":
            body += data[at + 8 : at + 8 + size]
        at += 12 + size
    step = {2: 3, 6: 4}[colour]
    raw, rows, before = zlib.decompress(body), [], bytearray(width * step)
    for y in range(height):
        start = y * (width * step + 1)
        how, line = raw[start], bytearray(raw[start + 1 : start + 1 + width * step])
        for i in range(len(line)):
            left = line[i - step] if i >= step else 0
            up, corner = before[i], before[i - step] if i >= step else 0
            guess = left + up - corner
            paeth = min(
                (abs(guess - left), 0, left), (abs(guess - up), 1, up), (abs(guess - corner), 2, corner)
            )[2]
            line[i] = (line[i] + (0, left, up, (left + up) // 2, paeth)[how]) & 255
        rows.append(line)
        before = line
    return width, height, step, rows


def _colours(data):
    _, _, step, rows = _pixels(data)
    return {tuple(row[i : i + 3]) for row in rows for i in range(0, len(row), step)}


def test_a_drawing_has_the_pages_colours_and_its_size_twice():
    svg = charts.bars("rows", [charts.Bar("read", 80, 20)], 300)
    made = png.png(svg, png.flat(text_of("page.css")))
    width, height, _, _ = _pixels(made)
    assert (width, height) == (2 * (300 + 16), 2 * (30 + 16))
    # .bars .left is the accent #17635c at 85 % over the page's #fdfbf7
    expected = tuple(
        round(0.85 * a + 0.15 * b) for a, b in zip((0x17, 0x63, 0x5C), (0xFD, 0xFB, 0xF7), strict=True)
    )
    assert any(all(abs(a - b) <= 2 for a, b in zip(one, expected, strict=True)) for one in _colours(made))


def test_letters_are_drawn():
    style = png.flat(text_of("page.css"))
    named = png.png(charts.bars("x", [charts.Bar("read", 80, 20)], 300), style)
    other = png.png(charts.bars("x", [charts.Bar("kept", 80, 20)], 300), style)
    assert named != other


def test_a_page_gives_each_drawing_once_named_by_what_stands_above_it(tmp_path):
    bar = charts.bars("b", [charts.Bar("read", 80, 20)], 300)
    page = tmp_path / "x.html"
    page.write_text(
        f'<style>{text_of("page.css")}</style><h2>What remains</h2><div class="wide">{bar}</div><div class="narrow">{bar}</div>'
        f'<figure><figcaption>F1 (macro) <span class="quiet">lower</span></figcaption>{bar}</figure>'
    )
    written = png.write(page, tmp_path / "pictures")
    assert [path.name for path in written] == ["01-what-remains.png", "02-f1-macro.png"]
    empty = tmp_path / "y.html"
    empty.write_text("<style></style><p>nothing</p>")
    with pytest.raises(Exception, match="has no drawings"):
        png.write(empty, tmp_path / "none")
