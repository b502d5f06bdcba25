"""The commands that say what to try and what to keep: advise, select; and how a search's end reads."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from luthier.core.units import Money, show_seconds

from .asking import Told, ask, ask_long, fetch
from .command import as_json_option, meant, put, put_json, told
from .tables import columns, page_of

_sets = click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="A.B=C",
    help="Change one value of the recipe; may be given again.",
)


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@_sets
@click.option("--no-probe", is_flag=True, help="Formulas only: no real steps, so times are not known.")
@as_json_option
@told
def advise(recipe: Path, sets: tuple[str, ...], no_probe: bool, as_json: bool) -> None:
    """Which technique for RECIPE's case? A ranked list with forecasts, reasons and the words that set each. Trains nothing.

    `luthier search RECIPE --techniques` tries them.
    """
    found = ask_long("recipes.advise", recipe, sets, probe=not no_probe)
    put_json(found) if as_json else print_advice(found, str(recipe))


@click.command()
@click.argument("refs", nargs=-1)
@click.option(
    "--recipe", type=click.Path(path_type=Path), help="Choose among the trials of this recipe's search."
)
@_sets
@click.option(
    "--metric", help="By which metric of the validation rows; without it the one they were judged by."
)
@click.option(
    "--rule",
    type=click.Choice(["one_standard_error", "best"]),
    default="one_standard_error",
    show_default=True,
    help="The cheapest that the best does not beat by more than one standard error, or the best.",
)
@click.option("--name", help="Give the release that is kept this name, as its newest version.")
@as_json_option
@told
def select(
    refs: tuple[str, ...],
    recipe: Path | None,
    sets: tuple[str, ...],
    metric: str | None,
    rule: str,
    name: str | None,
    as_json: bool,
) -> None:
    """Choose among REFS (releases or models), or among a search's trials, by figures on validation rows alone.

    Test figures are never looked at: who chooses by them has used them up. To measure two that were chosen: luthier compare.
    """
    found = ask("models.select", refs, recipe=recipe, overrides=sets, metric=metric, rule=rule, name=name)
    put_json(found) if as_json else print_selected(found)


@click.command()
@click.argument("ref")
@click.option("--png", is_flag=True, help="Write every drawing as a PNG file, into a folder beside the page.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the PNG files into this folder instead.")
@as_json_option
@told
def report(ref: str, png: bool, out: Path | None, as_json: bool) -> None:
    """Where the page of REF is (a release's name or name@version; NAME-search for a search), and its drawings as PNG."""
    page = fetch(ask("records.page", ref)["page"], out or Path.cwd())
    folder = out if isinstance(out, Path) and meant() is None else page.with_suffix("")
    files = ask("records.pictures", ref, folder) if png or out is not None else []
    if as_json:
        put_json({"report": str(page), "pictures": [str(path) for path in files]})
        return
    put(str(page))
    for path in files:
        put(f"  {path}")


def print_advice(found: Told, recipe: str) -> None:
    put(f"{found.name}: which technique?")
    put(columns(found.told, "  "))
    possible = [one for one in found.advice if one.possible]
    put()
    put(columns([("", "technique", "time", "memory", "money"), *((str(n), one.name, *one.figures) for n, one in enumerate(possible, 1))], "  "))  # fmt: skip
    for n, one in enumerate(possible, 1):
        put(f"\n{n}. {one.title}")
        for reason in one.reasons:
            put(f"   {reason}")
        if one.sets:
            put("   " + " ".join(f"--set {shlex.quote(word)}" for word in one.sets))
    lacking = [one for one in found.advice if not one.possible]
    if lacking:
        put("\nnot possible here")
        put(columns([(one.name, one.why_not[0].splitlines()[0]) for one in lacking], "  "))
    for note in found.notes:
        put(f"note: {note}")
    put(f"next:   luthier search {recipe} --techniques   (tries them, within the budget)")


def print_selected(found: Told) -> None:
    lines = [("", "model", found.metric, "interval", "work")]
    for row in found.rows:
        mark = "*" if row["kept"] else ""
        within = f"{row['low']:.4g} to {row['high']:.4g}" if row["low"] is not None else ""
        lines.append((mark, row["name"], f"{row['value']:.4g}", within, f"{row['work']:.3g}"))
    rows = f", {found.validation_rows:,} validation rows" if found.validation_rows else ""
    put(f"by {found.metric} on validation rows{rows} (rule: {found.rule})")
    put(columns(lines, "  "))
    put(f"kept: {found.kept}: {found.why}")
    if found.named:
        put(f"named: {found.named}")
    put(f"next:   {found.next}")


def print_search(found: Told, recipe: str) -> None:
    """Every trial, the best first; then what was kept."""
    order = sorted(
        found.trials,
        key=lambda one: (
            one.value is None,
            (-(one.value or 0) if found.higher else one.value or 0),
            one.number,
        ),
    )
    lines = [("trial", found.metric, "interval", "time", "setting")]
    for one in order:
        mark = " *" if one.number == found.kept else ""
        value = f"{one.value:.4g}{mark}" if one.value is not None else one.state
        within = f"{one.low:.4g} to {one.high:.4g}" if one.low is not None and one.high is not None else ""
        lines.append((str(one.number), value, within, show_seconds(one.seconds), _setting(one)[:200]))
        if one.why:
            lines.append(("", "", "", "", f"  {one.why[:200]}"))
    put(columns(lines, "  "))
    cost = f", {Money(*found.money)}" if found.money else ""
    put(f"all trials together: {show_seconds(found.seconds)}{cost}")
    if found.stopped:
        put(f"stopped: {found.stopped}")
    for reference in found.references:
        how = "behind" if reference.behind else "not behind by more than one standard error"
        put(f"without training: {reference.system} {reference.value:.4g}, {how}")
    put(f"kept: trial {found.kept}: {found.why}")
    words = " ".join(f"--set {shlex.quote(one)}" for one in ("search=null", *found.sets))
    put(f"report: {page_of(found.report, found.name + '-search')}")
    put(f"next:   luthier run {recipe} {words}")


def _setting(one: Any) -> str:
    told = "  ".join(f"{path}={value}" for path, value in one.setting.items()) or "as written"
    return f"{one.technique}: {told}" if one.technique else told
