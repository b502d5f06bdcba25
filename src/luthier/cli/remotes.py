"""Servers that the command line knows: ~/.config/luthier/remotes.yaml, for its owner's eyes alone.

use: company
remotes:
  company: {url: https://luthier.company, key: luthier_...}
  lab: {url: http://127.0.0.1:8000, key: "${LAB_KEY}"}      # the key stays in the environment
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from luthier.core.errors import SpecError, did_you_mean
from luthier.core.spec import Spec, parse, read_yaml, resolve

if TYPE_CHECKING:
    from luthier.sdk import Client

LOCAL = "local"
"""As a remote: none, this machine."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)


class RemoteSpec(Spec):
    url: str
    """Where the server is."""
    key: str = Field(repr=False)
    """A key of the server, or ${VAR}."""
    project: str | None = None
    """For a key of an organisation: which of its projects is meant."""
    insecure: bool = False
    """http beyond this machine was allowed."""


class RemotesSpec(Spec):
    use: str | None = None
    """Which is asked where none is named."""
    remotes: dict[str, RemoteSpec] = Field(default_factory=dict)
    """By name."""


def place(environ: Mapping[str, str]) -> Path:
    folder = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME", "~")).expanduser() / ".config")
    return Path(folder) / "luthier" / "remotes.yaml"


def load(environ: Mapping[str, str]) -> RemotesSpec:
    """None known where there is no file. Raises SpecError for one that others may read."""
    path = place(environ)
    try:
        if path.stat().st_mode & 0o077:
            raise SpecError(f"{path} holds keys, and others may read it.", remedy=f"chmod 600 {path}")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return RemotesSpec()
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}.", remedy="Check its rights.") from None
    return parse(RemotesSpec, read_yaml(text, path.name), "`luthier remote login URL` writes it.")


def save(environ: Mapping[str, str], known: RemotesSpec) -> Path:
    path = place(environ)
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
            handle.write(_text(known))
        os.replace(partial, path)
    except OSError as error:
        raise SpecError(f"{path} cannot be written: {error.strerror}.", remedy="Check its rights.") from None
    finally:
        partial.unlink(missing_ok=True)
    return path


def _text(known: RemotesSpec) -> str:
    lines = [f"use: {json.dumps(known.use)}", "remotes:" + ("" if known.remotes else " {}")]
    lines += [f"  {json.dumps(name)}: {json.dumps(one.plain())}" for name, one in known.remotes.items()]
    return "\n".join(lines) + "\n"


def check_name(name: str) -> str:
    if name == LOCAL or not _NAME.fullmatch(name):
        raise SpecError(
            f"a remote cannot be called {name[:80]!r}.",
            remedy=f"Take small letters, digits, . _ -; {LOCAL!r} means this machine.",
        )
    return name


def named(environ: Mapping[str, str], asked: str | None) -> tuple[str, RemoteSpec] | None:
    """The remote that is meant: as asked, else LUTHIER_REMOTE, else the one in use; None: this machine."""
    wanted = asked or environ.get("LUTHIER_REMOTE")
    if wanted == LOCAL:
        return None
    known = load(environ)
    wanted = wanted or known.use
    if wanted is None:
        return None
    if wanted not in known.remotes:
        hint = (
            did_you_mean(wanted, list(known.remotes))
            if known.remotes
            else "`luthier remote login URL` adds one."
        )
        raise SpecError(f"there is no remote {wanted!r}.", remedy=hint)
    return wanted, known.remotes[wanted]


def open_client(remote: RemoteSpec, environ: Mapping[str, str]) -> Client:
    from luthier.sdk import Client

    return Client(remote.url, resolve(remote.key, environ), project=remote.project, insecure=remote.insecure)
