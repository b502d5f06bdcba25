"""`luthier server ...`: the platform over HTTP, for teams; its first key, its backup."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from luthier.core.errors import SpecError

from .command import Nearest, as_json_option, put, put_json, told
from .door import Door, door_options
from .traffic import DURATION

if TYPE_CHECKING:
    from luthier.app.backup import Backed
    from luthier.app.checkpoints import Checkpoints
    from luthier.app.site import Site

PATH = click.Path(path_type=Path)


_CHECKPOINTS = (
    click.option("--checkpoints-to", "sign_to", metavar="FOLDER|URL",
                 help="Sign the audit trails and write that outside the home, where nobody here can change it (docs/audit.md). Default: no."),
    click.option("--checkpoint-key", "sign_key", type=PATH, metavar="FILE", help="The private key that signs them."),
    click.option("--checkpoint-every", "sign_every_s", type=DURATION, metavar="TIME", help="How often. Default: 1 hour."),
)  # fmt: skip


def checkpoint_options(command: Any) -> Any:
    for option in reversed(_CHECKPOINTS):
        command = option(command)
    return command


@click.group(cls=Nearest)
def server() -> None:
    """Fine-tuning for teams behind OpenAI's API: projects, roles, keys, logins (docs/server.md).

    \b
    luthier server init                       the first organisation, project, admin and key, shown once
    luthier server start                      answer on this machine until Ctrl-C
    luthier server start --host 0.0.0.0 --allow-host luthier.example     beyond it, once there is a key
    luthier server backup FOLDER              records and bytes, while it runs
    luthier server restore FOLDER             into an empty home
    """


@server.command()
@click.option("--title", default="default", show_default=True, help="Of the first organisation and project.")
@as_json_option
@told
def init(title: str, as_json: bool) -> None:
    """Make the first organisation, project, admin and key; the key is shown once."""
    from luthier.app.site import Site
    from luthier.core.names import clean

    site = Site.open()
    text = site.found(clean(title, "title"))
    if text is None:
        raise SpecError("this home is a server's already.", remedy="`luthier key create` makes further keys.")
    caller = site.check(text)
    assert caller is not None
    if as_json:
        put_json(
            {
                "api_key": text,
                "project": caller.project,
                "organisation": caller.organisation,
                "user": caller.user,
            }
        )
        return
    put(f"organisation {caller.organisation}, project {caller.project}, admin {caller.user}")
    put(f"API key (shown once): {text}")


@server.command()
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Beyond loopback there must be a key already."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 picks a free one."
)
@click.option(
    "--allow-host", "allowed_hosts", multiple=True, metavar="NAME",
    help="A Host header to accept besides loopback, as people and a proxy in front write it; may be given again.",
)  # fmt: skip
@click.option(
    "--calls",
    metavar="N/UNIT",
    default="600/min",
    show_default=True,
    help="How many other requests each key may make.",
)
@click.option(
    "--project-calls", metavar="N/UNIT", default="6000/min", show_default=True,
    help="How many requests all keys of a project may make together.",
)  # fmt: skip
@click.option(
    "--drain",
    "drain_s",
    type=DURATION,
    default="20 s",
    show_default=True,
    help="How long what is under way may take once it is to stop.",
)
@click.option(
    "--models",
    "models_held",
    type=click.IntRange(1, 1000),
    default=4,
    show_default=True,
    help="How many models are in memory at once; the one that was asked least lately makes room.",
)
@door_options
@checkpoint_options
@as_json_option
@told
def start(
    host: str, port: int, allowed_hosts: tuple[str, ...], calls: str, project_calls: str, drain_s: float, models_held: int, sign_key: Path | None,
    sign_to: str | None, sign_every_s: float | None, as_json: bool, **given: Any,
) -> None:  # fmt: skip
    """Answer until Ctrl-C or SIGTERM. The first start on this machine makes the first key and shows it, once.

    Several may run on one home, or on one PostgreSQL, behind a balancer; TLS is a proxy's in front (docs/server.md).
    """
    from luthier.app.site import Site
    from luthier.server.denials import Denials
    from luthier.server.platform.beside import working
    from luthier.server.platform.captured import Captured
    from luthier.server.platform.make import create_platform
    from luthier.server.rates import Rate
    from luthier.server.serve import serve

    door = Door(**given)
    limits = replace(door.limits(), calls=Rate.parse(calls), together=Rate.parse(project_calls))
    guard = door.guard()
    site = Site.open()
    hourly, opens = door.hourly(site.top), site.models.opener(door.engine, door.settings)
    checkpoints = _checkpoints(site, sign_key, sign_to, sign_every_s)
    known = site.store.accounts.any()
    _check_bind(host, known)
    with ExitStack() as until:
        if checkpoints is not None:  # ends last: what the others enter at their end is signed too
            until.enter_context(checkpoints.running())
        denials = until.enter_context(Denials(lambda sums: site.denied(sums.items())))
        observers = until.enter_context(door.observers())
        captured = Captured(site)
        until.enter_context(door.retention(captured.homes))
        models = until.enter_context(working(site, hourly=hourly, opens=opens, most=models_held))
        made = create_platform(
            site, models, allowed_hosts=allowed_hosts, limits=limits, observers=[*observers, denials],
            traffic=door.keeping(captured.home), guard=guard, beside=[checkpoints] if checkpoints else [],
        )  # fmt: skip

        def ready(address: str) -> None:
            site.top.audit.served("started", ("platform",), address)
            until.callback(site.top.audit.served, "stopped", ("platform",), address)
            shown = site.found()  # last, for where a start fails before it is said, nobody has the only key
            _say(address, shown, as_json)

        serve(made, host, port, chosen_keys=True, on_ready=ready, drain_s=max(1, round(drain_s)))


def _checkpoints(site: Site, key: Path | None, to: str | None, every_s: float | None) -> Checkpoints | None:
    """Raises SpecError for half of what it takes."""
    if key is None and to is None and every_s is None:
        return None
    if key is None or to is None:
        raise SpecError(
            "checkpoints of the audit trail need a key and a place.",
            remedy="Give both --checkpoint-key and --checkpoints-to (`luthier audit key FILE` makes a key).",
        )
    from luthier.app.checkpoints import EVERY_S, Checkpoints

    return Checkpoints.of(site, key, to, EVERY_S if every_s is None else every_s)


def _check_bind(host: str, known: bool) -> None:
    """A key that is made and printed at the very start was chosen by nobody, so nobody beyond this machine is answered with it. Raises
    SpecError."""
    from luthier.server.keys import is_loopback

    if not known and not is_loopback(host):
        raise SpecError(
            f"listening on {host!r} opens this server to other machines, and it has no key yet.",
            remedy="Run `luthier server init` first, and keep the key that it shows.",
        )


def _say(address: str, shown: str | None, as_json: bool) -> None:
    base_url = f"{address}/v1"
    if as_json:
        click.echo(json.dumps({"address": address, "base_url": base_url, "api_key": shown}))
        return
    click.echo(f"serving at {base_url}")
    if shown:
        click.echo(f"API key (shown once): {shown}")
    key = shown or "$LUTHIER_KEY"
    click.echo(f"try:  curl {address}/luthier/v1/me -H 'Authorization: Bearer {key}'")
    click.echo("Ctrl-C finishes what is under way and stops.")


@server.command()
@click.argument("folder", type=PATH)
@as_json_option
@told
def backup(folder: Path, as_json: bool) -> None:
    """Records and bytes of a home on SQLite into a new FOLDER, while the server works on."""
    from luthier.app.backup import back_up

    from .accounts import site

    _print(back_up(site(), folder), as_json, "backed up")


@server.command()
@click.argument("folder", type=PATH)
@as_json_option
@told
def restore(folder: Path, as_json: bool) -> None:
    """What `backup` wrote, into the home that LUTHIER_HOME names and that is still empty."""
    from luthier.app.app import App
    from luthier.app.backup import restore as put_back

    _print(put_back(folder, App.open().home), as_json, "restored")


def _print(done: Backed, as_json: bool, verb: str) -> None:
    if as_json:
        put_json(vars(done))
        return
    put(
        f"{verb} {done.projects:,} projects, {done.files:,} files, {done.size_bytes:,} bytes in {done.seconds:.1f} s; "
        f"newest entry of the trail: {(done.audit_head or 'none')[:16]}"
    )
