"""The texts of files that a rule's settings name: every string in every cell, in any format that sources have.

Not here: finding out whether such a file has changed since a dataset was made (`reads` of a rule, by its digest)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

_SECRET = re.compile(r"(://)[^/@\s]+(?=@)|(\?)[^\s']+")
"""What stands before the host of an address, and behind its path."""


def stamps(patterns: Sequence[str]) -> tuple[tuple[str, int, int], ...]:
    """Path, size and time of every local file, to see that one has changed while a process lives; of others the pattern alone
    says what they are."""
    from glob import glob
    from pathlib import Path

    local = [pattern for pattern in patterns if "://" not in pattern]
    found = [
        (path, Path(path).stat())
        for pattern in local
        for path in sorted(glob(str(Path(pattern).expanduser())))
    ]
    return tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in found)


def texts_in(patterns: Sequence[str]) -> tuple[list[str], list[tuple[str, int]]]:
    """(texts, the file and the row, counted from 1, that each is of). Raises DataError where nothing is found or readable."""
    import sys
    from pathlib import Path

    from luthier.core.errors import DataError
    from luthier.data.connectors.files import FilesConnector
    from luthier.data.spec import SourceSpec

    def connect(files: list[str]) -> FilesConnector:
        return FilesConnector(SourceSpec.model_validate({"files": files}), Path(), lambda written: written)

    texts: list[str] = []
    origins: list[tuple[str, int]] = []
    try:
        for file in connect(list(patterns)).files:
            for number, row in enumerate(
                connect([file.system.unstrip_protocol(file.path)]).head(sys.maxsize).rows, 1
            ):
                told = list(strings(row))
                texts += told
                origins += [(file.place, number)] * len(told)
    except DataError as error:  # the addresses are filled in already, and may hold what must not be told
        raise DataError(_SECRET.sub(r"\1\2***", error.message), remedy=error.remedy) from None
    return texts, origins


def strings(cell: Any) -> Iterator[str]:
    """Every string in a cell, however deep.

    >>> list(strings({"q": "why?", "choices": ["a", {"b": "c"}], "n": 3}))
    ['why?', 'a', 'c']
    """
    if isinstance(cell, str):
        yield cell
    elif isinstance(cell, dict | list):
        for part in cell.values() if isinstance(cell, dict) else cell:
            yield from strings(part)
