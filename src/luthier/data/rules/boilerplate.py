"""boilerplate: lines or sentences that stand in many rows word for word: signatures, disclaimers, footers, "Sent from my phone".
A model that has seen one a thousand times says it, too.

    pieces of every row ─▶ their hashes ─▶ in how many rows each stands ─▶ those of many ─▶ stripped, or their rows go

Pieces are compared folded: case, Unicode variants and whitespace do not matter. Where nothing would be left of a text, it stays
as it is. Counting is exact but for 64-bit hashes of BLAKE2b: that some other piece is taken for one of a million frequent ones
has, for a billion pieces, a chance of one in 20,000.

Not here: what repeats within a row (`repetition`), whole rows (`deduplicate`), and boilerplate with names or dates in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.core.spec import Spec
from luthier.core.units import Share

from .rule import GatherRule, Said

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import pyarrow as pa

    from luthier.data.opened import Opened

    from .rule import Gathered

PIECES = {
    "line": r"[^\n]+\n?|\n",
    "sentence": r"[^\n]*?[.!?。！？]+(?:\s+|$)|[^\n]+\n?\s*|\n\s*",
}  # fmt: skip
COUNTERS = 1 << 22


class Boilerplate(Spec):
    unit: Literal["line", "sentence"] = "line"
    """What is counted: lines, or sentences: what ends with a full stop, question or exclamation mark, or with the line."""
    share: Share = 0.01
    """In how large a share of the rows a piece must stand."""
    rows: int = Field(default=20, ge=2)
    """And in how many rows at least."""
    shortest: int = Field(default=20, ge=1)
    """Pieces of fewer characters are left alone: short ones are rightly frequent."""
    on: Literal["user", "assistant", "conversation"] = "user"
    """Whose texts are looked at; a plain text counts as either. An answer that is the row's label is never edited."""
    do: Literal["strip", "drop", "mark"] = "strip"
    """`strip` takes the pieces out of the texts, `drop` removes rows that have one, `mark` notes them in the trail."""


def _pieces(rows: Opened, settings: Boilerplate) -> tuple[pl.DataFrame, pl.Series]:
    """(column pieces: those of each looked-at text, which together are the text; places of these texts)."""
    import numpy as np
    import polars as pl

    from luthier.data.terms import ROLES

    wanted = rows.says(*ROLES[settings.on])
    labels = rows.label.gather(rows.row)
    wanted &= ~(rows.text == labels).fill_null(False).to_numpy()
    place = np.flatnonzero(wanted)
    text = rows.text.gather(place)
    return pl.DataFrame({"pieces": text.str.extract_all(PIECES[settings.unit])}), pl.Series(place)


def _hashes(frame: pl.DataFrame, shortest: int) -> tuple[np.ndarray, np.ndarray]:
    """(hash of every piece, 0 for one that is too short; the line of `frame` that each is of)."""
    import numpy as np
    import polars as pl

    from luthier.data.records import hashed

    flat = frame.with_row_index("n").explode("pieces").filter(pl.col("pieces").is_not_null())
    told = flat["pieces"].str.strip_chars()
    long = told.str.len_chars() >= shortest
    unique = told.filter(long).unique()
    names = hashed(unique.to_list(), fold=True).to_pylist()
    known = dict(zip(unique.to_list(), (int(name[:15], 16) + 1 for name in names), strict=True))
    found = [known[text] if one else 0 for text, one in zip(told.to_list(), long.to_list(), strict=True)]
    return np.array(found, np.int64), flat["n"].to_numpy()


def _features(rows: Opened, settings: Boilerplate) -> pa.RecordBatch:
    import numpy as np
    import pyarrow as pa

    frame, place = _pieces(rows, settings)
    hashes, line = _hashes(frame, settings.shortest)
    row = rows.row[place.to_numpy()[line]].astype(np.int64)
    order = np.lexsort((hashes, row))
    row, hashes = row[order], hashes[order]
    once = (hashes > 0) & np.append(True, (row[1:] != row[:-1]) | (hashes[1:] != hashes[:-1]))[: len(row)]
    row, hashes = row[once], hashes[once]
    first = np.searchsorted(row, np.arange(len(rows) + 1))
    return pa.record_batch({"pieces": pa.LargeListArray.from_arrays(pa.array(first), pa.array(hashes))})


def _learn(features: Gathered, settings: Boilerplate, note: Callable[[str], None]) -> pa.Table:
    """Columns: hash, rows. First roughly, in counters that several may share, then exactly those that may be frequent."""
    import numpy as np
    import pyarrow as pa

    least = max(settings.rows, int(np.ceil(settings.share * features.rows)))
    counters = np.zeros(COUNTERS, np.int64)
    for batch in features.read():
        counters += np.bincount(batch["pieces"].flatten().to_numpy() % COUNTERS, minlength=COUNTERS)
    counts: dict[int, int] = {}
    for batch in features.read():
        hashes = batch["pieces"].flatten().to_numpy()
        some, times = np.unique(hashes[counters[hashes % COUNTERS] >= least], return_counts=True)
        for one, n in zip(some.tolist(), times.tolist(), strict=True):
            counts[one] = counts.get(one, 0) + n
    found = {one: n for one, n in sorted(counts.items()) if n >= least}
    if found:
        note(
            f"frequent {settings.unit}s: {len(found)}, each in {least} rows or more, one of them in {max(found.values())}"
        )
    return pa.table(
        {"hash": pa.array(list(found), pa.int64()), "rows": pa.array(list(found.values()), pa.int64())}
    )


def _run(rows: Opened, settings: Boilerplate, learnt: pa.Table) -> Said:
    import numpy as np

    frequent = dict(zip(learnt["hash"].to_pylist(), learnt["rows"].to_pylist(), strict=True))
    frame, place = _pieces(rows, settings)
    hashes, line = _hashes(frame, settings.shortest)
    hit = np.isin(hashes, np.fromiter(frequent, np.int64, len(frequent)))
    counts = np.bincount(rows.row[place.to_numpy()[line[hit]]], minlength=len(rows))
    if settings.do != "strip":
        most: dict[int, int] = {}
        for row, told in zip(
            rows.row[place.to_numpy()[line[hit]]].tolist(), hashes[hit].tolist(), strict=True
        ):
            most[row] = max(most.get(row, 0), frequent[told])
        why = rows.reasons({row: f"a {settings.unit} that stands in {n} rows" for row, n in most.items()})
        known = {f"{settings.unit}s": counts}
        return Said(removed=why) if settings.do == "drop" else Said(changed=why, counts=known)
    texts, stripped = rows.text.to_list(), np.zeros(len(rows), np.int64)
    edges = np.searchsorted(line, np.arange(len(frame) + 1))
    for n in np.unique(line[hit]).tolist():
        at, gone = int(place[n]), hit[edges[n] : edges[n + 1]]
        kept = zip(frame["pieces"][n].to_list(), gone.tolist(), strict=True)
        left = "".join(piece for piece, away in kept if not away)
        if left.strip():
            texts[at] = left if texts[at].endswith(left) else left.rstrip()
            stripped[rows.row[at]] += int(gone.sum())
    return _edited(rows, settings, texts, stripped)


def _edited(rows: Opened, settings: Boilerplate, texts: list[str], stripped: np.ndarray) -> Said:
    import numpy as np
    import polars as pl

    some = np.flatnonzero(stripped).tolist()
    unit = settings.unit
    many = {row: f"{stripped[row]} {unit}s that stand in many rows" for row in some}
    why = {row: f"a {unit} that stands in many rows" if stripped[row] == 1 else many[row] for row in some}
    if not some:
        return Said()
    return Said(
        text=pl.Series(texts, dtype=pl.String),
        changed=rows.reasons(why),
        counts={f"{settings.unit}s": stripped},
    )


boilerplate = GatherRule(
    "boilerplate", 1, Boilerplate, "Takes out lines or sentences that stand in many rows.", _features, _learn, _run,
    source="line counts after CCNet (Wenzek et al., 2020)",
)  # fmt: skip
