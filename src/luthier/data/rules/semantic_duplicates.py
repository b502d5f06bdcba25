"""semantic_duplicates: of rows whose vectors point the same way one stays. What that means is the embedder's matter: with
`hashed`, the built-in one, the same spelling in any order; with a model's vectors (`static`, `endpoint`), the like meaning.

    vectors ─▶ pairs that lie on one side of random planes (data/neighbours) ─▶ their cosine, exact ─▶ in the order of who stays

A row goes only if a row that stays, and comes before it, has at least the wanted cosine with it: nothing goes by a chain or by
a hash, and the reason names that row. About one pair in a hundred of just the wanted cosine is missed, and more of them where
hundreds of rows are nearly the same. Under `on: conversation` rows with different labels are never alike: one of them may be labelled wrongly.

Not here: proof that two rows mean the same. A cosine is an opinion of a model; read the examples before the rule is trusted.
`near_duplicates` compares words and needs no opinion.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.core.spec import Spec
from luthier.data.embedders.embedder import EmbedderSpec

from .rule import GatherRule
from .verdicts import removed, verdicts

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.data.opened import Opened

    from .rule import Gathered


class SemanticDuplicates(Spec):
    similarity: float = Field(default=0.9, ge=0.5, le=1)
    """The least cosine that a row has with one that stays, for it to go."""
    embedder: EmbedderSpec = Field(default_factory=EmbedderSpec.hashed)
    """What makes the vectors."""
    on: Literal["conversation", "user", "assistant"] = "conversation"
    """What is compared: what both say, or only one of them; a plain text counts as either."""
    keep: Literal["lowest_id", "longest"] = "lowest_id"
    """Which of several stays: the one with the lowest id, or the one with the most characters."""


def _features(rows: Opened, settings: SemanticDuplicates) -> pa.RecordBatch:
    import pyarrow as pa

    from luthier.data.records import hashed
    from luthier.data.terms import ROLES

    told = rows.joined(*ROLES[settings.on])
    vectors = settings.embedder.made().embed(told)
    labels = hashed([label or "" for label in rows.label.to_list()]).to_pylist()
    return pa.record_batch(
        {
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1]),
            "characters": pa.array([len(text) for text in told], pa.int64()),
            "label": pa.array([int(name[:15], 16) for name in labels], pa.int64()),
        }
    )


def _learn(features: Gathered, settings: SemanticDuplicates, note: Callable[[str], None]) -> pa.Table:
    import numpy as np

    from luthier.data.neighbours import near

    vectors, label = features.column("vector"), features.column("label")
    order = np.arange(features.rows)  # features come in the order of ids
    if settings.keep == "longest":
        order = np.argsort(-features.column("characters"), kind="stable")
    a, b, cosine = near(vectors[order], settings.similarity, note)
    if settings.on == "conversation":
        alike = label[order[a]] == label[order[b]]
        a, b, cosine = a[alike], b[alike], cosine[alike]
    gone: dict[int, tuple[int, float]] = {}
    for one, other, value in zip(a.tolist(), b.tolist(), cosine.tolist(), strict=True):
        if one not in gone and other not in gone:  # pairs come in the order of the later row
            gone[other] = (one, value)
    if gone:
        sizes = np.bincount([one for one, _ in gone.values()])
        note(f"{np.count_nonzero(sizes)} families of like rows, the largest of {sizes.max() + 1} rows")
    places = {int(order[k]): (int(order[one]), value) for k, (one, value) in gone.items()}
    names = _names(features, {*places, *(one for one, _ in places.values())})
    some = sorted(places)
    why = [f"cosine {int(places[k][1] * 1000) / 1000:.3f} with {names[places[k][0]]}" for k in some]
    return verdicts([names[k] for k in some], why)


def _names(features: Gathered, places: set[int]) -> dict[int, str]:
    """Ids of some rows, by their place."""
    import numpy as np
    import pyarrow as pa

    wanted = np.array(sorted(places), np.int64)
    found: dict[int, str] = {}
    start = 0
    for batch in features.read():
        mine = wanted[(wanted >= start) & (wanted < start + batch.num_rows)]
        found |= zip(mine.tolist(), batch["id"].take(pa.array(mine - start)).to_pylist(), strict=True)
        start += batch.num_rows
    return found


semantic_duplicates = GatherRule(
    "semantic_duplicates", 1, SemanticDuplicates, "Keeps one of rows whose vectors point the same way.",
    _features, _learn, removed, mark=lambda settings: settings.embedder.mark(),
    source="random planes after Charikar (2002), with verification; SemDeDup (Abbas et al., 2023)",
)  # fmt: skip
