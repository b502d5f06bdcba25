"""`luthier job ...`: the queue of a server's home, at its host or from elsewhere (queue)."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from luthier.core.units import show_bytes, show_seconds

from .at_site import with_key
from .command import Nearest, as_json_option, on_this_machine, one_line, put, put_json, safe, told
from .moments import moment
from .queue import queue

if TYPE_CHECKING:
    from luthier.app.site import Caller, Site
    from luthier.store.attempts import AttemptRow
    from luthier.store.jobs import Job
    from luthier.store.schedules import Schedule

_project = click.option("--project", metavar="ID", help="Whose queue; default: the only project.")
_sets = click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="A.B=C",
    help="Change one value of the recipe; may be given again.",
)
_resources = (
    click.option(
        "--cores", type=click.IntRange(1, 4096), help="Processor cores; default: its part of the host."
    ),
    click.option("--memory", metavar="SIZE", help="Main memory, for example '16 GB'; default: not counted."),
    click.option("--gpus", type=click.IntRange(0, 64), help="GPUs; default: one, where there is any."),
)
_PRIORITY = click.IntRange(-100, 100)


def _with_resources(command: Any) -> Any:
    for option in reversed(_resources):
        command = option(command)
    return command


@click.group(cls=Nearest)
def job() -> None:
    """Runs that wait their turn, survive restarts, and can be paused.

    \b
    luthier job submit recipe.yaml            enter a run of a recipe
    luthier job work                          do what waits, until Ctrl-C (a server does so by itself)
    luthier job list --state running          what runs
    luthier job events JOB --follow           its story, as it is told
    luthier job logs JOB --containing error   what it printed
    luthier job pause JOB                     save a checkpoint and stop; `resume` goes on from it
    """


@job.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@_sets
@_project
@click.option("--priority", type=_PRIORITY, default=0, show_default=True, help="Higher ones first.")
@_with_resources
@click.option(
    "--needs", multiple=True, metavar="JOB", help="Wait until this one has succeeded; may be given again."
)
@click.option(
    "--attempts", type=click.IntRange(1, 20), default=3, show_default=True, help="How often it is tried."
)
@as_json_option
@told
def submit(
    recipe: Path, sets: tuple[str, ...], project: str | None, priority: int, cores: int | None, memory: str | None, gpus: int | None,
    needs: tuple[str, ...], attempts: int, as_json: bool,
) -> None:  # fmt: skip
    """Enter a run of RECIPE into the queue. Its text is kept with the job; its paths start where it lies, or with a key in LUTHIER_KEY in
    that key's project."""
    from luthier.app.recipe import read_written

    site, caller = _here(project)
    found = site.jobs.submit_recipe(
        caller, read_written(recipe), sets=sets, folder=_folder_of(caller, recipe), priority=priority,
        resources=_asked(cores, memory, gpus), needs=needs, most_attempts=attempts,
    )  # fmt: skip
    put_json(_plain(found)) if as_json else put(f"{found.id} waits; see it with: luthier job show {found.id}")


@job.command(name="list")
@_project
@click.option("--state", "states", multiple=True, type=click.Choice(["held", "queued", "running", "paused", "succeeded", "failed", "cancelled"]))  # fmt: skip
@click.option("--newest", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many.")
@as_json_option
@told
def list_(project: str | None, states: tuple[str, ...], newest: int, as_json: bool) -> None:
    """The newest first."""
    found, more = queue(project).list(states, newest)
    if as_json:
        from luthier.store.jobs import in_brief

        put_json([in_brief(one) for one in found])
        return
    for one in found:
        put(
            f"{one.id:30} {one.state:10} {one.kind:10} {moment(one.created_s)}  {one_line(_how_far(one), 60)}"
        )
    if not found:
        put("no jobs")
    elif more:
        put("there are more: --newest")


@job.command()
@click.argument("job_id", metavar="JOB")
@_project
@as_json_option
@told
def show(job_id: str, project: str | None, as_json: bool) -> None:
    """One job: where it stands, its attempts, what came of it."""
    asked = queue(project)
    one, attempts = asked.get(job_id), asked.attempts(job_id)
    if as_json:
        put_json({**_plain(one), "history": [_plain_attempt(row) for row in attempts]})
        return
    put(f"{one.id}  {one.kind}  {one.state}" + (f" (asked to {one.wanted})" if _asked_of(one) else ""))
    put(f"  entered {moment(one.created_s)} by {one_line(one.by)}, priority {one.priority}")
    if resources := _resources_of(one):
        put(f"  asks for {resources}")
    if how := _how_far(one):
        put(f"  {safe(how)}")
    for row in attempts:
        took = show_seconds((row.finished_s or time.time()) - row.started_s) if row.started_s else "-"
        put(
            f"  attempt {row.number}: {row.state}, {took}"
            + (f": {one_line(row.reason, 200)}" if row.reason else "")
        )
    if one.result is not None and "release" in one.result:
        put(f"  released {safe(str(one.result['release']))}")


def _command(name: str, wanted: Any, help: str) -> None:
    @job.command(name=name, help=help)
    @click.argument("job_id", metavar="JOB")
    @_project
    @as_json_option
    @told
    def ask(job_id: str, project: str | None, as_json: bool) -> None:
        one = queue(project, "jobs.write").ask(job_id, wanted)
        put_json(_plain(one)) if as_json else put(
            f"{one.id} {one.state}" + (f", asked to {wanted}" if _asked_of(one) else "")
        )


_command("cancel", "cancel", "End JOB for good; what runs saves a checkpoint first.")
_command("pause", "pause", "Save a checkpoint and stop, until it is resumed.")
_command("resume", "run", "Go on from the last checkpoint, when its turn comes.")


@job.command(context_settings={"ignore_unknown_options": True})  # else -1 were an option
@click.argument("job_id", metavar="JOB")
@click.argument("value", type=_PRIORITY)
@_project
@as_json_option
@told
def priority(job_id: str, value: int, project: str | None, as_json: bool) -> None:
    """Have JOB start sooner or later than others: higher values first."""
    one = queue(project, "jobs.write").prioritise(job_id, value)
    put_json(_plain(one)) if as_json else put(f"{one.id} has priority {one.priority}")


@job.command()
@click.argument("job_id", metavar="JOB")
@_project
@click.option("--follow", is_flag=True, help="Go on until it ends.")
@click.option("--after", type=click.IntRange(0, 2**62), default=0, help="Only those behind this number.")
@as_json_option
@told
def events(job_id: str, project: str | None, follow: bool, after: int, as_json: bool) -> None:
    """What happened to JOB, oldest first. With --json one object a line."""
    import json

    asked = queue(project)
    told_ = asked.follow(job_id, after) if follow else asked.events(job_id, after)
    for event in told_:
        if as_json:
            put(json.dumps({"seq": event.seq, "time_s": event.time_s, **event.data}, ensure_ascii=False))
        else:
            level = "" if event.data["level"] == "info" else f"{event.data['level']}: "
            put(f"{moment(event.time_s)}  {level}{one_line(event.data['message'], 200)}")


@job.command()
@click.argument("job_id", metavar="JOB")
@_project
@click.option("--attempt", type=click.IntRange(1, 1_000_000), help="Of this one; default: the newest.")
@click.option(
    "--lines", type=click.IntRange(1, 10_000), default=200, show_default=True, help="The last so many."
)
@click.option("--containing", metavar="WORD", help="Only lines with this word.")
@as_json_option
@told
def logs(
    job_id: str, project: str | None, attempt: int | None, lines: int, containing: str | None, as_json: bool
) -> None:
    """What JOB printed, where it ran on this host."""
    found = queue(project).logs(job_id, attempt, lines, containing)
    put_json(list(found)) if as_json else put("\n".join(safe(line) for line in found))


@job.command()
@told
def work() -> None:
    """Do what waits on this host, until Ctrl-C. What runs then goes on by itself; the next `work`, or a server, finds it again."""
    from luthier.app.jobs.reconciler import Reconciler
    from luthier.app.site import Site

    from .interrupt import stop_on_signals

    on_this_machine("job work")
    with stop_on_signals(lambda line: click.echo(line, err=True)) as stop, Reconciler(Site.open()).running():
        stop.wait()


@job.command()
@click.argument("host")
@_project
@click.option(
    "--gone",
    is_flag=True,
    required=True,
    help="It will not come back: what ran there is not running any more.",
)
@as_json_option
@told
def abandon(host: str, project: str | None, gone: bool, as_json: bool) -> None:
    """What ran on HOST begins again elsewhere. On a host that lives, there are then two trainers until it notices."""
    assert gone
    site, caller = _here(project)
    found = site.jobs.abandon(caller, host)
    put_json(list(found)) if as_json else put(f"{len(found)} jobs wait again")


# -- schedules ------------------------------------------------------------------------------------------------------------


@job.group(cls=Nearest)
def schedule() -> None:
    """Runs at the times of cron.

    \b
    luthier job schedule add nightly '0 3 * * mon-fri' recipe.yaml --timezone Europe/Berlin
    luthier job schedule list
    """


@schedule.command()
@click.argument("title")
@click.argument("cron")
@click.argument("recipe", type=click.Path(path_type=Path))
@_sets
@_project
@click.option("--timezone", default="UTC", show_default=True, help="Whose clock.")
@click.option("--priority", type=_PRIORITY, default=0, show_default=True)
@_with_resources
@as_json_option
@told
def add(
    title: str, cron: str, recipe: Path, sets: tuple[str, ...], project: str | None, timezone: str, priority: int, cores: int | None,
    memory: str | None, gpus: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Have RECIPE run at the times of CRON ('minute hour day month weekday', or @daily), as it is written now."""
    from luthier.app.recipe import read_written

    site, caller = _here(project)
    found = site.jobs.schedules.add_recipe(
        caller, title, cron, read_written(recipe), sets=sets, folder=_folder_of(caller, recipe), timezone=timezone, priority=priority,
        resources=_asked(cores, memory, gpus),
    )  # fmt: skip
    put_json(_plain_schedule(found)) if as_json else put(
        f"{found.id}: first at {moment(found.next_s, missing='never')}"
    )


@schedule.command(name="list")
@_project
@as_json_option
@told
def list_schedules(project: str | None, as_json: bool) -> None:
    """Oldest first."""
    site, caller = _here(project, "jobs.read")
    found = site.jobs.schedules.list(caller)
    if as_json:
        put_json([_plain_schedule(one) for one in found])
        return
    for one in found:
        when = f"next {moment(one.next_s, missing='never')}" if one.enabled else "off"
        put(f"{one.id:30} {one.cron:20} {one.job['timezone']:16} {when}  {one_line(one.title)}")
    if not found:
        put("no schedules")


def _switch(name: str, help: str, change: Any) -> None:
    @schedule.command(name=name, help=help)
    @click.argument("schedule_id", metavar="SCHEDULE")
    @_project
    @as_json_option
    @told
    def switch(schedule_id: str, project: str | None, as_json: bool) -> None:
        site, caller = _here(project)
        found = change(site.jobs.schedules, caller, schedule_id)
        put_json(_plain_schedule(found)) if as_json else put(f"{found.id} {name}")


_switch("on", "From its next time on.", lambda verbs, who, one: verbs.switch(who, one, on=True))
_switch("off", "Until it is switched on.", lambda verbs, who, one: verbs.switch(who, one, on=False))
_switch(
    "remove", "For good; the jobs that it has submitted stay.", lambda verbs, who, one: verbs.remove(who, one)
)


# -- parts ----------------------------------------------------------------------------------------------------------------


def _here(project: str | None, permission: str = "jobs.write") -> tuple[Site, Caller]:
    """Of this host's home, for what is not asked of a server; with the key in LUTHIER_KEY where there is one."""
    from luthier.app.site import Site

    on_this_machine(" ".join(click.get_current_context().command_path.split()[1:]))
    site = Site.open()
    return site, with_key(site, project, permission) or site.local(project)


def _folder_of(caller: Caller, recipe: Path) -> Path | None:
    """Where its paths start: a key may name what its project holds, and no folder of this host."""
    return None if caller.key_id is not None else recipe.resolve().parent


def _asked(cores: int | None, memory: str | None, gpus: int | None) -> dict[str, int]:
    """Raises SpecError."""
    from luthier.core.errors import SpecError
    from luthier.core.units import size_bytes

    try:
        said = {"cores": cores, "memory_bytes": None if memory is None else size_bytes(memory), "gpus": gpus}
    except ValueError as error:
        raise SpecError(f"--memory: {error}.", remedy="Write for example '16 GB'.") from None
    return {name: value for name, value in said.items() if value is not None}


def _asked_of(one: Job) -> bool:
    return one.state == "running" and one.wanted != "run"


def _how_far(one: Job) -> str:
    if one.error is not None:
        return str(one.error["message"])
    told_ = one.progress or {}
    if one.state == "queued":
        return f"waits: {told_['waits']}" if "waits" in told_ else "waits"
    if one.state != "running" or "what" not in told_:
        return ""
    share = f" {told_['share']:.0%}" if "share" in told_ else ""
    left = f", {show_seconds(told_['left_s'])} left" if "left_s" in told_ else ""
    return f"{told_['what']}{share}{left}"


def _resources_of(one: Job) -> str:
    said = dict(one.resources)
    parts = [f"{said[name]} {name}" for name in ("cores", "gpus") if name in said]
    return ", ".join(
        parts + ([f"{show_bytes(said['memory_bytes'])} of memory"] if "memory_bytes" in said else [])
    )


def _plain(one: Job) -> dict[str, Any]:
    return {k: v for k, v in asdict(one).items() if k not in ("seq", "format")}


def _plain_attempt(one: AttemptRow) -> dict[str, Any]:
    return {k: v for k, v in asdict(one).items() if k not in ("job", "fence", "handle")}


def _plain_schedule(one: Schedule) -> dict[str, Any]:
    return {k: v for k, v in asdict(one).items() if k != "ended_s"}
