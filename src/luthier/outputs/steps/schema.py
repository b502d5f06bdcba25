"""schema: an answer that must be JSON is what a JSON schema says (2020-12, or the draft that it names).

The schema stands in the recipe, in a file, or comes from the task (`auto`). Nothing is fetched: a $ref points into the schema.
Not here: finding the JSON in a text (json), and making the model write no other (postprocess.constrain).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Literal

from pydantic import Field, field_validator

from luthier.core.errors import SpecError
from luthier.core.spec import Spec
from luthier.data import json_text
from luthier.data.schema import checker, read, refuse

from ..step import About, Said, Step

Schema = dict[str, Any] | bool | str


def checked(value: Any) -> Any:
    """For a field that holds a schema, `auto` or a file's name. Raises ValueError."""
    if not isinstance(value, str):
        refuse(value)
    elif not value.strip():
        raise ValueError("the schema is blank; write one, name a file, or write auto")
    return value


def from_file(value: Schema, reach: Callable[[str], str], where: str) -> Schema:
    """The schema itself, where a file is named. Raises SpecError."""
    if not isinstance(value, str) or value == "auto":
        return value
    try:
        schema = json_text.loads(reach(value))
        refuse(schema)
    except ValueError as error:
        raise SpecError(f"{where}: {value}: {error}.", remedy="Correct the schema in that file.") from None
    if not isinstance(schema, dict | bool):
        raise SpecError(
            f"{where}: {value} holds no schema but a list or a plain value.", remedy="A schema is an object."
        )
    return schema


def from_task(value: Schema, task: Mapping[str, Any], where: str) -> Schema:
    """The task's own schema, where `auto` is written. Raises SpecError."""
    if value != "auto":
        return value
    if not isinstance(schema := task.get("schema"), dict):
        raise SpecError(
            f"{where}: auto takes the schema of the task, and this {task['kind']} task has none.",
            remedy="Write the schema out, or name a file that holds it.",
        )
    return schema


class SchemaStep(Spec):
    schema_: Schema = Field(default="auto", alias="schema")
    """A JSON schema written out, a file that holds one, or `auto`: the task's. Needs the extra `schema`."""
    otherwise: Literal["refuse", "keep"] = "refuse"
    """What happens to an answer that is not what the schema says."""

    _a_schema = field_validator("schema_")(checked)

    @field_validator("schema_", mode="after")
    @classmethod
    def _can_validate(cls, value: Schema) -> Schema:
        checker({}, "The step schema")
        return value


@lru_cache(maxsize=64)
def _meets(written: str) -> Callable[[Any], str | None]:
    return checker(json_text.loads(written), "The step schema")


def _run(text: str, settings: SchemaStep, _: About) -> Said:
    try:
        fault = _meets(json_text.dumps(settings.schema_))(read(text))
    except ValueError as error:
        fault = str(error)
    if fault is None:
        return Said(text)
    if settings.otherwise == "keep":
        return Said(text, notes=("against the schema",))
    return Said(text, f"the answer {fault}.")


def _inlined(settings: SchemaStep, reach: Callable[[str], str]) -> SchemaStep:
    schema = from_file(settings.schema_, reach, "postprocess.answers: schema")
    return settings.model_copy(update={"schema_": schema})


def _bound(settings: SchemaStep, task: Mapping[str, Any]) -> SchemaStep:
    return settings.model_copy(
        update={"schema_": from_task(settings.schema_, task, "postprocess.answers: schema")}
    )


schema = Step("schema", 1, SchemaStep, "Answers are what a JSON schema says.", _run, _inlined, _bound)
