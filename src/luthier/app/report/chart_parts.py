"""What charts are made of: elements with escaped text, scales, ticks. Pure functions of numbers and strings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from itertools import pairwise

from .wording import MINUS, clip, visible

Point = tuple[float, float]
CHARACTER = 6.7  # width of an average character at the charts' 12 px, on the generous side


def element(tag: str, content: str | Sequence[str] = "", **attributes: object) -> str:
    """One SVG element. `content` is markup already; attributes are escaped, `class_` and `stroke_width` lose their
    underscores, numbers lose needless digits.

    >>> element("rect", x=1.0, class_="a<b", stroke_width=0.123456)
    '<rect x="1" class="a&lt;b" stroke-width="0.12"/>'
    """
    inside = content if isinstance(content, str) else "".join(content)
    told = "".join(
        f' {name.rstrip("_").replace("_", "-") if name != "viewBox" else name}="{escape(_plain(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return f"<{tag}{told}>{inside}</{tag}>" if inside else f"<{tag}{told}/>"


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".") if math.isfinite(value) else "0"
    return visible(str(value))


def text(content: str, x: float, y: float, class_: str = "", anchor: str = "start", **more: object) -> str:
    """A line of text at its baseline."""
    return element(
        "text",
        escape(visible(content)),
        x=x,
        y=y,
        class_=class_ or None,
        text_anchor=None if anchor == "start" else anchor,
        **more,
    )


def tip(content: str) -> str:
    """What a mark says when pointed at, and to a screen reader."""
    return element("title", escape(visible(clip(content, 240))))


def picture(label: str, width: float, height: float, parts: Sequence[str], class_: str) -> str:
    """The whole drawing; `label` is what a screen reader says of it."""
    return element(
        "svg",
        parts,
        viewBox=f"0 0 {_plain(float(width))} {_plain(float(height))}",
        width=width,
        role="img",
        aria_label=clip(label, 1200),
        class_=f"chart {class_}",
    )


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Values low..high -> positions start..end. A range of nothing lands in the middle.

    >>> scale(0, 10, 100, 200)(5), scale(3, 3, 0, 10)(3)
    (150.0, 5.0)
    """
    if high <= low:
        return lambda value: (start + end) / 2
    return lambda value: start + (value - low) / (high - low) * (end - start)


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers within low..high, in steps of 1, 2, 2.5 or 5 times a power of ten.

    >>> ticks(0, 1), ticks(0, 137, 3), ticks(2.1, 2.9), ticks(5, 5)
    ([0.0, 0.25, 0.5, 0.75, 1.0], [0.0, 50.0, 100.0], [2.2, 2.4, 2.6, 2.8], [5])
    """
    if high <= low or not math.isfinite(high - low):
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def tick_label(value: float, all_values: Sequence[float]) -> str:
    """With as many decimals as its neighbours need, thousands as k.

    >>> tick_label(0.5, [0, 0.25, 0.5]), tick_label(2000, [0, 1000, 2000]), tick_label(0.00002, [0, 0.00001, 0.00002])
    ('0.50', '2k', '2e−5')
    """
    if value == 0:
        return "0"
    largest = max(abs(v) for v in all_values)
    if largest < 0.001:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}".replace("-", MINUS)
    if largest >= 1000 and all(v % 100 == 0 for v in all_values):
        return f"{value / 1000:g}k".replace("-", MINUS)
    decimals = max(len(f"{v:.6f}".rstrip("0").partition(".")[2]) for v in all_values)
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def path(points: Sequence[Point]) -> str:
    """The `d` of a line through points."""
    return "".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(points))


def smooth(points: Sequence[Point], half_life: float) -> list[Point]:
    """Exponential mean over the points so far, without the start's pull to zero (Kingma & Ba 2015, section 3).

    >>> smooth([(1, 4.0), (2, 4.0), (3, 4.0)], 2)[-1]
    (3, 4.0)
    """
    keep = 0.5 ** (1 / half_life)
    total = weight = 0.0
    smoothed = []
    for x, y in points:
        total, weight = keep * total + (1 - keep) * y, keep * weight + (1 - keep)
        smoothed.append((x, total / weight))
    return smoothed


def thin(points: Sequence[Point], most: int) -> list[Point]:
    """At most so many points: the first, the last, and means of equal stretches between.

    >>> thin([(0, 0.0), (1, 1.0), (2, 3.0), (3, 9.0)], 3)
    [(0, 0.0), (1.5, 2.0), (3, 9.0)]
    """
    if len(points) <= most:
        return list(points)
    inner, groups = points[1:-1], most - 2
    cuts = [round(i * len(inner) / groups) for i in range(groups + 1)]
    means = [
        (sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part))
        for part in (inner[a:b] for a, b in pairwise(cuts))
    ]
    return [points[0], *means, points[-1]]
