"""Tokens from a server that speaks OpenAI's completions protocol: the prompt goes there as token ids that the model's own template has
rendered here, so that nobody else's idea of the template counts.

    write     POST /completions, streamed, with log-probabilities
    score     the same with `echo`: log-probabilities of prompt and label, which must be told in full, or it is refused

`dialect` says what a server knows beyond that: "openai" nothing; "vllm" token ids of the answer, grammars, and the log-probabilities of
given tokens, by which labels are walked (`echo` with log-probabilities ended vLLM's CPU build when it was tried).
Not here: which server, and whether it may be asked (vllm_engine, upstream_engine).
"""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from luthier.core.errors import DataError, ModelError
from luthier.data.egress import Declined, Door, EgressSpec, Transient
from luthier.models.grammar import Grammar
from luthier.models.said import Certain, Step
from luthier.serving.backend import Drawn, Unwanted, Wish, among
from luthier.serving.engine import Cancelled, Health, Refused, Unavailable

Dialect = Literal["openai", "vllm"]
_SEEDS = 2**31 - 1
LABELS_AT_ONCE = 16
FAULT_S = 10.0
PLACES_AT_ONCE, TOKENS_AT_ONCE = 64, 100  # vLLM takes 128 tokens


class CompletionsBackend(Drawn):
    """`speaks`: the folder whose tokenizer and template the server's model has."""

    draws_as_measured = False
    writes = True

    def __init__(
        self,
        name: str,
        speaks: Path,
        *,
        slots: int,
        dialect: Dialect,
        spec: Callable[[], EgressSpec],
        secret: Callable[[str], str],
    ) -> None:
        self.name, self.slots, self._speaks, self._dialect = name, slots, speaks, dialect
        self._spec, self._secret = spec, secret
        self._template: Any = None
        self.clock: Callable[[], float] = time.monotonic
        self._fault, self._until_s = "", 0.0

    @property
    def template(self) -> Any:
        return self._template

    @property
    def told(self) -> str:
        """What it answers from, for a person."""
        spec = self._spec()
        return f"{spec.model} at {spec.url}; {self.slots} streams"

    def load(self) -> None:
        """Reads the tokenizer; the server is asked when something is."""
        if self._template is None:
            from luthier.models.template import Template
            from luthier.models.weights import describe, load_tokenizer

            template = Template(load_tokenizer(self._speaks), describe(self._speaks).context)
            template.need_chat()
            self._template = template

    def close(self) -> None:
        self._template = None

    def health(self) -> Health:
        """As the last question found it: nobody is asked for this. A fault is believed for FAULT_S, then the next question may try:
        who is not ready is sent none, and would never learn that the server is back."""
        if self._template is None:
            return Health(False, "not loaded")
        ready = not self._fault or self.clock() >= self._until_s
        return Health(ready, "ready" if ready else self._fault)

    def number(self, prompt_ids: Sequence[int], unwanted: Unwanted) -> float | None:
        return None

    # -- writing --------------------------------------------------------------------------------------------------------

    def write(self, wish: Wish, unwanted: Unwanted) -> Generator[Step, None, None]:
        ids, text = self._template.end_ids, Certain(self._template, wish.stop)
        if wish.seed is None:
            wish = replace(wish, seed=secrets.randbelow(_SEEDS))
        held: Step | None = None  # the last token so far, which may prove to be the last of all
        with (
            self._watched(),
            closing(self._door().stream("completions", self._body(wish), unwanted)) as chunks,
        ):
            for chunk in chunks:
                for choice in chunk.get("choices") or ():
                    for step, stopped in self._steps(choice, wish, text):
                        if held is not None:
                            yield held
                        held = step
                        if stopped or step.token_id in ids:
                            yield _ending(step, "" if stopped else text.finish(), "stop")
                            return
                    if finish := choice.get("finish_reason"):
                        last = held or Step(None, "", math.nan)
                        yield _ending(last, text.finish(), "length" if finish == "length" else "stop")
                        return
        if unwanted():
            raise Cancelled
        raise Unavailable(f"The engine {self.name} ended this answer before its end.", remedy="Ask again.")

    def _body(self, wish: Wish) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._spec().model,
            "prompt": list(wish.prompt_ids),
            "max_tokens": wish.max_tokens,
            "temperature": wish.temperature,
            "top_p": wish.top_p,
            "seed": (wish.seed or 0) % _SEEDS,
            "logprobs": max(1, wish.logprobs or 0),  # always: so each token is told, and can be counted
            "stream": True,
        }
        if self._dialect == "vllm":
            body |= {
                "return_tokens_as_token_ids": True,
                "add_special_tokens": False,
                **_salted(wish.cache_salt),
            }
        if wish.grammar is not None:
            body |= self._held(wish.grammar)
        return body

    def _held(self, grammar: Grammar) -> dict[str, Any]:
        if self._dialect != "vllm" or grammar.kind == "calls":
            calls = grammar.kind == "calls"
            raise Refused(
                f"The engine {self.name} cannot hold an answer to {'a call' if calls else 'a schema or an expression'}.",
                param="tool_choice" if calls else "response_format",
                code="unsupported_parameter",
                remedy="Leave it out, or serve the model with --engine llamacpp.",
            )
        if grammar.kind == "regex":
            return {"structured_outputs": {"regex": grammar.written}}
        import llguidance

        # With what blanks may stand between the parts of JSON, for the library that reads it so; others would allow them without end.
        [one] = json.loads(grammar.compiled(llguidance))["grammars"]
        return {"structured_outputs": {"json": one["json_schema"]}}

    def _steps(self, choice: Mapping[str, Any], wish: Wish, text: Certain) -> Iterator[tuple[Step, bool]]:
        """Of one message, which holds one or several tokens, or none; its text belongs to the last of them."""
        told = choice.get("logprobs") or {}
        tokens, logprobs = told.get("tokens") or [], told.get("token_logprobs") or []
        if not tokens and not choice.get("text"):
            return
        if not tokens:
            raise ModelError(
                f"the server behind the engine {self.name} tells no log-probabilities.",
                remedy="Use one that does: vLLM, or --engine llamacpp.",
            )
        delta, stopped = text.add_text(choice.get("text") or "")
        for n, token in enumerate(tokens):
            top = (told.get("top_logprobs") or [])[n : n + 1]
            likeliest = sorted((top[0] or {}).items(), key=lambda one: -one[1]) if top else []
            if wish.logprobs is None:
                likeliest = []
            last = n == len(tokens) - 1
            step = Step(
                _name(token),
                delta if last else "",
                float(logprobs[n]),
                tuple((_name(one), float(p)) for one, p in likeliest[: wish.logprobs or 0]),
            )
            yield step, stopped and last

    # -- scoring --------------------------------------------------------------------------------------------------------

    def score(
        self, prompt_ids: Sequence[int], labels: Sequence[str], unwanted: Unwanted, cache_salt: str = ""
    ) -> Sequence[float]:
        from luthier.models.choices import answers_of
        from luthier.models.template import TooLong

        answers, ids = answers_of(self._template, labels), list(prompt_ids)
        longest = max(map(len, answers))
        if len(ids) + longest > self._template.context:  # it writes one token more, which nobody reads
            raise TooLong(len(ids) + longest, self._template.context)
        totals: list[float] = []
        if self._dialect == "vllm":
            totals = self._walked(ids, answers, unwanted, cache_salt)
        else:
            for begin in range(0, len(answers), LABELS_AT_ONCE):
                if unwanted():
                    raise Cancelled
                totals += self._totals(ids, answers[begin : begin + LABELS_AT_ONCE])
        return among(totals)

    def _walked(
        self, ids: list[int], answers: Sequence[list[int]], unwanted: Unwanted, cache_salt: str
    ) -> list[float]:
        """By the next token's log-probability after each beginning of a label: vLLM tells those of given tokens, all places at once."""
        after: dict[tuple[int, ...], set[int]] = {}
        for answer in answers:
            for n, token in enumerate(answer):
                after.setdefault(tuple(answer[:n]), set()).add(token)
        known: dict[tuple[int, ...], float] = {}
        for places, tokens in _together(after):
            if unwanted():
                raise Cancelled
            body = {
                "model": self._spec().model,
                "prompt": [[*ids, *place] for place in places],
                "max_tokens": 1,
                "temperature": 0.0,
                "logprobs": 1,
                "logprob_token_ids": sorted(tokens),
                "return_tokens_as_token_ids": True,
                "add_special_tokens": False,
                **_salted(cache_salt),
            }
            with self._watched():
                told = self._door().post("completions", body)
            choices = sorted(told.get("choices") or [], key=lambda one: one.get("index", 0))
            for place, choice in zip(places, choices, strict=False):
                top = ((choice.get("logprobs") or {}).get("top_logprobs") or [{}])[0] or {}
                known.update(
                    {(*place, one): float(p) for name, p in top.items() if (one := _id(name)) is not None}
                )
        try:
            return [math.fsum(known[tuple(one[: n + 1])] for n in range(len(one))) for one in answers]
        except KeyError:
            raise self._tells_none("of given tokens (logprob_token_ids)") from None

    def _tells_none(self, what: str) -> Refused:
        return Refused(
            f"The server behind the engine {self.name} does not tell the log-probabilities {what}, so labels cannot be compared.",
            param="labels",
            code="unsupported_parameter",
            remedy="Use a current vLLM, or --engine llamacpp or transformers.",
        )

    def _totals(self, ids: list[int], answers: Sequence[list[int]]) -> list[float]:
        body = {
            "model": self._spec().model,
            "prompt": [ids + one for one in answers],
            "max_tokens": 1,
            "temperature": 0.0,
            "echo": True,
            "logprobs": 1,
        }
        with self._watched():
            told = self._door().post("completions", body)
        choices = sorted(told.get("choices") or [], key=lambda one: one.get("index", 0))
        found = []
        for answer, choice in zip(answers, choices, strict=False):
            logprobs = ((choice.get("logprobs") or {}).get("token_logprobs") or [])[: len(ids) + len(answer)]
            own = logprobs[len(ids) :]
            if len(own) == len(answer) and all(isinstance(one, float | int) for one in own):
                found.append(math.fsum(own))
        if len(found) != len(answers):
            raise self._tells_none("of a prompt (echo)")
        return found

    def _door(self) -> Door:
        return Door(self._spec(), self._secret)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Errors in our words, and health as it was found."""
        try:
            yield
        except Declined as error:
            raise Refused(
                f"The engine {self.name} declines: {error}.", param=None, code="invalid_value"
            ) from None
        except (Transient, DataError) as error:
            fault = (error.message if isinstance(error, DataError) else f"the server {error}").rstrip(".")
            self._fault, self._until_s = fault, self.clock() + FAULT_S
            raise Unavailable(
                f"The engine {self.name} does not answer: {fault}.", remedy="Ask again."
            ) from None
        self._fault = ""


def _together(
    after: Mapping[tuple[int, ...], set[int]],
) -> Iterator[tuple[list[tuple[int, ...]], set[int]]]:
    """Places and the tokens that are asked at all of them, as many as one question may have.

    >>> [(places, sorted(tokens)) for places, tokens in _together({(): {1, 2}, (1,): {2, 3}})]
    [([(), (1,)], [1, 2, 3])]
    """
    places: list[tuple[int, ...]] = []
    tokens: set[int] = set()
    for place, wanted in sorted(after.items()):
        ordered = sorted(wanted)
        for begin in range(0, len(ordered), TOKENS_AT_ONCE):
            more = set(ordered[begin : begin + TOKENS_AT_ONCE])
            if places and (len(tokens | more) > TOKENS_AT_ONCE or len(places) == PLACES_AT_ONCE):
                yield places, tokens
                places, tokens = [], set()
            places, tokens = [*places, place], tokens | more
    if places:
        yield places, tokens


def _salted(cache_salt: str) -> dict[str, str]:
    """vLLM's own word for it; it takes no empty one."""
    return {"cache_salt": cache_salt} if cache_salt else {}


def _ending(step: Step, rest: str, finish: Literal["stop", "length"]) -> Step:
    return Step(step.token_id, step.text_delta + rest, step.logprob, step.top, finish)


def _name(token: str) -> int | str:
    """`token_id:12`, as vLLM tells ids, or the token's text."""
    number = token.removeprefix("token_id:")
    return int(number) if number != token and number.isdecimal() else token


def _id(token: str) -> int | None:
    found = _name(token)
    return found if isinstance(found, int) else None
