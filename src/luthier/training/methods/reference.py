"""Log-probabilities of whole answers, without gradients: of the model as it is, and of the model as it was before the
first step (the reference of a preference method). The latter are computed once and kept in a file, so that no second
model lies in memory while training.

Not a method, and not the log-probabilities that are learnt from: those are each method's `loss`.

Legend: N sequences, S supervised tokens of one micro-batch.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.artifact import digest_of

if TYPE_CHECKING:
    from luthier.training.method import Work
    from luthier.training.rows import Row, Rows, Tokens

ROWS_AT_ONCE = 128  # rows among which micro-batches are formed; between two such blocks a stop is heard

Sequences = Callable[["Row"], Sequence["Tokens"]]
Sums = Mapping[str, tuple[float, ...]]
"""Row id -> ln p of each of its sequences' supervised tokens, summed."""


def answer_logprobs(model: Any, units: Sequence[Sequence[Tokens]], work: Work) -> list[tuple[float, ...]]:
    """Σ ln p over the supervised tokens of every sequence, unit by unit. No gradients, no dropout; what belongs to one
    unit is computed together where it fits, since it often shares a prefix."""
    from luthier.models.forward import answering
    from luthier.models.losses import token_logprobs
    from luthier.training.batches import pack
    from luthier.training.packing import pack_sequences

    found: list[tuple[float, ...]] = [()] * len(units)
    with answering(model):
        for part in pack([sum(len(one.ids) for one in unit) for unit in units], work.micro_tokens):
            sequences = [one for i in part for one in units[i]]
            ones = [1.0] * len(sequences)
            packed = pack_sequences(sequences, ones, ones, share=True).to(work.machine.device)
            with work.machine.precision(model):
                logprobs_S = token_logprobs(model, packed.inputs, packed.keep, packed.targets)
            sums = iter(packed.per_sequence(logprobs_S.float()).tolist())
            for i in part:
                found[i] = tuple(next(sums) for _ in units[i])
    return found


def reference_logprobs(
    model: Any, splits: Mapping[str, Rows], work: Work, sequences: Sequences, what: str
) -> Sums:
    """Those of every row of every split under `model`, which must be as it is before the first step; read back where an
    earlier run of the same work has kept them. `what` names the sequences that are meant."""
    found: dict[str, tuple[float, ...]] = {}
    for split, rows in splits.items():
        found.update(_of_split(model, split, rows, work, sequences, what))
    return found


def _of_split(model: Any, split: str, rows: Rows, work: Work, sequences: Sequences, what: str) -> Sums:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from luthier.store.files import explained, write_atomic

    told = {
        "work": work.identity,
        "split": split,
        "what": what,
        "dtype": work.machine.dtype,
        "rows": len(rows),
    }
    path = work.scratch / f"reference-{digest_of(told)[:16]}.parquet"
    if path.exists():
        with explained(path.parent):
            table = pq.read_table(path)
        return dict(zip(table["id"].to_pylist(), map(tuple, table["logprobs"].to_pylist()), strict=True))
    found: dict[str, tuple[float, ...]] = {}
    for start in range(0, len(rows), ROWS_AT_ONCE):
        work.at.check()
        work.at.progress(f"reference of {split}", start, len(rows))
        some = rows[start : start + ROWS_AT_ONCE]
        sums = answer_logprobs(model, [sequences(row) for row in some], work)
        found.update(zip((row.id for row in some), sums, strict=True))
    schema = pa.schema({"id": pa.string(), "logprobs": pa.list_(pa.float64())})
    table = pa.table([list(found), [list(sums) for sums in found.values()]], schema=schema)
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write_atomic(path, buffer.getvalue())
    return found


def reference_of(sums: Sums, rows: Sequence[Row]) -> np.ndarray:
    """[R, sequences] in fp32, in the order of the rows."""
    return np.array([sums[row.id] for row in rows], np.float32)
