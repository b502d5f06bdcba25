"""The gate: does a report satisfy what the recipe asks? Pure functions over plain values.

    check(gate, kind, evaluate)   before anything runs: can every rule be judged at all?
    check_prices(gate, hourly)    with it: can a cost be told in the bound's currency?
    judge(gate, report)           one verdict per rule, with the numbers and what would make it pass
    permit(verdicts, waived)      raises GateFailed unless all passed, or were waived (waiver.py)
    written(gate)                 the same rules as a person reads them, before anything is measured

`at_least` and `at_most` look at the tuned model's value, `every_slice` at that in each part of the test rows. `better_than`
looks at the paired confidence interval of the difference: it passes only when the whole interval lies beyond the margin, so
luck of the test rows is not enough. `not_worse_than` does the same with the margin below zero: too few rows do not pass it. `latency` and `cost` look at what answering took; a
latency is of the machine that measured it, and the verdict names that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from luthier.core.errors import GateFailed, SpecError, did_you_mean
from luthier.core.units import Money
from luthier.evaluation.memorisation.spec import REMEMBERED
from luthier.evaluation.spec import (
    METRICS,
    SLICE_ROWS,
    SLICED,
    CostRule,
    EvaluateSpec,
    GateRule,
    LatencyRule,
    Rule,
)

from .remedies import REMEDIES


@dataclass(frozen=True)
class Verdict:
    """`rule` is as a person reads it ("at least 0.85"); `reason` is one sentence with the numbers. `waived`: a person let it
    pass all the same."""

    metric: str
    rule: str
    passed: bool
    reason: str
    waivable: bool = True
    waived: bool = False

    @property
    def measured(self) -> bool:
        """Whether the report has what the rule is about."""
        return not self.reason.startswith("the report ")


def check(
    gate: Mapping[str, Rule],
    kind: str,
    evaluate: EvaluateSpec,
    own_head: bool = False,
    canaries: bool = True,
) -> None:
    """Raise SpecError when a rule names what this evaluation will not measure. `own_head`: the tuned model answers with a
    head of its own, whose scores are no losses of tokens. `canaries`: there are secrets whose exposure can be measured."""
    judged = evaluate.judged(kind)
    measured, systems = (*evaluate.measured(kind), *judged), evaluate.systems(kind)
    for metric, rule in gate.items():
        if not isinstance(rule, GateRule):
            _refuse_untimed(metric, evaluate)
            continue
        if metric == "perplexity" and own_head:
            raise SpecError(
                "evaluate.gate: perplexity is of a language model's tokens, and train.method puts a head of its own on the "
                "model, which says none.",
                remedy="Gate on another metric, or train with a method that keeps the language model (sft).",
            )
        if metric in REMEMBERED:
            _refuse_unremembered(metric, rule, kind, own_head, canaries)
        elif metric not in measured:
            raise SpecError(
                f"evaluate.gate: {metric!r} is not measured in this evaluation of a {kind} task.",
                remedy=f"{did_you_mean(metric, list(measured))} (evaluate.metrics says what is measured)",
            )
        if metric in judged and rule.every_slice is not None:
            raise SpecError(
                f"evaluate.gate.{metric}: every_slice, and a judge's verdicts are not divided into slices.",
                remedy="Write at_least, better_than or not_worse_than.",
            )
        if METRICS[metric].beside and rule.every_slice is not None:
            raise SpecError(
                f"evaluate.gate.{metric}: every_slice is of the test rows, and this is measured of rows beside the task.",
                remedy="Write at_least, at_most or not_worse_than.",
            )
        if metric == "win_rate" and (rule.at_least is not None or rule.at_most is not None):
            raise SpecError(
                f"evaluate.gate.{metric}: a win rate is against somebody, and a bound of its own names nobody.",
                remedy=f"Write better_than: {systems[1] if len(systems) > 1 else 'base'} (more than half of the pairs, `by` so much).",
            )
        if rule.every_slice is not None and evaluate.slices == []:
            raise SpecError(
                f"evaluate.gate.{metric}: every_slice, and evaluate.slices divides the test rows in no way.",
                remedy="Leave evaluate.slices out, or name how to divide: [source, length, language].",
            )
        if rule.every_slice is not None and SLICED[kind] not in measured:
            raise SpecError(
                f"evaluate.gate.{metric}: every_slice, and evaluate.metrics leaves out {SLICED[kind]}, by which the parts are told apart.",
                remedy=f"Add {SLICED[kind]} to evaluate.metrics.",
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
        can = [s for s in systems[1:] if evaluate.kind_of(s) in METRICS[metric].systems]
        if rival not in can:
            raise SpecError(
                f"evaluate.gate.{metric}: {rival} has no {metric}.",
                remedy=f"Compare it with {', '.join(can)}."
                if can
                else "It is of the tuned model alone; write at_least.",
            )
        if rule.confidence is not None and rule.confidence != evaluate.confidence:
            raise SpecError(
                f"evaluate.gate.{metric}: confidence {rule.confidence:g}, and intervals are measured at {evaluate.confidence:g}.",
                remedy=f"Set evaluate.confidence: {rule.confidence:g}, or leave it out of the gate.",
            )


def _refuse_untimed(name: str, evaluate: EvaluateSpec) -> None:
    if evaluate.timed_rows == 0:
        raise SpecError(
            f"evaluate.gate.{name}: evaluate.timed_rows is 0, so nobody measures what an answer takes.",
            remedy="Leave evaluate.timed_rows out, or write how many rows are asked once more.",
        )


def check_prices(gate: Mapping[str, Rule], hourly: Money | None) -> None:
    """Raise SpecError where the cost of an answer could not be told, or not in the bound's currency. `hourly`: what an hour of this
    machine costs."""
    for name, rule in gate.items():
        if not isinstance(rule, CostRule):
            continue
        bound = rule.per_1000.at_most
        if hourly is None:
            raise SpecError(
                f"evaluate.gate.{name} is at most {bound}, and what an hour of this machine costs is not known.",
                remedy="Name a machine of the price table in budget.machine, or leave the rule out.",
            )
        if hourly.currency != bound.currency:
            raise SpecError(
                f"evaluate.gate.{name} is at most {bound}, and an hour of this machine costs {hourly}: they cannot be compared.",
                remedy=f"Write the bound in {hourly.currency}, or the machine's price in {bound.currency} in LUTHIER_HOME/prices.yaml.",
            )


def _distrusted(report: Mapping[str, Any]) -> str | None:
    """Why nothing that the judge said may pass a gate, if so."""
    judge = report.get("judge")
    if judge is None:
        return "the report has no judge"
    return None if judge["trusted"] else f"the judge ({judge['by']}) is not: {'; '.join(judge['distrusted'])}"


def _refuse_unremembered(metric: str, rule: GateRule, kind: str, own_head: bool, canaries: bool) -> None:
    where = f"evaluate.gate.{metric}"
    if own_head:
        raise SpecError(
            f"{where}: train.method puts a head of its own on the model, which says no tokens that could be learnt by heart.",
            remedy="Leave the rule out, or train with a method that keeps the language model (sft).",
        )
    if kind not in METRICS[metric].kinds:
        raise SpecError(
            f"{where}: {metric} is not measured of a {kind} task, whose answers are too short to be learnt by heart.",
            remedy="Gate on membership_auc, which any task has.",
        )
    if rule.every_slice is not None:
        raise SpecError(
            f"{where}: every_slice is of the test rows, and this is none of their metrics.",
            remedy="Write at_most.",
        )
    if metric == "exposure" and not canaries:
        raise SpecError(
            f"{where}: there is no secret whose exposure could be measured.",
            remedy="Plant some (data.canaries: {}), or name a file of your own (evaluate.memorisation.canaries: FILE).",
        )


def judge(gate: Mapping[str, Rule], report: Mapping[str, Any]) -> list[Verdict]:
    """One verdict per bound, in the gate's order. What the report does not hold fails, and says so."""
    verdicts: list[Verdict] = []
    for metric, rule in gate.items():
        one: list[Verdict] = []
        if isinstance(rule, LatencyRule):
            one = _latency(rule, report)
        elif isinstance(rule, CostRule):
            one = [_cost(rule, report)]
        elif METRICS[metric].judged and (why := _distrusted(report)):
            one = [Verdict(metric, "said by a judge that can be trusted", False, why)]
        else:
            one = _of_metric(metric, rule, report)
        verdicts += [replace(verdict, waivable=rule.waivable) for verdict in one]
    return verdicts


def _of_metric(metric: str, rule: GateRule, report: Mapping[str, Any]) -> list[Verdict]:
    verdicts = []
    if rule.at_least is not None:
        verdicts.append(_bound(metric, report, rule.at_least, least=True))
    if rule.at_most is not None:
        verdicts.append(_bound(metric, report, rule.at_most, least=False))
    if rule.every_slice is not None:
        verdicts.append(_slices(metric, rule.every_slice, report))
    if rule.rival is not None:
        verdicts.append(_apart(metric, rule, report))
    return verdicts


def written(gate: Mapping[str, Rule]) -> list[tuple[str, str]]:
    """(metric, rule) of everything that will be judged, in the order of `judge`."""
    nothing = {
        "systems": {"tuned": {"metrics": {}}},
        "slices": [],
        "comparisons": [],
        "judge": {"trusted": True},
    }
    return [(one.metric, one.rule) for one in judge(gate, nothing)]


def permit(verdicts: Sequence[Verdict], waived: Callable[[Verdict], bool] = lambda _: False) -> None:
    """Let the line go on, or raise GateFailed with every failed rule that nobody waived: its value, its bound, how sure the
    value is, and what helps."""
    failed = [verdict for verdict in verdicts if not verdict.passed and not waived(verdict)]
    if not failed:
        return
    told = "\n".join(
        f"  ✗ {verdict.metric} {verdict.rule}: {verdict.reason}"
        + (
            f"\n      to pass: {REMEDIES[verdict.metric]}"
            if verdict.metric in REMEDIES and verdict.measured
            else ""
        )
        + ("" if verdict.waivable else "\n      nobody may waive it")
        for verdict in failed
    )
    may = [verdict.metric for verdict in failed if verdict.waivable]
    way = f', or let this very model pass: --waive {may[0]} --because "REASON" --by "NAME"' if may else ""
    raise GateFailed(
        f"the gate stopped the line: {len(failed)} of {len(verdicts)} rules failed.\n{told}",
        remedy=f"Improve the data or the training, or change evaluate.gate{way}. The model and its report are kept; nothing was "
        "published.",
    )


def _bound(metric: str, report: Mapping[str, Any], bound: float, *, least: bool) -> Verdict:
    rule = f"at {'least' if least else 'most'} {bound:g}"
    tuned = report["systems"]["tuned"]
    value = tuned["metrics"].get(metric)
    if value is None:
        return Verdict(metric, rule, False, _missing(metric, report))
    told = f"it is {_digits(value, bound)}{_sure(tuned, metric, report)}"
    if value >= bound if least else value <= bound:
        return Verdict(metric, rule, True, told)
    missing = abs(bound - value)
    way = "more" if least else "less"
    return Verdict(metric, rule, False, f"{told}; {_digits(missing, 0)} {way} would pass")


def _missing(metric: str, report: Mapping[str, Any]) -> str:
    """Why there is no value, as far as the report knows."""
    told = f"the report has no {metric} of the tuned model"
    part = {"extracted": "extraction", "membership_auc": "membership"}.get(metric, "")
    why = ((report.get("memorisation") or {}).get(part) or {}).get("why")
    return f"{told}: {why}" if why else told


def _sure(tuned: Mapping[str, Any], metric: str, report: Mapping[str, Any]) -> str:
    within, confidence = (tuned.get("intervals") or {}).get(metric), report.get("confidence")
    if within is None or confidence is None:
        return ""
    return f" ({100 * confidence:.4g} % interval {_digits(within[0], 0)} to {_digits(within[1], 0)})"


def _latency(rule: LatencyRule, report: Mapping[str, Any]) -> list[Verdict]:
    found = report["systems"]["tuned"].get("latency")
    verdicts = []
    for name, key in (("median", "median_s"), ("p95", "p95_s")):
        wish = getattr(rule, name)
        if wish is None:
            continue
        said = f"{name} at most {_time(wish.at_most)}"
        value = None if found is None else found.get(key)
        if found is None or value is None:
            verdicts.append(Verdict("latency", said, False, "the report has no latency of the tuned model"))
            continue
        where = found.get("machine") or "a machine that the report does not name"
        told = f"it is {_time(value)} on {where}"
        passed = value <= wish.at_most
        verdicts.append(
            Verdict(
                "latency",
                said,
                passed,
                told if passed else f"{told}; {_time(value - wish.at_most)} less would pass",
            )
        )
    return verdicts


def _cost(rule: CostRule, report: Mapping[str, Any]) -> Verdict:
    bound = rule.per_1000.at_most
    said = f"at most {bound} for 1,000 answers"
    found = report["systems"]["tuned"].get("cost")
    if found is None or found.get("per_1000") is None:
        return Verdict("cost", said, False, "the report has no cost of the tuned model's answers")
    if found["currency"] != bound.currency:
        return Verdict(
            "cost",
            said,
            False,
            f"the report counts in {found['currency']}, and nothing is converted; write the bound in it",
        )
    value = Money(found["per_1000"], found["currency"])
    if value.amount <= bound.amount:
        return Verdict("cost", said, True, f"it is {value}")
    return Verdict(
        "cost",
        said,
        False,
        f"it is {value}; {Money(value.amount - bound.amount, bound.currency)} less would pass",
    )


def _time(value_s: float) -> str:
    """
    >>> _time(0.3), _time(1.25), _time(0.2504)
    ('300 ms', '1.25 s', '250.4 ms')
    """
    return f"{1000 * value_s:.4g} ms" if value_s < 1 else f"{value_s:.4g} s"


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
