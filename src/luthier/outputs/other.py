"""The model that is asked where this one is not sure, or may not say what it said: here, or behind a server.

    local      a base or a release of this store, asked greedily, held to what this model is held to
    endpoint   OpenAI's protocol, over the one way out (data/egress): a host that the recipe allows, a key by reference

It sees the conversation as this model sees it, the instruction included, and nothing else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from luthier.core.errors import DataError
from luthier.data.egress import Declined, Door, Transient
from luthier.models.grammar import Grammar
from luthier.models.spec import Dtype

from .spec import EndpointModelSpec

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
Turns = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Told:
    """`text` is None where it would not answer, or nothing that counts; `why` says so. Tokens are None where they are not told."""

    text: str | None
    tokens_in: int | None = None
    tokens_out: int | None = None
    why: str = ""
    finish: str | None = None


class Other(Protocol):
    """Safe from any thread."""

    def ask(self, turns: Turns, max_tokens: int) -> Told:
        """Raises DataError where it cannot be asked at all."""


@dataclass(frozen=True)
class EndpointOther:
    """`labels`: an answer counts only if it is one of them, case and punctuation aside."""

    spec: EndpointModelSpec
    secret: Callable[[str], str]
    labels: tuple[str, ...] | None = None
    wait: Callable[[float], object] = time.sleep

    @property
    def identity(self) -> dict[str, Any]:
        """What an answer follows from beside the question."""
        return {"url": self.spec.url, "model": self.spec.model, "labels": self.labels and list(self.labels)}

    def ask(self, turns: Turns, max_tokens: int) -> Told:
        asked = {
            "model": self.spec.model,
            "messages": [{"role": turn["role"], "content": turn["content"]} for turn in turns],
            "max_tokens": max_tokens,
            "temperature": 0.0,
        }
        for attempt in range(self.spec.tries):
            try:
                return self._counted(completion(Door(self.spec, self.secret).post("chat/completions", asked)))
            except Declined as error:
                return Told(None, why=str(error))
            except Transient as error:
                if attempt + 1 == self.spec.tries:
                    raise DataError(
                        f"the fallback: {self.spec.url} {error}; tried {attempt + 1} times.",
                        remedy="Run again when it answers.",
                    ) from None
                self.wait(min(error.wait_s or FIRST_WAIT_S * 2**attempt, LONGEST_WAIT_S))
        raise AssertionError("tries is at least 1")

    def _counted(self, told: Told) -> Told:
        if self.labels is None or told.text is None:
            return told
        from .steps.snap import plain

        said = plain(told.text)
        found = [label for label in self.labels if plain(label) == said]
        if len(found) == 1:
            return Told(found[0], told.tokens_in, told.tokens_out)
        return Told(None, told.tokens_in, told.tokens_out, "it gave no label")


def completion(told: Mapping[str, Any]) -> Told:
    """What a chat completion says. Raises Transient for one without a message."""
    try:
        choice = told["choices"][0]
        text, refusal = choice["message"]["content"], choice["message"].get("refusal")
        usage = told.get("usage") or {}
        read, written = (_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise Transient("answers without a message") from None
    if refusal or not isinstance(text, str):
        return Told(None, read, written, "it refuses")
    return Told(text, read, written, finish=choice.get("finish_reason"))


def _count(told: Any) -> int | None:
    return None if told is None else int(told)


ANSWERING_FORMS: tuple[Literal["merged", "adapter", "int8", "int4"], ...] = (
    "merged",
    "adapter",
    "int8",
    "int4",
)
"""The folders of a package that our own engine answers from, the one that it takes first."""


def model_folder(folder: Path) -> Path:
    """Of a base or a package: where its weights are."""
    return next((folder / form for form in ANSWERING_FORMS if (folder / form).is_dir()), folder)


class LocalOther:
    """Loaded at the first question. `labels` and `grammar` are what its answers are held to."""

    def __init__(
        self,
        folder: Path,
        base_folder: Path | None,
        *,
        dtype: Dtype,
        device: str,
        labels: tuple[str, ...] | None = None,
        grammar: Grammar | None = None,
    ) -> None:
        self._folder, self._base_folder = folder, base_folder
        self._dtype, self._device = dtype, device
        self._labels, self._grammar = labels, grammar
        self._lock = threading.Lock()
        self._loaded: tuple[Any, Any] | None = None

    def ask(self, turns: Turns, max_tokens: int) -> Told:
        from luthier.core.errors import ModelError
        from luthier.models.generate import score_choices, write

        with self._lock:
            model, template = self._model()
            try:
                ids = template.prompt(list(turns))
                if self._labels:
                    [row] = score_choices(model, template, [ids], self._labels)
                    return Told(self._labels[max(range(len(row)), key=row.__getitem__)], len(ids), 1)
                room = min(max_tokens, template.context - len(ids))
                [[said]] = write(model, template, [ids], room, grammar=self._grammar)
            except ModelError as error:  # too long for it, or its template refuses the conversation
                return Told(None, why=error.message)
            return Told(said.text, len(ids), said.tokens)

    def _model(self) -> tuple[Any, Any]:
        if self._loaded is None:
            from luthier.models.template import Template
            from luthier.models.weights import describe, load, load_tokenizer

            speaks = self._base_folder or self._folder
            template = Template(load_tokenizer(speaks), describe(speaks).context)
            model = load(self._folder, base_folder=self._base_folder, dtype=self._dtype, device=self._device)
            self._loaded = model, template
        return self._loaded
