"""One of our models as the harness wants to see a model: three questions over text.

    loglikelihood(context, continuation)    ln p of the continuation, and whether the model itself would say it
    loglikelihood_rolling(text)             ln p of a whole text, in windows as long as the context
    generate_until(context, settings)       text up to a stop; greedy unless the task asks for a temperature

Prompts are rendered by our Template, so a control token in a row stays text here as everywhere. Where a prompt does not fit
the context its beginning is cut, as all models of the harness do, and `cut` counts it: the report says so.

Imported only where lm-eval is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lm_eval.api.model import LM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from luthier.core.errors import ModelError
from luthier.models.forward import sequence_loss
from luthier.models.generate import generate
from luthier.models.likelihood import answer_until, before, likelihoods
from luthier.models.template import Encoded, Template

LONGEST_ANSWER = 256
PROMPTS_AT_ONCE = 64
KNOWN_SETTINGS = {"until", "max_gen_toks", "max_tokens", "do_sample", "temperature", "top_p"}

Told = Callable[[str, int, int], None]
"""(what, done, total): called between batches; may raise to stop."""


class HarnessModel(LM):
    """`model` answers for as long as this lives. `chat`: contexts were rendered by `apply_chat_template`."""

    def __init__(self, model: Any, template: Template, *, chat: bool, seed: int = 0, told: Told) -> None:
        super().__init__()
        self._model, self._template, self._chat, self._seed, self._told = model, template, chat, seed, told
        self.cut = 0

    @property
    def tokenizer_name(self) -> str:
        return "luthier"  # names a cache of requests, which is never used

    def chat_template(self, chat_template: bool | str = False) -> str:
        return str(self._template.tokenizer.chat_template or "")

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        return self._template.rendered(chat_history, answer_next=add_generation_prompt)

    # -- what a continuation is worth --------------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Requests with the same context are one pass; contexts with the same continuations are one batch."""
        pairs = [self._pair(*request.args) for request in requests]
        asked: dict[tuple[int, ...], dict[tuple[int, ...], list[int]]] = {}
        for i, (prompt, continuation) in enumerate(pairs):
            asked.setdefault(tuple(prompt), {}).setdefault(tuple(continuation), []).append(i)
        alike: dict[tuple[tuple[int, ...], ...], list[tuple[int, ...]]] = {}
        for ids, wanted in asked.items():
            alike.setdefault(tuple(sorted(wanted)), []).append(ids)
        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        done = 0
        for continuations, prompts in alike.items():
            for start in range(0, len(prompts), PROMPTS_AT_ONCE):
                piece = prompts[start : start + PROMPTS_AT_ONCE]
                self._told("likelihoods", done, len(asked))
                rows = likelihoods(self._model, piece, continuations)
                for prompt_ids, row in zip(piece, rows, strict=True):
                    for wanted_ids, value in zip(continuations, row, strict=True):
                        for i in asked[prompt_ids][wanted_ids]:
                            found[i] = value
                done += len(piece)
        return found

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokens before the seam and after it. Spaces at the seam belong to the continuation, as word beginnings do."""
        if not context:
            ids = self._template.tokens(self._template.shielded(continuation), opens=True)
            bos = self._opening()
            own = ids[1:] if ids[:1] == bos else ids
            return self._fitting(bos, own)
        bare = context.rstrip(" ") or context
        start = self._template.tokens(self._context(bare), opens=not self._chat)
        rest = self._template.shielded(context[len(bare) :] + continuation)
        whole = self._template.tokens(self._context(bare) + rest, opens=not self._chat)
        return self._fitting(start, whole[len(start) :])

    def _context(self, text: str) -> str:
        """Rendered text holds its marks already; plain text is data."""
        return text if self._chat else self._template.shielded(text)

    def _opening(self) -> list[int]:
        """What stands before a text that has no context."""
        tokenizer = self._template.tokenizer
        first = tokenizer.bos_token_id
        return [tokenizer.eos_token_id if first is None else first]

    def _fitting(self, prompt: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        if not continuation:
            raise ModelError(
                "a task asks for the likelihood of an empty text.",
                remedy="Look at doc_to_choice and doc_to_target of the task.",
            )
        room = self._template.context - len(continuation)
        if room < 1:
            raise ModelError(
                f"a continuation of {len(continuation):,} tokens does not fit the model's context of {self._template.context:,}.",
                remedy="Choose a model with a longer context, or another task.",
            )
        self.cut += len(prompt) > room
        return prompt[-room:], continuation

    # -- whole texts -------------------------------------------------------------------------------------------------

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        found = []
        for done, request in enumerate(requests):
            self._told("whole texts", done, len(requests))
            (text,) = request.args
            opening = self._opening()
            ids = self._template.tokens(self._template.shielded(text), opens=True)
            windows = get_rolling_token_windows(
                ids[1:] if ids[:1] == opening else ids, opening[0], self._template.context, 1
            )
            rows = [
                Encoded([*before_, *own], [False] * len(before_) + [True] * len(own))
                for before_, own in map(make_disjoint_window, windows)
            ]
            found.append(-sum(loss for loss, _ in sequence_loss(self._model, rows)) if rows else 0.0)
        return found

    # -- text --------------------------------------------------------------------------------------------------------

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Requests with the same settings are answered together."""
        alike: dict[tuple[Any, ...], list[int]] = {}
        for i, request in enumerate(requests):
            alike.setdefault(_settings(request.args[1]), []).append(i)
        found, done = [""] * len(requests), 0
        for (stop, longest, temperature, top_p), places in alike.items():
            for start in range(0, len(places), PROMPTS_AT_ONCE):
                piece = places[start : start + PROMPTS_AT_ONCE]
                self._told("answers", done, len(requests))
                prompts = [self._asked(requests[i].args[0], longest) for i in piece]
                if temperature == 0:
                    texts = answer_until(self._model, self._template, prompts, longest, stop)
                else:
                    texts = [
                        self._drawn(ids, stop, longest, temperature, top_p, i)
                        for i, ids in zip(piece, prompts, strict=True)
                    ]
                for i, text in zip(piece, texts, strict=True):
                    found[i] = text
                done += len(piece)
        return found

    def _asked(self, context: str, longest: int) -> list[int]:
        ids = self._template.tokens(self._context(context), opens=not self._chat) or self._opening()
        room = self._template.context - longest
        if room < 1:
            raise ModelError(
                f"a task asks for answers of {longest:,} tokens, and the model's context holds {self._template.context:,} in all.",
                remedy="Choose a model with a longer context, or another task.",
            )
        self.cut += len(ids) > room
        return ids[-room:]

    def _drawn(
        self, ids: Sequence[int], stop: Sequence[str], longest: int, temperature: float, top_p: float, i: int
    ) -> str:
        steps = generate(
            self._model, self._template, ids, max_tokens=longest, temperature=temperature, top_p=top_p,
            seed=self._seed + i, stop=stop,
        )  # fmt: skip
        return before("".join(step.text_delta for step in steps), stop)


def _settings(given: Mapping[str, Any]) -> tuple[tuple[str, ...], int, float, float]:
    """(stop texts, longest answer, temperature, top_p). Raises ModelError for a setting that would not be heeded.

    >>> _settings({"until": ["\\n"], "max_gen_toks": 8, "do_sample": False, "temperature": 0.0})
    (('\\n',), 8, 0.0, 1.0)
    """
    if strange := sorted(set(given) - KNOWN_SETTINGS):
        raise ModelError(
            f"a task asks for answers with {strange[0]} = {given[strange[0]]!r}, which is not known here.",
            remedy=f"Known are {', '.join(sorted(KNOWN_SETTINGS))}.",
        )
    until = given.get("until") or []
    stop = (until,) if isinstance(until, str) else tuple(until)
    longest = int(given.get("max_gen_toks") or given.get("max_tokens") or LONGEST_ANSWER)
    temperature = float(given.get("temperature") or 0.0)
    if given.get("do_sample") is False:
        temperature = 0.0
    elif given.get("do_sample") and not temperature:
        temperature = 1.0
    return tuple(one for one in stop if one), longest, temperature, float(given.get("top_p") or 1.0)
