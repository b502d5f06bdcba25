"""Evals and their runs as a wire carries them, in OpenAI's form. What cannot be done here is refused with a reason, never ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from luthier.core.errors import SpecError
from luthier.data import schema
from luthier.evaluation.graders.spec import AnyCriterion, Messages, ModelName, Wired
from luthier.evaluation.graders.templates import looked_up

MOST_ROWS = 10_000
MOST_CRITERIA = 20
MOST_TOKENS = 16_384
Title = Annotated[str, Field(min_length=1, max_length=200)]
Id = Annotated[str, Field(min_length=1, max_length=160)]
Time = Annotated[int, Field(ge=0, le=2**40)]


def _metadata(value: dict[str, str]) -> dict[str, str]:
    if len(value) > 16 or any(len(key) > 64 or len(text) > 512 for key, text in value.items()):
        raise PydanticCustomError("metadata", "metadata has up to 16 keys of 64 characters with texts of 512")
    return value


def _item_schema(value: dict[str, Any]) -> dict[str, Any]:
    """Without what a client may write so that holding a row against it never ends: expressions, and references, a few of which make
    billions of steps."""
    todo: list[Any] = [value]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            if isinstance(node.get("pattern"), str) or "patternProperties" in node:
                raise PydanticCustomError(
                    "item_schema",
                    "the schema holds a pattern; rows are not held to expressions here, so leave it out",
                )
            if any(isinstance(node.get(name), str) for name in schema.REFERENCES):
                raise PydanticCustomError(
                    "item_schema", "the schema refers to another place ($ref); write that part out"
                )
            todo += node.values()
        elif isinstance(node, list):
            todo += node
    try:
        schema.refuse(value)
    except ValueError as error:
        raise PydanticCustomError("item_schema", "{told}", {"told": str(error)}) from None
    return value


def _nothing(value: Any) -> Any:
    if value not in (None, {}, []):
        raise PydanticCustomError(
            "unsupported",
            "this is not kept with what was answered here, so nothing can be chosen by it; leave it out",
        )
    return value


Metadata = Annotated[dict[str, str], AfterValidator(_metadata)]
NotKept = Annotated[Any, BeforeValidator(_nothing)]


# -- what the items of an eval look like -------------------------------------------------------------------------------------


class CustomConfig(Wired):
    type: Literal["custom"]
    item_schema: Annotated[dict[str, Any], AfterValidator(_item_schema)]
    include_sample_schema: bool = False


class LogsConfig(Wired):
    type: Literal["logs", "stored_completions"]
    metadata: NotKept = None


Config = Annotated[CustomConfig | LogsConfig, Field(discriminator="type")]
Criteria = Annotated[list[AnyCriterion], Field(min_length=1, max_length=MOST_CRITERIA)]


def own_names(criteria: list[Any]) -> list[Any]:
    names = [one.name for one in criteria]
    if len(set(names)) < len(names):
        raise PydanticCustomError("testing_criteria", "two criteria have one name; results are told by it")
    return criteria


# -- where the items of a run come from ---------------------------------------------------------------------------------------


class RowSpec(Wired):
    item: dict[str, Any]
    sample: dict[str, Any] | None = None


class FileContent(Wired):
    type: Literal["file_content"]
    content: Annotated[list[RowSpec], Field(min_length=1, max_length=MOST_ROWS)]


class FileId(Wired):
    type: Literal["file_id"]
    id: Id


class StoredCompletions(Wired):
    """What this project's models were asked and answered, where that is kept."""

    type: Literal["stored_completions"]
    model: ModelName | None = None
    created_after: Time | None = None
    created_before: Time | None = None
    limit: Annotated[int, Field(ge=1, le=MOST_ROWS)] | None = None
    metadata: NotKept = None


class StoredResponses(Wired):
    """The same of /v1/responses."""

    type: Literal["responses"]
    model: ModelName | None = None
    created_after: Time | None = None
    created_before: Time | None = None
    instructions_search: NotKept = None
    metadata: NotKept = None
    reasoning_effort: NotKept = None
    temperature: NotKept = None
    tools: NotKept = None
    top_p: NotKept = None
    users: NotKept = None


class InputTemplate(Wired):
    type: Literal["template"]
    template: Messages


class InputReference(Wired):
    type: Literal["item_reference"]
    item_reference: Id

    @model_validator(mode="after")
    def _is_a_path(self) -> Self:
        try:
            looked_up(self.item_reference, {"item": {}, "sample": {}})
        except SpecError as error:
            if not self.item_reference.startswith("item.") or type(error) is SpecError:
                raise PydanticCustomError("item_reference", "write item.NAME") from None
        return self


class JsonSchemaSpec(Wired):
    name: Title
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(Wired):
    """As in chat."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaSpec | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> Self:
        if (self.json_schema is None) == (self.type == "json_schema"):
            raise PydanticCustomError("json_schema", "json_schema goes with the type json_schema")
        return self

    def schema_wanted(self) -> Any:
        """None: any text."""
        if self.type == "text":
            return None
        found = None if self.json_schema is None else self.json_schema.schema_
        return {"type": "object"} if found is None else found


class TextFormat(Wired):
    """As in responses: the schema stands beside its name."""

    type: Literal["text", "json_object", "json_schema"]
    name: Title | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    description: str | None = None
    strict: bool | None = None

    def schema_wanted(self) -> Any:
        return None if self.type == "text" else self.schema_ or {"type": "object"}


class TextSpec(Wired):
    format: TextFormat | None = None


class SamplingParams(Wired):
    max_completion_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, strict=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, strict=False)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    response_format: ResponseFormat | None = None
    text: TextSpec | None = None
    reasoning_effort: None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    """Runs call no functions."""

    def schema_wanted(self) -> Any:
        if self.response_format is not None:
            return self.response_format.schema_wanted()
        return self.text.format.schema_wanted() if self.text and self.text.format else None


class JsonlSource(Wired):
    """Items that bring their samples, or need none."""

    type: Literal["jsonl"]
    source: Annotated[FileContent | FileId, Field(discriminator="type")]


class ModelSource(Wired):
    """Items that a model is asked about, or what models have answered before."""

    type: Literal["completions", "responses"]
    source: Annotated[FileContent | FileId | StoredCompletions | StoredResponses, Field(discriminator="type")]
    input_messages: Annotated[InputTemplate | InputReference, Field(discriminator="type")] | None = None
    model: ModelName | None = None
    sampling_params: SamplingParams = SamplingParams()

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        kept = isinstance(self.source, StoredCompletions | StoredResponses)
        if (self.model is None) != (self.input_messages is None):
            raise PydanticCustomError(
                "model", "model and input_messages go together: one is asked with the other"
            )
        if self.model is None and not kept:
            raise PydanticCustomError(
                "model",
                "a model is needed to answer these items; items that bring their own samples are a source of type jsonl",
            )
        return self


RunSource = Annotated[JsonlSource | ModelSource, Field(discriminator="type")]
