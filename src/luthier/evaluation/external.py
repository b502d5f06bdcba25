"""The systems that answer behind a server that speaks OpenAI's protocol: the same rows, through the one way out.

    rows ──▶ questions ──▶ what was answered before (store/answers) ──▶ the rest is asked, within the budget ──▶ lines

A task with labels tells them in the prompt, and what comes back must be one of them, blanks around it aside: anything else is
wrong and counted as off the list. There are no probabilities and no losses, so what needs them is absent. A question that the
server declines is answered with nothing, which is wrong too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from luthier.data.forgotten import stem
from luthier.data.rules.rule import Lent
from luthier.store.answers import ANSWERS, Answers

from . import predictions
from .asking.endpoint import EndpointAsker
from .asking.purse import Bill, Purse
from .asking.question import Answer as Said
from .asking.question import Asker, tokens_of
from .asking.question import Question as Asked
from .questions import Question, Skipped
from .systems import EndpointSystem
from .tasks import Answer

if TYPE_CHECKING:
    from luthier.core.stage import Context

    from .prompted import Bench
    from .spec import EvaluateSpec

VERSION = 1
"""Of what is asked, word by word."""
LABELS = "Answer with exactly one of these labels, as it is written here, and with nothing else:\n{labels}"
NUMBER = "Answer with one number and nothing else."
SPARE_TOKENS = 8


@dataclass
class Sent:
    """What came back: lines of predictions, rows that could not be asked, and what a reader must know."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    skipped: dict[str, list[Skipped]] = field(default_factory=dict)
    cautions: list[str] = field(default_factory=list)


def endpoints(spec: EvaluateSpec) -> dict[str, EndpointSystem]:
    """The systems of a spec that are asked over a wire."""
    return {name: one for name, one in spec.named.items() if isinstance(one, EndpointSystem)}


def ask_all(bench: Bench) -> Sent:
    """Raises DataError where a server cannot be asked or a budget does not suffice; what was answered until then is kept."""
    sent = Sent()
    for name, entry in endpoints(bench.spec).items():
        asked, skipped = sheet(bench.questions, bench.task, entry, bench.spec.max_tokens)
        with Answers(bench.at.home / ANSWERS) as answers:
            purse = Purse(entry.budget, entry.price)
            asker = EndpointAsker(entry, lent(entry, bench.at), answers, purse)
            found = insist(list(asked.values()), asker, answers, purse, bench.at, name, identity_of(entry))
        said = dict(zip(asked, found, strict=True))
        declined = sum(one.text is None for one in found)
        for question in (question for question in bench.questions if question.id in said):
            one = said[question.id]
            answer = Answer(
                snapped(one.text, bench.task),
                seconds=one.seconds,
                tokens_in=one.tokens_in,
                tokens_out=one.tokens_out,
            )
            lines = predictions.line(question, name, answer, bench.part, bench.slices[question.id])
            sent.lines.append(lines)
        sent.skipped[name] = skipped
        if declined:
            sent.cautions.append(
                f"{name} declined {declined:,} of {len(said):,} questions; that counts as a wrong answer."
            )
        if entry.away:
            sent.cautions.append(f"The test rows were sent to {entry.host}, which the recipe allows.")
    return sent


def lent(settings: Any, at: Context) -> Lent:
    """What whoever asks is given of the world."""
    return Lent(
        settings,
        answers=str(at.home / ANSWERS),
        check=at.check,
        progress=at.progress,
        secret=at.secret,
        emit=at.emit,
    )


def insist(
    questions: Sequence[Asked],
    asker: Asker,
    answers: Answers,
    purse: Purse,
    at: Context,
    name: str,
    identity: Mapping[str, Any],
) -> list[Said]:
    """The answer to every question: those that are known, and the rest asked. The whole rest is held against the budget before
    the first request. `identity`: what the answers follow from beside the questions."""
    keys = [one.key(identity) for one in questions]
    keyed = dict(zip(keys, questions, strict=True))
    known = answers.find(list(keyed))
    missing = [(key, one) for key, one in keyed.items() if key not in known]
    if missing:
        purse.permit(purse.spent + Bill.forecast([one for _, one in missing]))
        try:
            asker.ask(missing)
        finally:
            at.emit("asked", by=name, known=len(known), **purse.since_told())
        known |= answers.find([key for key, _ in missing])
    return [Said.of(known[key]) for key in keys]


def identity_of(entry: EndpointSystem) -> dict[str, Any]:
    """What a system's answers follow from beside the questions."""
    return {"for": "evaluate", "version": VERSION, "url": entry.url, "model": entry.model}


def sheet(
    questions: Sequence[Question], task: Mapping[str, Any], entry: EndpointSystem, max_tokens: int
) -> tuple[dict[str, Asked], list[Skipped]]:
    """Row id -> what is asked, and the rows that cannot be. Plain texts have no question and are not among them."""
    asked, skipped = {}, []
    rule, most = _rule(task), entry.max_tokens or _most(task, max_tokens)
    for question in questions:
        if question.prompt is None:
            continue
        if question.tools or any(not isinstance(one.get("content"), str) for one in question.prompt):
            skipped.append(Skipped(question.id, "it offers tools, and a server is asked with words alone"))
            continue
        messages = [(one["role"], one["content"]) for one in question.prompt]
        asked[question.id] = Asked(stem(question.id), _instructed(messages, rule), most, entry.temperature)
    return asked, skipped


def snapped(text: str | None, task: Mapping[str, Any]) -> str:
    """The label that was written, blanks around it aside; else the words as they are. Nothing for what was declined.

    >>> snapped(" billing\\n", {"labels": ["billing"]}), snapped("It is billing.", {"labels": ["billing"]}), snapped(None, {})
    ('billing', 'It is billing.', '')
    """
    text = text or ""
    return text.strip() if task.get("labels") and text.strip() in task["labels"] else text


def _rule(task: Mapping[str, Any]) -> str | None:
    if task.get("labels"):
        return LABELS.format(labels="\n".join(task["labels"]))
    return NUMBER if task["kind"] == "regress" else None


def _most(task: Mapping[str, Any], max_tokens: int) -> int:
    if task.get("labels"):
        return max(tokens_of(label) for label in task["labels"]) + SPARE_TOKENS
    return 16 + SPARE_TOKENS if task["kind"] == "regress" else max_tokens


def _instructed(messages: Sequence[tuple[str, str]], rule: str | None) -> tuple[tuple[str, str], ...]:
    """With the rule at the end of the system message, or as one."""
    if rule is None:
        return tuple(messages)
    if messages[0][0] == "system":
        return (("system", f"{messages[0][1]}\n\n{rule}"), *messages[1:])
    return (("system", rule), *messages)
