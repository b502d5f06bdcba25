"""What stands in a text in place of private data.

    [EMAIL_1]           numbered within one record, in order of first sight; the same value has the same number
    [EMAIL:7f3a9c01]    the first 32 bits of a keyed hash of the canonical form: the same value has the same name in
                        every record, and without the key nobody can try values out (HMAC-SHA256, RFC 2104)

A recipe holds a reference to the key, ${NAME}. The key itself is read when rows are, and is in no record, report, error or
repr. Two values share a name by chance once in four thousand million pairs.
"""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Iterable

from luthier.core.errors import SpecError
from luthier.core.spec import references

DIGITS = 8
SHORTEST_KEY = 16

MASK = re.compile(rf"\[[A-Z][A-Z_]{{0,30}}(?:_[0-9]{{1,6}}|:[0-9a-f]{{{DIGITS}}})\]")
"""One that stands in a text."""
NUMBERED = re.compile(r"\[([A-Z][A-Z_]*)_([0-9]{1,6})\]")


class Key:
    """Bytes that don't show themselves."""

    __slots__ = ("_bytes",)

    def __init__(self, value: bytes) -> None:
        self._bytes = value

    def name(self, kind: str, value: str) -> str:
        """
        >>> Key(b"k" * 16).name("email", "a@b.de") == Key(b"k" * 16).name("email", "a@b.de")
        True
        """
        message = f"{kind}\0{value}".encode("utf-8", "surrogatepass")
        return hmac.new(self._bytes, message, "sha256").hexdigest()[:DIGITS]

    def __repr__(self) -> str:
        return "Key(...)"

    def __reduce__(self) -> str:
        raise TypeError("a key does not leave its process")


KNOWN_TO_ALL = Key(b"no key: anyone can try values out")
"""For names that must be the same everywhere although nobody has given a key."""


def key_of(reference: str) -> Key:
    """The key that `${NAME}` refers to, from the environment as it is now. Raises SpecError that tells the name only."""
    name = reference_name(reference)
    if name is None:
        raise SpecError(
            "the key of pseudonyms is not a reference to an environment variable.",
            remedy="Write key: ${NAME}, and put the key into the variable NAME.",
        )
    value = os.environ.get(name, "").encode("utf-8", "surrogateescape")
    if not value:
        raise SpecError(
            f"the environment variable {name} is not set, and the key of pseudonyms refers to it.",
            remedy=f"export {name}=$(openssl rand -hex 32), and keep it: another key gives other pseudonyms.",
        )
    if len(value) < SHORTEST_KEY:
        raise SpecError(
            f"the environment variable {name} holds fewer than {SHORTEST_KEY} bytes, which is too short for a key.",
            remedy=f"export {name}=$(openssl rand -hex 32)",
        )
    return Key(value)


def key_mark(reference: str) -> str:
    """Eight digits that tell one key from another and nothing else: what a dataset's identity may hold."""
    return key_of(reference).name("", "which key this is")


def reference_name(text: str) -> str | None:
    """
    >>> reference_name("${PII_KEY}"), reference_name("s3cret")
    ('PII_KEY', None)
    """
    names = references(text)
    return names[0] if len(names) == 1 and text == f"${{{names[0]}}}" else None


class Masks:
    """Of one record. Numbers that its texts hold already are not given again."""

    def __init__(self, texts: Iterable[str], key: Key | None = None) -> None:
        self._key = key
        self._given: dict[tuple[str, str], str] = {}
        self._last: dict[str, int] = {}
        if key is None:
            for text in texts:
                for match in NUMBERED.finditer(text):
                    self._last[match[1]] = max(self._last.get(match[1], 0), int(match[2]))

    def mask(self, kind: str, value: str) -> str:
        """
        >>> masks = Masks(["[EMAIL_1] is there"])
        >>> masks.mask("email", "a@b.de"), masks.mask("email", "c@d.de"), masks.mask("email", "a@b.de")
        ('[EMAIL_2]', '[EMAIL_3]', '[EMAIL_2]')
        """
        told = self._given.get((kind, value))
        if told is None:
            name = kind.upper()
            if self._key is None:
                self._last[name] = self._last.get(name, 0) + 1
                told = f"[{name}_{self._last[name]}]"
            else:
                told = f"[{name}:{self._key.name(kind, value)}]"
            self._given[kind, value] = told
        return told
