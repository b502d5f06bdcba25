"""An Artifact: an immutable result named by its digest, with its parents.

Two hashes, two questions:
    key     what was asked for: kind, spec, stage version, parents' digests. The line looks results up by it.
    digest  what came out: the key and the SHA-256 of every file. Names, lineage and equality use it.
So "the same model twice" is a statement about bytes, not about intentions.

Identity is canonical or refused: a value without a stable form (a set, NaN, an object) raises.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


def canonical(value: Any) -> bytes:
    """The one byte form of a plain value: JSON, keys sorted, no spaces, UTF-8. Raises TypeError otherwise.

    >>> canonical({"b": [1, 2.5, None, True], "a": "é"})
    b'{"a":"\\xc3\\xa9","b":[1,2.5,null,true]}'
    >>> canonical({1, 2})
    Traceback (most recent call last):
    TypeError: a set has no stable identity (at $)
    """
    return json.dumps(_plain(value, "$"), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        value.encode()  # a lone surrogate has no bytes: raises UnicodeEncodeError, a ValueError
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{value} has no stable identity (at {where})")
        return value
    if isinstance(value, Mapping):
        if odd := [k for k in value if not isinstance(k, str)]:
            raise TypeError(f"the key {odd[0]!r} is not a string (at {where})")
        return {k: _plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    raise TypeError(f"a {type(value).__name__} has no stable identity (at {where})")


def digest_of(value: Any) -> str:
    """SHA-256 of the canonical form, 64 hexadecimal digits."""
    return hashlib.sha256(canonical(value)).hexdigest()


def short(digest: str) -> str:
    """The first twelve digits, as shown to people."""
    return digest[:12]


@dataclass(frozen=True)
class File:
    """One file of an artifact: its path inside, the SHA-256 of its bytes, its size."""

    path: str
    sha256: str
    size_bytes: int


def key_of(kind: str, spec: Mapping[str, Any], version: int, parents: Mapping[str, str]) -> str:
    """What was asked for. `parents` maps a role ("dataset", "base") to a digest."""
    return digest_of({"kind": kind, "spec": spec, "version": version, "parents": parents})


@dataclass(frozen=True)
class Artifact:
    """`summary` holds the few figures a list shows; it is derived from the files, so it is not part of the digest."""

    kind: str  # dataset, model, report, package, release
    key: str
    spec: Mapping[str, Any]
    version: int
    parents: Mapping[str, str]
    files: tuple[File, ...]
    summary: Mapping[str, Any] = field(default_factory=dict)
    created_s: float = 0.0

    @property
    def digest(self) -> str:
        return digest_of({"key": self.key, "files": {f.path: f.sha256 for f in self.files}})

    def __str__(self) -> str:
        return f"{self.kind} {short(self.digest)}"
