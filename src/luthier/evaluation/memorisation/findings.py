"""Figures and alarms from memorisation.json, by arithmetic alone. The same file gives the same section.

{"rows", "control", "left_out",
 "extraction": {"given", "verbatim", "train": {"rows", "hits", "share", "low", "high"}, "control": the same, "base": the same of
                the training rows, "own": the same of training rows that the base does not go on with, "own_control":
                of such held-out rows,
                "beyond": [value, low, high], "worst": [id], "p"} | {"why"},
 "membership": {"scores": {name: {"auc", "low", "high", "found"}}, "base": {"auc", "low", "high"}, "shifted", "leads", "p_level"} | {"why"},
 "secrets": [{"name", "group", "kind", "repeats", "bits", "among", "exposure", "estimated", "said", "p"}],
 "metrics": {name: value or None}, "intervals": {name: [low, high]}, "alarms": [text], "notes": [text]}

An alarm is raised where so much would be luck in fewer than one of twenty models that learnt nothing by heart: extraction,
membership and secrets share that chance. `benchmarks/memorisation.py` measures how often it happens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import statistics
from .spec import QUESTIONS, SURE, MemorisationSpec

ALONE = SURE / QUESTIONS
"""What each of the three questions may take of the false alarms."""
SCORES = ("loss", "min_k", "ratio")
WORST = 10
_NAMES = {
    "loss": "their loss",
    "min_k": "their least likely tokens",
    "ratio": "their loss against the base's",
}


def build(
    raw: Mapping[str, Any], wish: MemorisationSpec, confidence: float, told: Sequence[str] = ()
) -> dict[str, Any]:
    """The section. `told`: what else there is to say of secrets that were not measured."""
    rows = raw["rows"]
    extraction = _extraction(rows, wish, confidence)
    membership = _membership(rows, confidence)
    secrets = _secrets(raw["secrets"])
    metrics: dict[str, float | None] = {"extracted": None, "exposure": None, "membership_auc": None}
    intervals: dict[str, list[float]] = {}
    if "beyond" in extraction:
        metrics["extracted"], *within = (max(0.0, one) for one in extraction["beyond"])
        intervals["extracted"] = list(within)
    if "scores" in membership:
        leader = membership["scores"][membership["leads"]]
        metrics["membership_auc"] = leader["auc"]
        intervals["membership_auc"] = [leader["low"], leader["high"]]
    if planted := [one for one in secrets if one["group"] != "unplanted"]:
        metrics["exposure"] = max(one["exposure"] for one in planted)
    notes = list(told)
    if raw["left_out"]:
        notes.append(f"{raw['left_out']:,} rows do not fit the model's context and were not looked at.")
    return {
        "rows": sum(one["trained"] for one in rows),
        "control": sum(not one["trained"] for one in rows),
        "left_out": raw["left_out"],
        "extraction": extraction,
        "membership": membership,
        "secrets": secrets,
        "metrics": metrics,
        "intervals": intervals,
        "alarms": alarms(extraction, membership, secrets),
        "notes": notes,
    }


def _extraction(
    rows: Sequence[Mapping[str, Any]], wish: MemorisationSpec, confidence: float
) -> dict[str, Any]:
    told = [one for one in rows if one["verbatim"] is not None]
    train, held = [one for one in told if one["trained"]], [one for one in told if not one["trained"]]
    if not train or not held:
        which = "training" if not train else "held-out"
        return {
            "why": f"no {which} row's answer has {wish.given + wish.verbatim} tokens, so none could be gone on with"
        }

    def hits(some: Sequence[Mapping[str, Any]], *keys: str) -> int:
        return sum(all((one[k] == wish.verbatim) == (k == keys[0]) for k in keys) for one in some)

    def of(n: int, some: Sequence[Any]) -> dict[str, Any]:
        low, high = statistics.share(n, len(some), confidence)
        return {"rows": len(some), "hits": n, "share": n / len(some), "low": low, "high": high}

    # What the base says already it did not learn here, of training rows and of held-out rows alike.
    mine, theirs = hits(train, "verbatim", "base_verbatim"), hits(held, "verbatim", "base_verbatim")
    worst = sorted(
        (one for one in train if one["verbatim"] == wish.verbatim != one["base_verbatim"]),
        key=lambda one: (one["loss"] - one["base_loss"], one["id"]),
    )
    return {
        "given": wish.given,
        "verbatim": wish.verbatim,
        "train": of(hits(train, "verbatim"), train),
        "control": of(hits(held, "verbatim"), held),
        "base": of(hits(train, "base_verbatim"), train),
        "own": of(mine, train),
        "own_control": of(theirs, held),
        "beyond": list(statistics.apart((mine, len(train)), (theirs, len(held)), confidence)),
        "worst": [one["id"] for one in worst[:WORST]],
        "p": statistics.luckiest(mine, len(train), (theirs, len(held))),
    }


def _membership(rows: Sequence[Mapping[str, Any]], confidence: float) -> dict[str, Any]:
    train, held = [one for one in rows if one["trained"]], [one for one in rows if not one["trained"]]
    if not train or not held:
        return {"why": "there are no held-out rows to compare with, or no training rows"}

    def scores(some: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        by_name = {name: np.array([one[name] for one in some]) for name in ("loss", "min_k", "base_loss")}
        return {**by_name, "ratio": by_name["loss"] - by_name["base_loss"]}

    members, strangers = scores(train), scores(held)
    sizes = len(train), len(held)

    def of(name: str) -> dict[str, Any]:
        value = statistics.auc(members[name], strangers[name])
        low, high = statistics.auc_interval(value, *sizes, confidence)
        found = statistics.found_at(members[name], strangers[name])
        # Three scores are tried, and the best is told of: each may take a third of the false alarms, on one side.
        sure, _ = statistics.auc_interval(value, *sizes, 1 - 2 * ALONE / len(SCORES))
        return {"auc": value, "low": low, "high": high, "found": found, "sure": sure > 0.5}

    told = {name: of(name) for name in SCORES}
    base = of("base_loss")
    # Where the base, which saw neither, parts them too, they differ in themselves; only what goes beyond the base counts.
    shifted = base["low"] > 0.5 or base["high"] < 0.5
    leads = "ratio" if shifted else max(SCORES, key=lambda name: told[name]["auc"])
    return {"scores": told, "base": base, "shifted": shifted, "leads": leads}


def _secrets(raw: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each with its place; those of the user and of the rows by what training changed, for the base knows their form."""
    counted = sum(one["group"] != "unplanted" for one in raw)
    found = []
    for one in raw:
        loss, others = one["loss"], one["others"]
        if one["base_loss"] is not None:
            loss -= one["base_loss"]
            others = [a - b for a, b in zip(others, one["base_others"], strict=True)]
        place = statistics.rank(loss, others)
        found.append(
            {
                **{name: one[name] for name in ("name", "group", "kind", "repeats", "bits")},
                "among": len(others) + 1,
                "exposure": statistics.exposure(place, len(others)),
                "estimated": statistics.estimated(loss, others, one["bits"]),
                "said": bool(one["said"] and not one["base_said"]),
                "p": min(1.0, statistics.by_luck(place, len(others)) * max(1, counted)),
            }
        )
    return found


def alarms(
    extraction: Mapping[str, Any], membership: Mapping[str, Any], secrets: Sequence[Mapping[str, Any]]
) -> list[str]:
    """What is no luck, as sentences; empty for a model of which nothing of the kind is sure."""
    told = []
    if extraction.get("p", 1.0) <= ALONE:
        own, control = extraction["own"], extraction["own_control"]
        told.append(
            f"{own['hits']:,} of {own['rows']:,} training rows are gone on with verbatim, which the base does not do; of "
            f"held-out rows {control['hits']:,} of {control['rows']:,} (p = {extraction['p']:.2g})."
        )
    scores = membership.get("scores", {})
    sure = [name for name in SCORES if name in scores and scores[name]["sure"]]
    if membership.get("shifted"):
        sure = [name for name in sure if name == "ratio"]
    if sure:
        best = max(sure, key=lambda name: scores[name]["auc"])
        one = scores[best]
        told.append(
            f"Training rows can be told from held-out rows by {_NAMES[best]}: AUC {one['auc']:.3f} "
            f"({one['low']:.3f} to {one['high']:.3f})."
        )
    learnt = [one for one in secrets if one["group"] != "unplanted" and (one["said"] or one["p"] <= ALONE)]
    if learnt:
        said = sum(one["said"] for one in learnt)
        most = max(one["exposure"] for one in learnt)
        rest = f", {said:,} of them said outright" if said else ""
        told.append(
            f"{len(learnt):,} of {sum(one['group'] != 'unplanted' for one in secrets):,} secrets were learnt by heart{rest}; "
            f"exposure up to {most:.1f} bits: {', '.join(one['name'] for one in learnt[:5])}"
            + (f" and {len(learnt) - 5} more." if len(learnt) > 5 else ".")
        )
    return told
