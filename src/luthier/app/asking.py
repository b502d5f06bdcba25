"""What an evaluation would ask of servers and of a judge: whom, how often, for how much at most. Told by the plan, and held against
the budgets before anything is sent.

Answers that are kept from before are not asked again and not counted. How long the answers are that a judge will read is not
known yet: the longest that they may be is taken, and that every verdict needs a second try.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from luthier.core.artifact import Artifact
from luthier.core.errors import SpecError, did_you_mean
from luthier.core.units import Money
from luthier.evaluation.asking.purse import AskBudgetSpec, Bill, PriceSpec
from luthier.evaluation.judge.spec import JudgeEndpoint, JudgeSpec
from luthier.evaluation.spec import EvaluateSpec
from luthier.evaluation.systems import SentSpec
from luthier.outputs.spec import EndpointModelSpec

from .context import RunContext
from .recipe import Recipe, Wish
from .systems import measuring

PROMPT_TOKENS = 400
"""About what a judge is told beside what it judges."""


@dataclass(frozen=True)
class Ask:
    """What is asked of one model. `known`: answers that are there already; `host`: another machine that rows leave for."""

    who: str
    what: str
    bill: Bill
    known: int = 0
    price: PriceSpec | None = None
    budget: AskBudgetSpec = field(default_factory=AskBudgetSpec)
    host: str | None = None
    free: bool = False

    @property
    def over(self) -> str | None:
        """Why it may not be asked so much."""
        broken = self.bill.over(self.budget, self.price)
        return f"{self.who} ({self.what}): at most {broken}" if broken else None

    @property
    def sentence(self) -> str:
        told = f"evaluation asks {self.who} ({self.what}): at most {self.bill.words(self.price)}"
        if self.known:
            told += f"; {self.known:,} answers are there already"
        return told + (f"; rows of the test split are sent to {self.host}" if self.host else "")

    def plain(self) -> dict[str, Any]:
        return {
            "who": self.who,
            "what": self.what,
            "known": self.known,
            "host": self.host,
            **self.bill.plain(self.price),
        }


def endpoints(recipe: Recipe) -> dict[str, SentSpec]:
    """Every server that test rows are sent to, by where it is written."""
    from luthier.evaluation.external import endpoints as external

    found: dict[str, SentSpec] = {f"evaluate.against: {k}": v for k, v in external(recipe.evaluate).items()}
    if recipe.evaluate.judge is not None and isinstance(recipe.evaluate.judge.model, JudgeEndpoint):
        found["evaluate.judge"] = recipe.evaluate.judge.model
    return found


def fallback_server(recipe: Recipe) -> EndpointModelSpec | None:
    """The server that answers where the tuned model is not sure."""
    wish = recipe.postprocess.fallback
    return None if wish is None else wish.endpoint


def check_private(recipe: Recipe) -> None:
    """Raises SpecError where rows, or later the questions of clients, would leave for another machine with private data in them."""
    from luthier.core import plugin
    from luthier.data.egress import need_redacted

    redacted = any(plugin.load("rule", rule.name).private for rule in recipe.data.rules.ordered)
    for where, entry in endpoints(recipe).items():
        if entry.away:
            need_redacted(entry.host, redacted=redacted, allowed=entry.unredacted, where=where)
    other = fallback_server(recipe)
    if other is not None and other.away and not other.unredacted:
        raise SpecError(
            f"postprocess.fallback.endpoint: what people ask the served model would be sent to {other.host} as it is; rules take "
            "private data out of rows, and out of nobody's questions.",
            remedy="Write unredacted: true there if questions may leave as they are, or name a model of this store in `to`.",
        )


def check_keys(recipe: Recipe, at: RunContext) -> None:
    """Raises SpecError where a key refers to a variable that is not set."""
    other = fallback_server(recipe)
    for entry in (*endpoints(recipe).values(), *([] if other is None else [other])):
        if entry.key:
            at.secret(entry.key)


def check_people(recipe: Recipe, at: RunContext) -> None:
    """Raises DataError for a fault in what people have said of answers, SpecError for a system in it that is not measured."""
    from luthier.evaluation.judge import human

    judge = recipe.evaluate.judge
    if judge is None or judge.human is None:
        return
    systems = recipe.evaluate.systems(recipe.task.kind)[1:]
    for word in human.read(at.root / judge.human):
        if word.against is not None and word.against not in systems:
            raise SpecError(
                f"evaluate.judge.human: row {word.id} is compared with {word.against!r}, which is not measured.",
                remedy=f"{did_you_mean(word.against, list(systems))} (evaluate.against says what is measured)",
            )


def asks(wish: Wish, at: RunContext, dataset: Artifact) -> list[Ask]:
    """Everything that would be asked, from rows that are there."""
    from luthier.evaluation import external, questions
    from luthier.store.answers import ANSWERS, Answers

    spec, other = measuring(wish.recipe, at), fallback_server(wish.recipe)
    if spec.judge is None and other is None and not external.endpoints(spec):
        return []
    folder = at.folder(dataset)
    task = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["task"]
    rows = questions.read(folder / "test.parquet", spec.rows)
    found = []
    with Answers(at.home / ANSWERS) as answers:
        for name, entry in external.endpoints(spec).items():
            sheet, _ = external.sheet(rows, task, entry, spec.max_tokens)
            identity = external.identity_of(entry)
            keyed = {one.key(identity): one for one in sheet.values()}
            known = answers.find(list(keyed))
            bill = Bill.forecast([one for key, one in keyed.items() if key not in known])
            host = entry.host if entry.away else None
            found.append(
                Ask(
                    f"{name}, {entry.model} at {entry.host}",
                    "answers",
                    bill,
                    len(known),
                    entry.price,
                    entry.budget,
                    host,
                )
            )
    if other is not None:
        found.append(_fallback(other, [one for one in rows if one.prompt is not None], spec.max_tokens))
    return [*found, *_judged(spec, at, rows, task)]


def _fallback(entry: EndpointModelSpec, rows: list[Any], max_tokens: int) -> Ask:
    """As if the tuned model were sure of nothing."""
    from luthier.evaluation.asking.question import MESSAGE_TOKENS, tokens_of

    read = sum(MESSAGE_TOKENS + tokens_of(turn["content"] or "") for one in rows for turn in one.prompt)
    bill = Bill(len(rows), read, len(rows) * max_tokens)
    host = entry.host if entry.away else None
    return Ask(f"the fallback, {entry.model} at {entry.host}", "answers", bill, price=entry.price, host=host)


def _judged(spec: EvaluateSpec, at: RunContext, rows: list[Any], task: dict[str, Any]) -> Iterator[Ask]:
    from luthier.evaluation.judge import human, judging

    judge = spec.judge
    if judge is None:
        return
    people = human.read(at.root / judge.human) if judge.human else []
    asked = judging.judged_rows(judge, rows)
    counts = judging.requests(judge, len(asked), len(spec.systems(task["kind"])), people)
    several = 2 if judge.pairs else 1
    a_row = _tokens(judge, asked) + PROMPT_TOKENS + several * spec.max_tokens
    once = sum(counts.values())
    bill = Bill(2 * once, 2 * once * a_row, 2 * once * judge.max_tokens)
    what = ", ".join(f"{n:,} {name}" for name, n in counts.items() if n)
    if isinstance(judge.model, JudgeEndpoint):
        entry = judge.model
        host = entry.host if entry.away else None
        yield Ask(f"the judge, {judge.called}", what, bill, 0, entry.price, entry.budget, host)
    else:
        yield Ask(f"the judge, {judge.called}", what, bill, free=True)


def _tokens(judge: JudgeSpec, rows: list[Any]) -> int:
    """Of question and reference, on average, rounded up."""
    from luthier.evaluation.asking.question import tokens_of

    told = [tokens_of(one.asked_text) + (tokens_of(one.reference) if judge.reference else 0) for one in rows]
    return -(-sum(told) // len(told)) if told else 0


def over_budget(found: list[Ask], limit: Money | None, machine: Money | None) -> list[str]:
    """Every limit that asking would break, the recipe's own (budget.money) with what the machine costs."""
    told = [why for one in found if (why := one.over)]
    paid = [one for one in found if not one.free]
    if limit is None or not paid:
        return told
    if unpriced := [one.who for one in paid if one.bill.requests and one.price is None]:
        told.append(
            f"money: the budget is {limit}, and what {unpriced[0]} costs is not known; write its price, as in "
            "price: {input: 0.15 USD, output: 0.60 USD}"
        )
        return told
    bills = [money for one in paid if (money := one.bill.money(one.price)) is not None]
    if other := [one.currency for one in bills if one.currency != limit.currency]:
        told.append(f"money: the budget is in {limit.currency} and a price in {other[0]}; write one currency")
        return told
    total = sum(one.amount for one in bills)
    here = machine.amount if machine is not None and machine.currency == limit.currency else 0.0
    if total and total + here > limit.amount:
        told.append(
            f"money: asking may cost {Money(total, limit.currency)} and the machine {Money(here, limit.currency)}, and the budget is {limit}"
        )
    return told


def refuse(found: list[Ask], limit: Money | None) -> None:
    """Raise SpecError where asking alone would break a limit."""
    if told := over_budget(found, limit, None):
        raise SpecError(
            "this evaluation would go over its limits:\n  " + "\n  ".join(told),
            remedy="Raise the budget, or ask less: evaluate.rows, evaluate.judge.rows. Nothing was sent.",
        )
