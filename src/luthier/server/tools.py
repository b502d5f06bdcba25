"""Functions that a model may call, as a client writes them: `tools`, `tool_choice`, calls and what they answered.

Not here: reading calls out of what a model says (`calls`), and running them, which is the client's.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from luthier.core.strict_json import finite, no_constant, once
from luthier.server.parts import Wire
from luthier.serving import engine

MOST_TOOLS = 128
NAME = r"^[a-zA-Z0-9_.-]{1,64}$"


class Function(Wire):
    name: str = Field(pattern=NAME)
    """What the model calls it by."""
    description: str | None = Field(default=None, max_length=20_000)
    """What it does; the model reads it."""
    parameters: dict[str, Any] | None = None
    """A JSON schema of an object; the model reads it, and a demanded call is held to it."""
    strict: bool | None = None
    """true only where a call is demanded (tool_choice required, or by name): nothing else is held to its parameters."""


class Tool(Wire):
    type: Literal["function"]
    """Only functions."""
    function: Function
    """The function."""

    def plain(self) -> dict[str, Any]:
        told = {k: v for k, v in self.function.model_dump().items() if v is not None and k != "strict"}
        return {"type": "function", "function": told}


class Named(Wire):
    name: str = Field(pattern=NAME)
    """One of the tools."""


class NamedChoice(Wire):
    type: Literal["function"]
    """Only functions."""
    function: Named
    """Which one is to be called."""


ToolChoice = Literal["none", "auto", "required"] | NamedChoice
Tools = Annotated[list[Tool], Field(max_length=MOST_TOOLS)]


class Called(Wire):
    name: str = Field(pattern=NAME)
    """The function."""
    arguments: str = Field(max_length=100_000)
    """A JSON object as text."""

    @field_validator("arguments", mode="after")
    @classmethod
    def _an_object(cls, value: str) -> str:
        try:
            told = json.loads(
                value or "{}", object_pairs_hook=once, parse_constant=no_constant, parse_float=finite
            )
            json.dumps(told, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, dict):
            raise PydanticCustomError("arguments", "they are not a JSON object as text")
        return value or "{}"


class BetterCall(Wire):
    id: str | None = Field(default=None, min_length=1, max_length=128)
    """Says nothing here; what an answer's call has may stay."""
    type: Literal["function"] = "function"
    """Only functions."""
    function: Called
    """What should have been called with what."""

    def plain(self) -> dict[str, Any]:
        return {
            "type": self.type,
            "function": {"name": self.function.name, "arguments": self.function.arguments},
        }


class ToolCall(Wire):
    id: str = Field(min_length=1, max_length=128)
    """As the answer that called it had it."""
    type: Literal["function"]
    """Only functions."""
    function: Called
    """What was called with what."""

    def call(self) -> engine.Call:
        return engine.Call(self.id, self.function.name, self.function.arguments)


def check_choice(tools: list[Tool] | None, choice: ToolChoice | None) -> None:
    """Raises PydanticCustomError where the two do not agree."""
    names = [tool.function.name for tool in tools or []]
    if len(set(names)) < len(names):
        raise PydanticCustomError("tools", "two tools have the same name")
    if any(tool.function.strict for tool in tools or []) and choice in (None, "auto"):
        raise PydanticCustomError(
            "tools",
            "strict is given, and only a call that is demanded (tool_choice) is held to its parameters",
        )
    if choice in (None, "none"):
        return
    if not names:
        raise PydanticCustomError("tool_choice", "tool_choice is given without tools")
    if isinstance(choice, NamedChoice) and choice.function.name not in names:
        raise PydanticCustomError("tool_choice", "it names a function that is not among the tools")


def must_call(tools: list[Tool], choice: ToolChoice | None) -> tuple[str, ...]:
    """The functions one of which is to be called; empty: none has to be."""
    if isinstance(choice, NamedChoice):
        return (choice.function.name,)
    return tuple(tool.function.name for tool in tools) if choice == "required" else ()
