"""Tokens as they come, and the text that is certain by then: what every way of making text has in common. No model, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .template import Template


@dataclass(frozen=True)
class Step:
    """One token. `text_delta` is text that is now certain: whole characters, and no part of a stop sequence.

    token_id  its text where an engine tells no ids, None where it does not say which token it made
    logprob   ln p of the token under the model itself, before temperature and top_p; NaN where nobody asked an engine for it
    top       the likeliest (token, ln p), best first, as many as asked for; a token's text where an engine tells no ids
    finish    on the last step: "stop" (a stop token or sequence) or "length"
    """

    token_id: int | str | None
    text_delta: str
    logprob: float
    top: tuple[tuple[int | str, float], ...] = ()
    finish: Literal["stop", "length"] | None = None


class Certain:
    """Tokens in, certain text out. Joined, the deltas are the decoded answer up to the first stop sequence."""

    def __init__(self, template: Template, stop: Sequence[str] = ()) -> None:
        self._template, self._stop = template, tuple(one for one in stop if one)
        self._ids: list[int] = []
        self._shown_ids = 0  # tokens whose text has left the decoder
        self._context_ids = 0  # where decoding begins: a few tokens back, so that joins come out right
        self._held = ""  # decoded, but perhaps the beginning of a stop sequence

    def add(self, token: int) -> tuple[str, bool]:
        """(text that is now certain, whether a stop sequence ended the answer)."""
        self._ids.append(token)
        fresh = self._decode_fresh()
        if fresh.endswith("�"):  # bytes of an unfinished character
            return "", False
        self._context_ids, self._shown_ids = self._shown_ids, len(self._ids)
        return self._release(fresh)

    def add_text(self, text: str) -> tuple[str, bool]:
        """The same of an engine that tells text, in whole characters, and not every token."""
        return self._release(text)

    def finish(self) -> str:
        """What was held back, when nothing can follow."""
        text, stopped = self._release(self._decode_fresh())
        return text if stopped else text + self._take_held()

    def _decode_fresh(self) -> str:
        before = self._template.decode(self._ids[self._context_ids : self._shown_ids])
        return self._template.decode(self._ids[self._context_ids :])[len(before) :]

    def _release(self, fresh: str) -> tuple[str, bool]:
        self._held += fresh
        found = [at for s in self._stop if (at := self._held.find(s)) >= 0]
        if found:
            self._held = self._held[: min(found)]
            return self._take_held(), True
        keep = max((_overlap(self._held, s) for s in self._stop), default=0)
        cut = len(self._held) - keep
        certain, self._held = self._held[:cut], self._held[cut:]
        return certain, False

    def _take_held(self) -> str:
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """How many last characters of `text` could begin `stop`.

    >>> _overlap("ab#", "##"), _overlap("ab", "##")
    (1, 0)
    """
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
