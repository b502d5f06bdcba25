"""label_noise: rows whose label other rows speak against. A classifier is fitted on four fifths of the rows and asked for the rest,
five times; confident learning (Northcutt, Jiang and Chuang, 2021) then says which labels it does not believe:

    rows ─▶ words and pairs of words, TF-IDF ─▶ five folds by a hash of the id ─▶ probabilities of every label, out of fold
         ─▶ a label is believed of a row from that label's own mean probability on ─▶ the most probable one that is believed is
            not the given one, by at least `margin` ─▶ noise

What the classifier sees of a row is what the user says. It is linear (scikit-learn's SGDClassifier with averaged weights, always with the same seed). Its mistakes are taken
for noise, too: of 4,000 food reviews, of which it is right in 77 %, it found 55 % of 5 % flipped labels with a precision of 0.39,
and 50 % of 10 % with 0.50 (benchmarks/data/label_flips.py). So the default only marks; look at the pairs of labels in the report
and at rows in the trail before anything is removed.

Not here: noise in free answers, and a row with several labels. `agree` finds inputs that are labelled in two ways.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from luthier.core.errors import DataError, missing_part
from luthier.core.spec import Spec

from .rule import GatherRule, Said
from .verdicts import reasons, verdicts

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from luthier.data.opened import Opened

    from .rule import Gathered

PAIRS_TOLD = 10
MOST_CELLS = 200_000_000  # of the probabilities


class LabelNoise(Spec):
    do: Literal["mark", "drop", "downweight"] = "mark"
    """`mark` notes rows in the trail, `drop` removes them, `downweight` lets them count less in training."""
    weight: float = Field(default=0.3, gt=0, lt=1)
    """What the weight of a row is multiplied by, to let it count less."""
    margin: float = Field(default=0.2, ge=0, lt=1)
    """By how much another label must be more probable than the given one; more finds less, and is right more often."""
    folds: int = Field(default=5, ge=2, le=20)
    """Into how many parts the rows are divided; each is judged by a classifier of the others."""

    @model_validator(mode="after")
    def _weight_is_used(self) -> LabelNoise:
        if "weight" in self.model_fields_set and self.do != "downweight" and self.weight != 0.3:
            raise ValueError("weight is for do: downweight; write it there, or leave it out")
        return self


def _features(rows: Opened, settings: LabelNoise) -> pa.RecordBatch:  # noqa: ARG001  every rule has this signature
    import pyarrow as pa

    from luthier.data.terms import terms_of

    labels = rows.column("label")
    if labels.null_count:
        raise DataError(
            "label_noise needs a label for every row, and this task has none.",
            remedy="Use task: {kind: classify}, or remove the rule.",
        )
    return pa.record_batch(
        {**terms_of(rows, "user", pairs=True).columns(), "label": labels.cast(pa.string())}
    )


def _learn(features: Gathered, settings: LabelNoise, note: Callable[[str], None]) -> pa.Table:
    """Columns: id, reason; and which labels were given and likely, for the report."""
    import numpy as np

    labels = np.array(
        [label for batch in features.read() for label in batch["label"].to_pylist()], dtype=object
    )
    names, given = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        note(f"all rows have the label {names[0]!r}: there is nothing to compare")
        return verdicts([], [])
    if len(names) * features.rows > MOST_CELLS:
        raise DataError(
            f"label_noise: {features.rows:,} rows of {len(names)} labels are too many to be judged in one place.",
            remedy="Sample before, or judge fewer labels.",
        )
    ids = [name for batch in features.read() for name in batch["id"].to_pylist()]
    chances = _chances(features, given, len(names), _folds(ids, settings.folds))
    places, likely = believed(chances, given, settings.margin)
    pairs = Counter(zip(given[places].tolist(), likely.tolist(), strict=True))
    right = float(np.mean(chances.argmax(axis=1) == given))
    note(
        f"out of fold, {right:.1%} of the given labels are the most probable ones; {len(places)} are not believed"
    )
    for (one, other), n in sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))[:PAIRS_TOLD]:
        note(f"given {names[one]!r}, likely {names[other]!r}: {n} rows")
    why = [
        f"given {names[given[k]]!r} ({chances[k, given[k]]:.2f}), likely {names[other]!r} ({chances[k, other]:.2f})"
        for k, other in zip(places.tolist(), likely.tolist(), strict=True)
    ]
    return verdicts([ids[k] for k in places.tolist()], why)


def _folds(ids: list[str], folds: int) -> np.ndarray:
    """By a hash of the id, so that rows that come or go do not move the others."""
    import numpy as np

    from luthier.data.records import hashed

    return np.array([int(name[:12], 16) % folds for name in hashed(ids, salt="label_noise:").to_pylist()])


def _chances(features: Gathered, given: np.ndarray, labels: int, fold: np.ndarray) -> np.ndarray:
    """Probabilities of each label out of fold, float32 [N, labels]; a label that a fold's others lack has none."""
    import numpy as np

    matrix = _matrix(features)
    try:
        from sklearn.linear_model import SGDClassifier
    except ModuleNotFoundError:
        raise missing_part("scikit-learn", "labels", "label_noise") from None
    out = np.zeros((len(given), labels), np.float32)
    for k in range(int(fold.max()) + 1):
        own, others = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        known = np.unique(given[others])
        if len(known) < 2 or not len(own):
            out[own[:, None], known[None, :]] = 1.0
            continue
        model: Any = SGDClassifier(
            loss="log_loss", alpha=ALPHA, max_iter=EPOCHS, tol=None, average=True, random_state=0
        )
        model.fit(matrix[others], given[others])
        out[own[:, None], model.classes_[None, :]] = model.predict_proba(matrix[own])
    return np.round(out, 4)


ALPHA, EPOCHS = 1e-4, 10


def _matrix(features: Gathered) -> Any:
    """TF-IDF of unit length over the terms that stand in two rows or more, sparse [N, terms]."""
    import numpy as np

    try:
        from scipy.sparse import csr_matrix
    except ModuleNotFoundError:
        raise missing_part("scikit-learn", "labels", "label_noise") from None
    from luthier.data.terms import frequencies, read

    found = frequencies(terms for _, terms in read(features.read()))
    number = np.cumsum(found > 1) - 1
    idf = np.log((features.rows + 1) / (found + 1)) + 1
    values, columns, sizes = [], [], []
    for _, terms in read(features.read()):
        each = np.sqrt(terms.counts) * idf[terms.ids]
        keep = found[terms.ids] > 1
        each[~keep] = 0.0
        long = np.sqrt(terms.per_row(each * each))
        values.append((each / np.maximum(long, 1e-9)[terms.owner])[keep])
        columns.append(number[terms.ids[keep]])
        sizes.append(np.bincount(terms.owner[keep], minlength=len(terms)))
    first = np.concatenate([[0], np.cumsum(np.concatenate(sizes))])
    shape = (features.rows, max(int(number[-1]) + 1, 1))
    return csr_matrix((np.concatenate(values), np.concatenate(columns), first), shape=shape)


def believed(chances: np.ndarray, given: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """(places of rows whose label is not believed, the label that is). Of each label, it is believed from its mean probability
    in rows that have it on: the thresholds of the confident joint (section 3.1)."""
    import numpy as np

    labels = chances.shape[1]
    sizes = np.bincount(given, minlength=labels)
    own = chances[np.arange(len(given)), given]
    threshold = np.bincount(given, weights=own, minlength=labels) / np.maximum(sizes, 1)
    sure = np.where(chances >= threshold, chances, -1.0)
    likely = sure.argmax(axis=1)
    best = sure[np.arange(len(given)), likely]
    places = np.flatnonzero((best >= 0) & (likely != given) & (best - own >= margin))
    return places, likely[places]


def _run(rows: Opened, settings: LabelNoise, learnt: pa.Table) -> Said:
    import numpy as np
    import pyarrow as pa

    why = reasons(rows, learnt)
    doubted = why.is_valid().to_numpy(zero_copy_only=False)
    counts = {"doubted": doubted.astype(np.int64)}
    if settings.do == "drop":
        return Said(removed=why, counts=counts)
    if settings.do == "mark":
        return Said(changed=why, counts=counts)
    before = rows.column("weight").to_numpy(zero_copy_only=False)
    after = np.where(doubted, before * np.float32(settings.weight), before).astype(np.float32)
    return Said(columns={"weight": pa.array(after)}, changed=why, counts=counts)


label_noise = GatherRule(
    "label_noise", 1, LabelNoise, "Finds labels that the other rows speak against.", _features, _learn, _run,
    source="confident learning (Northcutt, Jiang and Chuang, 2021)",
)  # fmt: skip
