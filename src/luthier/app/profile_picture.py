"""A profile as one SVG file that needs nothing else: where a step's time goes, and how fast it is beside what the
machine can do. Light and dark. What is told by colour is told by text as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.training.split_time import name_of

from .report.chart_parts import CHARACTER, element, scale, text, tip

if TYPE_CHECKING:
    from luthier.training.profile import Profile

WIDTH, EDGE, ROW = 760.0, 24.0, 24.0
STYLE = """
svg{background:#fdfbf7;color:#211f1b;font:12px system-ui,sans-serif}
text{fill:currentColor}.title{font-size:15px;font-weight:600}.quiet{fill:#665f55}
.bar{fill:#6d6a66}.matmul{fill:#17635c}.attention{fill:#3f8a80}.head{fill:#7fb3ab}.generation{fill:#a9cbc6}
.element_wise{fill:#8f521e}.optimizer{fill:#c08a55}.input{fill:#b59b2c}.communication{fill:#7a4a86}.other{fill:#b9b2a6}
.reached{fill:#17635c}.can{fill:#b9b2a6}
@media (prefers-color-scheme:dark){svg{background:#171614;color:#ebe6dc}.quiet{fill:#a9a195}.can{fill:#5a554d}
.matmul,.reached{fill:#6cc4b6}.element_wise{fill:#dfa063}}
"""


def draw(name: str, found: Profile) -> str:
    """The text of the file."""
    parts, y = [element("style", STYLE)], 36.0
    parts.append(text(f"{name}: where a training step goes", EDGE, y, "title"))
    parts.append(text(_subtitle(found), EDGE, y + 18, "quiet"))
    y += 40
    parts += _whole(found, y)
    y += 56
    kinds = [
        (kind, share)
        for kind, share in sorted(found.shares.items(), key=lambda one: -one[1])
        if share >= 0.0005
    ]
    parts += _rows([(name_of(kind), share, f"{share:.1%}", kind) for kind, share in kinds], y)
    y += ROW * len(kinds) + 36
    parts.append(text("floating-point operations a second", EDGE, y, "title"))
    parts += _rows(_rates(found), y + 16)
    y += 16 + ROW * len(_rates(found)) + 32
    parts.append(text(f"held back by {found.bottleneck.kind}: {found.bottleneck.reason}", EDGE, y, "title"))
    parts += [text(line, EDGE, y + 20 + 16 * i) for i, line in enumerate(_wrapped(found.bottleneck.remedy))]
    height = y + 44 + 16 * len(_wrapped(found.bottleneck.remedy))
    return element(
        "svg", parts, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH:.0f} {height:.0f}", width=WIDTH,
        height=height, role="img", aria_label=f"{name}: {found.bottleneck.reason}",
    )  # fmt: skip


def _subtitle(found: Profile) -> str:
    return (
        f"{found.tokens_per_s:,.0f} tokens/s, {found.step_s:.2f} s a step, {found.device}, {found.dtype}, "
        f"{found.threads} threads, {found.peak_bytes / 1e9:.1f} GB at most"
    )


def _whole(found: Profile, y: float) -> list[str]:
    """All kinds of work end to end: the step itself."""
    at, left, parts = scale(0, 1, EDGE, WIDTH - EDGE), 0.0, []
    for kind, share in found.shares.items():
        parts.append(
            element("rect", tip(f"{name_of(kind)}: {share:.1%}"), x=at(left), y=y,
                    width=max(0.0, at(left + share) - at(left)), height=28, class_=f"bar {kind}")
        )  # fmt: skip
        left += share
    return parts


def _rates(found: Profile) -> list[tuple[str, float, str, str]]:
    told = [("the whole step", found.achieved, "reached")]
    if found.matmul_achieved:
        told.append(("products in the step", found.matmul_achieved, "reached"))
    told.append((f"this model's shapes, {found.dtype}", found.peak.model, "can"))
    told += [(f"square products, {dtype}", rate, "can") for dtype, rate in found.peak.square.items()]
    most = max(rate for _, rate, _ in told)
    return [(label, rate / most, f"{rate / 1e9:,.0f} GFLOP/s", look) for label, rate, look in told]


def _rows(rows: list[tuple[str, float, str, str]], y: float) -> list[str]:
    """(label, share of the widest, value, class), one below the other."""
    gutter = EDGE + 12 + CHARACTER * max(len(label) for label, *_ in rows)
    right = WIDTH - EDGE - 12 - CHARACTER * max(len(value) for _, _, value, _ in rows)
    at, parts = scale(0, max(share for _, share, _, _ in rows) or 1.0, gutter, right), []
    for i, (label, share, value, look) in enumerate(rows):
        middle = y + ROW * i + 12
        parts += [
            text(label, EDGE, middle + 4),
            element("rect", x=gutter, y=middle - 7, width=max(1.0, at(share) - gutter), height=14, class_=f"bar {look}"),
            text(value, at(share) + 8, middle + 4, "quiet"),
        ]  # fmt: skip
    return parts


def _wrapped(sentence: str) -> list[str]:
    import textwrap

    return textwrap.wrap(sentence, int((WIDTH - 2 * EDGE) / CHARACTER))
