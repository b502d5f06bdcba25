"""A waiver: a named person lets one model pass that breaks named rules of the gate, and says why.

    asked      what stands on the command line: rules, reason, person           ──grant──▶  waivers, an event in the ledger
    waivers    what a release carries: each of one broken rule, with the numbers it broke it with
    honest     what the release stage asks of them again, knowing nothing of who asked

A waiver is of one report, by its digest: another model, or the same measured anew with other numbers, needs a new one. It lets
exactly the rules through that it names. What passes needs none, and a rule that says `waivable: false` has none.
"""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from luthier.core.artifact import short
from luthier.core.errors import GateFailed, SpecError, did_you_mean
from luthier.core.event import Event
from luthier.core.spec import Spec

from .policy import Verdict

EVENT = "waived"
FEWEST_WORDS, SHORTEST = 3, 15
LONGEST = 1000


class WaiverSpec(Spec):
    """One broken rule that a person let pass."""

    metric: str
    """What the rule is about."""
    rule: str
    """The rule, as a person reads it."""
    verdict: str
    """The numbers that broke it."""
    report: str
    """The digest of the report that holds them; the waiver is of no other."""
    because: str = Field(min_length=SHORTEST, max_length=LONGEST)
    """Why it was let pass."""
    by: str = Field(min_length=2, max_length=200)
    """Who let it pass."""
    on: str
    """When, in UTC."""


@dataclass(frozen=True)
class Asked:
    """What a person asked for. `identified`: who it was is what the operating system says, and not typed in."""

    metrics: tuple[str, ...]
    because: str
    by: str
    identified: bool = False

    @classmethod
    def of(
        cls, metrics: Sequence[str], because: str | None, by: str | None, me: str | None = None
    ) -> Asked | None:
        """From the words of a command; None where nothing is to be waived. `me`: who runs it, where that person said that this
        will do. Raises SpecError for a waiver without a person or a reason."""
        if not metrics:
            if because is not None or by is not None or me is not None:
                raise SpecError(
                    "a reason and a name are given, and no rule that they are for.",
                    remedy="Name it: --waive METRIC.",
                )
            return None
        if len(set(metrics)) < len(metrics):
            raise SpecError("--waive names the same rule twice.", remedy="Name each once.")
        if by is not None and me is not None:
            raise SpecError("--by and --by-me both say who waives.", remedy="Give one of them.")
        who = _clean(by or me or "", "--by")
        if len(who) < 2:
            raise SpecError(
                "a waiver needs the name of the person who answers for it.",
                remedy='Give --by "NAME", or --by-me to be named as the operating system knows you.',
            )
        if len(who) > 200:
            raise SpecError("--by is longer than 200 characters.", remedy="Give a name.")
        return cls(tuple(metrics), _reason(because), who, by is None)


def _reason(because: str | None) -> str:
    why = _clean(because or "", "--because")
    if len(why) < SHORTEST or len(why.split()) < FEWEST_WORDS:
        said = f"{why!r} says too little" if why else "a waiver needs a reason"
        raise SpecError(
            f"{said}: whoever reads it in a year must understand why the rule was let go.",
            remedy=f'Give --because "REASON", {FEWEST_WORDS} words and {SHORTEST} letters at least.',
        )
    if len(why) > LONGEST:
        raise SpecError(f"the reason has {len(why):,} characters.", remedy=f"Give at most {LONGEST:,}.")
    return why


def _clean(text: str, where: str) -> str:
    text = " ".join(text.split())
    if odd := next((c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn")), None):
        raise SpecError(
            f"{where} holds the invisible character U+{ord(odd):04X}.", remedy="Write it in plain text."
        )
    return text


def refuse_strangers(asked: Asked, verdicts: Sequence[Verdict]) -> None:
    """Raise SpecError for what is no rule of the gate, holds already, or may not be waived."""
    known = list(dict.fromkeys(one.metric for one in verdicts))
    for metric in asked.metrics:
        mine = [one for one in verdicts if one.metric == metric]
        if not mine:
            raise SpecError(
                f"--waive {metric}: the gate has no such rule.",
                remedy=did_you_mean(metric, known) if known else "The recipe has no evaluate.gate.",
            )
        broken = [one for one in mine if not one.passed]
        if not broken:
            raise SpecError(
                f"--waive {metric}: the rule holds ({mine[0].rule}: {mine[0].reason}), so there is nothing to waive.",
                remedy="Leave it out.",
            )
        if any(not one.waivable for one in broken):
            raise SpecError(
                f"--waive {metric}: the recipe says that this rule may not be waived ({broken[0].rule}: {broken[0].reason}).",
                remedy="Make a model that keeps it. `waivable: false` was written in evaluate.gate by whoever owns the rule.",
            )


def grant(
    asked: Asked, verdicts: Sequence[Verdict], report: str, before: Iterable[Event]
) -> tuple[list[WaiverSpec], dict[str, Any] | None]:
    """(waivers, the facts of a new event or None where it was granted before). `before`: the events about this report.
    Raises SpecError (refuse_strangers)."""
    refuse_strangers(asked, verdicts)
    for event in before:
        known = _known(event, report)
        if known and _same(known, asked, verdicts):
            return known, None
    on = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()) + " UTC"
    made = [
        WaiverSpec(
            metric=one.metric, rule=one.rule, verdict=one.reason, report=report, because=asked.because, by=asked.by, on=on
        )
        for one in verdicts
        if one.metric in asked.metrics and not one.passed
    ]  # fmt: skip
    return made, {"waivers": [one.plain() for one in made], "by_system": asked.identified}


def granted(asked: Asked | None, report: str, before: Iterable[Event]) -> list[WaiverSpec]:
    """What was granted for just these words and this report before, to find the release that came of it; nothing is judged."""
    for event in before if asked is not None else ():
        known = _known(event, report)
        if known and {one.metric for one in known} == set(asked.metrics) and _words(known[0]) == (asked.because, asked.by):  # type: ignore[union-attr]  # fmt: skip
            return known
    return []


def _known(event: Event, report: str) -> list[WaiverSpec]:
    found = [WaiverSpec.model_validate(one) for one in event.data["waivers"]]
    return found if all(one.report == report for one in found) else []


def _same(known: Sequence[WaiverSpec], asked: Asked, verdicts: Sequence[Verdict]) -> bool:
    wanted = {(v.metric, v.rule, v.reason) for v in verdicts if v.metric in asked.metrics and not v.passed}
    have = {(one.metric, one.rule, one.verdict) for one in known}
    return wanted == have and _words(known[0]) == (asked.because, asked.by)


def _words(one: WaiverSpec) -> tuple[str, str]:
    return one.because, one.by


def honest(waivers: Sequence[WaiverSpec], verdicts: Sequence[Verdict], report: str) -> None:
    """Raise GateFailed unless each waiver is of this report and of a rule that this report breaks, with these very numbers,
    and that may be waived. The release stage asks it, so that nobody can hand it a waiver of something else."""
    broken = {(one.metric, one.rule): one for one in verdicts if not one.passed}
    for one in waivers:
        verdict = broken.get((one.metric, one.rule))
        why = (
            f"it is of report {short(one.report)}, and this is {short(report)}"
            if one.report != report
            else "this report breaks no such rule"
            if verdict is None
            else "the recipe says that this rule may not be waived"
            if not verdict.waivable
            else f"it was given for other numbers ({one.verdict})"
            if verdict.reason != one.verdict
            else None
        )
        if why:
            raise GateFailed(
                f"the waiver of {one.metric} {one.rule} does not hold here: {why}.",
                remedy="A waiver is of one report and its broken rules; ask for a new one with --waive.",
            )


def covers(waivers: Sequence[WaiverSpec], verdict: Verdict) -> bool:
    return any((one.metric, one.rule) == (verdict.metric, verdict.rule) for one in waivers)


def told(waivers: Iterable[Mapping[str, Any] | WaiverSpec]) -> list[dict[str, Any]]:
    """As plain values, for a card, a page, a list."""
    return [one.plain() if isinstance(one, WaiverSpec) else dict(one) for one in waivers]
