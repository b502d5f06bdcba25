"""How a rule that learns from all rows is carried out, the same for every engine:

    rows ─▶ features, into a file ─▶ in the order of ids ─▶ the rule learns ─▶ a small table ─▶ rows again, one by one

The order of ids is the same wherever and in whatever order rows were read, so what is learnt is, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from luthier.core.errors import DataError
from luthier.data.opened import Opened
from luthier.data.plan import Step
from luthier.data.report import Account
from luthier.data.rules.rule import GatherRule

from .arrow_file import BATCH_BYTES, ArrowFile

SORT_BYTES = 2 * BATCH_BYTES
ALL_WAIT_BYTES = 4 * BATCH_BYTES
"""What the parts together have in memory while they are filled."""
LEARNT_BYTES = 512_000_000

Batches = Iterator[pa.RecordBatch]


def features_of_all(step: Step, batch: pa.RecordBatch) -> pa.RecordBatch:
    """With the rows' ids."""
    assert isinstance(step.rule, GatherRule)
    return step.rule.features(Opened(batch), step.given).append_column("id", batch["id"])


def learn(step: Step, features: AllFeatures, account: Account) -> pa.Table:
    """What the rule learns; `features` are gone afterwards, and have a row at least, but where it learns from rows held out. Raises what the rule raises, and
    DataError for a table too large to travel."""
    rule = step.rule
    assert isinstance(rule, GatherRule)
    features.sort()
    told = rule.learn(features, step.given, account.notes.append)
    features.remove()
    if told.nbytes > LEARNT_BYTES:
        raise DataError(
            f"{rule.name}: what it has to say of {features.rows:,} rows takes {told.nbytes:,} bytes, and every worker needs all of it.",
            remedy="Let rules before leave fewer rows, or loosen this one.",
        )
    return told


class AllFeatures:
    """rule.Gathered. First `add`, in any order; then `sort`; then read."""

    def __init__(self, folder: Path, check: Callable[[], None] = lambda: None) -> None:
        self._folder, self._check = folder, check
        self._unsorted = ArrowFile(folder / "features-unsorted.arrow")
        self._sorted = ArrowFile(folder / "features.arrow")
        self.rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        if batch.num_rows:
            self._unsorted.write(batch)
            self.rows += batch.num_rows

    def sort(self) -> None:
        if not self.rows:
            return
        for part in self._parts():
            table = pa.Table.from_batches(part).combine_chunks()
            for batch in table.take(pc.sort_indices(table["id"])).combine_chunks().to_batches():
                self._sorted.write(batch)
        self._sorted.close()

    def read(self) -> Batches:
        for batch in self._sorted.read():
            self._check()
            yield batch

    def column(self, name: str) -> np.ndarray:
        parts = [batch[name] for batch in self.read()]
        kind = parts[0].type
        if not pa.types.is_fixed_size_list(kind):
            return np.concatenate([part.to_numpy(zero_copy_only=False) for part in parts])
        flat = np.concatenate([part.flatten().to_numpy(zero_copy_only=False) for part in parts])
        return flat.reshape(-1, kind.list_size)

    def remove(self) -> None:
        self._sorted.remove()

    def _parts(self) -> Iterator[Iterable[pa.RecordBatch]]:
        """Ids are hashes, so their first digits divide rows evenly: what is too much to sort at once is sorted by parts."""
        self._unsorted.close()
        size_bytes = self._unsorted.size_bytes
        if size_bytes <= SORT_BYTES:
            yield self._unsorted.read()
        else:
            digits = 1 if size_bytes <= 16 * SORT_BYTES else 2
            names = ["".join(name) for name in itertools.product("0123456789abcdef", repeat=digits)]
            each = ALL_WAIT_BYTES // len(names)
            files = {name: ArrowFile(self._folder / f"features-{name}.arrow", each) for name in names}
            for batch in self._unsorted.read():
                self._check()
                first = pc.utf8_slice_codeunits(batch["id"], 0, digits)
                for name in pc.unique(first).to_pylist():
                    files[name].write(batch.filter(pc.equal(first, name)))
            for file in files.values():
                file.close()
                if file.size_bytes:
                    yield file.read()
                file.remove()
        self._unsorted.remove()
