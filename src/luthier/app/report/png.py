"""Every drawing of a page as a PNG file, for slides and documents: the page's own SVG with the page's own style, in its light
colours. What a page shows twice, for a wide and for a narrow window, is taken once.

    page.html ─▶ drawings (SVG text) + style without variables ─▶ resvg ─▶ 01-NAME.png, 02-NAME.png, ...

resvg draws static SVG and CSS and runs nothing. Letters need a font of this machine; where there is none it is said.
"""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

from luthier.core.errors import DataError, MissingPart, missing_part

TWICE = 2.0
"""Pixels for each of the drawing's: sharp on today's screens."""
_SVG = re.compile(r"<svg\b[^>]*class=\"chart[^>]*>.*?</svg>", re.S)
_NARROW = re.compile(r"<div class=\"narrow\">.*?</div>", re.S)
_CAPTION = re.compile(r"<figcaption>(.*?)</figcaption>|<h2[^>]*>(.*?)</h2>|<h3[^>]*>(.*?)</h3>", re.S)
_MIX = re.compile(r"color-mix\(in srgb, (#[0-9a-f]{6}) ([0-9]+)%, (#[0-9a-f]{6})\)")
_LABEL = re.compile(r'aria-label="([^"]*)"')


def drawings(page: str) -> list[tuple[str, str]]:
    """(name, SVG text) of each drawing, in the page's order. The name is made of what stands above it."""
    body = _NARROW.sub("", page)
    marks = [
        (found.start(), _words(next(filter(None, found.groups()), ""))) for found in _CAPTION.finditer(body)
    ]
    told = []
    for found in _SVG.finditer(body):
        above = [name for at, name in marks if at < found.start()]
        label = _LABEL.search(found.group(0))
        name = above[-1] if above else _words(label.group(1) if label else "")
        told.append((name, found.group(0)))
    return told


def write(page: Path, folder: Path) -> list[Path]:
    """The page's drawings as files in `folder`, numbered as they come. Raises MissingPart without resvg or any font, DataError
    for a page without drawings."""
    from luthier.store.files import write_atomic

    text = page.read_text(encoding="utf-8")
    found = drawings(text)
    if not found:
        raise DataError(f"{page.name} has no drawings.", remedy="Look at the page itself.")
    style = flat(re.search(r"<style>(.*?)</style>", text, re.S).group(1) if "<style>" in text else "")  # type: ignore[union-attr]
    _need_letters()
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number, (name, svg) in enumerate(found, 1):
        path = folder / f"{number:02}-{_slug(name)}.png"
        write_atomic(path, png(svg, style))
        written.append(path)
    return written


def png(svg: str, style: str, zoom: float = TWICE) -> bytes:
    """One drawing as PNG bytes. `style` is flat: see below."""
    draw = _resvg()
    whole = svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    if box := re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', whole):
        width, height = (float(one) for one in box.groups())
        # letters may stand a little outside of their drawing
        whole = whole.replace(box.group(0), f'viewBox="-8 -8 {width + 16:g} {height + 16:g}"', 1)
        whole = re.sub(
            r'(<svg[^>]*?) width="[\d.]+"',
            rf'\1 width="{width + 16:g}" height="{height + 16:g}"',
            whole,
            count=1,
        )
    made = draw.svg_to_bytes(
        svg_string=whole, style_sheet=style, background="#fdfbf7", zoom=zoom, font_family="DejaVu Sans",
        sans_serif_family="DejaVu Sans", monospace_family="DejaVu Sans Mono", font_size=12.0,
    )  # fmt: skip
    return bytes(made)


def flat(style: str) -> str:
    """A page's style without what a drawing alone cannot have: variables, media, the short form of fonts.

    >>> flat(":root { --ink: #000; } @media print { a { color: red; } } .x { fill: var(--ink); font: 12px var(--sans); }")
    'svg { color: #000; } .x { fill: #000; font-size: 12px; font-family: sans-serif; }'
    """
    plain = re.sub(r"/\*.*?\*/", "", style, flags=re.S)
    plain = _without_media(plain)
    root = re.search(r":root\s*\{([^}]*)\}", plain)
    known = dict(re.findall(r"--([\w-]+):\s*([^;]+);", root.group(1))) if root else {}
    known |= {"sans": "sans-serif", "serif": "serif", "mono": "monospace"}
    rules = [rule for rule in re.findall(r"[^{}]+\{[^{}]*\}", plain) if ":" not in rule.partition("{")[0]]
    text = " ".join(" ".join(rule.split()) for rule in rules)
    text = re.sub(r"var\(--([\w-]+)\)", lambda found: known.get(found[1], "#000"), text)
    text = _MIX.sub(_mixed, text)
    text = re.sub(
        r"font:\s*(?:\d{3} )?([\d.]+px)(?:/[\d.]+)?\s+([\w-]+)", r"font-size: \1; font-family: \2", text
    )
    return f"svg {{ color: {known.get('ink', '#000')}; }} {text}"


def _mixed(found: re.Match[str]) -> str:
    """
    >>> _MIX.sub(_mixed, "color-mix(in srgb, #000000 25%, #ffffff)")
    '#bfbfbf'
    """
    share = int(found[2]) / 100
    one, other = ([int(found[n][i : i + 2], 16) for i in (1, 3, 5)] for n in (1, 3))
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in zip(one, other, strict=True))


def _without_media(style: str) -> str:
    kept, at = [], 0
    for found in re.finditer(r"@[\w-]+[^{;]*\{", style):
        if found.start() < at:
            continue
        kept.append(style[at : found.start()])
        depth, end = 1, found.end()
        while depth and end < len(style):
            depth += {"{": 1, "}": -1}.get(style[end], 0)
            end += 1
        at = end
    return "".join([*kept, style[at:]])


def _need_letters() -> None:
    blank, marked = (
        png(f'<svg viewBox="0 0 40 20" width="40">{inside}</svg>', "")
        for inside in ("", '<text x="2" y="14">Ag</text>')
    )
    if blank == marked:
        raise MissingPart(
            "this machine has no font to write a drawing's letters with.",
            remedy="Install one, such as Debian's package fonts-dejavu-core.",
        )


def _resvg() -> Any:
    try:
        import resvg_py
    except ImportError:
        raise missing_part("resvg-py", "plots", "A drawing as PNG") from None
    return resvg_py


def _words(markup: str) -> str:
    plain = re.sub(r"<span class=\"quiet\">.*?</span>", "", markup, flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", plain)).split())


def _slug(name: str) -> str:
    """
    >>> _slug("F1 (macro) on the validation rows"), _slug("…")
    ('f1-macro-on-the-validation-rows', 'drawing')
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60].strip("-") or "drawing"
