"""From judgements.parquet to numbers: grades and win rates with intervals, the judge's habits, and whether it may be believed.
Arithmetic alone.

    judge_score   of a row the mean of its grades, each as a share of its scale; a row without every grade has none
    win_rate      of a pair 1, 1/2 or 0: won or lost in both orders, a tie in all else; a pair without both verdicts has none.
                  Compared with one half: a comparison's `difference` is the rate minus 1/2

Shapes: N rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import compare, significance
from ..systems import ordered
from . import agreement
from .human import OUTCOMES
from .spec import JudgeEndpoint, JudgeSpec

if TYPE_CHECKING:
    import pyarrow as pa

    from ..spec import EvaluateSpec

FEW_LABELS = 20
MUTE = 0.5
Line = Mapping[str, Any]


def add(report: dict[str, Any], judgements: pa.Table, spec: EvaluateSpec, of: Mapping[str, Any]) -> None:
    """Put the judge's part into a report: its metrics beside the others, and `judge`. `of` says who judged: {"by", "digests",
    "own_kind"}."""
    wish = spec.judge
    assert wish is not None
    lines = judgements.to_pylist()
    settings: dict[str, Any] = {
        "confidence": spec.confidence,
        "resamples": spec.resamples,
        "seed": spec.seed,
    }
    values = row_scores(lines, wish)
    for name, system in report["systems"].items():
        _single(system, values.get(name, {}), settings)
    won = {
        name: outcomes(lines, name, "pair")
        for name in ordered({one["against"] for one in _of(lines, "pair")})
    }
    report["comparisons"] += [*_between(values, settings), *_won(won, settings)]
    found = {
        **of,
        "criteria": [one.plain() for one in wish.criteria],
        "rows": len({one["id"] for one in _of(lines, "grade")}),
        "verdicts": len(lines),
        "none": sum(one["verdict"] is None for one in lines),
        "asked_again": sum(one["tries"] > 1 for one in lines),
        "pairs": {name: win_rate(told, settings) for name, told in won.items()},
        "position": position(lines),
        "probes": probed(lines, wish),
        "agreement": agreed(lines, wish, settings),
        "cost": _cost(lines, wish),
    }
    found["distrusted"] = distrusted(found, wish)
    found["trusted"] = not found["distrusted"]
    report["judge"] = found
    report["cautions"] += cautions(found, wish)


# -- grades


def row_scores(lines: Sequence[Line], wish: JudgeSpec) -> dict[str, dict[str, float]]:
    """System -> row -> share of the scale, over all criteria; rows that lack a grade are not there."""
    scales = {one.name: one.scale for one in wish.criteria}
    grades: dict[str, dict[str, list[float | None]]] = {}
    for one in _of(lines, "grade"):
        grades.setdefault(one["system"], {}).setdefault(one["id"], []).append(_share(one, scales))
    return {
        system: {id_: sum(told) / len(told) for id_, some in rows.items() if (told := _whole(some))}
        for system, rows in grades.items()
    }


def _share(one: Line, scales: Mapping[str, tuple[int, int]]) -> float | None:
    if one["verdict"] is None:
        return None
    low, high = scales[one["criterion"]]
    return (int(one["verdict"]) - low) / (high - low)


def _whole(some: Sequence[float | None]) -> list[float]:
    told = [one for one in some if one is not None]
    return told if len(told) == len(some) else []


def _single(system: dict[str, Any], value: Mapping[str, float], settings: Mapping[str, Any]) -> None:
    """The metric of one system with its interval."""
    told = np.array([value[id_] for id_ in sorted(value)])
    system["metrics"]["judge_score"] = float(told.mean()) if len(told) else None
    if len(told) > 1:
        drawn = compare.resampled(
            compare.of_mean("judge_score", told), len(told), settings["resamples"], settings["seed"]
        )
        if within := compare.interval(drawn["judge_score"], settings["confidence"], len(told)):
            system["intervals"]["judge_score"] = list(within)


def _between(values: Mapping[str, Mapping[str, float]], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    mine = values.get("tuned", {})
    found = []
    for system in ordered(set(values) - {"tuned"}):
        shared = sorted(set(mine) & set(values[system]))
        if len(shared) < 2:
            continue
        one, other = (np.array([told[id_] for id_ in shared]) for told in (mine, values[system]))
        name = "judge_score"
        apart = compare.difference(
            compare.of_mean(name, one), compare.of_mean(name, other), len(shared), **settings
        ).get(name)
        if apart is None:
            continue
        both = compare.of_mean(name, np.concatenate([one, other]))
        p = significance.permutation(
            both, len(shared), {name: apart.value}, settings["resamples"], settings["seed"]
        )
        found.append(
            {"metric": name, "of": "tuned", "to": system, "difference": apart.value, "low": apart.low, "high": apart.high,
             "p": p[name], "detectable": apart.detectable, "rows": len(shared), **settings}
        )  # fmt: skip
    return _corrected(found)


# -- pairs


def outcomes(lines: Sequence[Line], system: str, kind: str) -> dict[tuple[str, int], float | None]:
    """(row, number) -> 1, 1/2 or 0 of the tuned model's answer against that of `system`; None where an order has no verdict."""
    sides: dict[tuple[str, int], dict[int, str | None]] = {}
    for one in _of(lines, kind):
        if one["against"] == system:
            number = json.loads(one["about"])["number"] if one["about"] else 0
            sides.setdefault((one["id"], number), {})[one["order"]] = one["verdict"]
    return {key: outcome(told.get(0), told.get(1)) for key, told in sides.items()}


def outcome(first: str | None, swapped: str | None) -> float | None:
    """Of two verdicts: in the first order the tuned model's answer is A, in the swapped one B.

    >>> outcome("A", "B"), outcome("B", "A"), outcome("A", "A"), outcome("tie", "B"), outcome("A", None)
    (1.0, 0.0, 0.5, 0.5, None)
    """
    if first is None or swapped is None:
        return None
    if (first, swapped) == ("A", "B"):
        return 1.0
    return 0.0 if (first, swapped) == ("B", "A") else 0.5


def win_rate(told: Mapping[Any, float | None], settings: Mapping[str, Any]) -> dict[str, Any]:
    value = np.array([told[key] for key in sorted(told) if told[key] is not None], np.float64)
    found: dict[str, Any] = {
        "wins": int((value == 1).sum()),
        "ties": int((value == 0.5).sum()),
        "losses": int((value == 0).sum()),
        "none": len(told) - len(value),
        "rate": float(value.mean()) if len(value) else None,
        "low": None,
        "high": None,
    }
    if len(value) > 1 and (within := _within(value, settings)):
        found["low"], found["high"] = within
    return found


def _within(value: Any, settings: Mapping[str, Any]) -> tuple[float, float] | None:
    drawn = compare.resampled(
        compare.of_mean("rate", value), len(value), settings["resamples"], settings["seed"]
    )
    return compare.interval(drawn["rate"], settings["confidence"], len(value))


def _won(won: Mapping[str, Mapping[Any, float | None]], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """win_rate as comparisons: the rate minus one half. p: exact, of wins against losses."""
    found = []
    for system, told in won.items():
        value = np.array([told[key] for key in sorted(told) if told[key] is not None], np.float64)
        if len(value) < 2 or (within := _within(value, settings)) is None:
            continue
        drawn = compare.resampled(
            compare.of_mean("rate", value), len(value), settings["resamples"], settings["seed"]
        )
        p = significance.mcnemar(int((value == 1).sum()), int((value == 0).sum()))
        found.append(
            {"metric": "win_rate", "of": "tuned", "to": system, "difference": float(value.mean()) - 0.5,
             "low": within[0] - 0.5, "high": within[1] - 0.5, "p": p,
             "detectable": significance.detectable(drawn["rate"], settings["confidence"]), "rows": len(value), **settings}
        )  # fmt: skip
    return _corrected(found)


def _corrected(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for one, p in zip(found, significance.holm([one["p"] for one in found]), strict=True):
        one["p_corrected"] = p
    return found


# -- habits and trust


def position(lines: Sequence[Line]) -> dict[str, Any] | None:
    """How often the judge prefers what stands first, and how often it says otherwise when the places are swapped. None without
    pairs."""
    sides = [one["verdict"] for one in _of(lines, "pair") if one["verdict"] in ("A", "B")]
    pairs: dict[tuple[str, str], dict[int, str | None]] = {}
    for one in _of(lines, "pair"):
        pairs.setdefault((one["id"], one["against"]), {})[one["order"]] = one["verdict"]
    both = [(told.get(0), told.get(1)) for told in pairs.values() if None not in (told.get(0), told.get(1))]
    if not both:
        return None
    return {
        "first": sides.count("A") / len(sides) if sides else None,
        "flipped": sum(one == other and one != "tie" for one, other in both) / len(both),
        "pairs": len(both),
    }


def probed(lines: Sequence[Line], wish: JudgeSpec) -> dict[str, Any]:
    """How many planted instructions the judge obeyed, of those that it gave any verdict on."""
    planted = [one for one in lines if one["kind"].startswith("probe_")]
    told = [one for one in planted if one["verdict"] is not None]
    obeyed = sum(one["verdict"] == json.loads(one["about"])["obeys"] for one in told)
    return {
        "planted": len(planted),
        "answered": len(told),
        "obeyed": obeyed,
        "rate": obeyed / len(told) if told else None,
        "allowed": wish.captured_at_most,
    }


def distrusted(found: Mapping[str, Any], wish: JudgeSpec) -> list[str]:
    """Why the judge is not to be trusted; empty where nothing says so."""
    probes, why = found["probes"], []
    if probes["rate"] is None:
        why.append("it gave no verdict on any of the planted answers, so nothing is known of its resistance")
    elif probes["rate"] > wish.captured_at_most:
        why.append(
            f"it obeyed {probes['obeyed']} of {probes['answered']} planted instructions, and {wish.captured_at_most:.0%} is allowed"
        )
    if found["verdicts"] and found["none"] / found["verdicts"] > MUTE:
        why.append(f"{found['none']:,} of {found['verdicts']:,} questions got no verdict")
    return why


def agreed(lines: Sequence[Line], wish: JudgeSpec, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """{"grades": Spearman's rho, "pairs": Cohen's kappa} with what people said; None where nobody was asked."""
    scales = {one.name: one.scale for one in wish.criteria}
    theirs: dict[int, float] = {}
    ours: dict[int, list[float | None]] = {}
    for one in _of(lines, "human_grade"):
        told = json.loads(one["about"])
        theirs[told["number"]] = float(told["people"])
        ours.setdefault(told["number"], []).append(_share(one, scales))
    mine = {n: sum(some) / len(some) for n, one in ours.items() if (some := _whole(one))}
    said: dict[tuple[str, int], int] = {}
    held: dict[tuple[str, int], float | None] = {}
    for one in _of(lines, "human_pair"):
        told = json.loads(one["about"])
        said[one["id"], told["number"]] = OUTCOMES.index(told["people"])
    for system in {one["against"] for one in _of(lines, "human_pair")}:
        held |= outcomes(lines, system, "human_pair")
    if not theirs and not said:
        return None
    kinds = {key: (0, 1, 2)[[1.0, 0.5, 0.0].index(told)] for key, told in held.items() if told is not None}
    pairs, grades = sorted(kinds), sorted(mine)
    return {
        "grades": agreement.with_interval(
            agreement.spearman, [theirs[n] for n in grades], [mine[n] for n in grades], **settings
        ) if theirs else None,
        "pairs": agreement.with_interval(
            agreement.kappa, [said[key] for key in pairs], [kinds[key] for key in pairs], **settings
        ) if said else None,
    }  # fmt: skip


def _cost(lines: Sequence[Line], wish: JudgeSpec) -> dict[str, Any]:
    from ..asking.purse import Bill

    bill = Bill(
        sum(one["tries"] for one in lines),
        sum(one["tokens_in"] or 0 for one in lines),
        sum(one["tokens_out"] or 0 for one in lines),
    )
    return bill.plain(None if isinstance(wish.model, str) else wish.model.price)


def cautions(found: Mapping[str, Any], wish: JudgeSpec) -> list[str]:
    """What a reader must know before believing the judge."""
    told = [f"The judge ({found['by']}) is not to be trusted: {why}." for why in found["distrusted"]]
    if isinstance(wish.model, JudgeEndpoint) and wish.model.away:
        told.append(
            f"Questions and answers were sent to the judge at {wish.model.host}, which the recipe allows."
        )
    if found["own_kind"]:
        told.append(
            "The judge is the base that was tuned: judges prefer answers like their own (Panickssery et al. 2024)."
        )
    if found["none"]:
        told.append(
            f"{found['none']:,} of {found['verdicts']:,} questions to the judge got no verdict; they count for nothing."
        )
    for what, one in (found["agreement"] or {}).items():
        if one is None:
            continue
        name = "Spearman's rho" if what == "grades" else "Cohen's kappa"
        if one["value"] is None:
            told.append(f"The judge's agreement with people cannot be computed of {one['rows']} {what}.")
        elif one["value"] < wish.agreement_at_least:
            told.append(
                f"The judge hardly agrees with people: {name} {one['value']:.2f} over {one['rows']} {what}, and "
                f"{wish.agreement_at_least:g} was asked. What it says is no measure of what people would say."
            )
        if one["rows"] < FEW_LABELS:
            told.append(f"Only {one['rows']} {what} tell how far the judge agrees with people.")
    if wish.human is None:
        told.append("Nobody has checked the judge: evaluate.judge.human takes what people have said.")
    return told


def _of(lines: Sequence[Line], kind: str) -> list[Line]:
    return [one for one in lines if one["kind"] == kind]
