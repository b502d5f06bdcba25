"""What a model makes of the answers of rows: the numbers behind `difficulty`.

A row is computed by itself on a processor, both of its forms in one pass, so that its score follows from the row alone and not
from the rows beside it. On a GPU rows share passes, where rounding may differ in the last place with what stands beside.
What was computed is kept by model and content (store/answers), so that a run that is repeated computes nothing again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError
from luthier.data.forgotten import stem
from luthier.data.rules.rule import Lent
from luthier.data.tools import said
from luthier.models.forward import TOKEN_BUDGET, sequence_loss
from luthier.models.template import Encoded, Template, TooLong
from luthier.store.answers import Answers, key_of

from ..asking.model import Model, model
from .difficulty import PARTS, VERSION

if TYPE_CHECKING:
    from luthier.data.opened import Opened

AT_ONCE = 64  # rows between two looks whether to stop; their scores are kept together


@dataclass(frozen=True)
class Asked:
    """A row as tokens. `alone` is the same answer with nothing before it, None where only the loss is wanted."""

    whole: Encoded
    alone: Encoded | None


def scored(rows: Opened, given: Lent) -> Iterator[int | str]:
    """For each row its score in thousandths, or why it has none. Raises DataError for a row that no such score can be of."""
    wish = given.settings
    records = [stem(one) for one in rows.column("id").to_pylist()]
    conversations = _conversations(rows)
    if wish.by == "ifd":
        _need_instructions(rows, conversations)
    asked = {
        "rule": "difficulty",
        "version": VERSION,
        "model": given.digests["model"],
        "by": wish.by,
        "dtype": wish.dtype,
    }
    keys = [key_of({**asked, "row": one.plain()}) for one in conversations]
    with Answers(Path(given.answers)) as answers:
        known = answers.find(keys)
        missing = list({key: row for row, key in enumerate(keys) if key not in known}.values())
        for start in range(0, len(missing), AT_ONCE):
            given.check()
            given.progress("difficulty: rows that the model reads", start, len(missing))
            piece = missing[start : start + AT_ONCE]
            found = _scores([conversations[row] for row in piece], wish.by, model(given, "difficulty"))
            answers.keep((keys[row], records[row], score) for row, score in zip(piece, found, strict=True))
            known |= {keys[row]: score for row, score in zip(piece, found, strict=True)}
    for key in keys:
        yield known[key]


@dataclass(frozen=True)
class Conversation:
    """What a template is given, but for a plain text, whose only role is `text`; a rejected answer is no part of it."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None

    @property
    def roles(self) -> list[str]:
        return [one["role"] for one in self.messages]

    def plain(self) -> Any:
        """What answers are kept by."""
        if self.tools is None:
            return [[one["role"], one["content"]] for one in self.messages]
        return {"messages": list(self.messages), "tools": list(self.tools)}


def _conversations(rows: Opened) -> list[Conversation]:
    """Of each row, as rules before have left it."""
    with_tools = rows.column("tools").is_valid().to_pylist()
    whole = rows.close() if any(with_tools) else rows.batch
    found = []
    for row, calls in enumerate(with_tools):
        if calls:
            found.append(Conversation(*said(whole.slice(row, 1).to_pylist()[0])))
            continue
        turns = [(rows.role[at], rows.text[at]) for at in rows.places(row).tolist()]
        found.append(
            Conversation([{"role": role, "content": text} for role, text in turns if role != "rejected"])
        )
    return found


def _need_instructions(rows: Opened, conversations: Sequence[Conversation]) -> None:
    for row, roles in enumerate(one.roles for one in conversations):
        if len(roles) < 2 or roles[-1] != "assistant":
            what = "is plain text" if roles[:1] == ["text"] else "does not end with an answer to anything"
            raise DataError(
                f"row:{rows.column('id')[row].as_py()} ({rows.column('origin')[row].as_py()}) {what}, so there is no instruction whose help could be measured.",
                remedy="Use difficulty: {by: loss}, or leave such rows out before.",
            )


def _scores(conversations: Sequence[Conversation], by: str, model: Model) -> list[int | str]:
    """Raises ModelError where the model's template refuses a conversation."""
    found: list[int | str] = [""] * len(conversations)
    asked: dict[int, Asked] = {}
    for row, conversation in enumerate(conversations):
        try:
            asked[row] = _asked(conversation, model.template, alone=by == "ifd")
        except TooLong as error:
            found[row] = f"{error.tokens:,} tokens, and the model that is asked reads {error.limit:,}"
    parts = [[one.whole] + ([one.alone] if one.alone else []) for one in asked.values()]
    for row, losses in zip(asked, _losses(model, parts), strict=True):
        found[row] = _score(losses)
    return found


def _losses(model: Model, parts: Sequence[Sequence[Encoded]]) -> list[list[tuple[float, int]]]:
    if model.device == "cpu":
        return [sequence_loss(model.weights, part, sum(len(one.ids) for one in part)) for part in parts]
    flat = iter(sequence_loss(model.weights, [one for part in parts for one in part], TOKEN_BUDGET))
    return [[next(flat) for _ in part] for part in parts]


def _score(losses: Sequence[tuple[float, int]]) -> int | str:
    """Both losses are of the same tokens, so their sums have the ratio of their averages.

    >>> _score([(3.0, 2)]), _score([(3.0, 2), (4.0, 2)]), _score([(0.0, 0)])
    (1500, 750, 'the answer has no token')
    """
    (total, count), *alone = losses
    if not count:
        return "the answer has no token"
    value = total / count
    if alone:
        if alone[0][0] <= 0:
            return "the model knows the answer for certain without any instruction"
        value = total / alone[0][0]
    if not math.isfinite(value):
        return "the model gives no finite loss"
    return round(value * PARTS)


def _asked(conversation: Conversation, template: Template, *, alone: bool) -> Asked:
    """Of a conversation, the last answer alone is supervised; what stands before it is as it is in training."""
    messages, tools = conversation.messages, conversation.tools
    if conversation.roles[:1] == ["text"]:
        return Asked(template.encode_text(messages[0]["content"]), None)
    whole = template.encode(messages, tools)
    start = len(template.prompt(messages[:-1], tools))
    whole = replace(whole, supervised=[on and at >= start for at, on in enumerate(whole.supervised)])
    answer = [token for token, on in zip(whole.ids, whole.supervised, strict=True) if on]
    if not alone:
        return Asked(whole, None)
    # Something must stand before the first token for it to have a loss: what begins every text, or ends it.
    opening = template.tokenizer.bos_token_id
    opening = template.tokenizer.eos_token_id if opening is None else opening
    return Asked(whole, Encoded([opening, *answer], [False] + [True] * len(answer)))
