"""`luthier remote ...`: servers that commands are asked of instead of this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from luthier.core.errors import SpecError

from . import remotes
from .asking import follow, server
from .command import Nearest, as_json_option, put, put_json, told
from .tables import columns


@click.group(cls=Nearest)
def remote() -> None:
    """Ask a server of Luthier instead of this machine.

    \b
    luthier remote login https://luthier.company      asks for a key, tries it, and keeps it
    luthier --remote luthier.company list             ask that server once
    luthier remote use luthier.company                ask it from now on; `use local` ends that
    luthier remote status                             who I am there
    luthier remote follow JOB                         go on looking at a job
    luthier remote cancel JOB

    LUTHIER_REMOTE names one, too. What needs this machine (serve, chat, files of yours) says so. docs/remote.md tells the rest.
    """


@remote.command()
@click.argument("url")
@click.option("--name", help="What to call it; default: its host.")
@click.option(
    "--key-file",
    type=click.Path(path_type=Path),
    help="A file with the key; default: asked for, or read from a pipe.",
)
@click.option("--key-env", metavar="VAR", help="Keep no key: it is read from this variable each time.")
@click.option("--project", help="For a key of an organisation: which of its projects is meant.")
@click.option(
    "--insecure",
    is_flag=True,
    help="Allow http:// beyond this machine: the key goes through the network for all to read.",
)
@as_json_option
@told
def login(
    url: str, name: str | None, key_file: Path | None, key_env: str | None, project: str | None, insecure: bool, as_json: bool
) -> None:  # fmt: skip
    """Take a key for the server at URL, try it, and keep it for the next commands."""
    called = remotes.check_name(name or (urlsplit(url).hostname or "").lower())
    key = f"${{{key_env}}}" if key_env else _key(key_file)
    made = remotes.RemoteSpec(url=url, key=key, project=project, insecure=insecure)
    with remotes.open_client(made, os.environ) as client:
        who = client.me()
        made = made.model_copy(update={"url": client.base_url})
    known = remotes.load(os.environ)
    path = remotes.save(
        os.environ, remotes.RemotesSpec(use=known.use, remotes={**known.remotes, called: made})
    )
    if as_json:
        put_json({"remote": called, "url": made.url, "file": str(path), "me": who})
        return
    put(f"{called}: {made.url} takes the key; it is kept in {path}" if not key_env else f"{called}: {made.url} takes the key of {key_env}")  # fmt: skip
    put(f"next:   luthier --remote {called} list   ·   luthier remote use {called}")


def _key(file: Path | None) -> str:
    """Never from the command line's words, which others on this machine can read."""
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise SpecError(f"{file} cannot be read as a key.", remedy="Name a file with one key.") from None
    elif sys.stdin.isatty():
        text = click.prompt("key", hide_input=True, err=True)
    else:
        text = sys.stdin.read()
    words = text.split()
    if len(words) != 1:
        raise SpecError(f"{len(words)} words were given, and a key is one.", remedy="Give the key alone.")
    return words[0]


@remote.command("list")
@as_json_option
@told
def list_(as_json: bool) -> None:
    """The servers that are known. No key is shown."""
    known = remotes.load(os.environ)
    rows: list[dict[str, Any]] = [
        {"remote": name, "url": one.url, "project": one.project, "in_use": name == known.use}
        for name, one in known.remotes.items()
    ]
    if as_json:
        put_json(rows)
    elif not rows:
        put("none is known; `luthier remote login URL` adds one")
    else:
        put(columns([("*" if r["in_use"] else "", r["remote"], r["url"], r["project"] or "") for r in rows]))


@remote.command()
@click.argument("name")
@as_json_option
@told
def use(name: str, as_json: bool) -> None:
    """Ask NAME from now on, where a command names none; `local`: this machine."""
    known = remotes.load(os.environ)
    if name != remotes.LOCAL:
        remotes.named({**os.environ, "LUTHIER_REMOTE": name}, None)
    remotes.save(os.environ, known.model_copy(update={"use": None if name == remotes.LOCAL else name}))
    if as_json:
        put_json({"in_use": None if name == remotes.LOCAL else name})
        return
    put(f"commands ask {'this machine' if name == remotes.LOCAL else name} from now on")


@remote.command()
@click.argument("name")
@as_json_option
@told
def logout(name: str, as_json: bool) -> None:
    """Forget NAME and its key. The key still opens the server until it is ended there."""
    known = remotes.load(os.environ)
    remotes.named({**os.environ, "LUTHIER_REMOTE": name}, None)
    left = {one: remote for one, remote in known.remotes.items() if one != name}
    remotes.save(os.environ, remotes.RemotesSpec(use=None if known.use == name else known.use, remotes=left))
    if as_json:
        put_json({"forgotten": name})
        return
    put(f"{name} is forgotten here; `luthier key end` at the server ends the key itself")


@remote.command()
@as_json_option
@told
def status(as_json: bool) -> None:
    """Which server is asked, and who I am there."""
    name, client = server()
    with client:
        who = client.me()
    if as_json:
        put_json({"remote": name, "url": client.base_url, "me": who})
        return
    put(f"{name}: {client.base_url}")
    put(
        columns(
            [(key, str(value)) for key, value in who.items() if isinstance(value, str | int | float)], "  "
        )
    )


@remote.command("follow")
@click.argument("job")
@click.option(
    "--into", type=click.Path(path_type=Path), help="Where the files of its result go, if it has any."
)
@told
def follow_(job: str, into: Path | None) -> None:
    """Look at JOB until it has ended; its result as JSON."""
    _, client = server()
    with client:
        put_json(follow(client, job, into))


@remote.command()
@click.argument("job")
@as_json_option
@told
def cancel(job: str, as_json: bool) -> None:
    """Ask JOB to stop for good; what it has finished is kept."""
    _, client = server()
    with client:
        found = client.cancel(job)
    put_json(found) if as_json else put(f"{job}: {found['state']}")
