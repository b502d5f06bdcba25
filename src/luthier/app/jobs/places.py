"""What the recipe of a job may name. Who wrote it is a member of a project, not somebody with an account on the server, so paths stay in
the project's folder, URLs are those that the operator allows, and of the environment only what is passed on to jobs can be referred to.

LUTHIER_JOB_PLACES="/data/shared, s3://tickets/"     further beginnings of paths and URLs, for all projects
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from luthier.core.errors import SpecError
from luthier.core.spec import references

from .environment import may_refer_to

_URL = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*(://|::)")


def refuse(recipe: Any, environ: Mapping[str, str]) -> None:
    """Raises SpecError for what a recipe (as plain values) may not name."""
    allowed = [one.strip() for one in environ.get("LUTHIER_JOB_PLACES", "").split(",") if one.strip()]
    for where, text in _texts(recipe, ""):
        for name in references(text):
            if not may_refer_to(name, environ):
                raise SpecError(
                    f"{where}: a job may not refer to ${{{name}}}.",
                    remedy="The operator of the server passes variables on to jobs with LUTHIER_JOB_ENVIRON.",
                )
        if _leaves(text) and not any(_under(text.strip(), place) for place in allowed):
            raise SpecError(
                f"{where}: a job may not name {text[:100]!r}; its paths start in the project's folder.",
                remedy="The operator of the server allows further places with LUTHIER_JOB_PLACES.",
            )


def _texts(value: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _texts(one, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list | tuple):
        for n, one in enumerate(value):
            yield from _texts(one, f"{where}[{n}]")


def _leaves(text: str) -> bool:
    """Whether it leads, or may lead, out of the folder that it starts in.

    >>> [_leaves(one) for one in ("rows.jsonl", "a/../b", "/etc/passwd", "~/x", "s3://b/x", "filecache::x", "Route the message.")]
    [False, True, True, True, True, True, False]
    """
    bare = text.strip()
    return bare.startswith(("/", "~")) or ".." in re.split(r"[/\\]", bare) or _URL.match(text) is not None


def _under(text: str, place: str) -> bool:
    """
    >>> _under("s3://tickets/june", "s3://tickets/"), _under("s3://tickets-of-others/x", "s3://tickets"), _under("/data/../etc", "/data")
    (True, False, False)
    """
    if ".." in PurePosixPath(text).parts:
        return False
    bare = place.rstrip("/")
    return text == bare or text.startswith(f"{bare}/")
