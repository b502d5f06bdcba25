"""Whether an address lies below another, and whether a name fits a pattern: what the lists of a policy are compared by.

Addresses are compared by scheme, host and whole path segments, as text; nothing is opened. What could mean two things to two readers
lies below nothing: `..`, escapes, backslashes, chained file systems, a query, an address that is not whole. Such a one is allowed only
where it is entered word for word.
"""

from __future__ import annotations

import re

_ODD = re.compile(r"[\\%?#\s\x00-\x1f\x7f]|::")
_DATABASES = frozenset(
    {
        "postgresql",
        "postgres",
        "mysql",
        "mariadb",
        "mssql",
        "oracle",
        "sqlite",
        "duckdb",
        "clickhouse",
        "snowflake",
    }
)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*", re.ASCII)


def matches(pattern: str, name: str) -> bool:
    """`*` stands for any run of characters; nothing else is special.

    >>> matches("smollm2-*", "smollm2-135m-instruct"), matches("a.c", "abc"), matches("*", "")
    (True, False, True)
    """
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL) is not None


def within(root: str, address: str) -> bool:
    """Whether `address` is `root` or lies below it.

    >>> within("s3://tickets/2026", "s3://tickets/2026/a.jsonl"), within("s3://tickets", "s3://tickets-of-others/a")
    (True, False)
    >>> within("/srv/data", "/srv/data/../secret"), within("postgresql://db/crm", "postgresql+psycopg://u:${PW}@db/crm")
    (False, True)
    >>> within("abfs://a@acme/x", "abfs://b@acme/x/y"), within("sqlite:////srv/a.db", "sqlite:////srv/a.db")
    (False, True)
    >>> within("http://judge:8000/v1", "http://judge:8000@evil/v1"), within("/", "relative")
    (False, False)
    """
    if root == address:
        return True
    above, below = _parts(root), _parts(address)
    if above is None or below is None or above[:2] != below[:2]:
        return False
    return below[2][: len(above[2])] == above[2]


def covered(rule: str, wide: str, narrow: str) -> bool:
    """Whether all that the entry `narrow` of a list allows is allowed by `wide` too."""
    if rule == "sources":
        return within(wide, narrow)
    if rule in ("environment", "parts", "engines"):
        return wide == narrow
    if rule == "bases":
        from luthier.models.known import KNOWN

        if narrow == "known":
            return wide == "known" or wide == "*"
        if wide == "known":
            return narrow in KNOWN or narrow.removeprefix("sha256:") in {one.sha256 for one in KNOWN.values()}
        if "/" in narrow and within(wide, narrow):
            return True
    # a `*` of the narrower one is itself a character that only a `*` of the wider one takes
    return matches(wide, narrow)


def _parts(address: str) -> tuple[str, str, list[str]] | None:
    """(scheme without a driver, host and port, path segments); None for what lies nowhere for certain. Who logs in to a database is not
    part of where it is; elsewhere it may be, as in abfs://CONTAINER@ACCOUNT."""
    if _ODD.search(address):
        return None
    if address.startswith("/"):
        scheme, place, path = "file", "", address
    else:
        head, separator, rest = address.partition("://")
        if not separator or not _SCHEME.fullmatch(head):
            return None
        scheme, (place, slash, below) = head.partition("+")[0], rest.partition("/")
        path = slash + below
        who, _, host = place.rpartition("@")
        place = host.lower() if scheme in _DATABASES else place
        relative = scheme in ("sqlite", "duckdb") and not path.startswith("//")
        if "@" in who or "$" in place or relative or (scheme == "file" and place):
            return None
    segments = [one for one in path.split("/") if one not in ("", ".")]
    strange = any(".." in one or "$" in one or one.startswith("~") for one in segments)
    return None if strange else (scheme, place, segments)
