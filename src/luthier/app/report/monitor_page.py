"""The page of a stretch of traffic: figures in (app/monitoring.Reported), the text of one HTML file out, with the guards of every
page here (page.py). What strangers wrote is masked and stands there as text."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from . import monitor_charts, wording
from .page import environment, policy, text_of
from .sections import both

if TYPE_CHECKING:
    from luthier.app.monitoring import Reported
    from luthier.monitoring.tested import Tested

STYLE = """
.shares rect.usual { fill: var(--raw); }
.shares rect.now { fill: var(--accent); }
.differs .shares rect.now { fill: var(--wood); }
.shares .tick, .capital .tick { font-size: 11px; fill: var(--muted); }
.shares .name { font-size: 12px; fill: var(--ink); }
.capital path.capital { stroke: var(--accent); stroke-width: 1.8; fill: none; }
.capital circle.look { fill: var(--accent); }
.capital circle.hit { fill: var(--wood); }
.capital line.alarm { stroke: var(--wood); stroke-width: 1.4; stroke-dasharray: 5 4; }
.capital line.grid { stroke: var(--faint); }
.capital text.mark { font-size: 11px; fill: var(--wood); }
.key { display: inline-block; width: 12px; height: 9px; margin-right: 5px; }
.key.usual { background: var(--raw); } .key.now { background: var(--accent); } .key.differing { background: var(--wood); }
.small { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 28px 40px; }
.small figcaption { font-size: 14px; margin-bottom: 6px; } .small figure { margin: 0; }
.small svg { max-width: 100%; height: auto; }
"""
GROUP_TITLES = {
    "content": "What is asked",
    "abuse": "Private values and planted orders",
    "answers": "What is answered",
    "quality": "What people judged",
}


def render(found: Reported) -> str:
    """The page as text, to be saved as UTF-8. The same figures give the same bytes."""
    style = text_of("page.css") + STYLE
    alarm = 1 / found.alpha
    return (
        environment()
        .get_template("monitor_page.html.j2")
        .render(
            style=style,
            policy=policy(style),
            name=found.name,
            release=found.release,
            reference=found.reference,
            span=f"{_time(found.since_s)} to {_time(found.until_s)}",
            headline=headline(found),
            figures=_figures(found),
            open=[
                {"since": _time(one.since_s), "group": GROUP_TITLES[one.group], "views": ", ".join(one.views), "at": one.requests if one.group != "quality" else None}
                for one in found.open
            ],
            groups=_groups(found.views),
            whole=found.whole and _whole(found),
            quality=found.quality and _quality(found),
            capital=_capital(found, alarm),
            alarm=f"{alarm:,.0f}",
            examples=found.examples,
            repeated=found.repeated,
            left_out=found.left_out,
        )
    )  # fmt: skip


def headline(found: Reported) -> str:
    """The first sentence."""
    worse = found.quality is not None and found.quality.worse
    differing = [one.title for one in found.views if one.differs and one.view != "right"]
    if not differing and not worse:
        return f"{found.rows:,} requests are like what {found.name} was measured on."
    said = (
        f"{found.rows:,} requests differ in {wording.join(differing[:4])}"
        if differing
        else f"{found.rows:,} requests are as usual"
    )
    more = len(differing) - 4
    said += f" and {more} more views" if more > 0 else ""
    return said + (", and judged answers are worse." if worse else ".")


def _figures(found: Reported) -> list[dict[str, str]]:
    told = [
        (
            "requests",
            f"{found.rows:,}",
            f"{found.repeated:,} that repeat another count once" if found.repeated else "",
        ),
        (
            "views that differ",
            str(sum(one.differs for one in found.views)),
            f"of {len(found.views)}, corrected by Holm",
        ),
    ]
    if found.whole is not None:
        apart = found.whole.told_apart
        told.append(
            ("told apart, AUC", f"{apart.effect:.2f}", f"{apart.low:.2f} to {apart.high:.2f}; 0.50 is luck")
        )
    if found.quality is not None:
        q = found.quality
        beside = f"of {q.judged:,}" + ("" if q.usual is None else f"; measured {wording.percent(q.usual)}")
        told.append(("judged right", wording.percent(q.value), beside))
    if found.timeline:
        told.append(
            (
                "capital at the last look",
                f"{found.timeline[-1][1]:,.2g} d",
                f"an alarm at {1 / found.alpha:,.0f} days",
            )
        )
    return [{"name": name, "value": value, "beside": beside} for name, value, beside in told]  # fmt: skip


def _groups(views: list[Tested]) -> list[dict[str, Any]]:
    found = []
    for group, title in GROUP_TITLES.items():
        mine = [one for one in views if one.group == group]
        if mine:
            found.append({"title": title, "views": [_view(one) for one in mine]})
    return found


def _view(one: Tested) -> dict[str, Any]:
    psi = one.stability
    return {
        "title": one.title,
        "rows": f"{one.rows:,}",
        "usual": one.usual,
        "now": one.window,
        "test": "too few rows" if one.found is None else f"{one.found.test} {one.found.effect:.3f}",
        "p": "–" if one.p_corrected is None else _p(one.p_corrected),
        "psi": "–" if psi is None else f"{psi.effect:.3f}",
        "luck": "–" if psi is None or psi.by_luck is None else f"{psi.by_luck:.3f}",
        "differs": one.differs,
        "svg": Markup(monitor_charts.shares(_described(one), one.shares)) if len(one.shares) > 1 else None,  # noqa: S704 (charts escape)
    }


def _described(one: Tested) -> str:
    said = "; ".join(f"{name} {before:.0%} then {now:.0%}" for name, before, now in one.shares)
    return f"{one.title}, usual and now: {said}"


def _whole(found: Reported) -> dict[str, str]:
    assert found.whole is not None
    mmd, apart = found.whole.mmd, found.whole.told_apart
    return {
        "mmd": f"{mmd.effect:.4f}", "mmd_p": _p(mmd.p), "auc": f"{apart.effect:.3f}",
        "within": f"{apart.low:.3f} to {apart.high:.3f}", "auc_p": _p(apart.p),
    }  # fmt: skip


def _quality(found: Reported) -> dict[str, str]:
    q = found.quality
    assert q is not None
    usual = "was not measured" if q.usual is None else f"was {q.usual:.1%} on {q.usual_rows:,} test rows"
    return {
        "judged": f"{q.judged:,}", "right": f"{q.right:,}", "value": f"{q.value:.1%}", "within": f"{q.low:.1%} to {q.high:.1%}", "usual": usual,
        "verdict": "" if q.usual is None else "The whole interval lies below that." if q.worse else "That lies within the interval, or below it.",
    }  # fmt: skip


def _capital(found: Reported, alarm: float) -> Any:
    if not found.timeline:
        return None
    said = "; ".join(f"{_time(when)} {value:.3g}" for when, value in found.timeline[-12:])
    return both(
        lambda width: monitor_charts.capital(
            f"Capital in days at the last looks: {said}", found.timeline, alarm, width
        )
    )


def _p(value: float) -> str:
    return "below 0.0001" if value < 0.0001 else f"{value:.4f}"


def _time(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M")
