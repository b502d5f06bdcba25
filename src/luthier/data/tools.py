"""Tools: the functions that a row's model may call, its calls, and what they answered.

    as read        {"role": "assistant", "tool_calls": [{"id", "function": {"name", "arguments": JSON text}}]}, {"role": "tool",
                   "tool_call_id", "content"} and a list of tools beside them (OpenAI); or from/value with function_call and
                   observation (ShareGPT)
    in a record    `tools`: the list as JSON; a turn `call` for each call: {"name", "arguments"} as compact JSON; a turn `tool`
                   for each answer, in the order of the calls. Ids only say which answer belongs to which call, as the order
                   does then; they are mostly random, and equal rows must not differ by them
    for rules      a call's text is its name, which no rule changes; each text and number in its arguments is a text of its
                   own, of the role `argument` (opened.py), so a rule that edits it cannot break the JSON around it
    for templates  OpenAI's messages again, with arguments as objects, which is what chat templates write out

Not here: whether a model's template knows tools (models/template).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .json_text import dumps, loads

CALL, TOOL, ARGUMENT = "call", "tool", "argument"
Turn = dict[str, Any]


def tools_of(cell: Any) -> str | None:
    """A row's list of tools in one form, as JSON. Raises ValueError, in words.

    >>> tools_of([{"name": "now"}])
    '[{"type":"function","function":{"name":"now"}}]'
    """
    if isinstance(cell, str):
        cell = loads(cell) if cell.strip() else None
    if cell is None or cell == []:
        return None
    if not isinstance(cell, list):
        raise ValueError("the tools are not a list")
    found = []
    for one in cell:
        function = one.get("function", one) if isinstance(one, dict) else None
        if (
            not isinstance(function, dict)
            or not isinstance(function.get("name"), str)
            or not function["name"]
        ):
            raise ValueError(
                "a tool has no name; write {type: function, function: {name, description, parameters}}"
            )
        found.append({"type": "function", "function": _without_nulls(function)})
    names = [one["function"]["name"] for one in found]
    if len(set(names)) < len(names):
        raise ValueError(f"two tools have the name {next(n for n in names if names.count(n) > 1)!r}")
    return dumps(found)


def _without_nulls(value: Any) -> Any:
    """Typed formats (Parquet) fill in every key that any row has; null says nothing in a schema but in `enum` and `default`."""
    if isinstance(value, dict):
        return {
            key: inner if key in ("enum", "default", "const") else _without_nulls(inner)
            for key, inner in value.items()
            if inner is not None or key in ("default", "const")
        }
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def names_of(tools: str | None) -> list[str]:
    return [one["function"]["name"] for one in loads(tools)] if tools else []


@dataclass
class Conversation:
    """Turns as they come in, with the calls that wait for an answer."""

    known: Sequence[str]

    def __post_init__(self) -> None:
        self.turns: list[Turn] = []
        self._open: list[str | None] = []
        self._answers: dict[int, str] = {}

    def say(self, role: str | None, content: str | None) -> None:
        """Raises ValueError where calls wait for answers."""
        self._settle()
        self.turns.append({"role": role, "content": content})

    def call(self, calls: Sequence[Any]) -> None:
        """Calls of one message. Raises ValueError."""
        if not calls or self._answers:
            self._settle()
        for one in calls:
            id_, told = call_of(one)
            if told["name"] not in self.known:
                there = ", ".join(self.known) or "none"
                raise ValueError(f"it calls {told['name']!r}, which is none of its tools ({there})")
            if id_ is not None and id_ in self._open:
                raise ValueError(f"two calls have the id {id_!r}")
            self._open.append(id_)
            self.turns.append({"role": CALL, "content": dumps(told)})

    def answer(self, name: str | None, content: str | None) -> None:
        """Of the call with the id `name`, or of the first that has no answer yet. Raises ValueError."""
        waiting = [n for n in range(len(self._open)) if n not in self._answers]
        if not waiting:
            raise ValueError("a tool answers, and nothing was asked of it")
        if content is None:
            raise ValueError("a tool's answer has no content")
        at = waiting[0]
        if name is not None and any(one is not None for one in self._open):
            if name not in self._open:
                raise ValueError(f"a tool answers the call {name!r}, which is not there")
            at = self._open.index(name)
            if at in self._answers:
                raise ValueError(f"the call {name!r} is answered twice")
        self._answers[at] = content
        if len(self._answers) == len(self._open):
            self._settle()

    def end(self) -> list[Turn]:
        """All turns; calls at the very end need no answer. Raises ValueError."""
        if self._answers:
            self._settle()
        return self.turns

    def _settle(self) -> None:
        if len(self._answers) < len(self._open):
            missing = next(n for n in range(len(self._open)) if n not in self._answers)
            raise ValueError(
                f"the call {self._open[missing] or missing + 1!r} has no answer, and the conversation goes on"
            )
        self.turns += [{"role": TOOL, "content": self._answers[n]} for n in range(len(self._open))]
        self._open, self._answers = [], {}


def call_of(one: Any) -> tuple[str | None, dict[str, Any]]:
    """The id, if there is one, and {"name", "arguments"} of a call in any of its forms. Raises ValueError."""
    function = one.get("function", one) if isinstance(one, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError("a call has no name")
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = loads(arguments)
        except ValueError as error:
            raise ValueError(f"the arguments of {function['name']!r} are no JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise ValueError(f"the arguments of {function['name']!r} are no object")
    id_ = None if one.get("id") is None else str(one["id"])
    return id_, {"name": function["name"], "arguments": arguments}


def before_answer(turns: Sequence[Mapping[str, Any]]) -> int:
    """Where the last answer of a conversation begins: what the assistant says there, the calls at the end, or both.

    >>> said = [{"role": role} for role in ("user", "call", "tool", "assistant", "call", "call")]
    >>> before_answer(said), before_answer(said[:4]), before_answer(said[:2])
    (3, 3, 1)
    """
    at = len(turns)
    while at and turns[at - 1]["role"] == CALL:
        at -= 1
    return at - 1 if at and turns[at - 1]["role"] == "assistant" else at


# for templates


def chat(turns: Sequence[Mapping[str, Any]]) -> list[Turn]:
    """A record's messages in OpenAI's form, arguments as objects. Calls are given ids: nine letters and digits, since some
    templates want just that."""
    messages: list[Turn] = []
    waiting: list[str] = []
    for n, turn in enumerate(turns):
        if turn["role"] == CALL:
            told = loads(turn["content"])
            waiting.append(
                told.get("id") or f"call{n:05d}"
            )  # nine letters and digits: some templates want just that
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": ""})
            messages[-1].setdefault("tool_calls", []).append(
                {
                    "id": waiting[-1],
                    "type": "function",
                    "function": {"name": told["name"], "arguments": told["arguments"]},
                }
            )
        elif turn["role"] == TOOL:
            messages.append({"role": TOOL, "tool_call_id": waiting.pop(0), "content": turn["content"]})
        else:
            messages.append({"role": turn["role"], "content": turn["content"]})
    return messages


def said(record: Mapping[str, Any]) -> tuple[list[Turn], list[dict[str, Any]] | None]:
    """What a chat template is given of a record: its messages, and its tools if it has any."""
    if not record.get("tools"):
        return record["messages"], None
    return chat(record["messages"]), loads(record["tools"])


def answer_text(message: Mapping[str, Any]) -> str:
    """What an assistant's message says, as one text: its content, and its calls as JSON."""
    calls = [one["function"] for one in message.get("tool_calls") or ()]
    return "\n".join(filter(None, [message["content"], dumps(calls) if calls else ""]))


# for rules

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Arguments:
    """The texts inside the calls of a batch. `calls` are the places of the calls among all turns, `told` what they say,
    `owners` and `paths` where each text stands."""

    calls: list[int]
    told: list[dict[str, Any]]
    owners: list[int]
    paths: list[Path]
    texts: list[str]

    @classmethod
    def of(cls, roles: Sequence[str], contents: Sequence[str]) -> Arguments:
        places = [n for n, role in enumerate(roles) if role == CALL]
        told = [loads(contents[n]) for n in places]
        found = [
            (k, path, text) for k, one in enumerate(told) for path, text in _leaves(one["arguments"], ())
        ]
        return cls(places, told, [k for k, _, _ in found], [p for _, p, _ in found], [t for _, _, t in found])

    def edited(self, texts: Sequence[str]) -> dict[int, str]:
        """Place of a call -> what it says now, of those whose arguments were edited. A number that was edited is text."""
        changed: dict[int, str] = {}
        copies: dict[int, dict[str, Any]] = {}
        for owner, path, before, after in zip(self.owners, self.paths, self.texts, texts, strict=True):
            if before != after:
                one = copies.setdefault(owner, loads(dumps(self.told[owner])))
                _put(one["arguments"], path, after)
        for owner, one in copies.items():
            changed[self.calls[owner]] = dumps(one)
        return changed


def _leaves(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(value, list):
        for n, inner in enumerate(value):
            yield from _leaves(inner, (*path, n))
    elif isinstance(value, str):
        yield path, value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, dumps(value)


def _put(inside: Any, path: Path, value: str) -> None:
    for step in path[:-1]:
        inside = inside[step]
    inside[path[-1]] = value
