"""What `generate` asks a model, word by word. Another word is another VERSION, which is part of every answer's key and told in
the report.

    way            round 1                                round 2
    paraphrase     say it otherwise
    back_translate into the pivot                         back into the row's language
    counterfactual another case of the same answer
    new            one more after these examples          (without labels) its answer
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

VERSION = 1
ALONE = "Answer with the message alone, without quotes and without any remark."

PARAPHRASE = (
    "Rewrite the message of the user in other words and with another sentence structure. Keep its meaning, language and tone, "
    f"and every name, number and mark in square brackets as it is. Do not answer it. {ALONE}"
)
INTO = (
    "Translate the message of the user into {language}. Keep every name, number and mark in square brackets as it is. Do not "
    f"answer it. {ALONE}"
)
COUNTERFACTUAL = (
    "Change one or two details in the message of the user (a thing, a name, a place, a number), so that it is another case for "
    "which this stays exactly the right answer:\n\n{answer}\n\nKeep the language, the length and every mark in square brackets. "
    f"Do not answer it. {ALONE}"
)
NEW = (
    "Below are {n} messages{of}. Write one more of the same kind, in the same language, about another case: its content and its "
    f"words must differ from all of them. {ALONE}"
)
Messages = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Source:
    """What is asked about: the row's words, its label and answer (None where it has none), its language in English (None where
    that is not clear), and other messages of its kind, itself first."""

    text: str
    label: str | None
    answer: str | None
    language: str | None
    examples: Sequence[str] = ()


def rounds(way: str, source: Source) -> int:
    """How many questions make one row."""
    return (
        2
        if way == "back_translate" or (way == "new" and source.label is None and source.answer is not None)
        else 1
    )


def ask(way: str, source: Source, said: Sequence[str], pivot: str) -> Messages:
    """The next question, after the answers to those before."""
    if way == "new" and said:
        return (("user", said[0]),)
    if way == "new":
        of = f" that are all labelled {source.label!r}" if source.label is not None else ""
        shown = "\n\n".join(f"Message {n}:\n{one}" for n, one in enumerate(source.examples, 1))
        return (("system", NEW.format(n=len(source.examples), of=of)), ("user", shown))
    if way == "back_translate":
        language = source.language if said else pivot
        return (("system", INTO.format(language=language)), ("user", said[0] if said else source.text))
    system = COUNTERFACTUAL.format(answer=source.answer) if way == "counterfactual" else PARAPHRASE
    return (("system", system), ("user", source.text))
