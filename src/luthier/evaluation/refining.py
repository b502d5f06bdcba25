"""A model's answers as they will be served, and those of another release as they are: written under the grammar, voted on, through the steps, with a confidence that
may be believed (luthier/outputs). What the model itself said stays in the predictions, so every step can be done again.

    ask     what the model says, several times or held to a grammar where that is wished
    told    the answer that is made of it
    second  afterwards, over the finished lines: another model asked where this one was not sure
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core.stage import Context
from luthier.data.forgotten import stem
from luthier.outputs.answering import Answering, Sample, Settled, about, samples
from luthier.outputs.calibration import Belief
from luthier.outputs.other import EndpointOther, Other
from luthier.outputs.spec import AnsweringSpec
from luthier.outputs.step import About
from luthier.store.answers import ANSWERS, Answers, key_of
from luthier.store.files import write_atomic

from .predictions import said_of
from .questions import Asked, Question
from .tasks import Answer, Task

KEPT_EVERY = 16
"""Answers of another model between two writings of what is known."""


@dataclass(frozen=True)
class Refining:
    """`sure`: whether how sure the model is of a free text is wanted, which costs the passes of writing it in a way that tells."""

    answering: Answering
    task: Mapping[str, Any]
    max_tokens: int
    sure: bool = False

    @classmethod
    def of(
        cls,
        spec: AnsweringSpec,
        task: Mapping[str, Any],
        max_tokens: int,
        learnt: Mapping[str, Any] | None = None,
        sure: bool = False,
    ) -> Refining:
        """`spec` as it was written, without files; `learnt`: calibration.json. Raises SpecError."""
        bound = spec.bound(task)
        bound.check()
        belief = Belief.read(learnt)
        below = bound.fallback is not None and bound.fallback.below is not None
        return cls(Answering.of(bound, belief), task, max_tokens, sure or below or belief.knots is not None)

    @classmethod
    def as_served(cls, packed: Mapping[str, Any], task: Mapping[str, Any], max_tokens: int) -> Refining:
        """Of another release, from the luthier.json of its package; a model that it would ask is left out. Raises SpecError."""
        written = packed.get("answering") or {"constrain": packed.get("constrain")}
        spec = AnsweringSpec.model_validate(written).model_copy(update={"fallback": None})
        return cls.of(spec, task, max_tokens, packed)

    @property
    def spec(self) -> AnsweringSpec:
        return self.answering.spec

    def about(self, question: Question) -> About:
        return about(question.prompt or (), self.task["labels"])

    def writes(self, model: Any) -> bool:
        """Whether the texts are made here, and not by the task: it knows neither grammars nor votes."""
        from luthier.models.head import head_of

        if head_of(model) is not None:
            return False
        if self.task["kind"] == "classify":
            return self.spec.constrain != "labels"
        return self.spec.held is not None or self.spec.vote is not None or self.sure

    def ask(
        self, model: Any, template: Any, sheet: Sequence[Asked], part: Task, with_loss: bool, with_text: bool
    ) -> list[tuple[Answer, tuple[Sample, ...]]]:
        """What was said to each question, and every sample of it."""
        if not with_text or not self.writes(model):
            return [(answer, ()) for answer in part.ask(model, template, sheet, with_loss, with_text)]
        blank = (
            [
                Answer(None, loss=one.loss, rejected=one.rejected)
                for one in part.ask(model, template, sheet, True, with_text=False)
            ]
            if with_loss
            else [Answer(None) for _ in sheet]
        )
        asked = [one for one in sheet if one.question.prompt is not None]
        room = self.max_tokens if self.task["kind"] == "classify" else part.room(template)
        texts = iter(samples(model, template, [one.prompt_ids for one in asked], room, self.spec))
        told = []
        for answer, one in zip(blank, sheet, strict=True):
            mine = () if one.question.prompt is None else next(texts)
            told.append((replace(answer, text=mine[0].text) if mine else answer, mine))
        return told

    def told(self, answer: Answer, said: Sequence[Sample], question: Question) -> Answer:
        """The answer as it will be served, with what of it is kept."""
        text = answer.text
        if text is None:
            return answer
        if answer.probabilities is not None:
            answer, raw_sure = self._believed(answer)
            settled = self.answering.label(text, raw_sure, answer.probability, self.about(question))
        else:
            settled = self.answering.settle(said or [Sample(text)], self.about(question))
        return replace(answer, text=settled.text, probability=settled.sure, kept=self._kept(settled, said))

    def _believed(self, answer: Answer) -> tuple[Answer, float | None]:
        belief = self.answering.belief
        if not belief.changes:
            return answer, answer.probability
        with np.errstate(divide="ignore"):
            warm = np.exp(belief.labels(np.log(np.array([answer.probabilities]))))[0].tolist()
        return replace(answer, probability=max(warm), probabilities=tuple(warm)), answer.probability

    def _kept(self, settled: Settled, said: Sequence[Sample]) -> dict[str, Any]:
        voted = self.spec.vote is not None and len(said) > 1
        return {
            "raw": settled.raw,
            "raw_probability": settled.raw_sure,
            "samples": [{"text": one.text, "logprob": one.logprob} for one in said] if voted else None,
            "refusal": settled.refusal,
            "asked_for": self.answering.asks_other(settled),
        }


def second(
    lines: Sequence[dict[str, Any]],
    refining: Refining,
    other: Other,
    questions: Sequence[Question],
    part: Task,
    scratch: Path,
    at: Context,
) -> list[dict[str, Any]]:
    """The tuned model's lines with another model's answers where `asked_for` says so. What it has said is kept in `scratch`, and what
    a server has said in LUTHIER_HOME/answers.db, as that of every server, so that nothing is asked and paid for twice. Raises
    DataError where it cannot be asked."""
    by_id = {question.id: question for question in questions}
    path = scratch / "other.json"
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    wanted = [line for line in lines if line["model"] == "tuned" and line.get("asked_for")]
    try:
        for done, line in enumerate(wanted):
            at.check()
            if line["id"] in known:
                continue
            at.progress("ask the fallback", done, len(wanted))
            known[line["id"]] = _asked(other, by_id[line["id"]], refining.max_tokens, at)
            if done % KEPT_EVERY == 0:
                write_atomic(path, json.dumps(known).encode())
    finally:
        write_atomic(path, json.dumps(known).encode())
    found = {
        line["id"]: _with_other(line, known[line["id"]], refining, by_id[line["id"]], part) for line in wanted
    }
    return [found.get(line["id"], line) if line["model"] == "tuned" else line for line in lines]


def _asked(other: Other, question: Question, max_tokens: int, at: Context) -> dict[str, Any]:
    """What it says, as plain values."""
    if not isinstance(other, EndpointOther):
        return _said_by(other, question, max_tokens)
    turns = [[turn["role"], turn["content"]] for turn in question.prompt or ()]
    key = key_of({"for": "fallback", **other.identity, "messages": turns, "max_tokens": max_tokens})
    with Answers(at.home / ANSWERS) as answers:
        if known := answers.find([key]):
            return dict(known[key])
        told = _said_by(other, question, max_tokens)
        answers.keep([(key, stem(question.id), told)])
    return told


def _said_by(other: Other, question: Question, max_tokens: int) -> dict[str, Any]:
    told = other.ask(question.prompt or (), max_tokens)
    return {
        "text": told.text,
        "tokens_in": told.tokens_in,
        "tokens_out": told.tokens_out,
        "why": told.why,
    }


def _with_other(
    line: Mapping[str, Any], told: Mapping[str, Any], refining: Refining, question: Question, part: Task
) -> dict[str, Any]:
    mine = Settled(
        line["prediction"], line["refusal"], line["raw"], line["raw_probability"], line["probability"]
    )
    settled = refining.answering.with_other(mine, told["text"], line["asked_for"], refining.about(question))
    counts = {"other_tokens_in": told["tokens_in"], "other_tokens_out": told["tokens_out"]}
    if settled.other is None:
        return {**line, **counts}
    return {
        **line,
        **counts,
        "prediction": settled.text,
        "correct": part.correct(line["reference"], settled.text),
        "probability": settled.sure,
        "refusal": settled.refusal,
        "other": settled.other,
        **said_of(line, question, settled.text, part),
    }


def own(
    lines: Sequence[Mapping[str, Any]], refining: Refining, questions: Mapping[str, Question]
) -> list[Settled]:
    """What was settled before another model was asked, again from what was kept: the auditor's door. It asks no model."""
    found = []
    for line in lines:
        said = [Sample(one["text"], one["logprob"]) for one in line["samples"] or ()]
        if not said:
            sure = line["raw_probability"]
            said = [Sample(line["raw"], math.log(sure) if sure else None)]
        found.append(refining.answering.settle(said, refining.about(questions[line["id"]])))
    return found
