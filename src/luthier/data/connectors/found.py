"""Which files a pattern means: local ones without the traps of a file system, and what people call them.

a socket, pipe or device is no file: opening one may wait for ever
links that lead round in a circle are followed once
a name may hold anything: what would break a line or a terminal is shown as \\n, \\x1b, \\udce9
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

    from .protocol import Secret

_UNSHOWN = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def shown(name: str) -> str:
    """
    >>> shown("a b.jsonl"), shown("a\\nb\\x1b[2J.jsonl"), shown("caf\\udce9.csv")
    ('a b.jsonl', 'a\\\\nb\\\\x1b[2J.jsonl', 'caf\\\\udce9.csv')
    """
    return _UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), name)


def unresolved(text: str, names: Iterable[str], secret: Secret) -> str:
    """With the references in the place of their values, also as URLs quote these: for errors of libraries.

    >>> unresolved("401 for https://h/t?k=a%20b", ["KEY"], lambda written: written.replace("${KEY}", "a b"))
    '401 for https://h/t?k=${KEY}'
    """
    for name in names:
        if value := secret(f"${{{name}}}"):
            text = text.replace(value, f"${{{name}}}").replace(quote(value, safe=""), f"${{{name}}}")
    return text


def globbed(system: AbstractFileSystem, pattern: str) -> dict[str, dict[str, Any]]:
    """Every path that a pattern means, with what the file system tells of it, by name."""
    local = "file" in ((system.protocol,) if isinstance(system.protocol, str) else system.protocol)
    if not local or "**" not in pattern:
        return dict(sorted(system.glob(pattern, detail=True).items()))
    from fsspec.utils import glob_translate

    fixed = re.split(r"[*?\[]", pattern, maxsplit=1)[0].rpartition("/")[0] or "/"
    meant = re.compile(glob_translate(pattern))
    return {path: system.info(path) for path in sorted(_below(fixed)) if meant.match(path)}


def _below(folder: str) -> list[str]:
    """All files under a folder; a folder that was seen is not entered again, whichever link leads to it."""
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    todo = [folder]
    while todo:
        here = todo.pop()
        try:
            status = os.stat(here)
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError:
            continue  # as glob does: what cannot be entered holds nothing that the pattern means
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        folders: list[str] = []
        for entry in entries:
            try:
                is_folder = entry.is_dir()
            except OSError:  # a link to itself
                continue
            (folders if is_folder else found).append(entry.path)
        todo += reversed(folders)
    return found
