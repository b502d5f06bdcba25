"""Is it time for a new run, and what does it learn from? Pure; app/retraining does it.

due          from what the ledger and the traffic say: a reason, or what is waited for
words        the recipe as recorded, changed: old rows for replay, what people judged, and a comparison with what is in use
parts        of the new model's report: is it no worse than what is in use on all test rows, on the old ones, and on the new?
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.core.units import show_seconds

from .spec import RetrainSpec

if TYPE_CHECKING:
    from luthier.evaluation.predictions import Answers

FEEDBACK = "feedback"
"""What rows of traffic are called in a run that was made so."""
FEWEST_OF_A_PART = 20


@dataclass(frozen=True)
class Facts:
    """`labels`: judged answers that no run has learnt from; `alarms`: ids of episodes since then; `last_s`: when the last such run began,
    or the release was made."""

    now_s: float
    last_s: float
    labels: int
    alarms: Sequence[str]


@dataclass(frozen=True)
class Due:
    """`why` None: not yet, and `waits` says for what."""

    why: str | None
    waits: str | None = None


def due(spec: RetrainSpec, facts: Facts) -> Due:
    """
    >>> spec = RetrainSpec(on="labels", min_labels=50)
    >>> due(spec, Facts(1e6, 0.0, 20, [])).waits
    '20 of 50 judged answers are there'
    >>> due(spec, Facts(1e6, 0.0, 60, [])).why
    '60 judged answers that no run has learnt from'
    """
    reasons = []
    if "drift" in spec.on and facts.alarms:
        reasons.append(f"drift: {', '.join(facts.alarms)}")
    if "schedule" in spec.on and spec.every is not None and facts.now_s - facts.last_s >= spec.every:
        reasons.append(f"schedule: {show_seconds(spec.every)} since the last time")
    if "labels" in spec.on and facts.labels >= spec.min_labels:
        reasons.append(f"{facts.labels:,} judged answers that no run has learnt from")
    if facts.labels < spec.min_labels and (reasons or spec.on == ["labels"]):
        return Due(None, f"{facts.labels:,} of {spec.min_labels:,} judged answers are there")
    if not reasons:
        return Due(None, "nothing makes it due")
    if facts.now_s - facts.last_s < spec.at_most_every:
        return Due(None, f"less than {show_seconds(spec.at_most_every)} since the last time")
    return Due("; ".join(reasons))


@dataclass(frozen=True)
class Old:
    """The recipe as plain values, and what is known of its task. `production`: the release that answers now, which need not be the
    newest of its name: a newer one may have been declined."""

    recipe: Mapping[str, Any]
    kind: str
    method: str
    name: str
    production: str


PAIRED = ("dpo", "ipo", "orpo", "simpo")
"""Methods that learn from a better and a worse answer."""
LEADS = {"classify": "macro_f1", "chat": "token_f1", "regress": "mae", "extract": "field_f1"}


def words(
    old: Old,
    spec: RetrainSpec,
    *,
    until: str,
    labels: int,
    through: Mapping[str, int] | None = None,
    base: str | None = None,
) -> tuple[str, ...]:
    """The changes to the recipe, as `--set` takes them. `labels`: rows that people judged; as many old rows are kept as make `replay`
    of the whole. `through`: the last lines of traffic and of judgements that count, so that a later run of it has the same rows."""
    data = old.recipe["data"]
    wish: dict[str, Any] = {"name": old.name, "until": until}
    if through is not None:
        wish["through"] = dict(through)
    if old.method in PAIRED:
        wish["as"] = "pairs"
    new: dict[str, Any] = {"traffic": wish, "name": FEEDBACK}
    split = data.get("split") or {}
    if isinstance(split, Mapping) and split.get("group_by"):
        told = (
            {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"} if old.method in PAIRED else None
        )
        new["map"] = {**(told or {"messages": "messages", "rating": "rating"}), "group": "id"}
    sources = [one for one in data["sources"] if one.get("name") != FEEDBACK]
    quantity = [one for one in (data.get("rules") or {}).get("quantity", []) if not _is(one, "replay")]
    keep = max(1, math.ceil(labels * spec.replay / (1 - spec.replay)))
    evaluate = old.recipe.get("evaluate") or {}
    changes: dict[str, Any] = {
        "data.sources": [*sources, new],
        "data.rules.quantity": [*quantity, {"replay": {"new": [FEEDBACK], "at_most": keep}}],
        "evaluate.against": _against(evaluate.get("against"), old),
    }
    lead = LEADS[old.kind]
    gate = dict((evaluate.get("gate") or {}).get(lead) or {})
    if "better_than" not in gate and "not_worse_than" not in gate:
        changes[f"evaluate.gate.{lead}"] = {**gate, "not_worse_than": "production", "by": spec.forgives}
    if base is not None:
        changes["base"] = base
    return tuple(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in changes.items())


def _is(rule: Any, name: str) -> bool:
    return rule == name or (isinstance(rule, Mapping) and name in rule)


def _against(written: Any, old: Old) -> list[Any]:
    if written is None:
        written = ["base", *(["tfidf"] if old.kind == "classify" else [])]
    others = [one for one in written if not _is(one, "production")]
    return [*others, {"production": old.production}]


@dataclass(frozen=True)
class Part:
    """`difference` of the mean score from the release in use, new minus old; None: too few rows to say."""

    part: str
    rows: int
    difference: float | None
    low: float | None
    high: float | None
    passed: bool
    reason: str


def parts(
    tuned: Answers,
    production: Answers,
    source: Mapping[str, str],
    task: Mapping[str, Any],
    spec: RetrainSpec,
    *,
    seed: int = 0,
) -> list[Part]:
    """Of all test rows, of the old and of the new. `source`: row id -> what its source is called. Old or new rows that are too few
    to tell pass and say so, since they are among all rows; those never do, whatever the recipe's own gate compares with."""
    from luthier.evaluation import compare, tasks

    kind, found = tasks.of(task), []
    shared = set(tuned.ids) & set(production.ids)
    inside: dict[str, Callable[[str], bool]] = {
        "all": lambda s: True,
        "old": lambda s: s != FEEDBACK,
        "new": lambda s: s == FEEDBACK,
    }
    for name, wanted in inside.items():
        ids = [one for one in tuned.ids if one in shared and wanted(source.get(one, ""))]
        if not ids:
            why = f"there are no {'' if name == 'all' else f'{name} '}test rows that both have answered"
            found.append(Part(name, 0, None, None, None, name != "all", why))
            continue
        if name != "all" and len(ids) < FEWEST_OF_A_PART:
            why = f"{len(ids)} {name} test rows are too few to tell (20)"
            found.append(Part(name, len(ids), None, None, None, True, why))
            continue
        sign = -1.0 if task["kind"] == "regress" else 1.0
        one_N, other_N = (sign * kind.each(answers.only(ids)) for answers in (tuned, production))
        apart = one_N - other_N
        drawn = compare.resampled(compare.of_mean("score", apart), len(ids), 2000, seed)["score"]
        within = compare.interval(drawn, 0.95, len(ids)) or (float("-inf"), float("inf"))
        there = apart[apart == apart]
        value = float(there.mean()) if len(there) else None
        passed = within[0] > -spec.forgives
        why = f"{'nothing can be told' if value is None else f'{value:+.3f}'} on {len(ids)} {name} test rows (95 % interval {within[0]:+.3f} to {within[1]:+.3f})"
        why += "" if passed else f", which may be worse by more than {spec.forgives:g}"
        found.append(Part(name, len(ids), value, within[0], within[1], passed, why))
    return found
