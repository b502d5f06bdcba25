"""The judge at work: what it is asked, asked again once where it gave no verdict, and the table of what it said.

judgements.parquet, one line per verdict that was wanted:
    kind        grade | pair | probe_grade | probe_pair | human_grade | human_pair
    id          the row;  system, against: whose answers;  criterion: of a grade
    order       of a pair: 0 the first named stands first (A), 1 second (B); of several answers of people to a row, which
    verdict     the grade, or A, B or tie; null: no verdict even at the second try
    said        what the judge wrote last;  tries: 1 or 2;  prompt: SHA-256 of the whole prompt of that try
    about       JSON: of a probe what obedience would be, of people's words what they said
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from luthier.core.artifact import Artifact
from luthier.core.stage import Context
from luthier.data.forgotten import stem
from luthier.store.answers import ANSWERS, Answers

from ..asking.purse import AskBudgetSpec, Purse
from ..asking.question import Asker
from ..asking.question import Question as Asked
from ..external import insist, lent
from ..predictions import by_system
from ..questions import Question
from . import human, prompts
from .probes import planted
from .prompts import Judged, Messages
from .spec import CriterionSpec, JudgeEndpoint, JudgeSpec

if TYPE_CHECKING:
    from ..spec import EvaluateSpec

SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("id", pa.string()),
        ("system", pa.string()),
        ("against", pa.string()),
        ("criterion", pa.string()),
        ("order", pa.int64()),
        ("verdict", pa.string()),
        ("said", pa.string()),
        ("tries", pa.int64()),
        ("prompt", pa.string()),
        ("about", pa.string()),
        ("seconds", pa.float64()),
        ("tokens_in", pa.int64()),
        ("tokens_out", pa.int64()),
    ]
)
ROLE = "judge"
HUMAN = "judge/human"


@dataclass(frozen=True)
class Wanted:
    """One verdict that is wanted. `messages(again)` is the prompt; `read` makes the verdict of what was said."""

    kind: str
    id: str
    messages: Callable[[bool], Messages]
    read: Callable[[str | None], str | None]
    system: str | None = None
    against: str | None = None
    criterion: str | None = None
    order: int | None = None
    about: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class LocalSettings:
    """What asking/local reads of whoever asks it."""

    device: str
    dtype: str


def judge(
    spec: EvaluateSpec,
    predictions: pa.Table,
    questions: Sequence[Question],
    inputs: Mapping[str, Artifact],
    at: Context,
) -> pa.Table:
    """The table of verdicts. Raises DataError where the judge cannot be asked, or a budget does not suffice; what was answered
    until then is kept."""
    wish = spec.judge
    assert wish is not None
    said = {name: dict(zip(a.ids, a.predictions, strict=True)) for name, a in by_system(predictions).items()}
    people = human.read(_file(wish, at)) if wish.human else []
    wanted = list(plan(wish, questions, said, people, spec.seed))
    with Answers(at.home / ANSWERS) as answers:
        budget, price = _purse(wish)
        purse = Purse(budget, price)
        asker = _asker(spec, inputs, at, answers, purse)
        lines = verdicts(wanted, wish, asker, answers, purse, at)
    return pa.Table.from_pylist(lines, SCHEMA)


def plan(
    wish: JudgeSpec,
    questions: Sequence[Question],
    said: Mapping[str, Mapping[str, str | None]],
    people: Sequence[human.Word],
    seed: int,
) -> Iterator[Wanted]:
    """All verdicts that are wanted. `said`: system -> row -> its answer."""
    rows = judged_rows(wish, questions)
    for question in rows:
        for system, theirs in said.items():
            if (answer := theirs.get(question.id)) is None:
                continue
            yield from _grades(wish, question, answer, seed, "grade", system)
        mine = said.get("tuned", {}).get(question.id)
        for system in (s for s in said if wish.pairs and s != "tuned"):
            if mine is not None and (other := said[system].get(question.id)) is not None:
                yield from _pair(wish, question, mine, other, seed, "pair", system)
    for probe in planted(rows, wish.probes, seed, wish.pairs, wish.criteria[0].scale[1]):
        yield _probe(wish, probe, seed)
    yield from _peoples(wish, questions, said, people, seed)


def judged_rows(wish: JudgeSpec, questions: Sequence[Question]) -> list[Question]:
    """Those that ask something, up to `rows`."""
    return [one for one in questions if one.prompt is not None][: wish.rows]


def requests(wish: JudgeSpec, rows: int, systems: int, people: Sequence[human.Word] = ()) -> dict[str, int]:
    """How many verdicts are wanted at most, by what for, when every system answers every row."""
    others = systems - 1
    return {
        "grades": rows * systems * len(wish.criteria),
        "pairs": 2 * rows * others if wish.pairs else 0,
        "probes": wish.probes if rows else 0,
        "answers that people judged": sum(
            len(wish.criteria) if one.score is not None else 2 for one in people
        ),
    }


def _judged(wish: JudgeSpec, question: Question, *answers: str) -> Judged:
    turns = [one for one in question.prompt or () if one["role"] != "system"]
    asked = (
        turns[0]["content"]
        if len(turns) == 1
        else "\n".join(f"{one['role']}: {one['content']}" for one in turns)
    )
    return Judged(asked, question.reference if wish.reference else None, answers)


def _grades(
    wish: JudgeSpec,
    question: Question,
    answer: str,
    seed: int,
    kind: str,
    system: str | None,
    **more: Any,
) -> Iterator[Wanted]:
    for criterion in wish.criteria:
        yield _grade(wish, question, answer, criterion, seed, kind, system, **more)


def _grade(
    wish: JudgeSpec,
    question: Question,
    answer: str,
    criterion: CriterionSpec,
    seed: int,
    kind: str,
    system: str | None,
    **more: Any,
) -> Wanted:
    what = _judged(wish, question, answer)

    def read(said: str | None) -> str | None:
        value = prompts.score(said, criterion)
        return None if value is None else str(value)

    return Wanted(
        kind,
        question.id,
        lambda again: prompts.grade(what, criterion, seed, question.id, again),
        read,
        system,
        criterion=criterion.name,
        **more,
    )


def _pair(
    wish: JudgeSpec, question: Question, mine: str, other: str, seed: int, kind: str, system: str, **more: Any
) -> Iterator[Wanted]:
    for order, answers in enumerate([(mine, other), (other, mine)]):
        what = _judged(wish, question, *answers)
        yield Wanted(
            kind,
            question.id,
            lambda again, what=what: prompts.choose(what, seed, question.id, again),  # type: ignore[misc]
            prompts.side,
            "tuned",
            system,
            order=order,
            **more,
        )


def _probe(wish: JudgeSpec, probe: Any, seed: int) -> Wanted:
    question, highest = probe.question, wish.criteria[0].scale[1]
    if not probe.pair:
        return _grade(
            wish,
            question,
            probe.order,
            wish.criteria[0],
            seed,
            "probe_grade",
            None,
            about={"obeys": str(highest)},
        )
    answers = (probe.order, question.reference) if probe.first else (question.reference, probe.order)
    what = _judged(wish, question, *answers)
    return Wanted(
        "probe_pair",
        question.id,
        lambda again: prompts.choose(what, seed, question.id, again),
        prompts.side,
        order=0 if probe.first else 1,
        about={"obeys": "A" if probe.first else "B"},
    )


def _peoples(
    wish: JudgeSpec,
    questions: Sequence[Question],
    said: Mapping[str, Mapping[str, str | None]],
    people: Sequence[human.Word],
    seed: int,
) -> Iterator[Wanted]:
    """Answers that people have judged, of rows that are there, as far as there is an answer."""
    known = {one.id: one for one in questions if one.prompt is not None}
    for number, word in enumerate(people):
        question = known.get(word.id)
        answer = word.answer if word.answer is not None else said.get("tuned", {}).get(word.id)
        if question is None or answer is None:
            continue
        about: dict[str, Any] = {
            "people": word.score if word.score is not None else word.outcome,
            "number": number,
        }
        if word.score is not None:
            yield from _grades(wish, question, answer, seed, "human_grade", "tuned", about=about)
            continue
        rival = word.against or next((one for one in said if one != "tuned"), None)
        other = said.get(rival or "", {}).get(word.id)
        if rival is not None and other is not None:
            yield from _pair(wish, question, answer, other, seed, "human_pair", rival, about=about)


# -- asking


def verdicts(
    wanted: Sequence[Wanted], wish: JudgeSpec, asker: Asker, answers: Answers, purse: Purse, at: Context
) -> list[dict[str, Any]]:
    """Ask all; then once more those that gave no verdict."""
    identity = {"for": "judge", "prompts": prompts.VERSION, **asker.identity}
    lines: list[dict[str, Any]] = [{} for _ in wanted]
    todo = list(range(len(wanted)))
    for attempt in (1, 2):
        asked = [_question(wanted[i], wish, attempt) for i in todo]
        found = insist(asked, asker, answers, purse, at, f"judge {wish.called}", identity)
        for i, question, said in zip(todo, asked, found, strict=True):
            one = wanted[i]
            before = lines[i]
            lines[i] = {
                **{
                    name: getattr(one, name)
                    for name in ("kind", "id", "system", "against", "criterion", "order")
                },
                "verdict": one.read(said.text) if said.text is not None else None,
                "said": said.text if said.text is not None else said.why,
                "tries": attempt,
                "prompt": prompts.fingerprint(question.messages),
                "about": None if one.about is None else json.dumps(one.about, sort_keys=True),
                "seconds": said.seconds,
                "tokens_in": said.tokens_in + before.get("tokens_in", 0),
                "tokens_out": said.tokens_out + before.get("tokens_out", 0),
            }
        todo = [i for i in todo if lines[i]["verdict"] is None]
    return lines


def _question(one: Wanted, wish: JudgeSpec, attempt: int) -> Asked:
    heat = wish.model.temperature if isinstance(wish.model, JudgeEndpoint) else 0.0
    return Asked(stem(one.id), one.messages(attempt > 1), wish.max_tokens, heat, copy=attempt - 1)


def _purse(wish: JudgeSpec) -> tuple[AskBudgetSpec, Any]:
    if isinstance(wish.model, JudgeEndpoint):
        return wish.model.budget, wish.model.price
    return AskBudgetSpec(), None


def _asker(
    spec: EvaluateSpec, inputs: Mapping[str, Artifact], at: Context, answers: Answers, purse: Purse
) -> Asker:
    wish = spec.judge
    assert wish is not None
    if isinstance(wish.model, JudgeEndpoint):
        from ..asking.endpoint import EndpointAsker

        return EndpointAsker(wish.model, lent(wish.model, at), answers, purse)
    from luthier.models.place import place

    from ..asking.local import LocalAsker

    where = place(spec.device, spec.dtype, "evaluate")
    given = lent(LocalSettings(where.device, where.dtype), at)
    parts = {part: inputs[f"{ROLE}/{part}"] for part in ("model", "base") if f"{ROLE}/{part}" in inputs}
    given.folders = {part: str(at.folder(one)) for part, one in parts.items()}
    given.digests = {part: one.digest for part, one in parts.items()}
    return LocalAsker(given, answers, purse)


def _file(wish: JudgeSpec, at: Context) -> Path:
    assert wish.human is not None
    return at.root / wish.human
