"""html: what HTML says, without its tags. Text that merely contains `<` stays: comparisons, generics, e-mail
addresses, code.

A tag counts only if it is one of HTML's, written in one case, with attributes that read as such, and is
closed somewhere in the text or never is by its nature (`<br>`). Names that prompts like to use for their own
marks (`<summary>`, `<output>`) count only beside plain ones. Markdown's code, in fences or backticks, is
never looked into.

    text ─▶ comments, scripts, styles and tags out ─▶ again, until nothing is left to do ─▶ entities decoded

Entities that would become tags or entities again stay as they are: such a text shows markup, it is not made
of it. So the rule done twice is the rule done once. What is not clean after a few passes is nobody's HTML: it
stays, counted as `unclear`.

The texts are read in linear time. Whole documents, with their navigation and errors, are for `mode:
document`; one that is nested deeper than any browser would follow is read as a fragment."""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from html import unescape
from html.entities import html5
from typing import TYPE_CHECKING, Any, Literal

from luthier.core.errors import missing_part
from luthier.core.spec import Spec

from .editing import repaired
from .rule import RowRule, Said

if TYPE_CHECKING:
    import polars as pl

    from luthier.data.opened import Opened

PASSES = 4
Mode = Literal["strip", "markdown", "document"]

SUSPECT = r"</?[A-Za-z][A-Za-z0-9]*[\s/>]|<!--|<!(?i:doctype)|<\?xml|&(?:#[0-9xX]|[A-Za-z])[A-Za-z0-9]*;"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# https://html.spec.whatwg.org/multipage/indices.html, and those of HTML 4 that are still met.
PLAIN = _names(
    "a b big blockquote body br button center code dd del div dl dt em fieldset figcaption figure font footer form h1 h2 h3 h4 "
    "h5 h6 head header hr html i iframe img input ins legend li meta nav noscript ol optgroup option p pre script select small "
    "span strike strong style sub sup svg table tbody td textarea tfoot th thead tr tt u ul wbr"
)
ALSO_MARKS = _names(
    "abbr acronym address area article aside audio base bdi bdo canvas caption cite col colgroup data datalist details dfn "
    "dialog embed frame frameset hgroup kbd label link main map mark menu meter object output param path picture progress q rp "
    "rt ruby s samp search section slot source summary template time title track var video"
)
BARE = frozenset(("br", "hr", "wbr"))
NEVER_CLOSED = BARE | _names("area base col embed frame img input link meta param source track")
OFTEN_OPEN = _names("dd dt li option p tbody td tfoot th thead tr")
TYPE_PARAMETERS = frozenset(("P", "option", "OPTION"))  # behind a name: Box<P>
HIDDEN = ("script", "style")
DEEPEST = 10  # lists
DEEPEST_DOCUMENT = 512  # elements; parsers take quadratic time for more, browsers stop there too

LINE = _names(
    "address article aside body button caption center dd details dialog div dt fieldset figcaption figure footer form head "
    "header hr html legend li main menu nav option section select summary tbody textarea tfoot thead title tr"
)
PARAGRAPH = _names("blockquote dl h1 h2 h3 h4 h5 h6 ol p pre table ul")

FLAGS = "allowfullscreen async autofocus autoplay checked compact controls default defer disabled hidden loop multiple muted " \
    "nohref noshade novalidate nowrap open readonly required reversed selected"  # fmt: skip


def _token(quoted: str) -> re.Pattern[str]:
    """`quoted` says what a quoted value may hold, with Q for its quote. Every repetition is possessive:
    linear."""
    value = "|".join(f"{q}{quoted.replace('Q', q)}*+{q}" for q in "\"'") + r"|[^\s\"'<>=`]++"
    attribute = rf"[A-Za-z_:@#*(\[][\w:.@#*()\[\]-]*+\s*+=\s*+(?:{value})"
    flag = rf"(?:{FLAGS.replace(' ', '|')}|[a-z]+-[a-z-]+)(?=[\s/>])"
    return re.compile(
        rf"<!--|<!(?i:doctype)\b[^<>]*+>|<\?xml\b[^<>]*+>"
        rf"|<(?P<end>/?)(?P<name>[A-Za-z][A-Za-z0-9]*+)(?P<attributes>(?:\s++(?:{attribute}|{flag}))*+)\s*+/?>"
    )


TOKEN = _token("[^<Q]")
SERIALIZED = _token("[^Q]")  # as a parser writes it: in a value only quotes are escaped
ATTRIBUTE = re.compile(r"""([\w:-]+)\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s"'>]++))""")
COMMENT_END = re.compile("--!?>")
HIDDEN_END = {name: re.compile(rf"</{name}\s*+>", re.IGNORECASE) for name in HIDDEN}
CLOSED = re.compile(r"</([A-Za-z][A-Za-z0-9]*+)\s*+>")
FENCE = re.compile(r"^ {0,3}(`{3,}+|~{3,}+)(.*)$", re.MULTILINE)
_ENTITY = r"(?:#(?:[0-9]{1,7}|[xX][0-9A-Fa-f]{1,6})|[A-Za-z][A-Za-z0-9]{1,31});"
ENTITY = re.compile("&" + _ENTITY)
HARMLESS = re.compile("&(?!(?:amp|lt|gt|#0*(?:38|60|62)|#[xX]0*(?:26|3[cCeE]));)" + _ENTITY)
WHOLE = re.compile(r"\s*+(?:<\?xml\b[^<>]*+>\s*+)?(?:<!doctype\s++html|<html[\s>])", re.IGNORECASE)
LEFT_OUT = "script, style, noscript, template, iframe, noembed, noframes, svg, nav, header, footer, aside, form, dialog, head"


class Html(Spec):
    mode: Mode = "strip"
    """`strip` leaves plain text, `markdown` keeps headings, lists, links, tables and code as Markdown,
    `document` does the same and reads whole documents with a parser, without navigation and forms (needs the
    extra `documents`)."""


def _run(rows: Opened, settings: Html) -> Said:
    from luthier.data.opened import TAG

    if settings.mode == "document":
        _parser()  # whether it is there must not depend on the rows
    return repaired(
        rows, rows.matching(rows.have(TAG), SUSPECT), _suspect, partial(cleaned, mode=settings.mode)
    )


def _suspect(text: pl.Series) -> pl.Series:
    return text.str.contains(SUSPECT)


def cleaned(text: str, mode: Mode = "strip") -> tuple[str, list[str]]:
    """(what it says, the names of what was taken out).

    >>> cleaned("<p>Caf&eacute;<br>and <b>bar</b></p>")
    ('Café\\nand bar', ['entities', 'tags'])
    >>> cleaned("if a < b and Map<K, V> or <me@example.org>: use `<b>`")[1]
    []
    >>> cleaned("<ul><li>one</li><li><a href='/x'>two</a></li></ul>", "markdown")
    ('- one\\n- [two](/x)', ['tags'])
    """
    found: set[str] = set()
    clean = _without_tags(text, mode, found)
    if clean is None:
        return text, ["unclear"]
    said = _settled(clean, mode)
    return said, sorted(found if said == clean else {*found, "entities"})


def _settled(text: str, mode: Mode) -> str:
    """All entities decoded if that ends the matter; else all but those of markup; else none."""
    whole = _decoded(text, ENTITY)
    if whole == text or _ended(whole, mode):
        return whole
    harmless = _decoded(text, HARMLESS)
    stays = _without_tags(harmless, mode, set()) == harmless == _decoded(harmless, HARMLESS)
    return harmless if stays and not _ended(_decoded(harmless, ENTITY), mode) else text


def _ended(text: str, mode: Mode) -> bool:
    return _without_tags(text, mode, set()) == text == _decoded(text, ENTITY)


def _without_tags(text: str, mode: Mode, found: set[str]) -> str | None:
    """None when there is no end to it."""
    for _ in range(PASSES):
        whole = mode == "document" and WHOLE.match(text) and _depth(text) <= DEEPEST_DOCUMENT
        token, source = (SERIALIZED, _body(text)) if whole else (TOKEN, text)
        after = _Reader(source, token, markdown=mode != "strip", found=found).read()
        if after == text:
            return text
        text = after
    return None


def _depth(text: str) -> int:
    """At most so many elements are open at once; those that end by themselves do not count."""
    open_now: Counter[str] = Counter()
    depth = deepest = 0
    for match in TOKEN.finditer(text):
        name = (match["name"] or "br").lower()
        if name not in NEVER_CLOSED and name not in OFTEN_OPEN:
            step = -(open_now[name] > 0) if match["end"] else 1
            open_now[name] += step
            depth += step
            deepest = max(deepest, depth)
    return deepest


def _body(text: str) -> str:
    """The main part of a document, as the parser understands it."""
    tree = _parser()(text)
    for node in tree.css(LEFT_OUT):
        node.decompose()
    main = tree.css_first("main, article, [role=main]") or tree.body
    return (main.html or "") if main else ""


def _parser() -> Any:
    try:
        from selectolax.lexbor import LexborHTMLParser
    except ImportError:
        raise missing_part("selectolax", "documents", "html with mode: document") from None
    return LexborHTMLParser


def _decoded(text: str, entities: re.Pattern[str]) -> str:
    """Outside Markdown's code."""
    out, at = [], 0
    for start, end in [*_code(text), (len(text), len(text))]:
        out += [entities.sub(_entity, text[at:start]), text[start:end]]
        at = end
    return "".join(out)


def _entity(match: re.Match[str]) -> str:
    name = match[0]
    if name[1] != "#" and name[1:] not in html5:
        return name
    said = unescape(name).replace("\xa0", " ")
    return name if said in ("", "\ufffd") else said  # no character has that number


def _code(text: str) -> list[tuple[int, int]]:
    """Where Markdown's code stands: fences to their end, and backticks closed by as many on the same line.

    >>> [("a `b` c\\n```\\nd\\n```\\ne")[s:e] for s, e in _code("a `b` c\\n```\\nd\\n```\\ne")]
    ['`b`', '```\\nd\\n```']
    """
    if "`" not in text and "~~~" not in text:
        return []
    spans = _fences(text)
    inside = iter([*spans, (len(text), len(text))])
    start, end = next(inside)
    runs: list[tuple[int, int]] = []
    for run in re.finditer("`++", text):
        while run.start() >= end and end < len(text):
            start, end = next(inside)
        if not start <= run.start() < end:
            runs.append(run.span())
    closing: dict[int, tuple[int, int]] = {}
    nearest: dict[int, tuple[int, int]] = {}
    for first, last in reversed(runs):
        if last - first in nearest:
            closing[first] = nearest[last - first]
        nearest[last - first] = first, last
    at = 0
    for first, _ in runs:
        if first >= at and first in closing:
            closed, at_end = closing[first]
            if text.find("\n", first, closed) < 0:
                spans.append((first, at_end))
                at = at_end
    return sorted(spans)


def _fences(text: str) -> list[tuple[int, int]]:
    spans = []
    opened: tuple[str, int] | None = None
    for line in FENCE.finditer(text):
        mark, rest = line[1], line[2]
        if opened is None:
            if "`" not in rest:
                opened = mark, line.start()
        elif mark.startswith(opened[0]) and not rest.strip():
            spans.append((opened[1], line.end()))
            opened = None
    return [*spans, (opened[1], len(text))] if opened else spans


class _Reader:
    """Reads a text once from the left, and writes what it says. `found` gets the names of what was taken
    out."""

    def __init__(self, text: str, token: re.Pattern[str], *, markdown: bool, found: set[str]) -> None:
        self._text, self._token, self._markdown, self._found = text, token, markdown, found
        self._parsed = token is SERIALIZED
        self._parts: list[str] = []
        self._breaks = 0  # line breaks that the next text needs before it
        self._lead = ""  # and what begins its line
        self._lists: list[int | None] = []  # of each open list the next number; None: bullets
        self._cells = 0
        self._link: tuple[int, str] | None = None  # where it begins, its address
        self._pre = False
        self._none: dict[re.Pattern[str], int] = {}
        self._code: tuple[str, int, str] | None = None  # pre or code, where it begins, the language

    def read(self) -> str:
        text = self._text
        closed = {name.lower() for name in CLOSED.findall(text)}
        spans = iter([*([] if self._parsed else _code(text)), (len(text), len(text))])
        start, end = next(spans)
        tokens: list[tuple[re.Match[str], int]] = []
        at = 0
        for match in self._token.finditer(text):
            while match.start() >= end and end < len(text):
                start, end = next(spans)
            if match.start() < at or start <= match.start() < end:
                continue
            if (until := self._until(match, closed)) is not None:
                tokens.append((match, until))
                at = until
        names = {(match["name"] or "!").lower() for match, _ in tokens}
        sure = self._parsed or not PLAIN.isdisjoint(names) or "!" in names
        at = 0
        for match, until in tokens:
            name = match["name"]
            if sure or name is None or name.lower() in PLAIN:
                self._say(text[at : match.start()])
                self._take(match)
                at = until
        if not at:
            return text
        self._say(text[at:])
        return "".join(self._parts).strip()

    def _until(self, match: re.Match[str], closed: set[str]) -> int | None:
        """Where a token ends that is to be taken out, with what it hides."""
        name = match["name"]
        if name is None:
            if match[0] != "<!--":
                return match.end()
            return self._end(COMMENT_END, match.end())
        lower = name.lower()
        if name not in (lower, name.upper()) or not (self._parsed or lower in PLAIN or lower in ALSO_MARKS):
            return None
        if match["end"]:
            return match.end()
        if lower in HIDDEN:
            return self._end(HIDDEN_END[lower], match.end())
        if self._parsed or lower in closed:
            return match.end()
        if lower in NEVER_CLOSED:
            return match.end() if lower in BARE or match["attributes"] else None
        if lower not in OFTEN_OPEN:
            return None
        parameter = (
            name in TYPE_PARAMETERS and self._text[max(match.start() - 1, 0) : match.start()].isalnum()
        )
        return None if parameter else match.end()

    def _end(self, pattern: re.Pattern[str], at: int) -> int | None:
        """Where the next match ends. There is none after a place after which there was none: linear."""
        if at >= self._none.get(pattern, len(self._text) + 1):
            return None
        match = pattern.search(self._text, at)
        if match is None:
            self._none[pattern] = at
            return None
        return match.end()

    def _say(self, text: str) -> None:
        if self._breaks:
            text = text.lstrip("\r\n") if self._pre else text.lstrip()
        if text:
            self._flush()
            self._parts.append(text)

    def _flush(self) -> None:
        """Write the line breaks and the mark that were asked for: before a link that has said nothing yet, not into it."""
        if not (self._breaks or self._lead):
            return
        parts, link = self._parts, self._link
        silent = link is not None and not any(parts[k].strip() for k in range(link[0], len(parts)))
        if link is not None and silent and not self._code:
            del parts[link[0] :]
            if parts and parts[-1].strip("\n") == "":  # what the link began with
                self._break(len(parts.pop()))
        if self._breaks:
            first = link[0] + 1 if link is not None and self._code else 0
            while len(parts) > first and not parts[-1].strip():
                parts.pop()
            if parts:
                parts[-1] = parts[-1].rstrip()
                parts.append("\n" * self._breaks)
            self._breaks = 0
        if self._lead:
            parts.append(self._lead)
            self._lead = ""
        if link is not None and silent and not self._code:
            self._link = len(parts), link[1]
            parts.append("")

    def _break(self, lines: int) -> None:
        self._breaks = max(self._breaks, lines)

    def _take(self, match: re.Match[str]) -> None:
        """What a token does to what is written."""
        if match["name"] is None:
            self._found.add("comments" if match[0] == "<!--" else "tags")
            return
        name, end = match["name"].lower(), bool(match["end"])
        self._found.add("scripts" if name in HIDDEN else "tags")
        if name == "br":
            self._breaks = self._breaks + 1 if self._pre else min(self._breaks + 1, 2)
        elif name in LINE:
            self._break(1)
        elif name in PARAGRAPH:
            self._break(1 if self._lists and name in ("ul", "ol") else 2)
        if name == "pre":
            self._pre = not end
        elif name in ("ul", "ol"):
            self._list(name, end)
        elif name in ("td", "th") and not end:
            if self._cells:
                self._say(" | " if self._markdown else " ")
            self._cells += 1
        elif name == "tr":
            self._cells = 0
        if self._markdown:
            self._mark(name, end, match["attributes"] or "")

    def _list(self, name: str, end: bool) -> None:
        if not end:
            self._lists.append(1 if name == "ol" else None)
        elif self._lists:
            self._lists.pop()

    def _mark(self, name: str, end: bool, attributes: str) -> None:
        """Markdown's marks."""
        if name in ("pre", "code"):
            self._mark_code(name, end, attributes)
        elif self._code:
            return
        elif name == "li":
            number = self._lists[-1] if self._lists else None
            if not end and number is not None:
                self._lists[-1] = number + 1
            mark = "- " if number is None else f"{number}. "
            self._lead = "" if end else "   " * min(len(self._lists) - 1, DEEPEST) + mark
        elif name in ("h1", "h2", "h3", "h4", "h5", "h6"):
            self._lead = "" if end else "#" * int(name[1]) + " "
        elif name == "a" and not end:
            self._flush()
            self._link = len(self._parts), _value(attributes, "href")
            self._parts.append("")
        elif name == "a" and self._link:
            place, address = self._link
            self._link = None
            said = "".join(self._parts[place:])
            if address and said.strip() and "\n" not in said:
                self._parts[place] = "["
                self._parts.append(f"]({address})")

    def _mark_code(self, name: str, end: bool, attributes: str) -> None:
        """pre, or code; code within pre only tells the language."""
        if not end:
            found = re.search(r"\blang(?:uage)?-([\w+#-]+)", _value(attributes, "class"))
            language = found[1] if found else ""
            if not self._code:
                self._flush()
                self._code = name, len(self._parts), language
            else:
                self._code = *self._code[:2], self._code[2] or language
        elif self._code and self._code[0] == name:
            _, place, language = self._code
            self._code = None
            said = ENTITY.sub(_entity, "".join(self._parts[place:]))
            del self._parts[place:]
            self._parts.append(_fenced(said, language) if name == "pre" else _ticked(said))
            self._breaks = 2 if name == "pre" else self._breaks


def _fenced(code: str, language: str) -> str:
    code = code.strip("\r\n")
    fence = "`" * max(3, _longest_run(code) + 1)
    return f"{fence}{language}\n{code}\n{fence}"


def _ticked(code: str) -> str:
    if not code.strip() or "\n" in code:
        return code
    ticks = "`" * (_longest_run(code) + 1)
    blank = " " if "`" in code else ""
    return f"{ticks}{blank}{code}{blank}{ticks}"


def _longest_run(code: str) -> int:
    return max(map(len, re.findall("`+", code)), default=0)


def _value(attributes: str, wanted: str) -> str:
    """An attribute's value, ready for Markdown; empty for an address that would run something."""
    for match in ATTRIBUTE.finditer(attributes):
        if match[1].lower() == wanted:
            value = unescape(match[2] or match[3] or match[4] or "").strip()
            if wanted != "href":
                return value
            if re.match(
                r"(?:javascript|data|vbscript)\s*:", re.sub(r"[\s\x00-\x1f]", "", value), re.IGNORECASE
            ):
                return ""
            return re.sub(r"[\s()<>]", lambda m: "".join(f"%{byte:02X}" for byte in m[0].encode()), value)
    return ""


html = RowRule("html", 1, Html, "Takes HTML out of texts and keeps what it says.", _run)
