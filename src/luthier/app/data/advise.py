"""What would help a dataset, from its numbers: every sentence carries the number that it rests on, and the lines of a recipe that
would do it. Advice is a guess until it is measured: what was measured here is told first.

    rows, labels, balance      too few, of one label too few, uneven            repeated, contradictory rows
    window                     rows that a model does not read to the end       curve   whether more rows are worth their cost
    measured                   datasets of this home that differ in rules of quantity alone, and what came of it
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from luthier.core.artifact import Artifact, canonical, short
from luthier.core.errors import MissingPart
from luthier.data.canaries import natural
from luthier.store import Store

from .find import Looking, batches
from .profile import profile

FEW_ROWS = 200
FEW_OF_A_LABEL = 20
UNEVEN = 5.0
WORTH = 0.01
NORMAL_95 = 1.96


@dataclass(frozen=True)
class Advice:
    """`helps`: whether there is something to do. `recipe`: lines for `data.rules`, by section."""

    about: str
    says: str
    helps: bool
    numbers: dict[str, Any]
    recipe: dict[str, list[Any]] = field(default_factory=dict)


def advise(store: Store, dataset: Artifact, base: str | None, look: Looking) -> dict[str, Any]:
    """{"dataset", "names", "rows", "advice": [...]}. Raises NotFound for a base that was never imported."""
    found = profile(store, dataset, base, look)
    told = [
        *_measured(store, dataset),
        *_rows(found),
        *_labels(found),
        *_repeated(found),
        *_window(store, found),
        *_curve(store, dataset, found, look),
    ]
    return {
        "dataset": found["dataset"],
        "names": found["names"],
        "rows": found["rows"],
        "advice": [asdict(one) for one in told],
    }


def _rules_of(found: Mapping[str, Any]) -> set[str]:
    return {one["rule"] for one in found["rules"]}


def _rows(found: Mapping[str, Any]) -> Iterator[Advice]:
    n, test = found["rows"]["train"], found["rows"]["test"]
    if n < FEW_ROWS:
        yield Advice(
            "rows",
            f"{n} rows of train are few (under {FEW_ROWS}): edited copies of them may help (EDA found gains below some thousand rows)",
            True,
            {"train": n},
            {"quantity": [{"augment": {"copies": 1}}]},
        )
    if test:
        wide = NORMAL_95 * math.sqrt(0.25 / test)
        yield Advice(
            "rows",
            f"{test} rows of test tell an accuracy to ±{100 * wide:.0f} points at worst: smaller gains than that cannot be seen",
            False,
            {"test": test, "half_width": round(wide, 4)},
        )


def _labels(found: Mapping[str, Any]) -> Iterator[Advice]:
    counts = {label: one["train"] for label, one in (found["labels"] or {}).items()}
    few = sorted((n, label) for label, n in counts.items() if n < FEW_OF_A_LABEL)
    if few:
        named = ", ".join(f"{label!r} ({n})" for n, label in few[:10])
        wish = {
            "way": "paraphrase",
            "n": sum(FEW_OF_A_LABEL - n for n, _ in few),
            "model": "smollm2-135m-instruct",
        }
        yield Advice(
            "labels",
            f"{len(few)} of {len(counts)} labels have fewer than {FEW_OF_A_LABEL} rows of train: {named}",
            True,
            {"labels": {label: n for n, label in few}},
            {"quantity": [{"generate": {**wish, "labels": [label for n, label in few if n]}}]},
        )
    balance = found["balance"]
    if balance and balance["ratio"] is not None and balance["ratio"] >= UNEVEN:
        weights = _even(counts)
        yield Advice(
            "balance",
            f"{balance['largest']!r} has {balance['ratio']:.1f} times the rows of {balance['smallest']!r}: rare labels are learnt last; weigh them up",
            True,
            {"ratio": round(balance["ratio"], 2), "entropy": balance["entropy"]},
            {"relevance": [{"weight": {"by": "label", "weights": weights}}]},
        )


def _even(counts: Mapping[str, int]) -> dict[str, float]:
    """Weights by the root of the inverse frequency, 1 for the most frequent.

    >>> _even({"a": 100, "b": 25, "c": 0})
    {'b': 2.0}
    """
    most = max(counts.values())
    return {label: round(math.sqrt(most / n), 2) for label, n in counts.items() if 0 < n < most}


def _repeated(found: Mapping[str, Any]) -> Iterator[Advice]:
    twice, n = found["duplicates"], sum(found["rows"].values())
    if twice["folded"]:
        yield Advice(
            "duplicates",
            f"{twice['folded']} of {n} rows say what another says, case and blanks aside ({twice['exact']} of them to the letter)",
            True,
            {"folded": twice["folded"], "exact": twice["exact"]},
            {} if "deduplicate" in _rules_of(found) else {"quality": ["deduplicate"]},
        )
    several = twice["several_answers"]
    if several["inputs"]:
        classify = found["task"]["kind"] == "classify"
        yield Advice(
            "disagreement",
            f"{several['inputs']} inputs stand there with more than one answer, in {several['rows']} rows: "
            + (
                "a model cannot get all of them right"
                if classify
                else "which may be as it should, if several answers are good"
            ),
            classify,
            {"inputs": several["inputs"], "rows": several["rows"]},
            {"quality": [{"agree": {"how": "majority"}}]}
            if classify and "agree" not in _rules_of(found)
            else {},
        )


def _window(store: Store, found: Mapping[str, Any]) -> Iterator[Advice]:
    """Where a model's tokenizer has counted."""
    tokens, characters = (found["lengths"][name] for name in ("tokens", "characters"))
    context = _context(store, tokens.get("by"))
    longest = max((one["max"] for one in tokens["sides"].values()), default=0)
    if tokens["unit"] != "tokens" or context is None or not longest:
        return
    widest = max(one["max"] for one in characters["sides"].values())
    # of a sample the longest row in characters may be none that was counted, so what a token has on the whole stands for it
    sampled = tokens.get("sampled")
    a_token = _mean(characters) / _mean(tokens) if sampled else widest / longest
    guess = max(longest, round(widest / a_token))
    if guess <= context:
        return
    edges, counts = tokens["edges"], tokens["counts"]
    over = sum(n for side in counts.values() for n, low in zip(side, edges, strict=False) if low > context)
    yield Advice(
        "window",
        f"the longest row has about {guess:,} tokens, by its characters, and the model reads {context:,}; of {sampled:,} rows that were "
        f"counted at least {over} are longer than that"
        if sampled
        else f"the longest row has {longest:,} tokens and the model reads {context:,}; at least {over} rows are longer than that",
        True,
        {"longest": guess, "context": context, "over": over, **({"sampled": sampled} if sampled else {})},
        {"quality": [{"length": {"max": int(context * a_token), "on": "all"}}]},
    )


def _mean(told: Mapping[str, Any]) -> float:
    """Of the rows of all sides."""
    sides = told["sides"].values()
    return sum(one["mean"] * one["rows"] for one in sides) / max(sum(one["rows"] for one in sides), 1)


def _context(store: Store, base: Any) -> int | None:
    for model in store.catalog.all("model"):
        if base in (model.spec.get("base"), model.digest[:12]) and "context" in model.summary:
            return int(model.summary["context"])
    return None


def _curve(store: Store, dataset: Artifact, found: Mapping[str, Any], look: Looking) -> Iterator[Advice]:
    if found["task"]["kind"] != "classify":
        return
    from luthier.evaluation.learning_curve import FEWEST, curve, drawn

    look.progress("learning curve", 0, None)
    columns = ("id", "messages", "label", "group", "made_from", "source")
    rows = drawn(
        {"made_from": None, **row}
        for batch in batches(store.folder(dataset), "train", columns)
        for row in natural(batch).to_pylist()
    )
    try:
        told = curve(rows, list(found["labels"] or ()))
    except MissingPart as lacking:
        yield Advice("curve", f"whether more rows would help was not looked at: {lacking.message}", False, {})
        return
    if told is None:
        yield Advice(
            "curve",
            f"with fewer than {FEWEST} rows of train nothing is said of more rows",
            False,
            {"train": len(rows)},
        )
        return
    steps = " → ".join(f"{100 * a:.1f} % at {n:,}" for n, a in zip(told.rows, told.accuracy, strict=True))
    more = told.twice - told.accuracy[-1]
    numbers = {**asdict(told), "promised": round(more, 4)}
    if more >= WORTH and told.gain > told.gain_se:
        says = f"more rows are worth having: word counts rise {steps}, and twice the rows promise about {100 * told.twice:.1f} %"
    elif told.gain > told.gain_se:
        says = f"more rows help little: word counts rise {steps}, and twice the rows promise {100 * more:.1f} points"
    else:
        says = f"more rows of this kind hardly help: word counts go {steps}, where the last step is within its error (±{100 * told.gain_se:.1f} points)"
    yield Advice("curve", says, more >= WORTH and told.gain > told.gain_se, numbers)


# -- what was measured ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    quantity: list[Any]
    metric: str
    value: float
    rows: int
    report: str


def _measured(store: Store, dataset: Artifact) -> Iterator[Advice]:
    """Reports on datasets that differ from one another in rules of quantity alone, trained and measured in the same way."""
    alike = _but_quantity(dataset)
    runs: dict[bytes, list[_Run]] = {}
    for report in store.catalog.all("report"):
        made = [
            store.catalog.get(report.parents[role]) for role in ("dataset", "model") if role in report.parents
        ]
        if len(made) == 2 and _but_quantity(made[0]) == alike and (one := _run_of(store, report, made[0])):
            same = {"train": made[1].spec, "evaluate": report.spec, "base": made[1].parents.get("base")}
            runs.setdefault(canonical(same), []).append(one)
    for group in runs.values():
        without = [one for one in group if not one.quantity]
        for one in (one for one in group if one.quantity and without):
            yield _compared(one, without[0])


def _but_quantity(dataset: Artifact) -> bytes:
    """What a dataset was asked to be but for its rules of quantity, and the sources' bytes. Models that those rules ask are no
    part of it."""
    data = dict(dataset.spec["data"])
    data["rules"] = {name: told for name, told in data["rules"].items() if name != "quantity"}
    sources = {role: parent for role, parent in dataset.parents.items() if not role.startswith("asked.")}
    return canonical({"task": dataset.spec["task"], "data": data, "sources": sources})


def _run_of(store: Store, report: Artifact, dataset: Artifact) -> _Run | None:
    told = json.loads((store.folder(report) / "report.json").read_text(encoding="utf-8"))
    tuned = told["systems"].get("tuned")
    if not tuned:
        return None
    metrics: Sequence[str] = ("accuracy", "exact_match")
    name = next((one for one in metrics if tuned["metrics"].get(one) is not None), None)
    if name is None:
        return None
    quantity = list(dataset.spec["data"]["rules"]["quantity"])
    return _Run(quantity, name, float(tuned["metrics"][name]), int(told["rows"]), report.digest)


def _compared(one: _Run, without: _Run) -> Advice:
    gain, n = one.value - without.value, one.rows
    mean = (one.value + without.value) / 2
    noise = NORMAL_95 * math.sqrt(2 * mean * (1 - mean) / n)
    rules = ", ".join(next(iter(rule)) if isinstance(rule, dict) else str(rule) for rule in one.quantity)
    sure = "more than chance" if abs(gain) > noise else f"within chance (±{100 * noise:.1f} points)"
    says = f"measured here: with {rules} {one.metric} is {one.value:.3f}, without {without.value:.3f}, on {n} test rows: {sure}"
    numbers = {
        "metric": one.metric, "with": one.value, "without": without.value, "rows": n, "noise": round(noise, 4),
        "reports": [short(one.report), short(without.report)],
    }  # fmt: skip
    return Advice("measured", says, gain > noise, numbers, {"quantity": one.quantity} if gain > noise else {})
