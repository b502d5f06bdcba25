"""From the test split to what a model is asked: prompts in tokens, reference answers with their loss mask.

Nothing is cut. A row whose prompt and answer do not fit the model's context is not asked, and the report names it. Nor is a
row asked whose answer was disliked (rated 0 or less); the report counts them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError
from luthier.data.canaries import SOURCE as CANARIES
from luthier.data.tools import answer_text, said

if TYPE_CHECKING:
    from luthier.models.call_form import CallForm

Message = Mapping[str, str]


def asked_text(prompt: Sequence[Message]) -> str:
    """What was said before the answer, without the system message.

    >>> asked_text([{"role": "system", "content": "Route."}, {"role": "user", "content": "My bill"}])
    'My bill'
    """
    told = (message["content"] for message in prompt if message["role"] != "system")
    return "\n".join(text for text in told if text)


@dataclass(frozen=True)
class Question:
    """`prompt` is None for a plain text, whose reference is the text itself. With `tools`, `answer` is the reference as a
    message: it may call them; `form` is how the model that is asked writes calls, where it can be read. `rejected`: the worse
    answer of a pair."""

    id: str
    prompt: tuple[Message, ...] | None
    reference: str
    source: str = ""
    tools: Sequence[Mapping[str, Any]] | None = None
    answer: Mapping[str, Any] | None = None
    form: CallForm | None = None
    rejected: str | None = None
    kept: Mapping[str, str] = field(default_factory=dict)  # columns that the map keeps

    @property
    def asked_text(self) -> str:
        """What was said before the answer, without the system message; a plain text itself."""
        return self.reference if self.prompt is None else asked_text(self.prompt)


@dataclass(frozen=True)
class Asked:
    """A question as tokens. `encoded` is the conversation with the reference answer, that answer alone supervised; `rejected` is
    the same with the answer that the row rejects, if it does."""

    question: Question
    prompt_ids: list[int]
    encoded: Any
    rejected: Any = None


@dataclass(frozen=True)
class Skipped:
    """A question that does not fit, and why."""

    id: str
    reason: str


def read(path: Path, rows: int | None = None) -> list[Question]:
    """The questions of one split, sorted by id; at most `rows`, the first by id. Raises DataError when there is none."""
    found = records(path)
    if not found and (bad := disliked(path)):
        raise DataError(
            f"all {bad:,} rows of the test split are rated 0 or less, so there is no answer to measure against.",
            remedy="Give data.split.test a larger share, or rows with answers that were liked.",
        )
    if not found:
        raise DataError(
            "the test split is empty, so nothing can be measured.",
            remedy="Give data.split.test a larger share, or more rows.",
        )
    return [question(record) for record in found[:rows]]


def records(path: Path) -> list[dict[str, Any]]:
    """The records of one split, sorted by id, but those whose answer is rated 0 or less, which is neither a reference nor an
    example to follow, and canaries, which are nobody's."""
    from luthier.data.shards import Side

    side = Side(path)
    wanted = [
        "id",
        "messages",
        "text",
        "label",
        "rating",
        "source",
        "tools",
        "rejected",
        "kept",
    ]  # datasets of before had no tools, and most keep nothing
    found = side.table([name for name in wanted if name in side.columns or not side.there]).to_pylist()
    liked = [
        record
        for record in found
        if (record["rating"] is None or record["rating"] > 0) and record["source"] != CANARIES
    ]
    return sorted(liked, key=lambda record: record["id"])


def disliked(path: Path) -> int:
    """How many rows of a split `records` leaves out."""
    import pyarrow.compute as pc

    from luthier.data.shards import Side

    return pc.sum(pc.less_equal(Side(path).table(["rating"])["rating"], 0)).as_py() or 0


def question(record: Mapping[str, Any]) -> Question:
    kept = json.loads(record.get("kept") or "{}")
    if not record["messages"]:
        return Question(record["id"], None, record["text"], record["source"] or "", kept=kept)
    messages, tools = said(record)
    *prompt, last = messages
    if last["role"] != "assistant":
        raise DataError(
            f"row {record['id']} ends with a message of {last['role']!r}: there is no reference answer.",
            remedy="Every row of the test split must end with the assistant's answer.",
        )
    source = record["source"] or ""
    if tools:
        return Question(record["id"], tuple(prompt), answer_text(last), source, tools, last, kept=kept)
    return Question(
        record["id"], tuple(prompt), last["content"], source, rejected=record.get("rejected"), kept=kept
    )


def asked(
    template: Any, questions: Sequence[Question], examples: Sequence[Message], room: int
) -> Iterator[Asked | Skipped]:
    """Each question as tokens, `examples` put before it (after the system message). Plain texts take no examples.

    room: tokens that must stay free after the prompt.
    """
    from luthier.models.call_form import call_form
    from luthier.models.template import TooLong

    form = call_form(template) if any(question.tools for question in questions) else None
    for question in questions:
        try:
            if question.prompt is None:
                if not examples:
                    yield Asked(question, [], template.encode_text(question.reference))
                continue
            messages = with_examples(question.prompt, examples)
            offered = {"tools": question.tools} if question.tools else {}
            prompt_ids = template.prompt(messages, **offered)
            if len(prompt_ids) + room > template.context:
                raise TooLong(len(prompt_ids) + room, template.context)
            answer = question.answer or {"role": "assistant", "content": question.reference}
            whole = template.encode([*messages, answer], **offered)
            worse = None
            if question.rejected is not None:
                worse = template.encode([*messages, {"role": "assistant", "content": question.rejected}])
        except TooLong as error:
            yield Skipped(question.id, f"{error.tokens} tokens, and the context holds {error.limit}")
            continue
        one = _last_alone(whole, len(prompt_ids))
        if question.tools:  # calls are compared as the model would write them
            told = [token for token, on in zip(one.ids, one.supervised, strict=True) if on]
            question = dataclasses.replace(question, reference=template.decode(told), form=form)
        yield Asked(question, prompt_ids, one, worse and _last_alone(worse, len(prompt_ids)))


def _last_alone(whole: Any, prompt_tokens: int) -> Any:
    """With what comes after the prompt supervised, and no earlier turn."""
    on = [told and i >= prompt_tokens for i, told in enumerate(whole.supervised)]
    return dataclasses.replace(whole, supervised=on)


def with_examples(prompt: Sequence[Message], examples: Sequence[Message]) -> list[Message]:
    """The system message first, then the examples as earlier turns, then the question."""
    system = [message for message in prompt[:1] if message["role"] == "system"]
    return [*system, *examples, *prompt[len(system) :]]
