"""`luthier monitor ...`: how released models fare, what cron calls, and a person's word on a new model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from luthier.core.errors import DataError, SpecError

from .asking import Told, ask
from .command import Nearest, app, as_json_option, put, put_json, told
from .moments import moment

if TYPE_CHECKING:
    from luthier.app.monitoring import Reported, Stepped
    from luthier.monitoring.alerts import Alert

_recipe = click.option(
    "--recipe",
    type=click.Path(path_type=Path),
    help="Take `monitor:` from this file; default: as recorded with the release that answers.",
)
_by = click.option("--by", help="Who answers for it; default: you.")


@click.group(cls=Nearest)
def monitor() -> None:
    """How a released model fares: is it asked and does it answer as it was measured?

    \b
    luthier monitor report ticket-router --since "7 days"      one stretch against the reference, as a table
    luthier monitor step ticket-router                         for cron: purge, look, alert, train anew when due
    luthier monitor baseline ticket-router --since 2026-01-05 --until 2026-01-12 --because "a good week"
    luthier monitor approve ticket-router --reason "looked at"    let a new model go on to a rollout

    It reads what `luthier serve --capture` keeps. docs/monitoring.md says how it is told and how sure that is.
    """


@monitor.command()
@click.argument("name")
@click.option("--since", default="7 days", show_default=True, help="A time, or how long ago.")
@click.option("--until", help="A time, or how long ago; default: now.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page there, too; never overwrites.")
@_recipe
@as_json_option
@told
def report(
    name: str, since: str, until: str | None, html: Path | None, recipe: Path | None, as_json: bool
) -> None:
    """One stretch of the traffic of NAME against what it was measured on, every test by its name."""
    if html is not None:
        _page(app().monitor.report(name, since=since, until=until, recipe=recipe), html)
    found = ask("monitor.report", name, since=since, until=until, recipe=recipe)
    if as_json:
        put_json({**found, "html": html and str(html)})
        return
    _print(found)
    if html is not None:
        put(f"\npage: {html}")


def _page(found: Reported, html: Path) -> None:
    from luthier.app.report.monitor_page import render

    try:
        with html.open("x", encoding="utf-8") as handle:
            handle.write(render(found))
    except FileExistsError:
        raise SpecError(
            f"{html} is already there.", remedy="Choose another name, or remove it first."
        ) from None
    except OSError as error:
        raise SpecError(
            f"{html} cannot be written: {error.strerror}.", remedy="Choose another place."
        ) from None


@monitor.command()
@click.argument("name")
@_recipe
@click.option(
    "--folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where relative paths of the recorded recipe start, for a new run; default: here.",
)
@as_json_option
@told
def step(name: str, recipe: Path | None, folder: Path | None, as_json: bool) -> None:
    """What cron calls: purge, look at windows that are over, tell, and train anew when due. Safe to run twice. Exits with 3 where there
    is nothing to compare with."""
    from .interrupt import stop_on_signals
    from .show import watch

    eyes = watch()

    def log(alert: Alert) -> None:  # at once: a new run may take hours, and may be killed
        text = "\nALERT " + "\n".join(alert.lines()) + "\n"
        eyes.say(text) if as_json else put(text)
        sys.stdout.flush()

    try:
        with stop_on_signals(eyes.say) as stop:
            found = app().monitor.step(
                name,
                recipe=recipe,
                folder=folder and folder.absolute(),
                watch=eyes,
                stop=stop,
                by=_user(),
                log=log,
            )
    finally:
        eyes.close()
    put_json(found.plain()) if as_json else _stepped(found)
    if any(what == "look" for what, _ in found.failed):
        sys.exit(DataError.exit_code)


@monitor.command()
@click.argument("name")
@as_json_option
@told
def show(name: str, as_json: bool) -> None:
    """Where monitoring of NAME stands: the last look, what is open, a model that waits."""
    found = ask("monitor.show", name)
    if as_json:
        put_json(found)
        return
    if last := found["last"]:
        put(
            f"looked at up to {moment(last['until_s'], 'minutes')}: {last['rows']:,} requests, capital {last['capital']:.3g} days"
        )
    for episode in found["open"]:
        put(
            f"open since {moment(episode['since_s'], 'minutes')}: {episode['group']} ({', '.join(episode['views'])})"
        )
    if found["baseline"]:
        put(
            f"baseline: {moment(found['baseline']['since_s'], 'minutes')} to {moment(found['baseline']['until_s'], 'minutes')}, by {found['baseline']['by']}"
        )
    if retrain := found["retrain"]:
        put(f"new model: {retrain['state']}" + (f", {retrain['release']}" if retrain.get("release") else ""))


@monitor.command()
@click.argument("name")
@click.option("--since", required=True, help="A time, or how long ago.")
@click.option("--until", help="A time, or how long ago; default: now.")
@click.option("--because", required=True, help="Why this traffic is what is usual; recorded.")
@_by
@_recipe
@as_json_option
@told
def baseline(
    name: str, since: str, until: str | None, because: str, by: str | None, recipe: Path | None, as_json: bool
) -> None:
    """Take a stretch of good traffic of NAME for what is usual, in place of the rows it was measured on."""
    done = ask("monitor.baseline", name, since=since, until=until, by=by, because=because, recipe=recipe)
    put_json(done) if as_json else put(
        f"{done['rows']:,} requests of {moment(done['since_s'], 'minutes')} to {moment(done['until_s'], 'minutes')} are what is usual now"
    )


@monitor.command()
@click.argument("name")
@click.option("--reason", required=True, help="Why; recorded.")
@_by
@as_json_option
@told
def approve(name: str, reason: str, by: str | None, as_json: bool) -> None:
    """Let the new model of NAME that waits go on to a rollout."""
    done = ask("monitor.approve", name, by=by, reason=reason)
    put_json(done) if as_json else put(f"{done['release']}: {done['state']}, {done['why']}")


@monitor.command()
@click.argument("name")
@click.option("--reason", required=True, help="Why; recorded.")
@_by
@as_json_option
@told
def decline(name: str, reason: str, by: str | None, as_json: bool) -> None:
    """Do not use the new model of NAME that waits."""
    done = ask("monitor.decline", name, by=by, reason=reason)
    put_json(done) if as_json else put(f"{done['release']} is not used")


def _stepped(found: Stepped) -> None:
    if found.removed:
        put(f"{found.removed:,} old exchanges removed")
    for one in found.looks:
        put(
            f"looked at {moment(one['since_s'], 'minutes')} to {moment(one['until_s'], 'minutes')}: {one['rows']:,} requests, capital {one['capital']:.3g} days"
        )
    if not found.looks and not found.failed:
        put("no window is over that was not looked at")
    if left_out := sum(one["left_out"] for one in found.looks):
        put(f"{left_out:,} further requests are left out (monitor.drift.at_most)")
    for episode in found.ended:
        put(f"ended: {episode}")
    for what, reason in found.failed:
        put(
            f"nobody could look: {reason}"
            if what == "look"
            else f"{what} was not told: {reason}; the next step tries again"
        )
    if found.retrain is not None:
        put(f"new model: {found.retrain.state}, {found.retrain.why}")


def _print(found: Told) -> None:
    from rich.console import Console
    from rich.table import Table

    about = found.reference
    usual = f"{about['compared']:,} rows of {'its dataset' if about['of'] == 'data' else 'good traffic'}"
    put(
        f"{found.name}, {found.release or 'no release'}: {found.rows:,} requests of {moment(found.since_s, 'minutes')} to {moment(found.until_s, 'minutes')}, against {usual}"
    )
    if found.repeated:
        put(f"{found.repeated:,} that repeat another count once")
    if found.left_out:
        put(f"{found.left_out:,} older ones are left out")
    table = Table("view", "usual", "now", "test", "p (Holm)", "PSI", box=None, pad_edge=False)
    for one in found.views:
        test = "too few" if one.found is None else f"{one.found.test} {one.found.effect:.3f}"
        p = "–" if one.p_corrected is None else f"{one.p_corrected:.2g}{' *' if one.differs else ''}"
        psi = "–" if one.stability is None else f"{one.stability.effect:.3f}"
        table.add_row(one.title, _seen(one.usual), _seen(one.window), test, p, psi)
    Console(highlight=False, markup=False).print(table)
    if found.whole is not None:
        mmd, apart = found.whole.mmd, found.whole.told_apart
        put(
            f"vectors: MMD² {mmd.effect:.4f}, p {mmd.p:.2g}; told apart with AUC {apart.effect:.3f} ({apart.low:.3f} to {apart.high:.3f}), p {apart.p:.2g}"
        )
    if found.quality is not None:
        q = found.quality
        measured = "" if q.usual is None else f"; measured {q.usual:.1%} of {q.usual_rows:,}"
        put(
            f"judged: {q.right:,} of {q.judged:,} right, {q.value:.1%} ({q.low:.1%} to {q.high:.1%}){measured}"
        )
    for episode in found.open:
        put(f"open since {moment(episode.since_s, 'minutes')}: {episode.group} ({', '.join(episode.views)})")
    for one in found.examples:
        put(f"  {one.id}: {one.text}")


def _seen(text: str) -> str:
    from luthier.app.report.wording import visible

    return visible(text)


def _user() -> str:
    from luthier.app.acting import system_user

    return system_user()
