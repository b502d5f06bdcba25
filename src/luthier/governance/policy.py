"""The gate: does a report satisfy what the recipe asks? Pure functions over plain values.

    check(gate, kind, evaluate)   before anything runs: can every rule be judged at all?
    judge(gate, report)           one verdict per rule, with the numbers and what would make it pass
    permit(verdicts)              raises GateFailed unless all passed

`at_least` and `at_most` look at the tuned model's value, `every_slice` at that in each part of the test rows. `better_than`
looks at the paired confidence interval of the difference: it passes only when the whole interval lies beyond the margin, so
luck of the test rows is not enough. `not_worse_than` does the same with the margin below zero: too few rows do not pass it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luthier.core.errors import GateFailed, SpecError, did_you_mean
from luthier.evaluation.spec import METRICS, SLICE_ROWS, EvaluateSpec, GateRule


@dataclass(frozen=True)
class Verdict:
    """`rule` is as a person reads it ("at least 0.85"); `reason` is one sentence with the numbers."""

    metric: str
    rule: str
    passed: bool
    reason: str


def check(gate: Mapping[str, GateRule], kind: str, evaluate: EvaluateSpec, own_head: bool = False) -> None:
    """Raise SpecError when a rule names what this evaluation will not measure. `own_head`: the tuned model answers with a
    head of its own, whose scores are no losses of tokens."""
    measured, systems = evaluate.measured(kind), evaluate.systems(kind)
    for metric, rule in gate.items():
        if metric == "perplexity" and own_head:
            raise SpecError(
                "evaluate.gate: perplexity is of a language model's tokens, and train.method puts a head of its own on the "
                "model, which says none.",
                remedy="Gate on another metric, or train with a method that keeps the language model (sft).",
            )
        if metric not in measured:
            raise SpecError(
                f"evaluate.gate: {metric!r} is not measured in this evaluation of a {kind} task.",
                remedy=f"{did_you_mean(metric, list(measured))} (evaluate.metrics says what is measured)",
            )
        if rule.every_slice is not None and evaluate.slices == []:
            raise SpecError(
                f"evaluate.gate.{metric}: every_slice, and evaluate.slices divides the test rows in no way.",
                remedy="Leave evaluate.slices out, or name how to divide: [source, length, language].",
            )
        rival = rule.rival
        if rival is None:
            continue
        if rival not in systems:
            asked = "better_than" if rule.better_than else "not_worse_than"
            raise SpecError(
                f"evaluate.gate.{metric}: {asked} {rival!r}, which is not measured.",
                remedy=f"{did_you_mean(rival, list(systems[1:]))} (evaluate.against says what is measured)",
            )
        if rival not in METRICS[metric].systems:
            raise SpecError(
                f"evaluate.gate.{metric}: {rival} has no {metric}.",
                remedy=f"Compare it with {', '.join(others)}."
                if (others := [s for s in METRICS[metric].systems if s != "tuned"])
                else "It is of the tuned model alone; write at_least.",
            )
        if rule.confidence is not None and rule.confidence != evaluate.confidence:
            raise SpecError(
                f"evaluate.gate.{metric}: confidence {rule.confidence:g}, and intervals are measured at {evaluate.confidence:g}.",
                remedy=f"Set evaluate.confidence: {rule.confidence:g}, or leave it out of the gate.",
            )


def judge(gate: Mapping[str, GateRule], report: Mapping[str, Any]) -> list[Verdict]:
    """One verdict per bound, in the gate's order. What the report does not hold fails, and says so."""
    verdicts = []
    for metric, rule in gate.items():
        value = report["systems"]["tuned"]["metrics"].get(metric)
        if rule.at_least is not None:
            verdicts.append(_bound(metric, value, rule.at_least, least=True))
        if rule.at_most is not None:
            verdicts.append(_bound(metric, value, rule.at_most, least=False))
        if rule.every_slice is not None:
            verdicts.append(_slices(metric, rule.every_slice, report))
        if rule.rival is not None:
            verdicts.append(_apart(metric, rule, report))
    return verdicts


def permit(verdicts: Sequence[Verdict]) -> None:
    """Let the line go on, or raise GateFailed with every failed rule."""
    failed = [verdict for verdict in verdicts if not verdict.passed]
    if failed:
        told = "\n".join(f"  ✗ {verdict.metric} {verdict.rule}: {verdict.reason}" for verdict in failed)
        raise GateFailed(
            f"the gate stopped the line: {len(failed)} of {len(verdicts)} rules failed.\n{told}",
            remedy="Improve the data or the training, or change evaluate.gate. The model and its report are kept; nothing was published.",
        )


def _bound(metric: str, value: float | None, bound: float, *, least: bool) -> Verdict:
    rule = f"at {'least' if least else 'most'} {bound:g}"
    if value is None:
        return Verdict(metric, rule, False, f"the report has no {metric} of the tuned model")
    if value >= bound if least else value <= bound:
        return Verdict(metric, rule, True, f"it is {_digits(value, bound)}")
    missing = abs(bound - value)
    way = "more" if least else "less"
    return Verdict(
        metric, rule, False, f"it is {_digits(value, bound)}; {_digits(missing, 0)} {way} would pass"
    )


def _slices(metric: str, bound: float, report: Mapping[str, Any]) -> Verdict:
    higher = METRICS[metric].higher_is_better
    rule = f"at {'least' if higher else 'most'} {bound:g} in every slice"
    found = [
        (value, f"{one['by']} {one['value']!r}")
        for one in report["slices"]
        if one["rows"] >= SLICE_ROWS and (value := one["systems"]["tuned"].get(metric)) is not None
    ]
    if not found:
        return Verdict(
            metric,
            rule,
            False,
            f"no part of the test rows has {SLICE_ROWS} rows and {metric} of the tuned model",
        )
    worst, where = min(found) if higher else max(found)
    passed = worst >= bound if higher else worst <= bound
    short = sum(value < bound if higher else value > bound for value, _ in found)
    told = f"the worst of {len(found)} is {where} with {_digits(worst, bound)}"
    return Verdict(
        metric,
        rule,
        passed,
        told if passed else f"{told}; {short} {'do' if short > 1 else 'does'} not reach it",
    )


def _apart(metric: str, rule: GateRule, report: Mapping[str, Any]) -> Verdict:
    by = rule.by or 0.0
    if rule.better_than:
        said = f"better than {rule.better_than}" + (f" by more than {by:g}" if by else "")
    else:
        said, by = f"not worse than {rule.not_worse_than} by {by:g} or more", -by
    found = next(
        (
            c
            for c in report["comparisons"]
            if c["metric"] == metric and c["to"] == rule.rival and c["of"] == "tuned"
        ),
        None,
    )
    if found is None:
        return Verdict(
            metric,
            said,
            False,
            f"the report does not compare {metric} with {rule.rival}; its cautions say why",
        )
    if rule.confidence is not None and rule.confidence != found["confidence"]:
        return Verdict(
            metric,
            said,
            False,
            f"the report's intervals are at {found['confidence']:g}, and {rule.confidence:g} is asked",
        )
    gain, worst, best = found["difference"], found["low"], found["high"]
    if not METRICS[metric].higher_is_better:
        gain, worst, best = -gain, -best, -worst
    told = [("+" if one > 0 else "") + _digits(one, by) for one in (gain, worst, best)]
    numbers = f"the gain is {told[0]} ({100 * found['confidence']:.4g} % interval {told[1]} to {told[2]})"
    if worst > by:
        return Verdict(metric, said, True, numbers)
    way = f"{numbers}; the whole interval must lie above {by:g}: a better model would pass"
    if gain > by:
        # The interval's half-width shrinks with the square root of the rows.
        rows = int(found["rows"] * ((gain - worst) / (gain - by)) ** 2) + 1
        way += f", or about {rows:,} test rows instead of {found['rows']:,} if the gain holds"
    return Verdict(metric, said, False, way)


def _digits(value: float, beside: float) -> str:
    """Four decimals, more where fewer would show two different numbers as equal.

    >>> _digits(0.84, 0.85), _digits(0.8499999, 0.85), _digits(12.3456, 0)
    ('0.84', '0.8499999', '12.3456')
    """
    text = f"{value:.4f}".rstrip("0").rstrip(".")
    return text if value == beside or float(text) != beside else repr(value)
