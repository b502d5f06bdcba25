"""API keys: how they look, how they are checked, and when a server may listen without a chosen one.

    luthier_<id>_<secret>_<checksum>        id 8, secret 32 characters of a-z2-7 (160 bits), CRC-32 of what precedes

The checksum lets scanners of leaked secrets be sure and lets a mistyped key fail before anything is looked up. Only
the SHA-256 of the whole key is kept: with 160 random bits a slow hash would add nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import re
import secrets
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from luthier.core.errors import SpecError
from luthier.server.routes import PERMISSIONS

_FORM = re.compile(r"(luthier_([a-z2-7]{8})_[a-z2-7]{32})_([0-9a-f]{8})", re.ASCII)
_NOBODY = "0" * 64  # compared with when no key has that id, so that both ways take the same time


@dataclass(frozen=True)
class Key:
    """What is kept of a key. `id` may be shown and logged; it is part of the key's text but not secret."""

    id: str
    sha256: str
    permissions: frozenset[str] = PERMISSIONS


def generate(permissions: frozenset[str] = PERMISSIONS) -> tuple[str, Key]:
    """A new key: its text, to be shown once, and what to keep of it."""
    body = f"luthier_{_random(5)}_{_random(20)}"
    text = f"{body}_{_checksum(body)}"
    return text, key_from(text, permissions)


def key_from(text: str, permissions: frozenset[str] = PERMISSIONS) -> Key:
    """What to keep of a key that was generated earlier. Raises SpecError, without repeating the key."""
    key_id = _id(text)
    if key_id is None:
        raise SpecError(
            "The key given is not a key that Luthier made (its form or its checksum is wrong).",
            remedy="Copy it again, whole; or give none, and one is made and shown.",
        )
    return Key(key_id, _hash(text), permissions)


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

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys: dict[str, Key] = {}
        for key in keys:
            if key.id in self._keys:
                raise SpecError(f"Two keys have the id {key.id!r}.", remedy="Give each key once.")
            self._keys[key.id] = key

    def __len__(self) -> int:
        return len(self._keys)

    def check(self, text: str) -> Key | None:
        """The key that `text` is, or None. Takes the same time whichever part is wrong."""
        key_id = _id(text)
        key = self._keys.get(key_id or "")
        same = hmac.compare_digest(_hash(text), key.sha256 if key else _NOBODY)
        return key if same and key_id is not None else None


def check_bind(host: str, keys: KeyRing | None) -> None:
    """Refuse to listen beyond this machine unless keys were chosen (`keys` None: one would be generated)."""
    if keys or is_loopback(host):
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


def _id(text: str) -> str | None:
    match = _FORM.fullmatch(text)
    return match[2] if match and hmac.compare_digest(_checksum(match[1]), match[3]) else None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"


def _random(size_bytes: int) -> str:
    return base64.b32encode(secrets.token_bytes(size_bytes)).decode().lower()
