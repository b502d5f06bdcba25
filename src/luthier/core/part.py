"""A plugin as a person writes it: a name, or one name with its settings.

    normalize                        rules: [normalize, {length: {min: 3}}]
    {length: {min: 3}}               method: {dpo: {beta: 0.1}}

The plugin brings its own Spec as its attribute `spec`, so a new part needs no line in any recipe schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import SerializeAsAny, ValidationError, model_serializer, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from . import plugin
from .errors import did_you_mean
from .spec import Spec


class PartSpec(Spec):
    """Subclasses say which `kind` of the plugin table they name, and show an `example`."""

    kind: ClassVar[str]
    example: ClassVar[str]

    name: str
    """The part's name in the plugin table."""
    settings: SerializeAsAny[Spec]
    """The part's own settings, every default spelled out."""

    @model_validator(mode="before")
    @classmethod
    def _from_written(cls, value: Any) -> Any:
        if isinstance(value, PartSpec):
            return value
        if isinstance(value, str):
            value = {value: None}
        if not isinstance(value, Mapping) or len(value) != 1:
            raise ValueError(f"a {cls.kind} is a name, or one name with its settings, as in {cls.example}")
        name, settings = next(iter(value.items()))
        known = plugin.names(cls.kind)
        if name not in known:
            raise ValueError(f"there is no {cls.kind} called {name!r}; {did_you_mean(str(name), known)}")
        try:
            return {"name": name, "settings": plugin.load(cls.kind, name).spec.model_validate(settings or {})}
        except ValidationError as error:
            raise under((name,), error) from None

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        return {self.name: self.settings.plain()}

    def load(self) -> Any:
        """The part itself."""
        return plugin.load(self.kind, self.name)


def under(path: tuple[str | int, ...], error: ValidationError) -> ValidationError:
    """The same faults below `path`, so that a recipe's line numbers are found for a part's own keys."""
    faults = [
        InitErrorDetails(
            type=PydanticCustomError(fault["type"], "{told}", {**fault.get("ctx", {}), "told": fault["msg"]}),
            loc=(*path, *fault["loc"]),
            input=fault["input"],
        )
        for fault in error.errors(include_url=False)
    ]
    return ValidationError.from_exception_data(".".join(map(str, path)), faults)
