"""Which layout rows have, from their columns' names and sample values, with a confidence and the reason in words.

    messages          [{"role": .., "content": ..}, ..]     OpenAI chat
    sharegpt          [{"from": .., "value": ..}, ..]        ShareGPT
    alpaca            instruction, input, output
    prompt-completion prompt and completion, question and answer, ...
    preference        chosen and rejected: texts beside a prompt, lists of messages, or transcripts
    rated             prompt and completion, or messages, with a column of true and false
    labelled          text and label
    structured        text, and a column of JSON objects that is named as one
    text              one column of text

An explicit map always wins; this is for the recipe that has none, and for `luthier init`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from luthier.core.errors import DataError

from .connectors.protocol import Head
from .conversations import SPEAKER
from .maps import MapSpec
from .paths import value_of
from .tools import tools_of

PAIRS = [
    ("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("query", "response"), ("query", "answer"),
    ("instruction", "response"), ("instruction", "output"), ("user", "assistant"), ("input", "output"), ("source", "target"),
    ("context", "response"), ("document", "summary"), ("article", "summary"), ("dialogue", "summary"), ("text", "summary"),
]  # fmt: skip
PREFERENCES = (
    ("chosen", "rejected"),
    ("chosen_response", "rejected_response"),
    ("preferred", "dispreferred"),
)
PROMPTS = ("prompt", "question", "instruction", "query", "input")
RATINGS = ("label", "rating", "thumb", "thumbs", "thumbs_up", "feedback", "liked", "desirable")
TEXTS = ("text", "message", "body", "content", "sentence", "utterance", "review", "comment", "description", "ticket",
         "question", "query", "input", "document", "title", "subject", "notice")  # fmt: skip
TOOLS = ("tools", "functions", "available_tools")
PLAIN: tuple[str, ...] = ("text", "content", "document", "body")
LABELS = ("label", "labels", "category", "class", "intent", "queue", "sentiment", "topic", "target", "tag", "type", "rating",
          "department", "priority", "licence", "license")  # fmt: skip
STRUCTURED = ("json", "extraction", "extracted", "fields", "entities", "record", "structured")

LESS_SURE = 0.9
"""What is left of a confidence when other columns could mean the same."""


@dataclass(frozen=True)
class Shape:
    """A recognised layout. `confidence` is 0..1; `keys` are the names inside a message. `others` are what it could be too,
    the likeliest first."""

    name: str
    map: MapSpec
    confidence: float
    reason: str
    keys: tuple[str, str] = ("role", "content")
    others: tuple[Shape, ...] = ()


def detect(columns: Sequence[str], rows: Sequence[dict[str, Any]], place: str) -> Shape:
    """The most likely layout, and what else it could be. Raises DataError, with the columns there are, when none is likely."""
    lower = {name.lower().strip(): name for name in columns}
    found = [
        *_preference(lower, rows),
        *_rated(lower, rows),
        *_conversation(lower, rows),
        *_alpaca(lower),
        *_pair(lower),
        *_labelled(lower, rows),
        *_structured(lower, rows),
        *_plain(lower, rows),
    ]
    if not found:
        raise DataError(
            f"{place}: the layout is not recognised from the columns {', '.join(columns) or '(none)'}.",
            remedy="Say it with map:, for example map: {user: COLUMN, assistant: COLUMN}, or {text: COLUMN}.",
        )
    first, *rest = [one for n, one in enumerate(found) if one.map not in [other.map for other in found[:n]]]
    same = [one for one in rest if one.name == first.name]
    if same:
        why = f"{first.reason}; {len(same)} other choice{'s' if len(same) > 1 else ''} of columns would do as well"
        first = replace(first, confidence=first.confidence * LESS_SURE, reason=why)
        least = first.confidence * 0.95  # the order of the lists of names decides, and is worth a little
        rest = [replace(one, confidence=min(one.confidence, least)) if one in same else one for one in rest]
    return replace(first, others=tuple(sorted(rest, key=lambda one: -one.confidence)))


def shape_of(written: MapSpec | None, head: Head, place: str) -> Shape:
    """What the recipe says, or else what is recognised. Raises DataError."""
    if written is None or not written.has_layout:
        return detect(head.columns, head.rows, place)
    column = written.messages or written.chosen
    keys = message_keys(column, head.rows) if isinstance(column, str) else None
    return Shape("map", written, 1.0, "the recipe says so", keys or ("role", "content"))


def message_keys(column: str, rows: Sequence[dict[str, Any]]) -> tuple[str, str] | None:
    """The names that the column's messages use for who speaks and what is said; None if it holds no messages, as a list or
    as JSON of one."""
    for row in rows:
        cell = value_of(row, column)
        if isinstance(cell, list) and cell and isinstance(cell[0], dict):
            for keys in (("role", "content"), ("from", "value")):
                if keys[0] in cell[0] and keys[1] in cell[0]:
                    return keys
    return None


def _preference(lower: dict[str, str], rows: Sequence[dict[str, Any]]) -> Iterator[Shape]:
    pair = next((pair for pair in PREFERENCES if pair[0] in lower and pair[1] in lower), None)
    if pair is None:
        return
    chosen, rejected = (lower[name] for name in pair)
    prompt = next((lower[name] for name in PROMPTS if name in lower), None)
    reason = f"{chosen!r} and {rejected!r} are a better and a worse answer"
    if keys := message_keys(chosen, rows):
        with_prompt = prompt is not None and message_keys(prompt, rows) == keys
        tools = _tools(lower, rows)
        found = MapSpec(
            messages=prompt if with_prompt else None, chosen=chosen, rejected=rejected, tools=tools
        )
        more = f", and {tools!r} the tools they may call" if tools else ""
        yield Shape(
            "preference", found, 0.97, f"{reason}, as lists of messages with {' and '.join(keys)}{more}", keys
        )
        return
    if prompt is not None and _mean_length(prompt, rows) > 0:
        found = MapSpec(system=_system(lower), user=prompt, chosen=chosen, rejected=rejected)
        yield Shape("preference", found, 0.97, f"{reason} to {prompt!r}")
        return
    first = next((row[chosen] for row in rows if isinstance(row.get(chosen), str)), "")
    if SPEAKER.match(first):
        yield Shape(
            "preference", MapSpec(chosen=chosen, rejected=rejected), 0.95, f"{reason}, as transcripts"
        )


def _rated(lower: dict[str, str], rows: Sequence[dict[str, Any]]) -> Iterator[Shape]:
    """A layout with a column of true and false beside it. Prompt and completion may be lists of messages here."""
    name = next((name for name in RATINGS if name in lower and _truths(lower[name], rows)), None)
    if name is None:
        return
    rest = {key: column for key, column in lower.items() if key != name}
    if "prompt" in rest and "completion" in rest and (keys := message_keys(rest["prompt"], rows)):
        found = MapSpec(messages=rest["prompt"], chosen=rest["completion"])
        shapes = [Shape("rated", found, 0.9, "the prompt is a list of messages", keys)]
    else:
        shapes = [*_conversation(rest, rows), *_alpaca(rest), *_pair(rest)]
    for shape in shapes:
        why = f"{shape.reason}; {lower[name]!r} is true or false, so it rates the answer"
        rated = shape.map.model_copy(update={"rating": lower[name]})
        yield replace(shape, name="rated", map=rated, reason=why)


def _truths(column: str, rows: Sequence[dict[str, Any]]) -> bool:
    told = [row[column] for row in rows if row.get(column) is not None]
    return bool(told) and all(isinstance(v, bool) or str(v).lower() in ("true", "false") for v in told)


def _system(lower: dict[str, str]) -> str | None:
    return next((lower[name] for name in ("system", "system_prompt") if name in lower), None)


def _conversation(lower: dict[str, str], rows: Sequence[dict[str, Any]]) -> Iterator[Shape]:
    named = ["messages", "conversations", "conversation", "chat", "dialog", "dialogue"]
    lists = [name for name in lower if any(isinstance(row.get(lower[name]), list) for row in rows)]
    for name in dict.fromkeys([*named, *lists]):  # text is read as JSON only where the name says what it is
        if name in lower and (keys := message_keys(lower[name], rows)):
            column = lower[name]
            kind = "messages" if keys[0] == "role" else "sharegpt"
            reason = f"{column!r} holds lists of messages with {keys[0]} and {keys[1]}"
            found = _tools(lower, rows)
            more = f", and {found!r} the tools it may call" if found else ""
            yield Shape(kind, MapSpec(messages=column, tools=found), 0.98, reason + more, keys)


def _tools(lower: dict[str, str], rows: Sequence[dict[str, Any]]) -> str | None:
    """A column of tools, known by its name and by what is in it."""
    for name in TOOLS:
        if name in lower:
            for row in rows:
                try:
                    if tools_of(row.get(lower[name])):
                        return lower[name]
                except ValueError:
                    break
    return None


def _alpaca(lower: dict[str, str]) -> Iterator[Shape]:
    answer = next((name for name in ("output", "response") if name in lower), None)
    if "instruction" not in lower or answer is None or "input" not in lower:
        return
    chosen = MapSpec(user=[lower["instruction"], lower["input"]], assistant=lower[answer])
    yield Shape("alpaca", chosen, 0.95, f"the columns instruction, input and {answer} are Alpaca's")


def _pair(lower: dict[str, str]) -> Iterator[Shape]:
    for user, assistant in PAIRS:
        if user in lower and assistant in lower:
            chosen = MapSpec(
                user=lower[user],
                assistant=lower[assistant],
                system=_system(lower),
            )
            yield Shape(
                "prompt-completion",
                chosen,
                0.9,
                f"the columns {lower[user]!r} and {lower[assistant]!r} are a pair",
            )


def _labelled(lower: dict[str, str], rows: Sequence[dict[str, Any]]) -> Iterator[Shape]:
    for label in [name for name in LABELS if name in lower]:
        yield from _with_label(label, lower, rows)


def _with_label(label: str, lower: dict[str, str], rows: Sequence[dict[str, Any]]) -> Iterator[Shape]:
    named = [name for name in TEXTS if name in lower and name != label]
    others = [name for name in lower if name != label and _mean_length(lower[name], rows) >= 20]
    text = named[0] if named else max(others, key=lambda name: _mean_length(lower[name], rows), default=None)
    if text is None:
        return
    why = "by name" if named else "as the longest text"
    reason = f"{lower[label]!r} is a label's name, and {lower[text]!r} was taken {why}"
    yield Shape("labelled", MapSpec(user=lower[text], label=lower[label]), 0.85 if named else 0.6, reason)


def _structured(lower: dict[str, str], rows: Sequence[dict[str, Any]]) -> Iterator[Shape]:
    text = next((lower[name] for name in TEXTS if name in lower), None)
    for name in (name for name in STRUCTURED if name in lower and text is not None):
        told = [row[lower[name]] for row in rows if row.get(lower[name]) is not None]
        if told and all(
            isinstance(one, dict) or (isinstance(one, str) and one.lstrip()[:1] == "{") for one in told
        ):
            reason = f"{lower[name]!r} holds objects, and {text!r} was taken by name"
            yield Shape("structured", MapSpec(user=text, assistant=lower[name]), 0.85, reason)


def _plain(lower: dict[str, str], rows: Sequence[dict[str, Any]]) -> Iterator[Shape]:
    text = next((name for name in PLAIN if name in lower), None)
    if text is None and len(lower) == 1 and _mean_length(next(iter(lower.values())), rows) > 0:
        text = next(iter(lower))
    if text is None:
        return
    sure = 0.9 if len(lower) == 1 else 0.7
    yield Shape(
        "text",
        MapSpec(text=lower[text]),
        sure,
        f"{lower[text]!r} is plain text and no column looks like an answer",
    )


def _mean_length(column: str, rows: Sequence[dict[str, Any]]) -> float:
    cells = [row.get(column) for row in rows]
    strings = [cell for cell in cells if isinstance(cell, str)]
    return sum(map(len, strings)) / len(cells) if cells else 0.0
