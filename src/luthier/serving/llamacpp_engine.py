"""The embedded engine for several streams at once: llama.cpp, with continuous batching, on a processor.

It serves what a release holds: whole weights as a GGUF file, or a base as one and the adapter beside it, written once into the store's
cache and named by their digests. Prompts are rendered by the model's own template as in training and sent as token ids.

    labels      exact: each label's tokens are walked under a grammar of tokens, and their own log-probabilities added up
    grammars    the same library reads them as elsewhere (llguidance), inside llama.cpp
    votes       samples of the same distribution as evaluation drew, but not the same ones
    not here    models with a head of their own, IA3 and DoRA adapters, families that to_gguf.py does not write
"""

from __future__ import annotations

import json
import math
import secrets
import threading
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError
from luthier.models.grammar import Grammar
from luthier.models.said import Certain, Step
from luthier.serving.backend import Drawn, LabelTokens, Unwanted, Wish, among
from luthier.serving.engine import Cancelled, Health, Unavailable
from luthier.serving.gguf_cache import FORMATS, Files, files_of
from luthier.serving.llamacpp_base import Base, Seat
from luthier.serving.opening import Opening, Settings, one_of, refuse_others, whole_number
from luthier.serving.package_engine import PackageEngine

STREAMS, TOKENS_A_STREAM = 8, 2048
SETTINGS = ("format", "streams", "threads")
_SEEDS = 2**32 - 1  # llama.cpp takes this one for "draw a seed"

_BASES: dict[tuple[Any, ...], Base] = {}
_OPENING = threading.Lock()


class LlamaCppEngine(PackageEngine):
    """Releases over one base share one process. `open` is how it is made."""

    @staticmethod
    def check(settings: Settings) -> tuple[str, int, int | None]:
        """Format, streams, threads. Raises as `open` does for what no model would change."""
        from luthier.models import llamacpp

        refuse_others(settings, "llamacpp", SETTINGS)
        llamacpp.need()
        return (
            one_of(settings, "format", tuple(FORMATS)),
            whole_number(settings, "streams", STREAMS, 256),
            whole_number(settings, "threads", None, 1024),
        )

    @classmethod
    def open(cls, what: Opening) -> LlamaCppEngine:
        """Settings: `format` (q8_0, or f16: as the weights are stored), `streams` (8), `threads` (one a core). Raises SpecError,
        ModelError, MissingPart."""
        form, streams, threads = cls.check(what.settings)
        backend = LlamaCppBackend(files_of(what, form), what.base_folder, streams=streams, threads=threads)
        return cls(backend, what.facts, other=what.other)


class LlamaCppBackend(Drawn):
    name = "llamacpp"
    draws_as_measured = False
    writes = True

    def __init__(
        self, files: Files, speaks: Path, *, streams: int = STREAMS, threads: int | None = None
    ) -> None:
        self.files = files
        self.slots = streams
        self._speaks = speaks
        self._threads = threads
        self._base: Base | None = None
        self._template: Any = None
        self._answers = LabelTokens()
        self._pieces: Any = None

    @property
    def template(self) -> Any:
        return self._template

    @property
    def told(self) -> str:
        """What it answers from, for a person."""
        from luthier.models.llamacpp import version

        return f"{self.files.told}; {self.slots} streams; llama.cpp by xllamacpp {version()}"

    @property
    def pid(self) -> int | None:
        return None if self._base is None else self._base.pid

    def load(self) -> None:
        if self._base is not None:
            return
        from luthier.models.template import Template
        from luthier.models.weights import describe, load_tokenizer

        context = describe(self._speaks).context
        template = Template(load_tokenizer(self._speaks), context)
        template.need_chat()
        key = (self.files.model, self.slots, self._threads)
        with _OPENING:
            base = _BASES.get(key)
            if base is None:
                tokens = min(self.slots * context, max(context, self.slots * TOKENS_A_STREAM))
                base = Base(
                    self.files.model,
                    context=context,
                    streams=self.slots,
                    tokens=tokens,
                    threads=self._threads,
                )
                _BASES[key] = base
        base.join(self.files.adapter)
        self._base, self._template = base, template

    def close(self) -> None:
        base, self._base, self._template = self._base, None, None
        if base is not None:
            base.leave(self.files.adapter)

    def health(self) -> Health:
        return Health(False, "not loaded") if self._base is None else self._base.health()

    # -- writing --------------------------------------------------------------------------------------------------------

    def write(self, wish: Wish, unwanted: Unwanted) -> Generator[Step, None, None]:
        base, ids = self._loaded(), list(wish.prompt_ids)
        with base.seat(
            self.files.adapter, ids, len(ids) + wish.max_tokens, unwanted, wish.cache_salt
        ) as seat:
            yield from self._written(seat, wish, ids, unwanted)

    def _loaded(self) -> Base:
        if self._base is None:
            raise Unavailable("The model is not loaded.", remedy="Load it, or wait until it is ready.")
        return self._base

    def _written(
        self, seat: Seat, wish: Wish, ids: list[int], unwanted: Unwanted
    ) -> Generator[Step, None, None]:
        ends, text = self._template.end_ids, Certain(self._template, wish.stop)
        if wish.seed is None:
            wish = replace(
                wish, seed=secrets.randbelow(_SEEDS)
            )  # ours, so that what it drew can be asked for again
        held: Step | None = None  # the last token so far, where it may prove to be the last of all
        made = 0
        with closing(seat.stream_of(_body(wish, ids), unwanted)) as chunks:
            for chunk in chunks:
                if chunk["stop"]:
                    finish = "stop" if chunk["stop_type"] == "eos" else "length"
                    rest = text.finish()
                    for step in self._cut(seat, wish, ids, chunk["tokens_predicted"] - made):
                        if held is not None:
                            yield held
                        held = step
                    last = held or Step(None, "", math.nan)
                    yield Step(last.token_id, last.text_delta + rest, last.logprob, last.top, finish)  # type: ignore[arg-type]
                    return
                if held is not None:
                    yield held
                steps, stopped = self._steps(seat, wish, ids, chunk, made, text)
                made = chunk["tokens_predicted"]
                ids += [step.token_id for step in steps if isinstance(step.token_id, int)]
                yield from steps[:-1]
                last = steps[-1]
                if stopped or last.token_id in ends:
                    rest = "" if stopped else text.finish()
                    yield Step(last.token_id, last.text_delta + rest, last.logprob, last.top, "stop")
                    return
                # A token without text may be one that llama.cpp ends at, though the template never writes it.
                held = last if made >= wish.max_tokens or not chunk["content"] else None
                if held is None:
                    yield last
        raise Unavailable("The engine ended this answer before its end.", remedy="Ask again.")

    def _cut(self, seat: Seat, wish: Wish, ids: Sequence[int], count: int) -> list[Step]:
        """The last tokens of an answer that was cut in the middle of a character."""
        if count <= 0 or wish.logprobs is None:
            return [Step(None, "", math.nan)] * count
        return self._told(seat, wish, ids, self._again(seat, wish, ids, None, count))

    def _told(self, seat: Seat, wish: Wish, ids: Sequence[int], tokens: Sequence[int]) -> list[Step]:
        """Parts of characters, one after the other, each with its log-probability."""
        found: list[Step] = []
        for n, token in enumerate(tokens):
            logprob, top = self._told_of(seat, [*ids, *tokens[:n]], token, wish.logprobs or 0)
            found.append(Step(token, "", logprob, top))
        return found

    def _steps(
        self, seat: Seat, wish: Wish, ids: Sequence[int], chunk: Any, made: int, text: Certain
    ) -> tuple[list[Step], bool]:
        """Of one message: its last token, after those that were only parts of the characters it completes."""
        token = chunk["tokens"][-1]
        before = chunk["tokens_predicted"] - made - 1
        steps: list[Step] = []
        if before > 0 and wish.logprobs is None:
            steps = [Step(None, "", math.nan)] * before
        elif before > 0:
            parts = self._parts(seat, ids, chunk["content"], token, before)
            steps = self._told(seat, wish, ids, parts or self._again(seat, wish, ids, token, before))
        delta, stopped = text.add_text(chunk["content"])
        logprob, top = math.nan, NONE_TOLD
        if wish.logprobs is not None:
            [place] = chunk["completion_probabilities"]
            logprob = place["logprob"]
            top = tuple((one["id"], one["logprob"]) for one in place["top_logprobs"][: wish.logprobs])
        return [*steps, Step(token, delta, logprob, top)], stopped

    # -- scoring --------------------------------------------------------------------------------------------------------

    def score(
        self, prompt_ids: Sequence[int], labels: Sequence[str], unwanted: Unwanted, cache_salt: str = ""
    ) -> Sequence[float]:
        from luthier.models.template import TooLong

        answers, ids = self._answers.of(self._template, labels, cache_salt), list(prompt_ids)
        longest = max(map(len, answers))
        if len(ids) + longest - 1 > self._template.context:
            raise TooLong(len(ids) + longest - 1, self._template.context)
        known: dict[tuple[int, ...], float] = {}  # a path -> ln p of its last token
        base = self._loaded()
        room = min(len(ids) + longest, base.tokens)  # the last token is told, and never read
        with base.seat(self.files.adapter, ids, room, unwanted, cache_salt) as seat:
            for answer in sorted(answers):  # neighbours begin alike, and what they share lies in the cache
                if unwanted():
                    raise Cancelled
                first = next(n for n in range(len(answer)) if tuple(answer[: n + 1]) not in known)
                for n, logprob in enumerate(
                    self._forced(seat, ids + answer[:first], answer[first:]), first + 1
                ):
                    known[tuple(answer[:n])] = logprob
        totals = [math.fsum(known[tuple(one[: n + 1])] for n in range(len(one))) for one in answers]
        return among(totals)

    def number(self, prompt_ids: Sequence[int], unwanted: Unwanted) -> float | None:
        return None

    def _forced(self, seat: Seat, ids: Sequence[int], path: Sequence[int]) -> list[float]:
        """ln p of each token of a path, given those before it."""
        grammar = "%llguidance {}\nstart: " + " ".join(f"<[{token}]>" for token in path) + "\n"
        told = seat.ask(
            {**_PLAIN, "prompt": list(ids), "n_predict": len(path), "n_probs": 1, "grammar": grammar}
        )
        if told["tokens"][: len(path)] != list(path):
            raise ModelError("llama.cpp left the path that it was held to.", remedy="Report this.")
        places = [(one["id"], one["logprob"]) for one in told["completion_probabilities"]]
        found: list[float] = []
        for n, token in enumerate(path):
            if places and places[0][0] == token:
                found.append(places.pop(0)[1])
            else:  # a part of a character comes without
                found.append(self._told_of(seat, [*ids, *path[:n]], token, 0)[0])
        return found

    # -- parts of characters, of which llama.cpp tells nothing ------------------------------------------------------------

    def _told_of(
        self, seat: Seat, ids: Sequence[int], token: int, most: int
    ) -> tuple[float, tuple[tuple[int, float], ...]]:
        """ln p of a token after `ids`, and the likeliest there: whatever is sampled is pushed to a whole letter, and the list told
        beside it is the model's own, from before sampling."""
        [letter] = self._template.tokenizer("a", add_special_tokens=False)["input_ids"]
        for top in (64, len(self._template.tokenizer)):
            body = {
                **_PLAIN,
                "prompt": list(ids),
                "n_predict": 1,
                "n_probs": top,
                "logit_bias": [[letter, 1000.0]],
            }
            [place] = seat.ask(body)["completion_probabilities"]
            found = {one["id"]: one["logprob"] for one in place["top_logprobs"]}
            if token in found:
                return found[token], tuple(list(found.items())[:most])
        raise ModelError(f"llama.cpp does not tell the probability of token {token}.", remedy="Report this.")

    def _parts(self, seat: Seat, ids: Sequence[int], content: str, last: int, count: int) -> list[int]:
        """The tokens before the last one of `content`: those whose bytes they must have been; of several ways the likeliest. Empty
        where the bytes are not known, since they made no character."""
        if self._pieces is None:
            self._pieces = _pieces(self._template.tokenizer)
        by_token, by_bytes = self._pieces
        left = content.encode().removesuffix(by_token.get(last, b""))
        ways = _ways(left, count, by_bytes)
        if len(ways) < 2:
            return ways[0] if ways else []

        def likely(way: list[int]) -> float:
            return sum(self._told_of(seat, [*ids, *way[:n]], token, 0)[0] for n, token in enumerate(way))

        return max(ways, key=likely)

    def _again(self, seat: Seat, wish: Wish, ids: Sequence[int], last: int | None, count: int) -> list[int]:
        """The same answer up to there, by its seed; in one piece llama.cpp tells every token."""
        made = [*ids[len(wish.prompt_ids) :]]
        wanted = [*made, *([] if last is None else [last])]
        body = _body(replace(wish, logprobs=None, max_tokens=len(wanted) + count), list(wish.prompt_ids))
        told = seat.ask({**body, "stream": False})["tokens"]
        found = told[len(made) : len(made) + count]
        if len(found) != count or [*told[: len(made)], *told[len(made) + count :]] != wanted:
            raise ModelError(f"llama.cpp made {count} tokens that it does not tell.", remedy="Ask again.")
        return list(found)


NONE_TOLD: tuple[tuple[int | str, float], ...] = ()
_PLAIN = {"temperature": 0.0, "samplers": ["temperature", "top_p"], "return_tokens": True}


def _body(wish: Wish, ids: Sequence[int]) -> dict[str, Any]:
    body = {
        **_PLAIN,
        "prompt": list(ids),
        "n_predict": wish.max_tokens,
        "stream": True,
        "temperature": wish.temperature,  # first, then the nucleus: as models.generate does it
        "top_p": wish.top_p,
    }
    if wish.seed is not None:
        body["seed"] = wish.seed % _SEEDS
    if wish.logprobs is not None:
        body["n_probs"] = max(1, wish.logprobs)
    if wish.grammar is not None:
        body["grammar"] = written(wish.grammar)
    return body


STYLES = (
    {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"},
    {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "},
)
"""How JSON may be written: the llguidance inside llama.cpp is older, and repeats a pattern of blanks without end."""


def written(grammar: Grammar) -> str:
    """As llama.cpp hands it to llguidance, which reads it here too."""
    import llguidance

    [one] = json.loads(grammar.compiled(llguidance))["grammars"]
    schema, lark = one["json_schema"], one["lark_grammar"]
    if schema is not None:
        lark = "start: " + " | ".join(
            f"%json {json.dumps({**schema, 'x-guidance': style})}" for style in STYLES
        )
    return f"%llguidance {{}}\n{lark}\n"


def _pieces(tokenizer: Any) -> tuple[dict[int, bytes], dict[bytes, int]]:
    """Of a byte-level BPE, the only kind that to_gguf.py writes: token -> bytes, and back."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    byte_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
    by_token = {
        token: bytes(byte_of[letter] for letter in text)
        for text, token in tokenizer.get_vocab().items()
        if all(letter in byte_of for letter in text)
    }
    return by_token, {one: token for token, one in by_token.items()}


def _ways(left: bytes, count: int, by_bytes: dict[bytes, int]) -> list[list[int]]:
    """
    >>> _ways(b"ab", 2, {b"a": 1, b"b": 2, b"ab": 3}), _ways(b"ab", 1, {b"ab": 3})
    ([[1, 2]], [[3]])
    """
    if count == 0:
        return [] if left else [[]]
    return [
        [by_bytes[left[:n]], *rest]
        for n in range(1, len(left) + 1)
        if left[:n] in by_bytes
        for rest in _ways(left[n:], count - 1, by_bytes)
    ]
