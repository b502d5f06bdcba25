"""What a recipe that came from afar may name: nothing of this machine or beyond it, but what its operator lets through.

    LUTHIER_JOB_PLACES="s3://company-rows/,/srv/models/"     beginnings of paths and addresses that a recipe may name
    LUTHIER_JOB_ENVIRON="TICKETS_*"                          variables that it may refer to as ${NAME}

What is relative starts in the recipe's own folder, which holds what came with it. Every text of a recipe is looked at, whatever key it
stands under: one that a new key brings is refused before anybody thinks of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from luthier.core.errors import SpecError
from luthier.core.spec import references

_ADDRESS = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*:/|\s*(?:file|data|memory|sqlite|duckdb):", re.IGNORECASE)
_SECRET = ("LUTHIER_*", "PG*")


def refuse(value: Any, environ: Mapping[str, str]) -> None:
    """Raises SpecError for the first text that names a place or a variable which is not let through."""
    allowed = [one.strip() for one in environ.get("LUTHIER_JOB_PLACES", "").split(",") if one.strip()]
    passed_on = [one.strip() for one in environ.get("LUTHIER_JOB_ENVIRON", "").split(",") if one.strip()]
    for key, text in _texts(value, ""):
        for name in references(text):
            known = any(fnmatchcase(name, one) for one in passed_on)
            if not known or any(fnmatchcase(name, one) for one in _SECRET):
                raise SpecError(
                    f"{key}: ${{{name}}} is not for recipes here.",
                    remedy="The server's operator names what is (LUTHIER_JOB_ENVIRON).",
                )
        if is_place(text) and not any(_within(text, one) for one in allowed):
            raise SpecError(
                f"{key}: {text[:100]!r} names a place of the server or beyond it.",
                remedy="Send the file with the recipe, or have the server's operator let it through (LUTHIER_JOB_PLACES).",
            )


def is_place(text: str) -> bool:
    """
    >>> [is_place(one) for one in ("rows.jsonl", "june/*.csv", "select 1/2", "https is a word", "a..b")]
    [False, False, False, False, False]
    >>> [is_place(one) for one in ("/etc/passwd", "~/x", "a/../../b", "s3://b/x", "file:x", "..")]
    [True, True, True, True, True, True]
    """
    bare = text.lstrip()
    return (
        bare.startswith(("/", "~", "\\"))
        or _ADDRESS.match(text) is not None
        or ".." in re.split(r"[/\\]", text.strip())
    )


def _within(text: str, allowed: str) -> bool:
    """Below it, and never beside it: `s3://rows` is not `s3://rows-of-others`."""
    bare = text.strip()
    if ".." in re.split(r"[/\\]", bare):
        return False
    return bare == allowed or bare.startswith(allowed if allowed.endswith("/") else f"{allowed}/")


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    match value:
        case str():
            yield key or "value", value
        case Mapping():
            for name, one in value.items():
                yield f"{key}.{name}".lstrip("."), str(name)
                yield from _texts(one, f"{key}.{name}".lstrip("."))
        case list() | tuple():
            for i, one in enumerate(value):
                yield from _texts(one, f"{key}.{i}".lstrip("."))
