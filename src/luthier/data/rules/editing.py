"""How rules edit texts that a cheap look picks out: the dear repair sees only those, and labels get the same
one.

A label is the last answer of a classification once more, so what is done to one is done to the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from .rule import Said

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from luthier.data.opened import Opened

Repair = Callable[[str], tuple[str, Iterable[str]]]
"""From a text to what it becomes and the names of what was done, or of why nothing was."""


def repaired(
    rows: Opened, suspects: np.ndarray, suspect: Callable[[pl.Series], pl.Series], repair: Repair
) -> Said:
    """`suspects` [T] are the texts to repair; `suspect` says the same of any series of texts, and is asked of
    labels. Counts are of texts, by the names that `repair` gives."""
    import numpy as np

    from luthier.data.opened import strings

    hits = np.flatnonzero(suspects)
    told: dict[str, list[int]] = {}
    places, after = [], []
    for place, before in zip(hits.tolist(), strings(rows.text, hits), strict=True):
        repaired_text, names = repair(before)
        if repaired_text != before:
            places.append(place)
            after.append(repaired_text)
        for name in names:
            told.setdefault(name, []).append(place)
    counts = {name: np.bincount(rows.row[of], minlength=len(rows)) for name, of in sorted(told.items())}
    label = _label(rows.label, suspect, repair)
    if not places and label is None:
        return Said(counts=counts)
    text = rows.text.clone().scatter(places, after) if places else rows.text
    why = [(name, np.intersect1d(of, places)) for name, of in sorted(told.items())]
    return Said(
        text=text,
        edited=np.array(places, np.int64),
        label=None if label is None else label.to_arrow().cast("string"),
        changed=rows.named(why),
        counts=counts,
    )


def _label(label: pl.Series, suspect: Callable[[pl.Series], pl.Series], repair: Repair) -> pl.Series | None:
    """None when it stays as it is."""
    if label.null_count() == len(label):
        return None
    places = suspect(label).fill_null(False).arg_true()
    before = label.gather(places)
    after = [repair(text)[0] for text in before.to_list()]
    return label.clone().scatter(places, after) if after != before.to_list() else None
