"""Rows that rules have made must not stand in what is measured: a model may have learnt it by heart, an edit may hit upon it.

Rules of quantity see the rows of train alone, so this is looked at where all sides are known: last. What counts is what the
user says, case and blanks aside; of every row that is held out eight bytes are remembered.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from .opened import Opened


class HeldOut:
    """First `add` every row of validation and test, then ask."""

    def __init__(self) -> None:
        self._found: list[np.ndarray] = []
        self._sorted: np.ndarray | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        self._found.append(_inputs(batch))

    def holds(self, batch: pa.RecordBatch) -> np.ndarray:
        """Which rows say what a row that is held out says, bool [B]."""
        if self._sorted is None:
            self._sorted = np.unique(np.concatenate([np.zeros(0, np.uint64), *self._found]))
            self._found = []
        if not len(self._sorted):
            return np.zeros(batch.num_rows, bool)
        mine = _inputs(batch)
        at = np.minimum(np.searchsorted(self._sorted, mine), len(self._sorted) - 1)
        return self._sorted[at] == mine


def _inputs(batch: pa.RecordBatch) -> np.ndarray:
    """The first half of the hashes, uint64 [B]."""
    hashes = Opened(batch).hashed_inputs(fold=True).to_pylist()
    return np.array([int(one[:16], 16) for one in hashes], np.uint64)
