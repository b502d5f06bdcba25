"""What a recipe says of a source's columns: which are the question, the answer, the label, and how rows make conversations.

A column is named as it is, or by a path into its value (paths.py). Plain values only; `mapping` reads rows by them.
"""

from __future__ import annotations

import string
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from luthier.core.spec import Spec

from .tools import tools_of


class ConstantSpec(Spec):
    constant: str | bool | int | float
    """What stands there in every row."""


Part = str | Annotated[list[str], Field(min_length=1)] | ConstantSpec


def columns_of(part: Part | RatingSpec) -> list[str]:
    """The columns that a part of a map reads: one column, several, those named in a template, or none.

    >>> columns_of("body"), columns_of(["instruction", "input"]), columns_of("{title}\\n{ticket.body}")
    (['body'], ['instruction', 'input'], ['title', 'ticket.body'])
    """
    if isinstance(part, ConstantSpec):
        return []
    if isinstance(part, RatingSpec):
        return [part.column]
    if isinstance(part, list):
        return part
    return [piece for _, piece in template_pieces(part) if piece] if is_template(part) else [part]


def is_template(part: str) -> bool:
    return "{" in part


def template_pieces(template: str) -> list[tuple[str, str | None]]:
    """(literal text, column after it or None) in order. Raises ValueError for what is not a template."""
    pieces: list[tuple[str, str | None]] = []
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(
            f"{template!r} is not a template: {error}; write {{column}}, and {{{{ for a brace"
        ) from None
    for literal, column, form, conversion in parsed:
        if column == "" or form or conversion:
            raise ValueError(f"{template!r}: write only a column's name between braces, as in '{{title}}'")
        pieces.append((literal, column))
    return pieces


class ConversationSpec(Spec):
    """Rows that are each one message become conversations. Columns may be paths."""

    group: str
    """The column whose equal values make one conversation, such as a ticket's number."""
    order_by: str | Annotated[list[str], Field(min_length=1)]
    """The column of times or numbers that orders a conversation's rows; a further one decides where the first is equal. Rows that are equal in all are ordered by who speaks (system, user, assistant), then by what they say."""
    role: str
    """The column that says who speaks."""
    content: str
    """The column with what is said."""
    roles: dict[str, Literal["system", "user", "assistant"] | None] = Field(default_factory=dict)
    """What the words in `role` mean, as in `{customer: user, agent: assistant}`; null leaves such rows out. Words such as human, user, assistant and bot are known without it."""
    same_role: Literal["merge", "refuse"] = "merge"
    """What two messages of one role after each other become: one with a blank line between, or a conversation that is no good."""
    ending: Literal["refuse", "trim"] = "refuse"
    """What happens to what is said after the last answer: the conversation is no good, or it ends with its last answer."""

    @property
    def ordered_by(self) -> list[str]:
        return [self.order_by] if isinstance(self.order_by, str) else list(self.order_by)

    @property
    def columns(self) -> list[str]:
        return [self.group, *self.ordered_by, self.role, self.content]


class RankingSpec(Spec):
    """Several answers to one question, the best first, as pairs of a better and a worse one."""

    answers: str
    """The column with the list of answers."""
    text: str | None = None
    """Where the text stands in an answer that is an object."""
    score: str | None = None
    """Where its score stands; the highest is the best, and equal ones make no pair. Without it the list is in order."""
    pairs: Literal["adjacent", "all"] = "adjacent"
    """Each answer against the next, or against all that are worse."""

    @model_validator(mode="before")
    @classmethod
    def _column_alone(cls, value: object) -> object:
        return {"answers": value} if isinstance(value, str) else value


class RatingSpec(Spec):
    """A judgement on a scale or in words, as 1 for good and 0 for bad."""

    column: str
    """The column with the judgement."""
    good: float | None = None
    """The lowest number that is good."""
    bad: float | None = None
    """The highest number that is bad; what lies between is neither, and such a row is no good."""
    words: dict[str, float] = Field(default_factory=dict)
    """What words are worth, as in {up: 1, down: 0}; in any case."""

    @model_validator(mode="after")
    def _tells_good_from_bad(self) -> RatingSpec:
        if (self.good is None) != (self.bad is None):
            raise ValueError(
                "good and bad belong together: from which number on is it good, up to which is it bad?"
            )
        if self.good is not None and self.bad is not None and self.bad >= self.good:
            raise ValueError(f"bad {self.bad:g} reaches up to good {self.good:g}; bad must be lower")
        if self.good is None and not self.words:
            raise ValueError("nothing says what is good; write good and bad, or words")
        return self


LATER = ("tools", "conversation", "ranking", "keep")


class MapSpec(Spec):
    messages: str | None = None
    """The column with a list of messages: role and content (OpenAI), or from and value (ShareGPT)."""
    tools: str | ConstantSpec | None = None
    """The column with the functions that the assistant may call in `messages` (or in `chosen` and `rejected`): a list as OpenAI writes it, or JSON of one; or {constant: JSON} for all rows. Calls and answers of tools are then part of the conversation."""
    conversation: ConversationSpec | None = None
    """Where each row is one message: which rows make a conversation, and in which order."""
    system: Part | None = None
    """The system message: a column, a list of columns joined by a blank line, a template such as "{title}\\n{body}", or {constant: TEXT}."""
    user: Part | None = None
    """The user message: a column, a list of columns joined by a blank line, a template such as "{title}\\n{body}", or {constant: TEXT}."""
    assistant: Part | None = None
    """The answer to learn: a column, a list of columns joined by a blank line, a template, or {constant: TEXT}."""
    label: str | ConstantSpec | None = None
    """The column with the label, or {constant: LABEL} where a whole source has one; for classification, in place of `assistant`."""
    chosen: Part | None = None
    """The better answer of a pair, in place of `assistant`; without `user`, a whole conversation that ends with it."""
    rejected: Part | None = None
    """The worse answer of a pair, or the same conversation ending with it; what stands before must be equal."""
    ranking: RankingSpec | None = None
    """In place of `chosen` and `rejected`, beside `user` or `messages`: a column with a list of answers, the best first."""
    rating: str | ConstantSpec | RatingSpec | None = None
    """The column that judges the answer: 1 and 0 (or true and false) for good and bad; a scale or words as {column, good, bad, words}. An answer rated 0 or less is no reference and no example when the model is measured."""
    text: str | None = None
    """The column with plain text to learn as it stands, or a template of several."""
    id: str | None = None
    """A column that names every row once; without it the id comes from the content."""
    group: str | None = None
    """A column whose equal values must stay on one side of the split, such as a customer."""
    keep: list[str] = Field(default_factory=list)
    """Columns whose values are kept beside each row, to divide the test rows by (evaluate.slices: [{column: NAME}]). They are no part
    of what is learnt; `redact` masks private data in them too."""
    on_bad_row: Literal["refuse", "set_aside"] = "refuse"
    """What happens to a row without a label or answer: stop, or keep it in removed.parquet with the reason."""

    @model_serializer(mode="wrap")
    def _as_before(self, standard: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Maps that were written before there were such keep their identity."""
        told: dict[str, Any] = standard(self)
        return {name: value for name, value in told.items() if name not in LATER or value not in (None, [])}

    @model_validator(mode="after")
    def _tools_are_tools(self) -> MapSpec:
        if isinstance(self.tools, ConstantSpec):
            tools_of(str(self.tools.constant))
        return self

    @model_validator(mode="after")
    def _keeps_each_once(self) -> MapSpec:
        if twice := sorted({name for name in self.keep if self.keep.count(name) > 1}):
            raise ValueError(f"keep names {twice[0]!r} twice")
        return self

    @model_validator(mode="after")
    def _rating_is_a_number(self) -> MapSpec:
        if isinstance(self.rating, ConstantSpec) and isinstance(self.rating.constant, str):
            raise ValueError(
                f"a rating is a number, and {self.rating.constant!r} is none; write 1 for good, 0 for bad"
            )
        return self

    @model_validator(mode="after")
    def _one_layout(self) -> MapSpec:
        answers = {"label": self.label, "assistant": self.assistant, "chosen": self.chosen}
        named = [name for name, value in answers.items() if value is not None]
        if len(named) > 1:
            raise ValueError(f"{named[0]} and {named[1]} both name the answer; keep one")
        pair = self.user or self.assistant or self.label
        layouts = {
            "messages": self.messages,
            "conversation": self.conversation,
            "text": self.text,
            "user": pair or (None if self.conversation else self.system),
        }
        given = [name for name, value in layouts.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"{given[0]} and {given[1]} describe two different layouts; keep one")
        answered = self.answer or self.ranking
        if given == ["user"] and (self.user is None or answered is None):
            lacking = "user" if self.user is None else "assistant (or label)"
            raise ValueError(f"{lacking} is not mapped; a pair needs user, and assistant or label")
        self._pair_fits()
        for part in (self.system, self.user, self.assistant, self.chosen, self.rejected, self.text):
            if isinstance(part, str) and is_template(part) and not columns_of(part):
                raise ValueError(
                    f"{part!r} names no column; write for example '{{body}}', or {{constant: TEXT}}"
                )
        if given == ["user"] and not any(columns_of(one) for one in (self.user, self.answer) if one):
            raise ValueError("no column is read, so every row would say the same; map a column")
        return self

    def _pair_fits(self) -> None:
        if self.ranking is not None:
            self._ranking_fits()
        if self.tools is not None and (
            self.user is not None or (self.messages is None and self.chosen is None)
        ):
            raise ValueError(
                "tools belong to lists of messages: map.messages, or chosen and rejected conversations"
            )
        if self.text is not None and (self.chosen is not None or self.rejected is not None):
            raise ValueError(
                "plain text has no answers to compare; chosen and rejected belong to a conversation"
            )
        if self.conversation is not None and (self.chosen is not None or self.rejected is not None):
            raise ValueError("rows that are each one message have no chosen and rejected answers")
        if self.rejected is not None and self.answer is None and self.messages is None:
            raise ValueError(
                "rejected has nothing to stand against; map chosen (or assistant, or messages) too"
            )
        if self.user is None and self.chosen is not None:
            if self.messages is None and self.rejected is None:
                raise ValueError(
                    "chosen alone is a whole conversation: write it as messages, or map rejected too"
                )
            for part in (self.chosen, self.rejected):
                if part is not None and (not isinstance(part, str) or is_template(part)):
                    raise ValueError(f"{part!r}: without user, chosen and rejected are each one column")

    def _ranking_fits(self) -> None:
        if self.user is None and self.messages is None:
            raise ValueError("ranking has no question; map user (or messages) beside it")
        given = [
            name
            for name in ("assistant", "label", "chosen", "rejected", "tools", "rating")
            if getattr(self, name) is not None
        ]
        if given:
            raise ValueError(f"ranking and {given[0]} both judge the answer; keep one")
        if self.id is not None:
            raise ValueError("one ranking makes several rows, and id names each row once; leave id out")

    @property
    def answer(self) -> Part | None:
        found = (part for part in (self.assistant, self.chosen, self.label) if part is not None)
        return next(found, None)

    @property
    def has_layout(self) -> bool:
        layouts = (self.messages, self.conversation, self.user, self.text, self.chosen)
        return any(one is not None for one in layouts)
