"""Models that evals and graders ask: of the project or known bases, each opened once, answered by its engine as a server would."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from luthier.core.errors import Interrupted, LuthierError, SpecError
from luthier.evaluation.asking.question import Answer
from luthier.evaluation.graders.asking import Sampling, Turns

if TYPE_CHECKING:
    from luthier.serving.engine import Engine, Request

    from .app import App

MOST_MODELS = 4
Stopped = Callable[[], bool]


class Declined(SpecError):
    """The model cannot answer this very question."""


class EvalModels:
    """evaluation.graders.asking.Models. One question at a time; close it."""

    def __init__(self, app: App, stopped: Stopped = lambda: False) -> None:
        self._app, self._stopped = app, stopped
        self._open: dict[str, Engine] = {}
        self._lock = threading.Lock()

    def open(self, model: str) -> Engine:
        """Raises LuthierError where there is no such model, or it cannot be loaded."""
        if model not in self._open:
            if len(self._open) >= MOST_MODELS:
                raise SpecError(
                    f"more than {MOST_MODELS} models would be asked in one run.", remedy="Use fewer models."
                )
            self._open[model] = self._app.engine(model).engine
        return self._open[model]

    def ask(self, model: str, turns: Turns, sampling: Sampling) -> Answer:
        """Raises Declined for a question that it cannot take, LuthierError where it cannot be asked, Interrupted."""
        from luthier.serving.engine import Cancelled, Refused, Unavailable

        with self._lock:
            engine = self.open(model)
            text, refusal, finish, usage = [], None, None, None
            try:
                for chunk in engine.generate(_request(turns, sampling), self._stopped):
                    text.append(chunk.text)
                    usage, finish, refusal = chunk.usage, chunk.finish or finish, chunk.refusal or refusal
            except Refused as error:
                raise Declined(error.message, remedy=error.remedy) from None
            except Cancelled:
                raise Interrupted("stopped; what was answered is kept.") from None
            except Unavailable as error:
                raise LuthierError(error.message, remedy=error.remedy) from None
        read, written = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
        if refusal is not None:
            return Answer(None, refusal, True, read, written)
        return Answer("".join(text), "", finish != "length", read, written)

    def close(self) -> None:
        for engine in self._open.values():
            engine.close()
        self._open.clear()


def _request(turns: Turns, sampling: Sampling) -> Request:
    from luthier.models.grammar import Grammar
    from luthier.serving.engine import Message, Request

    constrain: tuple[str, ...] | Grammar | None = sampling.labels or None
    if sampling.schema is not None:
        constrain = Grammar("json_schema", json.dumps(sampling.schema, ensure_ascii=False))
    messages = tuple(Message(role, content) for role, content in turns)  # type: ignore[arg-type]
    return Request(
        messages,
        max_tokens=None if sampling.labels else sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=sampling.seed,
        constrain=constrain,
    )
