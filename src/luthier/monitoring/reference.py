"""What windows are compared with: fitted once for a release and kept as an artifact of kind `reference`. It holds hashes, vectors and
counts; of what people wrote only the words that topics are called by, and labels.

    known.npy near.npy centres.npy     words that are known (hashes), vectors of training rows, centres of topics      (views.Fit)
    vectors.npy numbers.npy            the rows that stand for what is usual: vectors [N, D], numbers [N, views]
    reference.json                     their words, the order of words in each view, what it was made of

Training rows say what is known; held-out rows, which nobody has learnt from, say how far from it is usual. Where too few rows
are held out, training rows that were not fitted stand in for them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import DataError
from luthier.core.spec import Spec
from luthier.core.stage import Output, Stage

from .rows import Row, distinct
from .sequential import BINS
from .spec import ReferenceSpec
from .views import GROUPS, VIEWS, WORDED, Fit, Measured, bins

if TYPE_CHECKING:
    from luthier.core.artifact import Artifact
    from luthier.core.stage import Context

FEWEST = 60
"""Rows below which nothing is usual."""
ENOUGH = 300
"""Held-out rows below which some of the training rows stand in for them."""


class TrafficReferenceSpec(ReferenceSpec):
    """The same of a stretch of traffic."""

    name: str
    """What was asked."""
    release: str | None
    """What answered."""
    since_s: float
    """From then on."""
    until_s: float
    """Before then."""
    exchanges: int
    """How many there were: with some removed it would be another reference."""
    judged: str
    """A digest of which they were and which of them were judged right: with other judgements it would be another reference."""


@dataclass(frozen=True)
class Material:
    """Rows to fit on, rows that stand for what is usual, and the labels that answers may be."""

    fitted: Sequence[Row]
    compared: Sequence[Row]
    labels: Sequence[str] | None


@dataclass(frozen=True)
class Reference:
    """`order`: of each view of words, the words from frequent to rare."""

    fit: Fit
    usual: Measured
    order: Mapping[str, tuple[str, ...]]
    about: Mapping[str, Any]

    def views(self, wanted: Sequence[str] | None = None) -> tuple[str, ...]:
        """Those that the reference says enough of, in the order of views.VIEWS. Raises DataError where a wanted one is not of them."""
        there = tuple(view for view in VIEWS if self.usual.has(view).sum() >= FEWEST)
        if lacking := [view for view in wanted or () if view not in there]:
            raise DataError(
                f"monitor.drift.views: the reference says nothing of {', '.join(lacking)}, or of fewer than {FEWEST} rows.",
                remedy=f"Leave that out; there are {', '.join(there)}.",
            )
        return there if wanted is None else tuple(view for view in there if view in wanted)

    def counts(self, view: str) -> NDArray[np.int64]:
        """How many of its rows are in each bin, [B]."""
        told = bins(self.usual, view, self.order.get(view, ()))
        return np.bincount(told[told >= 0], minlength=BINS)

    def binned(self, window: Measured, views: Sequence[str]) -> NDArray[np.int64]:
        """[N, V], as sequential.Detector takes them."""
        return np.stack([bins(window, view, self.order.get(view, ())) for view in views], axis=1)


def build(material: Material, spec: ReferenceSpec, about: Mapping[str, Any]) -> Reference:
    """Raises DataError where there are too few rows."""
    fitted, compared = distinct(material.fitted), distinct(material.compared)
    if len(compared) < ENOUGH and len(fitted) >= 2 * FEWEST:
        lacking = min(ENOUGH - len(compared), len(fitted) // 2)
        fitted, compared = fitted[:-lacking], [*compared, *fitted[-lacking:]]
    if len(compared) < FEWEST or not fitted:
        raise DataError(
            f"{len(compared)} rows stand for what is usual, and {FEWEST} are the least.",
            remedy="Take a longer time of traffic as the reference, or a release that was made of more rows.",
        )
    fit = Fit.on([row.asked for row in fitted], material.labels, spec.embedder, near=spec.near)
    usual = fit.measure(compared[: spec.compared])
    order = {view: _by_frequency(usual.words[view]) for view in WORDED}
    told = {**about, "fitted": len(fitted), "compared": len(usual)}
    return Reference(fit, usual, order, told)


def _by_frequency(words: Sequence[str | None]) -> tuple[str, ...]:
    counts = Counter(word for word in words if word is not None)
    return tuple(sorted(counts, key=lambda word: (-counts[word], word)))


def stage(material: Callable[[Mapping[str, Artifact], Context], Material], about: Mapping[str, Any]) -> Stage:
    """The stage that makes the artifact; `material` finds the rows when it is needed."""

    def make(spec: Spec, inputs: Mapping[str, Artifact], out: Path, _scratch: Path, at: Context) -> Output:
        settings = ReferenceSpec.model_validate(
            {name: getattr(spec, name) for name in ReferenceSpec.model_fields}
        )
        made = build(material(inputs, at), settings, about)
        write(made, out)
        return Output({"fitted": made.about["fitted"], "compared": made.about["compared"]})

    return Stage("reference", 1, make)


def write(reference: Reference, folder: Path) -> None:
    fit, usual = reference.fit, reference.usual
    numbers = [view for view in VIEWS if view not in WORDED]
    arrays: dict[str, NDArray[Any]] = {
        "known": fit.known,
        "near": fit.near_MD,
        "centres": fit.centre_KD,
        "vectors": usual.vectors_ND,
        "numbers": np.stack([usual.numbers[view] for view in numbers], axis=1),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    told = {
        "about": dict(reference.about),
        "embedder": fit.embedder.plain(),
        "labels": None if fit.labels is None else list(fit.labels),
        "topics": list(fit.topics),
        "order": {view: list(words) for view, words in reference.order.items()},
        "numbers": numbers,
        "words": {view: list(words) for view, words in usual.words.items()},
        "ids": list(usual.ids),
    }
    text = json.dumps(told, ensure_ascii=False, indent=1) + "\n"
    (folder / "reference.json").write_text(text, encoding="utf-8")


def read(folder: Path) -> Reference:
    """What `write` left."""
    from luthier.data.embedders.embedder import EmbedderSpec

    def array(name: str) -> Any:
        return np.load(folder / f"{name}.npy", allow_pickle=False)

    told = json.loads((folder / "reference.json").read_text(encoding="utf-8"))
    labels = told["labels"]
    embedder = EmbedderSpec.model_validate(told["embedder"])
    topics = tuple(told["topics"])
    fit = Fit(array("known"), array("near"), array("centres"), topics, labels and tuple(labels), embedder)
    numbers = array("numbers")
    usual = Measured(
        tuple(told["ids"]),
        {view: numbers[:, n] for n, view in enumerate(told["numbers"])},
        {view: tuple(words) for view, words in told["words"].items()},
        array("vectors"),
    )
    order = {view: tuple(words) for view, words in told["order"].items()}
    return Reference(fit, usual, order, told["about"])


def groups(views: Sequence[str]) -> tuple[str, ...]:
    """The groups that these views are of."""
    return tuple(group for group, members in GROUPS.items() if set(members) & set(views))
