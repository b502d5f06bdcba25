"""A server that speaks OpenAI's protocol, asked by a few threads at once.

A fault that may pass (429, 5xx, a timeout, half an answer) is tried again, later each time, and as late as the server asks. A
server that goes on failing stops the run with an error, because rows that depended on its mood would be other rows tomorrow.
A question that it declines (400, 413, 422) is an answer like any other: it is kept, and that row is not made.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any

from pydantic import Field

from luthier.core.errors import DataError
from luthier.data.draws import Draw
from luthier.data.egress import Declined, Door, EgressSpec, Transient, Unusable
from luthier.data.rules.rule import Lent
from luthier.outputs.other import completion
from luthier.store.answers import Answers

from .purse import PriceSpec, Purse
from .question import Answer, Question

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 120.0
LOOK_S = 0.2
LONGEST_TOKEN = (
    128  # characters, such as a run of blanks; more than that of each token is another server's mistake
)
FIRST_DECLINED = (
    5  # if so many of the first questions are declined, and none answered, it is not the rows' fault
)


class EndpointSpec(EgressSpec):
    price: PriceSpec | None = Field(default=None, exclude=True)
    """What a million tokens cost there."""
    at_once: int = Field(default=4, ge=1, le=64, exclude=True)
    """How many requests are under way at once."""
    tries: int = Field(default=5, ge=1, le=20, exclude=True)
    """How often a request is sent that fails for a reason that may pass."""


@dataclass
class _Course:
    """How it goes, told to all threads."""

    stop: threading.Event
    answered: int = 0
    declined: int = 0


class EndpointAsker:
    """question.Asker."""

    def __init__(self, spec: EndpointSpec, lent: Lent, answers: Answers, purse: Purse) -> None:
        self._spec, self._lent, self._answers, self._purse = spec, lent, answers, purse
        self._door = Door(spec, lent.secret)

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"url": self._spec.url, "model": self._spec.model}

    def ask(self, questions: Sequence[tuple[str, Question]]) -> None:
        course = _Course(threading.Event())
        waiting = iter(questions)
        under_way: set[Future[None]] = set()
        done = 0
        with ThreadPoolExecutor(self._spec.at_once, thread_name_prefix="ask") as threads:
            try:
                while True:
                    self._lent.check()
                    self._lent.progress(f"ask {self._spec.host}", done, len(questions))
                    for key, question in _some(waiting, 2 * self._spec.at_once - len(under_way)):
                        under_way.add(threads.submit(self._one, key, question, course))
                    if not under_way:
                        return
                    finished, under_way = wait(under_way, LOOK_S, FIRST_COMPLETED)
                    done += len(finished)
                    for one in finished:
                        one.result()
            except BaseException:
                course.stop.set()  # those under way are paid for: they are waited for and kept, and no more begin
                for one in under_way:
                    one.cancel()
                raise

    def _one(self, key: str, question: Question, course: _Course) -> None:
        try:
            answer = self._insist(key, question, course)
            if answer is not None:
                self._keep(key, question, answer, course)
        except BaseException:
            course.stop.set()  # before another thread begins
            raise

    def _keep(self, key: str, question: Question, answer: Answer, course: _Course) -> None:
        course.answered += answer.text is not None
        course.declined += answer.text is None
        if course.declined >= FIRST_DECLINED and not course.answered:
            raise DataError(
                f"{self._spec.url} declines every request: {answer.why}.",
                remedy="Check the model's name, and what it may be asked (max_tokens, temperature).",
            )
        self._answers.keep([(key, question.about, answer.plain())])

    def _insist(self, key: str, question: Question, course: _Course) -> Answer | None:
        """None where all have been told to stop. Raises DataError."""
        draw = Draw("wait", key)
        for attempt in range(self._spec.tries):
            if course.stop.is_set():
                return None
            self._purse.take(question)
            answer: Answer | None = None
            try:
                start_s = time.perf_counter()
                answer = self._once(question)
                answer = replace(answer, seconds=time.perf_counter() - start_s)
                return answer
            except Declined as error:
                return Answer(None, str(error))
            except Transient as error:
                if isinstance(error, Unusable):
                    answer = Answer(None, str(error), False, error.tokens_in, error.tokens_out)
                backoff_s = FIRST_WAIT_S * 2**attempt * (0.5 + draw.share())
                wait_s = backoff_s if error.wait_s is None else max(error.wait_s, 0.0)
                if attempt + 1 == self._spec.tries or wait_s > LONGEST_WAIT_S:
                    asks = f" and asks to wait {wait_s:.0f} s" if wait_s > LONGEST_WAIT_S else ""
                    raise DataError(
                        f"{self._spec.url} {error}{asks}; tried {attempt + 1} times.",
                        remedy="Run again when it answers: what was answered until now is kept and not asked again.",
                    ) from None
            finally:
                self._purse.paid(question, answer)
            course.stop.wait(wait_s)
        return None

    def _once(self, question: Question) -> Answer:
        told = self._door.post(
            "chat/completions",
            {
                "model": self._spec.model,
                "messages": [{"role": role, "content": content} for role, content in question.messages],
                "max_tokens": question.max_tokens,
                "temperature": question.temperature,
            },
        )
        said = completion(told)
        read = question.tokens_in if said.tokens_in is None else said.tokens_in
        written = question.max_tokens if said.tokens_out is None else said.tokens_out
        if said.text is not None and len(said.text) > LONGEST_TOKEN * (question.max_tokens + 16):
            raise Unusable(
                f"answers {len(said.text):,} characters where {question.max_tokens:,} tokens were asked for",
                max(read, 0),
                max(written, 0),
            )
        if said.text is None:
            return Answer(None, "the model refuses", True, read, written)
        return Answer(said.text, "", said.finish != "length", max(read, 0), max(written, 0))


def _some(waiting: Iterator[tuple[str, Question]], n: int) -> Iterator[tuple[str, Question]]:
    for _ in range(n):
        one = next(waiting, None)
        if one is None:
            return
        yield one
