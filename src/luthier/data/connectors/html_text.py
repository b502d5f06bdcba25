"""The text of an HTML page, as a reader sees it in Markdown's dress: headings keep their `#`, items their `-`, rows of tables
their cells, `pre` its blanks. Scripts, styles and templates are no text. Runs apart (see `apart`)."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import Any

from .faults import LONGEST_ROW_BYTES, Fault, not_utf8

UNSEEN = {
    "script",
    "style",
    "noscript",
    "template",
    "head",
    "svg",
    "math",
    "iframe",
    "object",
    "-comment",
    "-doctype",
}
BLOCKS = {
    "address", "article", "aside", "blockquote", "body", "caption", "details", "dd", "div", "dl", "dt", "fieldset", "figcaption",
    "figure", "footer", "form", "header", "hr", "html", "main", "nav", "ol", "p", "pre", "section", "summary", "table", "tbody",
    "tfoot", "thead", "ul",
}  # fmt: skip
PREFORMATTED = {"pre", "textarea", "listing"}
_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]{1,40})""", re.IGNORECASE)
_XML = re.compile(rb"""\A\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9_:.-]{1,40})""")
_BLANKS = re.compile(r"[ \t\r\n\f]+")


def rows(path: str) -> Iterator[list[Any]]:
    """One row: [1, text]. None when the page has no text."""
    from selectolax.lexbor import LexborHTMLParser

    with open(path, "rb") as file:
        raw = file.read(LONGEST_ROW_BYTES + 1)
    if len(raw) > LONGEST_ROW_BYTES:
        raise Fault(f"it is longer than {LONGEST_ROW_BYTES:,} bytes", "", "Divide it")
    page = LexborHTMLParser(decoded(raw))
    title = page.css_first("title")
    text = written(page.root)
    if title is not None and page.css_first("h1") is None and (name := " ".join(title.text().split())):
        text = f"# {name}\n\n{text}"
    if text.strip():
        yield [1, text.strip()]


def decoded(raw: bytes) -> str:
    """By its mark, by what it says of itself in its first kilobytes, or as UTF-8. Raises Fault when that is not true."""
    told = _CHARSET.search(raw[:4096]) or _XML.search(raw[:4096])
    name = told[1].decode() if told else "utf-8"
    for mark, of_mark in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if raw.startswith(mark):
            name = of_mark
    name = (
        "windows-1252" if name.lower() in ("iso-8859-1", "latin1", "latin-1", "us-ascii") else name
    )  # as browsers do
    try:
        "".encode(name)  # refuses what is no encoding of text, such as zip
    except LookupError:
        raise Fault(
            f"it says that its encoding is {name!r}, and there is none", "", "Correct the page's charset"
        ) from None
    try:
        return raw.decode(name)
    except UnicodeDecodeError as error:
        if name.lower().startswith("utf-8") or name.lower() == "utf8":
            start = raw.rfind(b"\n", 0, error.start) + 1
            line = raw[start : error.start + 100]
            raise not_utf8(
                line, UnicodeDecodeError("utf-8", line, error.start - start, error.start - start + 1, "")
            ) from None
        raise Fault(
            f"it says that its encoding is {name}, and byte {error.start + 1} is not",
            "",
            "Correct the page's charset",
        ) from None


def written(root: Any) -> str:
    """Without recursion: pages may be nested as deep as they like."""
    page = _Page()
    node = root
    while node is not None:
        tag = node.tag
        if tag == "-text":
            page.say(node.text_content or "")
        elif tag not in UNSEEN:
            page.open(tag)
            if (child := node.first_child) is not None:
                node = child
                continue
            page.close(tag)
        while node.mem_id != root.mem_id and node.next is None:
            node = node.parent
            page.close(node.tag)
        if node.mem_id == root.mem_id:
            break
        node = node.next
    return "".join(page.pieces)


class _Page:
    """Text as it is written. `breaks`: line breaks at its end; `fresh`: a blank that comes now would stand at a line's start."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.breaks, self.fresh = 2, True
        self._preformatted = 0
        self._cells = 0

    def say(self, text: str) -> None:
        if not self._preformatted:
            text = _BLANKS.sub(" ", text)
            text = text.lstrip(" ") if self.fresh else text
        if text:
            self.pieces.append(text)
            self.fresh, self.breaks = text[-1] in " \n", 0

    def open(self, tag: str) -> None:
        self._preformatted += tag in PREFORMATTED
        if _is_heading(tag):
            self._line(2)
            self._mark("#" * int(tag[1]) + " ")
        elif tag == "li":
            self._line(1)
            self._mark("- ")
        elif tag in ("br", "tr"):
            self._line(self.breaks + 1 if tag == "br" and self.breaks < 2 else 1)
            self._cells = 0
        elif tag in ("td", "th"):
            if self._cells:
                self._mark(" | ")
            self._cells += 1
        elif tag in BLOCKS:
            self._line(2)

    def close(self, tag: str) -> None:
        self._preformatted -= tag in PREFORMATTED
        if tag in BLOCKS or _is_heading(tag):
            self._line(2)

    def _mark(self, mark: str) -> None:
        self.pieces.append(mark)
        self.fresh, self.breaks = True, 0

    def _line(self, wanted: int) -> None:
        if self.pieces and self.breaks < wanted:
            self.pieces[-1] = self.pieces[-1].rstrip(" ")
            self.pieces.append("\n" * (wanted - self.breaks))
            self.breaks = wanted
        self.fresh = True


def _is_heading(tag: str) -> bool:
    return len(tag) == 2 and tag[0] == "h" and tag[1] in "123456"
