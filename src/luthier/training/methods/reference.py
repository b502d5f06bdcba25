"""Log-probabilities of whole answers, without gradients: of the model as it is, and of the model as it was before the
first step (the reference of a preference method). The latter are computed once and kept in files (kept.py), so that no
second model lies in memory while training.

Not a method, and not the log-probabilities that are learnt from: those are each method's `loss`.

Legend: N sequences, S supervised tokens of one micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .kept import kept

if TYPE_CHECKING:
    from luthier.training.method import Work
    from luthier.training.rows import Row, Rows, Tokens

Sequences = Callable[["Row"], Sequence["Tokens"]]
Sums = Mapping[str, tuple[float, ...]]
"""Row id -> ln p of each of its sequences' supervised tokens, summed."""


def answer_logprobs(model: Any, units: Sequence[Sequence[Tokens]], work: Work) -> list[tuple[float, ...]]:
    """Σ ln p over the supervised tokens of every sequence, unit by unit. No gradients, no dropout; what belongs to one
    unit is computed together where it fits, since it often shares a prefix."""
    from luthier.models.forward import answering
    from luthier.models.losses import token_logprobs
    from luthier.training.batches import pack
    from luthier.training.machine import enough_memory
    from luthier.training.packing import pack_sequences

    found: list[tuple[float, ...]] = [()] * len(units)
    with answering(model):
        for part in pack([sum(len(one.ids) for one in unit) for unit in units], work.micro_tokens):
            sequences = [one for i in part for one in units[i]]
            ones = [1.0] * len(sequences)
            packed = pack_sequences(sequences, ones, ones, share=True)
            with enough_memory(packed.tokens):
                packed = packed.to(work.machine.device)
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
    import pyarrow as pa

    def compute(rows: Sequence[Row]) -> list[dict[str, Any]]:
        sums = answer_logprobs(model, [sequences(row) for row in rows], work)
        return [{"id": row.id, "logprobs": one} for row, one in zip(rows, sums, strict=True)]

    schema = pa.schema({"id": pa.string(), "logprobs": pa.list_(pa.float64())})
    found: dict[str, tuple[float, ...]] = {}
    for split, rows in splits.items():
        for part in kept(split, rows, work, "reference", what, schema, lambda: compute):
            found.update(zip(part["id"].to_pylist(), map(tuple, part["logprobs"].to_pylist()), strict=True))
    return found


def reference_of(sums: Sums, rows: Sequence[Row]) -> np.ndarray:
    """[R, sequences] in fp32, in the order of the rows."""
    return np.array([sums[row.id] for row in rows], np.float32)
