"""Speeds as a picture: bars in SVG, one panel a track. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from contestants import RACE
from results import OURS, Line

WIDTH, LEFT, RIGHT, BAR, GAP, HEAD = 760, 190, 150, 22, 8, 42
OURS_COLOUR, THEIRS_COLOUR, INK, SOFT = "#1f6f5c", "#a9b4ba", "#1d2327", "#5b666d"


def svg(panels: Mapping[str, Mapping[str, Line]], captions: Mapping[str, str]) -> str:
    """Bars begin at zero; each panel has its own scale, since tracks do not compare."""
    parts, y = [], 10
    raced = {one.name for one in RACE}
    for track, found in panels.items():
        if not raced & set(found):
            continue
        piece, height = _panel(found, captions[track], y)
        parts.append(piece)
        y += height
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" '
        f'font-family="system-ui, sans-serif" font-size="13" fill="{INK}" role="img">'
        "<title>Training speed in tokens per second; longer is faster</title>"
        f'<rect width="{WIDTH}" height="{y}" fill="#ffffff"/>'
    )
    return head + "".join(parts) + "</svg>\n"


def _panel(found: Mapping[str, Line], caption: str, top: int) -> tuple[str, int]:
    shown: Sequence[tuple[str, Line]] = [(c.title, found[c.name]) for c in RACE if c.name in found]
    most = max(line.most_tokens_per_s for _, line in shown)
    scale = (WIDTH - LEFT - RIGHT) / most
    parts = [f'<text x="12" y="{top + 18}" font-weight="600">{escape(caption)}</text>']
    y = top + HEAD - 12
    for title, line in shown:
        middle, width = y + BAR / 2, line.tokens_per_s * scale
        colour = OURS_COLOUR if line.contestant == OURS else THEIRS_COLOUR
        least, best = (LEFT + v * scale for v in (line.least_tokens_per_s, line.most_tokens_per_s))
        parts += [
            f'<text x="{LEFT - 10}" y="{middle + 4}" text-anchor="end">{escape(title)}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2" fill="{colour}"/>',
            f'<line x1="{least:.1f}" x2="{best:.1f}" y1="{middle}" y2="{middle}" stroke="{INK}"/>',
            f'<text x="{best + 8:.1f}" y="{middle + 4}">{line.tokens_per_s:.0f} tokens/s'
            f'<tspan fill="{SOFT}">, {line.peak_bytes / 1e9:.1f} GB</tspan></text>',
        ]
        y += BAR + GAP
    return "".join(parts), HEAD + len(shown) * (BAR + GAP) + 10
