"""API keys as text: how they look, and how one is compared with what is kept of it.

    luthier_<id>_<secret>_<checksum>        id 8, secret 32 characters of a-z2-7 (160 bits), CRC-32 of what precedes

The checksum lets scanners of leaked secrets be sure and lets a mistyped key fail before anything is looked up. Only the SHA-256 of the
whole key is kept: with 160 random bits a slow hash would add nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import zlib

_FORM = re.compile(r"(luthier_([a-z2-7]{8})_[a-z2-7]{32})_([0-9a-f]{8})", re.ASCII)
_NOBODY = "0" * 64  # compared with when no key has that id, so that both ways take the same time


def generate() -> tuple[str, str, str]:
    """A new key: (its text, to be shown once; its id, which may be shown and logged; what to keep of it)."""
    body = f"luthier_{_random(5)}_{_random(20)}"
    text = f"{body}_{_checksum(body)}"
    return text, body.split("_")[1], sha256_of(text)


def id_of(text: str) -> str | None:
    """The id in a key's text, or None for what is no key of ours.

    >>> id_of("luthier_abcdefgh_no")
    """
    match = _FORM.fullmatch(text)
    return match[2] if match and hmac.compare_digest(_checksum(match[1]), match[3]) else None


def same(text: str, sha256: str | None) -> bool:
    """Whether `text` is the key that `sha256` was kept of (None: there is none). Takes the same time whichever part is wrong."""
    equal = hmac.compare_digest(sha256_of(text), sha256 or _NOBODY)
    return equal and sha256 is not None


def sha256_of(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"


def _random(size_bytes: int) -> str:
    return base64.b32encode(secrets.token_bytes(size_bytes)).decode().lower()
