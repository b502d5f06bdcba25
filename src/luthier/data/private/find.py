"""Where private data stands in a text. Six ways to look, each with a sieve:

    sieves(kinds)                     a regular expression for each way that kinds need, which Polars runs over all texts:
                                      it lets through every text in which the way has a candidate
    candidates(text, kinds, ways)     every span that could be one, with overlaps; found.settle says which are

Every pattern is linear in the text: no quantifier stands inside another that can match the same letters, and what is
matched from each place on is bounded.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass, replace
from functools import lru_cache

from . import checks, national, numbers
from .found import Found
from .pseudonyms import MASK
from .readable import Readable
from .secrets import secrets
from .secrets import sieve as secrets_sieve

_LETTERS = "A-Za-z\u00c0-\u024f\u0300-\u036f\u0370-\u052f"
_DOMAIN = rf"(?:[{_LETTERS}0-9][{_LETTERS}0-9-]{{0,62}}+\.){{1,8}}([{_LETTERS}][{_LETTERS}0-9-]{{1,62}}+)"
_EMAIL = re.compile(rf"(?<![{_LETTERS}0-9_+%])[{_LETTERS}0-9_+%][{_LETTERS}0-9._%+'-]{{0,63}}+@{_DOMAIN}")
_EMAIL_IN_URL = re.compile(
    rf"(?<![{_LETTERS}0-9_+])[{_LETTERS}0-9_+][{_LETTERS}0-9._+'-]{{0,63}}+%40{_DOMAIN}"
)
_FILES = frozenset("png jpg jpeg gif webp svg ico css js ts py md html json yaml yml txt csv".split())  # noqa: SIM905
_USER_OF_URL = re.compile(r"://[^\s/]*\Z")

_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}[0-9]{2}(?=[ .-]?[A-Za-z0-9])")
_IP4 = re.compile(r"(?<![0-9A-Za-z_.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9A-Za-z_]|\.[0-9])")
_IP6 = re.compile(
    r"(?<![0-9A-Za-z_])(?:[0-9A-Fa-f]{0,4}:){2,8}+(?:(?:[0-9]{1,3}\.){3}[0-9]{1,3}|[0-9A-Fa-f]{0,4})(?![0-9A-Za-z_])"
)
VERSIONS = (
    "objectidentifier", "version", "release", "revision", "firmware", "build", "driver", "update", "upgrade", "patch", "package",
    "section", "clause", "chapter", "paragraph", "figure", "table", "abschnitt", "kapitel",
)  # fmt: skip
"""Before numbers of a version, a part of a text or an object, also at the end of a longer word."""
_VERSION = re.compile(
    rf"(?:(?:{'|'.join(VERSIONS)}|\bv|\boid|\brev|\bpip|\u00a7|\bitem|\bstep|\bata|\bnr|\bno)[^0-9A-Za-z\n]{{0,4}}"
    r"|[=<>~]= ?|[~^]|[A-Za-z]-)\Z",
    re.IGNORECASE,
)
_SOFTWARE = re.compile(r"version|release|firmware|upgrade|update|patch|driver|software", re.IGNORECASE)
_ADDRESS = re.compile(
    r"\bip|address|adresse|host|server|\bfrom|ping|login|gateway|dns|subnet|router|connect|client",
    re.IGNORECASE,
)


_LETTERED = "|".join(one.pattern for one in national.NATIONAL if one.pattern)


@lru_cache(maxsize=1)
def _lettered() -> tuple[re.Pattern[str], list[national.National]]:
    rows = [one for one in national.NATIONAL if one.pattern]
    either = "|".join(f"({one.pattern})" for one in rows)
    # Letters of ASCII alone: where case does not matter, the sign of kelvin is a K, which no check knows, and the long s and the i without
    # a dot are an S and an I, which checks would take though no state writes them.
    return re.compile(rf"(?<![A-Za-z0-9_])(?:{either})(?![A-Za-z0-9_])", re.IGNORECASE | re.ASCII), rows


@dataclass(frozen=True)
class Way:
    """`look(text, kinds)` gives candidates; texts without a digit need no look where `digits`."""

    kinds: frozenset[str]
    sieve: Callable[[], str]
    look: Callable[[str, Set[str]], Iterator[Found]]
    digits: bool = True


def sieves(kinds: Set[str]) -> dict[str, Way]:
    """The ways by name that look for some of these kinds.

    >>> list(sieves({"email", "card"}))
    ['email', 'numbers']
    """
    return {name: way for name, way in WAYS.items() if way.kinds & kinds}


def candidates(text: str, kinds: Set[str], ways: Iterable[str] | None = None) -> list[Found]:
    """Candidates of `kinds`, looked for in these ways or all that fit."""
    readable = Readable(text)
    plain = readable.plain
    found = [
        one for name in (sieves(kinds) if ways is None else ways) for one in WAYS[name].look(plain, kinds)
    ]
    if found and "[" in plain:
        found = _outside(found, [match.span() for match in MASK.finditer(plain)])
    if len(plain) == len(text):
        return found
    return [
        replace(one, start=start, end=end)
        for one in found
        for start, end in [readable.place(one.start, one.end)]
    ]


def _outside(found: list[Found], masks: list[tuple[int, int]]) -> list[Found]:
    """Those that touch no mask, whose digits are no one's."""
    ends = [end for _, end in masks]

    def touches(one: Found) -> bool:
        n = bisect_right(ends, one.start)
        return n < len(masks) and masks[n][0] < one.end

    return [one for one in found if not touches(one)]


def _emails(text: str) -> Iterator[Found]:
    if "%40" in text:
        for match in _EMAIL_IN_URL.finditer(text):
            yield Found(*match.span(), "email", match[0].replace("%40", "@").lower())
    for match in _EMAIL.finditer(text) if "@" in text else ():
        start, end = match.span()
        if match[1].lower() in _FILES:
            continue
        if match[0].startswith("git@") and text[end : end + 1] == ":":
            continue
        if _USER_OF_URL.search(text[max(0, start - 200) : start]):
            continue
        yield Found(start, end, "email", match[0].lower())


def _national(text: str) -> Iterator[Found]:
    pattern, rows = _lettered()
    for match in pattern.finditer(text):
        one = rows[(match.lastindex or 1) - 1]
        start, end = match.span()
        plain = re.sub("[^0-9A-Z+-]" if one.country == "FI" else "[^0-9A-Z]", "", match[0].upper())
        if not one.check(plain):
            continue
        named = numbers.is_named(text, start, end, one)
        if not named and numbers.is_of_another_kind(text, start, end):
            continue
        yield Found(
            start, end, "national_id", f"{one.country}:{plain}", one.checked, named or not one.needs_name
        )


def _ibans(text: str) -> Iterator[Found]:
    for match in _IBAN.finditer(text):
        length = checks.IBAN_LENGTHS.get(match[0][:2].upper())
        if length is None:
            continue
        rest = _rest(length - 4).match(text, match.end())
        if rest is None:
            continue
        plain = re.sub("[^0-9A-Z]", "", text[match.start() : rest.end()].upper())
        if checks.iban(plain):
            yield Found(match.start(), rest.end(), "iban", plain, checked=True)


@lru_cache(maxsize=64)
def _rest(length: int) -> re.Pattern[str]:
    return re.compile(rf"(?:[ .-]?[A-Za-z0-9]){{{length}}}(?![A-Za-z0-9])")


def _addresses(text: str) -> Iterator[Found]:
    if text.count(".") >= 3:
        for match in _IP4.finditer(text):
            value = checks.ip(match[0])
            if value and not _is_version(text, *match.span(), match[0]):
                yield Found(*match.span(), "ip", value)
    if text.count(":") >= 2:
        for match in _IP6.finditer(text):
            # "from 2a00::1: refused": one colon at an end is the sentence's.
            start, end = match.span()
            start += match[0][0] == ":" and match[0][1] != ":"
            end -= match[0][-1] == ":" and match[0][-2] != ":"
            value = checks.ip(text[start:end])
            if value and _is_telling(text[start:end]):
                yield Found(start, end, "ip", value)


def _is_version(text: str, start: int, end: int, address: str) -> bool:
    """Whether four numbers are of a version, a section or an object identifier, not of a machine. Where no word tells, four
    small ones are: of all addresses one in two hundred looks so, of versions nearly all."""
    before = text[max(0, start - 40) : start]
    if _VERSION.search(before) or re.match(
        r"-(?:rc|beta|alpha|dev|snapshot)|\+", text[end : end + 10], re.IGNORECASE
    ):
        return True
    parts = [int(part) for part in address.split(".")]
    if _ADDRESS.search(before) or len(set(parts)) == 1:
        return False
    if _SOFTWARE.search(before):
        return True
    return parts[0] < 20 and parts[0] != 10 and all(part < 100 for part in parts)


def _is_telling(address: str) -> bool:
    """Not a scope of a program, such as "abc::def"."""
    groups = [group for group in address.split(":") if group]
    return any(c.isdigit() for c in address) and (len(groups) > 2 or any(len(group) == 4 for group in groups))


def _keys(text: str) -> Iterator[Found]:
    for start, end in secrets(text):
        yield Found(start, end, "key", text[start:end], checked=True)


def _of(*kinds: str) -> frozenset[str]:
    return frozenset(kinds)


WAYS = {
    "email": Way(_of("email"), lambda: "@|%40", lambda text, _: _emails(text), digits=False),
    "numbers": Way(_of("phone", "card", "national_id"), lambda: numbers.SIEVE, numbers.numbers),
    "lettered": Way(
        _of("national_id"),
        lambda: rf"(?-u:\b)(?i:{_LETTERED})(?:[^A-Za-z0-9_]|$)",
        lambda text, _: _national(text),
    ),
    "iban": Way(
        _of("iban"), lambda: "[A-Za-z]{2}[0-9]{2}(?:[ .-]?[A-Za-z0-9]){11}", lambda text, _: _ibans(text)
    ),
    "ip": Way(
        _of("ip"),
        lambda: r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]|:[0-9a-fA-F]{0,4}:",
        lambda text, _: _addresses(text),
        digits=False,
    ),
    "key": Way(_of("key"), secrets_sieve, lambda text, _: _keys(text), digits=False),
}
