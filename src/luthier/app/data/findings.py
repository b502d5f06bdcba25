"""What a dataset's rows were found to have, and still have: families of near duplicates, and private data.

    families   from the reasons of removed.parquet: which row stayed, and which went for being like it
    private    from a sample of the rows as they are now: how many values of each kind, never a value

Not here: what to do about it (the rules `near_duplicates` and `redact`), and names of people, which no form tells.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luthier.data.canaries import natural

from .find import SPLITS, Looking, batches, row_count

FAMILIES = 5
SHOWN = 3
SAMPLE = 2_000
CUT = 200
_LIKE = re.compile(r"(0\.\d\d|1\.00) like (\S+)")


def families(folder: Path, look: Looking) -> dict[str, Any]:
    """{"n", "rows", "sizes": {size: families}, "largest": [{"stays", "rows", "like": [{"id", "share", "preview"}]}]}; a family is
    a row that stayed and those that went for being like it."""
    sizes: Counter[str] = Counter(stays for _, _, stays in _alike(folder, look))
    largest = sorted(sizes, key=lambda one: (-sizes[one], one))[:FAMILIES]
    shown: dict[str, list[dict[str, Any]]] = {one: [] for one in largest}
    for line, share, stays in _alike(folder, look):
        if stays in shown and len(shown[stays]) < SHOWN:
            preview = (line["preview"] or "")[:CUT]
            shown[stays].append({"id": line["id"], "share": share, "preview": preview})
    by_size = Counter(n + 1 for n in sizes.values())
    return {
        "n": len(sizes),
        "rows": sum(sizes.values()),
        "sizes": {str(size): n for size, n in sorted(by_size.items())},
        "largest": [{"stays": one, "rows": sizes[one] + 1, "like": shown[one]} for one in largest],
    }


def _alike(folder: Path, look: Looking) -> Iterator[tuple[dict[str, Any], float, str]]:
    """(a removed line, what it shares with the row that stays, the id of that), line by line."""
    for batch in batches(folder, "removed", ("id", "rule", "reason", "preview")):
        look.progress("families", 0, None)
        for line in batch.to_pylist():
            found = _LIKE.fullmatch(line["reason"] or "") if line["rule"] == "near_duplicates" else None
            if found:
                yield line, float(found[1]), found[2]


def private(folder: Path, look: Looking) -> dict[str, Any]:
    """{"rows": looked at, "with": rows that hold any, "kinds": {kind: values}} of the first rows by id of every side."""
    from luthier.data.opened import Opened
    from luthier.data.private import KINDS
    from luthier.data.private.find import candidates
    from luthier.data.private.found import settle

    total = sum(row_count(folder, side) for side in SPLITS)
    looked, holding, kinds = 0, 0, Counter[str]()
    for side in SPLITS:
        left = -(-SAMPLE * row_count(folder, side) // max(total, 1))
        for batch in map(natural, batches(folder, side)):
            opened = Opened(batch.slice(0, left))
            for row in range(len(opened)):
                texts = [*opened.of_row(row), batch["group"][row].as_py() or ""]
                found = [one.kind for text in texts for one in settle(candidates(text, frozenset(KINDS)))]
                kinds.update(found)
                holding += bool(found)
                looked += 1
                if looked % 100 == 0:
                    look.progress("look for private data", looked, min(total, SAMPLE))
            left -= batch.num_rows
            if left <= 0:
                break
    return {"rows": looked, "with": holding, "kinds": {kind: kinds[kind] for kind in KINDS if kinds[kind]}}
