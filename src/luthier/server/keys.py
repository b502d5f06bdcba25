"""The keys that open a server: which there are, what each may do, and when a server may listen without a chosen one. How a key looks:
core/keys."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from luthier.core import keys
from luthier.core.errors import SpecError
from luthier.server.routes import PERMISSIONS


@dataclass(frozen=True)
class Key:
    """What is kept of a key. `id` may be shown and logged; it is part of the key's text but not secret."""

    id: str
    sha256: str
    permissions: frozenset[str] = PERMISSIONS
    caller: Any = None
    """Whose it is, where a server knows persons and projects."""


class Opens(Protocol):
    """What says whether a text is a key."""

    def check(self, text: str, project: str | None = None) -> Key | Awaitable[Key | None] | None:
        """The key that `text` is, or None. `project`: the one that the request names, where it names one."""


class Sessions(Protocol):
    """What says whether a cookie is a session of somebody who logged in."""

    cookie: str
    """Its name."""

    async def check(self, token: str, project: str | None = None) -> Key | None:
        """As of a key."""

    def proves(self, token: str, csrf: str) -> bool:
        """Whether that is the session's token against forged requests."""


def generate(permissions: frozenset[str] = PERMISSIONS) -> tuple[str, Key]:
    """A new key: its text, to be shown once, and what to keep of it."""
    text, key_id, sha256 = keys.generate()
    return text, Key(key_id, sha256, permissions)


def key_from(text: str, permissions: frozenset[str] = PERMISSIONS) -> Key:
    """What to keep of a key that was generated earlier. Raises SpecError, without repeating the key."""
    key_id = keys.id_of(text)
    if key_id is None:
        raise SpecError(
            "The key given is not a key that Luthier made (its form or its checksum is wrong).",
            remedy="Copy it again, whole; or give none, and one is made and shown.",
        )
    return Key(key_id, keys.sha256_of(text), permissions)


def key_from_line(line: str) -> Key:
    """A line of a key file: a key, which may do everything, or a key and what it may do (`luthier_... metrics,status`). Raises
    SpecError, without repeating the key."""
    text, _, written = line.partition(" ")
    permissions = frozenset(filter(None, written.replace(",", " ").split())) or PERMISSIONS
    if unknown := sorted(permissions - PERMISSIONS):
        raise SpecError(
            f"the key file gives the permission {unknown[0]!r}, which there is not.",
            remedy=f"There are {', '.join(sorted(PERMISSIONS))}.",
        )
    return key_from(text, permissions)


class KeyRing:
    """The keys that open a server. Raises SpecError for two keys with one id."""

    def __init__(self, given: Iterable[Key]) -> None:
        self._keys: dict[str, Key] = {}
        for key in given:
            if key.id in self._keys:
                raise SpecError(f"Two keys have the id {key.id!r}.", remedy="Give each key once.")
            self._keys[key.id] = key

    def __len__(self) -> int:
        return len(self._keys)

    def check(self, text: str, project: str | None = None) -> Key | None:
        """The key that `text` is, or None. There are no projects here, so a request may name what it likes."""
        key = self._keys.get(keys.id_of(text) or "")
        return key if keys.same(text, key.sha256 if key else None) else None


def check_bind(host: str, chosen: KeyRing | bool | None) -> None:
    """Refuse to listen beyond this machine unless keys were chosen (`chosen` None: one would be generated)."""
    if chosen or is_loopback(host):
        return
    raise SpecError(
        f"Listening on {host!r} opens this model to other machines, and no key was chosen.",
        remedy="Stay on 127.0.0.1, or give a key explicitly (one that Luthier made earlier).",
    )


def is_loopback(host: str) -> bool:
    """
    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("0.0.0.0"), is_loopback("")
    (True, True, True, False, False)
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
