"""HTML out of texts: what it says stays, code that only looks like it stays, and no text takes long."""

from __future__ import annotations

import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.errors import MissingPart
from luthier.data.rules.html import cleaned
from luthier.data.testing import HOSTILE, batch_of, obeys, run


@pytest.mark.parametrize(
    ("text", "strip", "markdown"),
    [
        ("<p>Caf&eacute;<br>and <b>bar</b></p>", "Café\nand bar", "Café\nand bar"),
        ("wor<b>d</b>s", "words", "words"),
        ("<DIV>old<BR>style</DIV>", "old\nstyle", "old\nstyle"),
        ("<h2>Title</h2>\n  <p>one</p>\n\n<p>two", "Title\n\none\n\ntwo", "## Title\n\none\n\ntwo"),
        ("a<!-- hidden --> b<script>if (a<b) {'</p>'}</script>c<style>p{}</style>", "a bc", "a bc"),
        (
            "<ul><li>a<ol><li>x</li><li>y</li></ol></li><li>b</li></ul>",
            "a\nx\ny\nb",
            "- a\n   1. x\n   2. y\n- b",
        ),
        (
            "see <a href='https://x.org/a (b)'>there</a>",
            "see there",
            "see [there](https://x.org/a%20%28b%29)",
        ),
        ("<a href=' java\nscript:alert(1)'>x</a>!", "x!", "x!"),
        ("<a href='/x'>y", "<a href='/x'>y", "<a href='/x'>y"),
        ("<a href='/x'><div>two</div></a>", "two", "[two](/x)"),
        ("<p>one</p><p><a href='/x'><div>two</div></a></p>", "one\n\ntwo", "one\n\n[two](/x)"),
        ("one<a href='/x'><br>two</a>", "one\ntwo", "one\n[two](/x)"),
        ("<a href='/x'><h2>two</h2></a>end", "two\n\nend", "## [two](/x)\n\nend"),
        ("<a href='/x'>two<br>three</a>", "two\nthree", "two\nthree"),
        ("<a href='/x'><code><br>two</code></a>", "two", "two"),
        (
            '<pre><code class="language-py">if a &lt; b:\n    go()\n</code></pre>then',
            "if a < b:\n    go()\n\nthen",
            "```py\nif a < b:\n    go()\n```\n\nthen",
        ),
        ("write <code>&lt;br&gt;</code> here", "write &lt;br&gt; here", "write `<br>` here"),
        ("<table><tr><th>a<th>b<tr><td>1</td><td>2</td></table>", "a b\n1 2", "a | b\n1 | 2"),
        ("<details><summary>s</summary><p>x</p></details>", "s\n\nx", "s\n\nx"),
        ("<!DOCTYPE html><html><body><p>x</p></body></html>", "x", "x"),
        ("AT&amp;T &#8364;5&nbsp;&#x20AC;", "AT&T €5 €", "AT&T €5 €"),
        (
            "<b>a</b> & b &c; &bogus; &#9999999;",
            "a & b &c; &bogus; &#9999999;",
            "a & b &c; &bogus; &#9999999;",
        ),
        ("x &lt; y &amp;&amp; y &gt; z", "x < y && y > z", "x < y && y > z"),
    ],
)
def test_html(text: str, strip: str, markdown: str) -> None:
    assert cleaned(text)[0] == strip
    assert cleaned(text, "markdown")[0] == markdown


@pytest.mark.parametrize(
    "text",
    [
        "if (a < b && c > d) return a<b;",
        "a <b and c> d; i<p && q>r",
        "List<String> Map<K, V> Vec<Option<T>> Box<A> Foo<P> std::vector<std::pair<int, a>> f<option>(x)",
        "Max Muster <max@example.org>, see <https://example.org/b>",
        "```html\n<div>&amp;</div>\n```",
        "~~~\n<br>\n~~~",
        "Use `<br>` or ``<p>`</p>``",
        "<summary>three points</summary><output>1</output>",
        "<thinking>so</thinking> <|im_end|> <s> [INST]",
        "#include <stdio.h>\ncat <<EOF\n1 << 2 >> 3 <- x <= y <> z",
        "<Table>x</Table> <my-element>y</my-element>",
        "the entity &amp;lt; stands for &lt;b&gt; and &lt;br&gt;",  # it shows markup, decoded it would be some
        "<?php echo '<'; ?>",
        "an open <!-- comment, an open <script> tag",
        "R&D; Q&A",
    ],
)
def test_what_only_looks_like_html_stays(text: str) -> None:
    for mode in ("strip", "markdown"):
        assert cleaned(text, mode) == (text, [])  # type: ignore[arg-type]


def test_what_was_done_is_said_and_counted_and_labels_get_the_same() -> None:
    rows = batch_of(
        [("user", "<p>a &amp; b</p>"), ("assistant", "R&amp;D")],
        [("user", "a"), ("assistant", "b"), ("rejected", "<i>c</i>")],
        "x<br>y<!-- z -->",
    )
    done = run("html", rows)
    assert done.changed == ["entities, tags", "tags", "comments, tags"]
    assert done.counts == {"comments": 1, "entities": 2, "tags": 3}
    assert done.texts == [["a & b", "R&D"], ["a", "b", "c"], ["x\ny"]]
    assert done.batch["label"].to_pylist() == ["R&D", "b", None]


PIECES = (
    "<b> </b> <<b>b> <p> </p> <br> <i <!-- --> <script> </script> <a href='x'> </a> <pre> </pre> <code> </code> <ul> <li> </li> "
    "&amp; &lt; &gt; &amp;lt; & lt; amp; < > / ` ``` ~~~ x B é &#60; &#x26; &nbsp; <td> <summary> </summary> <!DOCTYPE>"
)
htmls = st.lists(st.sampled_from([*PIECES.split(), " ", "\n", "\n\n", "\n```\n"]), max_size=14).map("".join)


@given(st.lists(htmls | st.text(max_size=20), min_size=1, max_size=4), st.sampled_from(["strip", "markdown"]))
@settings(max_examples=200, deadline=None)
def test_laws(rows: list[str], mode: str) -> None:
    obeys("html", [*rows, [("user", rows[0]), ("assistant", rows[-1]), ("rejected", "<p>")]], mode=mode)


@given(htmls)
@settings(max_examples=200, deadline=None)
def test_twice_is_once_for_whole_documents(text: str) -> None:
    pytest.importorskip("selectolax")
    once = cleaned(f"<html><body>{text}</body></html>", "document")[0]
    assert cleaned(once, "document")[0] == once


def test_hostile_texts() -> None:
    obeys("html", HOSTILE)
    obeys("html", HOSTILE, mode="markdown")


@pytest.mark.parametrize(
    "piece",
    [
        "<", "<a ", '<a b="', "<!--", "<script>", "</b>", "<<b>b>", "<ul><li>", "<pre><code>x</code>", "&amp;",
        "<a href='x'>y</a>", "`a``b", "\n```\n<b>", "<div hidden ", "<p>x<br>",
    ],
)  # fmt: skip
def test_linear(piece: str) -> None:
    """Four times the text takes about four times as long; quadratic would be sixteen."""
    seconds = []
    for size in (60_000, 240_000):
        tries = []
        for _ in range(3):
            start = time.process_time()
            cleaned(piece * (size // len(piece)), "markdown")
            tries.append(time.process_time() - start)
        seconds.append(min(tries))
    assert seconds[1] < 12 * seconds[0] + 0.5


PAGE = """<!doctype html><html><head><title>t</title></head><body><nav><a href=/>home</a></nav>
<main><h1>News</h1><p>One <b>bold</p><p>Two &lt;3</main><footer>imprint</footer><script>x()</script></body></html>"""


def test_documents_lose_what_is_around_their_text() -> None:
    pytest.importorskip("selectolax")
    assert cleaned(PAGE, "document")[0] == "# News\n\nOne bold\n\nTwo <3"
    assert cleaned("<p>no document</p>", "document")[0] == "no document"
    deep = "<html>" + "<div>" * 600 + "x" + "</div>" * 600
    assert cleaned(deep, "document")[0] == "x"


def test_a_missing_parser_is_told_before_any_document_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "selectolax.lexbor", None)
    with pytest.raises(MissingPart, match="html with mode: document needs the package 'selectolax'") as told:
        run("html", batch_of("plain"), mode="document")
    assert "luthier[documents]" in str(told.value)
