"""inverse_frequency: rows of what is frequent count less in training, so that a loss is not the loss of the largest label.

    {inverse_frequency: {of: label}}                 every label counts as much as any other, as a whole
    {inverse_frequency: {of: source, power: 0.5}}    half way there: the square root

Of N rows, n of a name: its rows' weights are multiplied by (N / n)^power, divided by what that is on average over all rows.
So the weights' mean stays what it was, and a learning rate fits as before. Rows are neither removed nor repeated: `balance`
removes.

Not here: weights that a person sets (`weight`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.core.errors import DataError
from luthier.core.spec import Spec

from .rule import GatherRule, Said

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.data.opened import Opened

    from .rule import Gathered


class InverseFrequency(Spec):
    of: Literal["label", "source"] = "label"
    """Whose frequency it is."""
    power: float = Field(default=1.0, gt=0, le=1)
    """1 makes every label or source count the same as a whole; 0.5, the square root, goes half of the way."""


def _features(rows: Opened, settings: InverseFrequency) -> pa.RecordBatch:
    import pyarrow as pa

    names = rows.column(settings.of)
    if names.null_count:
        raise DataError(
            "inverse_frequency of labels needs labels, and this task has none.",
            remedy="Use task: {kind: classify}, or of: source.",
        )
    return pa.record_batch({"name": names.cast(pa.string())})


def _learn(features: Gathered, settings: InverseFrequency, note: Callable[[str], None]) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    counts: Counter[str] = Counter()
    for batch in features.read():
        counts.update({told["values"]: told["counts"] for told in pc.value_counts(batch["name"]).to_pylist()})
    names, factors = sorted(counts), {}
    raw = {name: (features.rows / counts[name]) ** settings.power for name in names}
    mean = sum(counts[name] * raw[name] for name in names) / features.rows
    factors = {name: raw[name] / mean for name in names}
    rare, frequent = max(names, key=factors.__getitem__), min(names, key=factors.__getitem__)
    note(
        f"{len(names)} {settings.of}s; a row of the rarest ({counts[rare]} rows) counts {factors[rare] / factors[frequent]:.3g} "
        f"times as much as one of the most frequent ({counts[frequent]} rows)"
    )
    return pa.table({"name": names, "factor": pa.array([factors[name] for name in names], pa.float64())})


def _run(rows: Opened, settings: InverseFrequency, learnt: pa.Table) -> Said:
    import numpy as np
    import pyarrow as pa

    known = dict(zip(learnt["name"].to_pylist(), learnt["factor"].to_pylist(), strict=True))
    before = rows.column("weight").to_numpy(zero_copy_only=False)
    names = rows.column(settings.of).to_pylist()
    after = (before * np.array([known[name] for name in names], np.float64)).astype(np.float32)
    changed = np.flatnonzero(after != before).tolist()
    why = {row: f"weight {before[row]:.6g} becomes {after[row]:.6g}" for row in changed}
    return Said(columns={"weight": pa.array(after, pa.float32())}, changed=rows.reasons(why))


inverse_frequency = GatherRule(
    "inverse_frequency", 1, InverseFrequency, "Lets rows of frequent labels or sources count less.", _features, _learn, _run,
    source="King and Zeng, Logistic regression in rare events data (2001); the square root after Mahajan et al. (2018)",
)  # fmt: skip
