"""Models that evals and graders ask: bases and the project's own, each opened once, answering by its engine as a server would.

A run's job works in its project's home alone, and cannot look up what the server offers. So a model's name is settled when the run is made
(`where`), and the job opens what it stands for (`opened`).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from luthier.core.errors import Interrupted, LuthierError, SpecError
from luthier.evaluation.asking.question import Answer
from luthier.evaluation.graders.asking import Sampling, Turns

if TYPE_CHECKING:
    from luthier.serving.engine import Engine, Request

    from .app import App
    from .site import Caller, Site

MOST_MODELS = 4
Stopped = Callable[[], bool]


def where(site: Site, caller: Caller, model: str) -> dict[str, str]:
    """What a name stands for: {"base": ...} as a recipe names one, or {"release": ...} of the project. Raises NotFound, SpecError."""
    found = site.models.find(caller, model)
    if found.project is None:
        return {"base": found.what}
    if found.project != caller.project:
        raise SpecError(
            f"the model {model[:200]!r} is another project's, which a run cannot open.",
            remedy="Ask it over /v1/chat/completions, and bring the answers as samples (a source of type jsonl).",
        )
    return {"release": found.what}


def opened(app: App, told: Mapping[str, str]) -> Engine:
    """Of what `where` said. Raises LuthierError."""
    return (
        app.models.engine(told["release"]) if "release" in told else app.models.base_engine(told["base"])
    ).engine


class Declined(SpecError):
    """The model cannot answer this very question."""


class EvalModels:
    """evaluation.graders.asking.Models. `opens`: a name's engine, loaded. One question at a time; close it."""

    def __init__(self, opens: Callable[[str], Engine], stopped: Stopped = lambda: False) -> None:
        self._opens, self._stopped = opens, stopped
        self._open: dict[str, Engine] = {}
        self._lock = threading.Lock()

    def open(self, model: str) -> Engine:
        """Raises LuthierError where there is no such model, or it cannot be loaded."""
        if model not in self._open:
            if len(self._open) >= MOST_MODELS:
                raise SpecError(
                    f"more than {MOST_MODELS} models would be asked in one run.", remedy="Use fewer models."
                )
            self._open[model] = self._opens(model)
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
