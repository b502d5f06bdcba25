"""Rows that contain words or meet conditions: one pass over the files, batch by batch, with as much shown as was asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from luthier.core.artifact import Artifact
from luthier.core.errors import SpecError
from luthier.store import Store

from .find import SPLITS, Looking, batches, row_count
from .where import Condition, expression, frame, read, says

SNIPPET = 200
SHOWN = ("id", "side", "origin", "source", "label", "group", "weight", "rule", "reason")


def search(
    store: Store, dataset: Artifact, words: Sequence[str], where: Sequence[str], limit: int, look: Looking
) -> dict[str, Any]:
    """{"dataset", "matches", "by_side", "rows"}: all matches are counted, the first `limit` by side and id are given, each
    with the stretch of text around what was looked for."""
    conditions = [read(one) for one in where]
    if not conditions and not any(word.strip() for word in words):
        raise SpecError(
            "nothing to look for.", remedy="Give words, or --where FIELD=VALUE (luthier data search --help)."
        )
    folder, wanted = store.folder(dataset), expression(conditions, [w for w in words if w.strip()])
    sides = _sides(conditions)
    total, done = sum(row_count(folder, side) for side in sides), 0
    by_side: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    for side in sides:
        for batch in batches(folder, side):
            told = frame(batch, side).filter(wanted)
            by_side[side] += told.height
            if told.height and len(rows) < limit:
                some = told.head(limit - len(rows)).with_columns(says().alias("says"))
                rows += [_shown(row, words, conditions) for row in some.to_dicts()]
            done += batch.num_rows
            look.progress("search", done, total)
    return {
        "dataset": dataset.digest,
        "matches": by_side.total(),
        "by_side": {side: by_side[side] for side in sides},
        "rows": rows,
    }


def _sides(conditions: Sequence[Condition]) -> tuple[str, ...]:
    """Rows in use; those set aside only for who asks for them."""
    asked = [one.value for one in conditions if one.field == "side" and one.op == "="]
    if asked and asked[0] not in (*SPLITS, "removed"):
        raise SpecError(
            f"there is no side {asked[0]!r}.", remedy="Sides are train, validation, test and removed."
        )
    if asked:
        return (str(asked[0]),)
    return ("removed",) if any(one.field in ("rule", "reason") for one in conditions) else SPLITS


def _shown(row: dict[str, Any], words: Sequence[str], conditions: Sequence[Condition]) -> dict[str, Any]:
    told = {name: row[name] for name in SHOWN if row[name] is not None}
    text = row["says"] or ""
    sought = [*words, *(str(one.value) for one in conditions if one.op == "~")]
    return {**told, "snippet": snippet(text, sought)}


def snippet(text: str, sought: Sequence[str]) -> str:
    """The stretch around the first of what was sought, or the beginning.

    >>> snippet("x" * 300 + " a refund please " + "y" * 300, ["REFUND"])[:3], "refund" in snippet("a refund", ["REFUND"])
    ('…xx', True)
    """
    lower = text.lower()
    places = [at for word in sought if (at := lower.find(word.lower())) >= 0]
    start = max(0, min(places, default=0) - SNIPPET // 4)
    piece = text[start : start + SNIPPET]
    return ("…" if start else "") + piece + ("…" if start + SNIPPET < len(text) else "")
