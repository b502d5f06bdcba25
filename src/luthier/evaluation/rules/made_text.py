"""What is kept of what a model wrote: the text itself, or why it is no good. Pure.

Every fault has a name that the report counts, so that a prompt or a model that fails is seen and not averaged away.
"""

from __future__ import annotations

import re

from luthier.data.digests import fold
from luthier.data.languages import detect

_WORD = re.compile(r"\w+")
MASK = re.compile(r"\[[A-Z][A-Z_]*(?:[_:][0-9A-Za-z]+)?\]")
NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_QUOTES = (('"', '"'), ("“", "”"), ("„", "“"), ("«", "»"), ("'", "'"))
TALK = (
    "as an ai",
    "as a language model",
    "i cannot assist",
    "i can't assist",
    "i cannot help with",
    "i can't help with",
    "i cannot fulfill",
    "i can't fulfill",
    "i'm sorry, but i can",
    "i am sorry, but i can",
    "i'm not able to",
    "i am not able to",
    "here is the rewritten",
    "here's the rewritten",
    "here is a rewritten",
    "here's a rewritten",
    "here is the message",
    "here's the message",
    "rewritten message:",
    "message 1:",
    "sure, here",
    "sure! here",
    "of course! here",
)
"""Of an answer that speaks of the task in place of doing it, in the form of `fold`. English: prompts are."""


def bare(text: str, source: str = "") -> str:
    """Without what models put around a text: blanks, and quotes that the source does not have.

    >>> bare(' "Hello there" '), bare('"Hello" and "there"'), bare('"a"', '"b"')
    ('Hello there', '"Hello" and "there"', '"a"')
    """
    text = text.strip()
    for left, right in _QUOTES:
        inner = text[1:-1]
        if (
            len(text) > 1
            and text[0] == left
            and text[-1] == right
            and left not in inner
            and right not in inner
        ):
            return text if source.strip().startswith(left) else inner.strip()
    return text


def likeness(one: str, other: str) -> float:
    """The Jaccard index of the two sets of words, case aside; 1 where neither has any.

    >>> likeness("The red cat", "the cat sat"), likeness("", "!")
    (0.5, 1.0)
    """
    a, b = (set(_WORD.findall(fold(text))) for text in (one, other))
    return len(a & b) / len(a | b) if a or b else 1.0


def fault(
    text: str,
    source: str,
    *,
    bounds: tuple[float, float],
    length: tuple[float, float],
    words: tuple[str, ...] = (),
    exact: tuple[re.Pattern[str], ...] = (MASK, NUMBER),
) -> str | None:
    """Why `text` cannot stand for another `source`; None where it can. `words` must stay where the source has them, and of
    what `exact` finds the same must stand in both."""
    told, known = fold(text), fold(source)
    if not told:
        return "empty"
    if told == known:
        return "the same as its source"
    if any(phrase in told and phrase not in known for phrase in TALK):
        return "speaks of the task"
    if not length[0] * len(source) <= len(text) <= length[1] * len(source):
        return "too short" if len(text) < length[0] * len(source) else "too long"
    if lost := _lost(text, source, exact, words):
        return lost
    like = likeness(text, source)
    if like < bounds[0]:
        return "too unlike its source"
    if like > bounds[1]:
        return "too like its source"
    language, wanted = detect(text), detect(source)
    return "another language" if language and wanted and language != wanted else None


def _lost(text: str, source: str, exact: tuple[re.Pattern[str], ...], words: tuple[str, ...]) -> str | None:
    for pattern in exact:
        if set(pattern.findall(text)) != set(pattern.findall(source)):
            return f"lost or invented a {'mask' if pattern is MASK else 'number'}"
    told, known = fold(text), fold(source)
    if any(word and word in known and word not in told for word in map(fold, words)):
        return "lost a word that must stay"
    return None
