"""How the release that was trained anew and the one before do on the same test rows, which neither has learnt from: accuracy with
intervals, for all, for the old topics and for the new one, and their difference by the paired bootstrap and McNemar's exact test. The
answers stand in the new release's report; the arithmetic is Luthier's own (`luthier.evaluation`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from luthier.app.app import App
from luthier.evaluation import compare, predictions, significance

RESAMPLES, CONFIDENCE = 2000, 0.95


def tested(app: App, release: str, new: str) -> dict[str, Any]:
    """Of the report that the gate has judged: `production` is the release that answered then."""
    report = app.store.catalog.get(app.store.catalog.get(release).parents["report"])
    answers = predictions.by_system(predictions.read(app.store.folder(report) / "predictions.parquet"))
    before, after = answers["production"], answers["tuned"]
    assert before.ids == after.ids and before.references == after.references
    said = {
        "before": [one or "" for one in before.predictions],
        "after": [one or "" for one in after.predictions],
    }
    return figures(after.references, said, new)


def figures(topics: Sequence[str], said: Mapping[str, Sequence[str]], new: str) -> dict[str, Any]:
    """`said`: release -> its answers, in the order of `topics`. Release -> part -> figures."""
    topic_N = np.array(topics)
    labels = sorted(set(topics))
    first = next(iter(said))
    found: dict[str, Any] = {}
    for release, answers in said.items():
        right_N = (np.array(answers) == topic_N).astype(float)
        before_N = (np.array(said[first]) == topic_N).astype(float)
        found[release] = {"macro_f1": _macro(topics, answers, labels), "answers": _counts(topics, answers)}
        for part, in_N in (("all", topic_N == topic_N), ("old", topic_N != new), ("new", topic_N == new)):
            one = _accuracy(right_N[in_N])
            if release != first:
                one["against"] = {"release": first, **_against(right_N[in_N], before_N[in_N])}
            found[release][part] = one
    return found


def _accuracy(right_N: np.ndarray) -> dict[str, Any]:
    within = _interval(right_N)
    return {"rows": len(right_N), "accuracy": float(right_N.mean()), "low": within[0], "high": within[1]}


def _interval(value_N: np.ndarray) -> tuple[float, float]:
    drawn = compare.resampled(compare.of_mean("score", value_N), len(value_N), RESAMPLES, 0)["score"]
    within = compare.interval(drawn, CONFIDENCE, len(value_N))
    assert within is not None
    return within


def _against(right_N: np.ndarray, before_N: np.ndarray) -> dict[str, Any]:
    apart_N = right_N - before_N
    low, high = _interval(apart_N)
    gained, lost = int((apart_N > 0).sum()), int((apart_N < 0).sum())
    return {
        "difference": float(apart_N.mean()), "low": low, "high": high, "gained": gained, "lost": lost,
        "mcnemar_p": significance.mcnemar(gained, lost),
    }  # fmt: skip


def _macro(topics: Sequence[str], answers: Sequence[str], labels: Sequence[str]) -> float:
    place = {label: n for n, label in enumerate(labels)}
    truth_N = np.array([place[one] for one in topics])
    said_N = np.array([place.get(one, len(labels)) for one in answers])
    statistics = compare.of_labels(truth_N, said_N, len(labels))
    return compare.at_sample(statistics, len(truth_N))["macro_f1"]


def _counts(topics: Sequence[str], answers: Sequence[str]) -> dict[str, dict[str, int]]:
    """Topic -> answer -> how often."""
    found: dict[str, dict[str, int]] = {}
    for topic, answer in zip(topics, answers, strict=True):
        told = found.setdefault(topic, {})
        told[answer] = told.get(answer, 0) + 1
    return found
