"""Results as a person reads them: aligned, no boxes, digests short. Printed to standard output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from luthier.core.artifact import short
from luthier.core.units import show_bytes, show_seconds

from .asking import Told
from .command import one_line, safe
from .moments import moment

if TYPE_CHECKING:
    from luthier.app.doctor import Finding


def columns(rows: Sequence[Sequence[str]], indent: str = "") -> str:
    """Left-aligned columns two spaces apart; what steers a terminal is written out.

    >>> print(columns([("a", "1"), ("bcd", "22")]))
    a    1
    bcd  22
    >>> print(columns([("a\\x1b[2J", "1")]))
    a⟨U+001B⟩[2J  1
    """
    if not rows:
        return ""
    rows = [[safe(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        indent + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def page_of(page: str | Mapping[str, Any], reference: str) -> str:
    """Where a page is, or the words that fetch it from a server."""
    return page if isinstance(page, str) else f"luthier report {reference}"


def print_merged(merged: Told) -> None:
    click.echo(f"model {short(merged.model)}: {merged.method} of {', '.join(merged.models)}")
    for name, figures in merged.metrics.items():
        told = [f"{m} {v:.3f}" for m, v in figures.items() if isinstance(v, int | float)]
        click.echo(f"{name:12} {'  '.join(told[:6])}")
    if merged.report and merged.measured_as:
        click.echo(f"next: luthier compare {short(merged.report)} {merged.measured_as}")
    click.echo(f"next: luthier export {short(merged.model)} FOLDER --form merged")


def _figures(summary: Mapping[str, Any]) -> str:
    def one(value: Any) -> str:
        return (
            f"{value:.4g}"
            if isinstance(value, float)
            else f"{value:,}"
            if isinstance(value, int)
            else str(value)
        )

    return "  ".join(f"{k} {one(v)}" for k, v in summary.items() if isinstance(v, str | int | float))


def _said(about: Mapping[str, Any]) -> str:
    """What people say of a dataset, on one line."""
    said = [about[name] for name in ("owner", "licence") if about.get(name)] + list(about.get("tags") or ())
    return " ".join(", ".join(said).split())[:80]


def print_plan(plan: Told) -> None:
    click.echo(f"{plan.name}: what would run")
    click.echo(columns([(s["step"], s["state"], s["detail"]) for s in plan.steps], "  "))
    for title, facts in plan.sections:
        click.echo(f"\n{title}")
        click.echo(columns(facts, "  "))
    for line in plan.over_budget:
        click.echo(f"\nover budget: {safe(line)}")
    for line in plan.notes:
        click.echo(f"note: {safe(line)}")


def print_run(run: Told) -> None:
    if not run.made:
        click.echo(f"nothing to do: {run.release} is up to date.")
    else:
        click.echo(f"{run.release}: made {', '.join(run.made)} in {show_seconds(run.seconds)}.")
    for line in run.lines:
        click.echo(f"  {safe(line)}")
    if run.report_path:
        click.echo(f"report: {page_of(run.report_path, run.release)}")
    click.echo(
        f"next:   luthier chat {run.name}   ·   luthier serve {run.name}   ·   luthier lineage {run.release}"
    )


def _two_digits(value: float | None) -> str:
    """
    >>> _two_digits(0.0123), _two_digits(123.4), _two_digits(None)
    ('0.012', '123', '')
    """
    if value is None:
        return ""
    return f"{value:.2g}" if abs(value) < 99.5 else f"{value:,.0f}"


def print_comparison(found: Told) -> None:
    left = f"; {found.left_out:,} that only one was asked are left out" if found.left_out else ""
    click.echo(f"{found.one} against {found.other}, on {found.rows:,} test rows{left}")
    lines = [
        (
            "metric",
            found.one,
            found.other,
            "difference",
            f"{found.confidence:.0%} interval",
            "p",
            "visible from",
        )
    ]
    lines += [
        (
            one["metric"],
            f"{one['one']:.4g}",
            f"{one['other']:.4g}",
            f"{one['difference']:+.4g}",
            f"{one['low']:+.4g} to {one['high']:+.4g}",
            f"{one['p']:.2g}",
            _two_digits(one["detectable"]),
        )
        for one in found.metrics
    ]
    click.echo(columns(lines, "  "))
    click.echo(
        f"only {found.one} is right on {len(found.gained):,} rows, only {found.other} on {len(found.lost):,} "
        f"(exact McNemar p = {found.mcnemar_p:.2g})"
    )


def print_artifact(found: Mapping[str, Any]) -> None:
    named = f" ({', '.join(found['names'])})" if found["names"] else ""
    click.echo(f"{found['kind']} {found['digest']}{named}")
    click.echo(
        columns(
            [
                (k, v if isinstance(v, str) else f"{v:,.6g}" if isinstance(v, float) else str(v))
                for k, v in found["summary"].items()
            ],
            "  ",
        )
    )
    if found.get("about"):
        from .data_tables import print_about

        print_about(found["about"])
    for one in found.get("waivers") or ():
        click.echo(
            f"waived: {one['metric']} {one['rule']} ({one['verdict']}) by {one_line(one['by'])} on {one['on']}: "
            f"{one_line(one['because'], 300)}"
        )
        if not one["recorded"]:
            click.echo("  this home's ledger knows nothing of it")
    if found["parents"]:
        click.echo("from")
        click.echo(columns([(role, short(parent)) for role, parent in found["parents"].items()], "  "))
    if found["files"]:
        click.echo(f"files in {found['folder']}" if found["folder"] else "files")
        click.echo(
            columns(
                [(f["path"], show_bytes(f["size_bytes"]), short(f["sha256"])) for f in found["files"]], "  "
            )
        )
    if found["report"]:
        click.echo(f"report: {page_of(found['report'], found['names'][-1] if found['names'] else '')}")
    if "damaged" in found:
        click.echo(
            "damaged: " + ", ".join(found["damaged"]) if found["damaged"] else "every byte matches its hash"
        )


def print_list(rows: Sequence[Mapping[str, Any]], kind: str | None) -> None:
    if not rows:
        click.echo("nothing has been released yet: luthier run RECIPE" if kind is None else f"no {kind} yet")
        return
    if kind == "run":
        click.echo(
            columns(
                [
                    (
                        r["run"],
                        moment(r["created_s"], "minutes"),
                        r.get("name", ""),
                        r["state"],
                        r.get("release") or r.get("reason") or "",
                    )
                    for r in rows
                ]
            )
        )
    else:
        click.echo(
            columns(
                [
                    (
                        r.get("name", ""),
                        short(r["digest"]),
                        moment(r["created_s"], "minutes"),
                        _figures(r["summary"]),
                        _said(r.get("about") or {}),
                    )
                    for r in rows
                ]
            )
        )


_SIGN = {"this": "●", "from": "↑", "holds it": "●"}


def print_lineage(found: Told) -> None:
    if found.answer:
        shown = ("release", "probability", "prompt_tokens", "completion_tokens", "latency_s", "streamed")
        click.echo(
            f"answer {found.subject}: {_figures({k: found.answer[k] for k in shown if k in found.answer})}"
        )
    order = ("source", "dataset", "model", "calibration", "report", "package", "release")
    nodes = sorted(
        found.nodes, key=lambda n: (order.index(n["kind"]) if n["kind"] in order else 9, n["relation"])
    )
    click.echo(
        columns(
            [
                (
                    _SIGN.get(n["relation"], "↓"),
                    n["kind"],
                    short(n["digest"]),
                    ", ".join(n["names"]),
                    _figures(n["summary"])[:90],
                )
                for n in nodes
            ]
        )
    )
    if found.edges:
        click.echo("made from")
        click.echo(
            columns([(short(child), "←", role, short(parent)) for child, role, parent in found.edges], "  ")
        )
    if found.rows:
        click.echo(f"rows ({found.row_count:,})")
        click.echo(
            columns(
                [
                    (
                        r["id"],
                        str(r.get("split") or f"removed by {r['removed']['rule']}"),
                        str(r.get("origin", "")),
                    )
                    for r in found.rows
                ],
                "  ",
            )
        )
        if found.row_count > len(found.rows):
            click.echo(f"  … and {found.row_count - len(found.rows):,} more (--rows lists all)")


def print_findings(findings: Sequence[Finding]) -> None:
    sign = {"ok": "ok     ", "missing": "missing", "bad": "BAD    "}
    click.echo(columns([(sign[f.state], f.what, f.detail) for f in findings]))
    for f in findings:
        if f.state != "ok" and f.remedy:
            click.echo(f"→ {f.what}: {f.remedy}")
