"""A command asks a verb: of this machine's App, or of the server that is meant. Either way the result is plain, and is printed alike.

    found = ask("records.show", ref, verify=True)
    print_artifact(found)

What becomes a job at a server is submitted and looked at; Ctrl-C stops looking, and says how to go on.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from luthier.core.errors import Interrupted, SpecError
from luthier.core.verbs import VERBS

from . import remotes
from .command import app, meant

if TYPE_CHECKING:
    from luthier.sdk import Client


class Told(dict[str, Any]):
    """A plain result, its keys as attributes, too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def told_of(value: Any) -> Any:
    if isinstance(value, dict):
        return Told({key: told_of(one) for key, one in value.items()})
    return [told_of(one) for one in value] if isinstance(value, list) else value


def server() -> tuple[str, Client]:
    found = meant()
    if found is None:
        raise SpecError("no server is named.", remedy="luthier --remote NAME ..., or luthier remote use NAME")
    return found[0], remotes.open_client(found[1], os.environ)


def ask(verb: str, /, *given: Any, **named: Any) -> Any:
    """The plain result. `by`: who takes a step here (None: whom the operating system knows); a server knows who asks."""
    found = meant()
    if found is None:
        from luthier.app import verbs

        return told_of(verbs.here(app(), verb, *given, **named))
    known = VERBS[verb]
    if named.pop("by", None) is not None:
        raise SpecError("--by says who takes a step here; a server knows who asks.", remedy="Leave --by out.")
    if known.long:
        named = {name: one for name, one in named.items() if name not in ("watch", "stop")}
    wanted = (*known.wish.model_fields, known.into)
    named = {k: v for k, v in named.items() if k in wanted or v not in (None, False, ())}
    with remotes.open_client(found[1], os.environ) as client:
        if not known.long:
            named = {k: v for k, v in named.items() if k not in ("watch", "stop")}
            return told_of(client.call(verb, *given, **named))
        into, left = _without_folder(known.into, list(given), named)
        job = client.submit(verb, *left, **named)
        click.echo(f"{job['id']} at {found[0]}", err=True)
        return told_of(follow(client, job["id"], into))


def _without_folder(
    name: str | None, given: list[Any], named: dict[str, Any]
) -> tuple[Path | None, list[Any]]:
    """The folder to fill, which App takes after what it is filled with."""
    if name is None:
        return None, given
    into = Path(named.pop(name) if name in named else given.pop(1))
    if into.exists():
        raise SpecError(f"{into} is already there.", remedy="Name a folder that does not exist yet.")
    return into, given


def ask_long(verb: str, /, *given: Any, **named: Any) -> Any:
    """The same, with progress on standard error and Ctrl-C as a wish to stop."""
    if meant() is not None:
        return ask(verb, *given, **named)
    from .interrupt import stop_on_signals
    from .show import watch

    eyes = watch()
    try:
        with stop_on_signals(eyes.say) as stop:
            return ask(verb, *given, **named, watch=eyes, stop=stop)
    finally:
        eyes.close()


def follow(client: Client, job_id: str, into: Path | None) -> Any:
    """Until it has ended. Ctrl-C ends the looking alone."""
    from .show import watch

    eyes = watch()
    try:
        return client.wait(job_id, into=into, watch=eyes)
    except KeyboardInterrupt:
        raise Interrupted(
            f"no longer looking; the job {job_id} goes on at the server.",
            remedy=f"luthier remote follow {job_id}   ·   luthier remote cancel {job_id}",
        ) from None
    finally:
        eyes.close()


def fetch(file: Any, folder: Path) -> Path:
    """A page or a picture of a result: where it is, after it was fetched where a server has it."""
    if isinstance(file, str):
        return Path(file)
    _, client = server()
    with client:
        target: Path = client.download(file, folder / Path(file["name"]).name)
        return target
