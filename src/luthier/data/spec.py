"""The `data` section of a recipe: where rows come from, what they mean, which rules they pass, how they are split.

Everything here is a wish in plain values. Rules and connectors are found by name in the plugin table and bring their
own Spec, so a new one needs no line in this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import (
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from luthier.core import plugin
from luthier.core.errors import SpecError, did_you_mean
from luthier.core.part import PartSpec, under
from luthier.core.spec import Spec
from luthier.core.units import Share

from .canaries import SOURCE as CANARIES
from .canaries import CanarySpec
from .contract import ContractSpec
from .maps import MapSpec as MapSpec
from .rules.rule import GrowRule, MakeRule
from .task import SourceTaskSpec


class SourceSpec(Spec):
    """Where rows come from is one key that names a connector of the plug-in table, with that connector's settings under it
    (`sql: {url: ..., table: ...}`) or, for `files`, beside it (`files: a.jsonl`, `format: csv`)."""

    connector: str
    """Where the rows are: the name of a connector with its settings (see Connectors below), as in `files: tickets.jsonl`."""
    settings: SerializeAsAny[Spec]
    """The connector's own settings, every default spelled out."""
    map: MapSpec | None = None
    """Which column means what; without it the layout is recognised from names and values."""
    contract: ContractSpec | str | None = None
    """What the source has promised of its columns, or the file that says so; rows that break it are quarantined."""
    name: str | None = None
    """What records of this source are called; by default what the connector calls it, such as the file's name."""
    weight: float = Field(default=1.0, gt=0, le=1000)
    """How much each row of this source counts in training, against 1."""
    task: SourceTaskSpec | None = None
    """What rows of this source are told in place of the recipe's task, where several tasks are learnt together."""
    side: Literal["train", "validation", "test"] | None = None
    """The side of the split that all its rows are on, where the data set brings a split of its own; other sources are divided by `split`."""

    @field_validator("name")
    @classmethod
    def _a_name_of_its_own(cls, value: str | None) -> str | None:
        if value == CANARIES:
            raise ValueError(f"{CANARIES} is what rows of data.canaries are called; choose another name")
        return value

    @model_validator(mode="after")
    def _contract_is_of_rows(self) -> SourceSpec:
        if self.contract is not None and self.map is not None and self.map.conversation is not None:
            raise ValueError(
                "a contract sets single rows aside, and map.conversation needs all of a conversation's; keep one"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, value: Any) -> Any:
        """From the written form: the key that names a connector takes what is the connector's."""
        if not isinstance(value, Mapping):
            return value
        own = [name for name in cls.model_fields if name not in ("connector", "settings")]
        named = [name for name in plugin.names("connector") if name in value]
        if len(named) > 1:
            raise ValueError(
                f"{named[0]} and {named[1]} both say where rows come from; keep one, or write two sources"
            )
        spec: type[Spec] | None = plugin.load("connector", named[0]).spec if named else None
        beside = spec is not None and not isinstance(value[named[0]], Mapping)
        theirs = list(spec.model_fields) if spec is not None and beside else []
        known = [*(named or plugin.names("connector")), *own, *theirs]
        for key in value:
            if key not in known:
                told = {"key": str(key), "hint": did_you_mean(str(key), known)}
                raise PydanticCustomError("unknown_key", "there is no key '{key}' here; {hint}", told)
        if spec is None:
            raise ValueError(
                f"nothing says where the rows come from; write one of {', '.join(plugin.names('connector'))}, as in files: rows.jsonl"
            )
        [name] = named
        if beside:
            written = {key: value[key] for key in theirs if key in value}
            written[name if name in theirs else theirs[0]] = value[name]
        else:
            written = value[name]
        try:
            settings = spec.model_validate(written)
        except ValidationError as error:
            raise under(() if beside else (name,), error) from None
        return {"connector": name, "settings": settings, **{key: value[key] for key in own if key in value}}

    @model_serializer(mode="wrap")
    def _as_written(self, standard: SerializerFunctionWrapHandler) -> dict[str, Any]:
        told = standard(self)
        del told["connector"]
        settings = told.pop("settings")
        for name in ("side", "contract"):
            if told[name] is None:
                del told[name]  # sources that were written before there were such keep their identity
        return {**(settings if self.connector in settings else {self.connector: settings}), **told}

    @property
    def default_name(self) -> str:
        """What the connector calls this source."""
        return getattr(self.settings, "default_name", self.connector)


class RuleSpec(PartSpec):
    """One rule by name with its settings; written `normalize` or `{length: {min: 3}}`."""

    kind = "rule"
    example = "{length: {min: 3}}"


DEFAULT_QUALITY = (
    "mojibake",
    "html",
    "normalize",
    "drop_empty",
    "turns",
    "repetition",
    "deduplicate",
    "near_duplicates",
)
"""What `default` stands for under quality. Repairs come before what judges or compares, so that rows which differ in damage
alone are seen as one; mojibake before normalize, which takes the traces of it away; what is cheap before what sees all rows,
exact copies before near ones. docs/decisions.md says what is not in it and why."""
DEFAULT = "default"


class RulesSpec(Spec):
    quality: list[RuleSpec] = Field(default_factory=list)
    """Rules that repair or refuse rows; they run first, in this order. `default`, alone or as one of them, stands for mojibake, html, normalize, drop_empty, turns, repetition, deduplicate and near_duplicates."""
    relevance: list[RuleSpec] = Field(default_factory=list)
    """Rules that keep what matters for the goal; they run second."""
    quantity: list[RuleSpec] = Field(default_factory=list)
    """Rules that decide how many rows there are; they run last."""

    @field_validator("quality", "relevance", "quantity", mode="before")
    @classmethod
    def _default_is_written_out(cls, value: Any, info: ValidationInfo) -> Any:
        """A dataset's identity holds the rules themselves: other defaults some day make another dataset, not another rule
        under the same name."""
        if value == DEFAULT:
            value = [DEFAULT]
        if not isinstance(value, list) or DEFAULT not in value:
            return value
        if info.field_name != "quality":
            raise ValueError(
                f"there is no default for {info.field_name}: what matters, and how much of it, depends on the goal; only quality has one"
            )
        if value.count(DEFAULT) > 1:
            raise ValueError("default stands there twice; once is enough")
        found: list[RuleSpec] = []
        for n, one in enumerate(value):
            if one == DEFAULT:
                found += [RuleSpec.model_validate(name) for name in DEFAULT_QUALITY]
                continue
            try:
                found.append(RuleSpec.model_validate(one))
            except ValidationError as error:
                raise under((n,), error) from None
        return found

    @model_validator(mode="after")
    def _no_row_is_made_twice(self) -> RulesSpec:
        seen: list[dict[str, Any]] = []
        for wish in self.quantity:
            if isinstance(plugin.load("rule", wish.name), GrowRule | MakeRule):
                if (told := {wish.name: wish.settings.plain()}) in seen:
                    raise ValueError(
                        f"{wish.name} stands there twice with the same settings, and would make the same rows again; give it another seed"
                    )
                seen.append(told)
        return self

    @model_validator(mode="after")
    def _rows_are_made_in_train_alone(self) -> RulesSpec:
        for wish in [*self.quality, *self.relevance]:
            if isinstance(plugin.load("rule", wish.name), GrowRule | MakeRule):
                raise ValueError(
                    f"{wish.name} makes rows, which train alone may have; write it under quantity"
                )
            if getattr(plugin.load("rule", wish.name), "of", "rows") == "held":
                raise ValueError(
                    f"{wish.name} looks at the rows of validation and test, and before the rules of quantity there are none; "
                    "write it under quantity"
                )
        return self

    @model_validator(mode="after")
    def _private_data_goes_before_rows_leave(self) -> RulesSpec:
        wishes = self.ordered
        for n, wish in enumerate(wishes):
            rule = plugin.load("rule", wish.name)
            embedder = getattr(wish.settings, "embedder", None)
            host = rule.sends(wish.settings) if isinstance(rule, MakeRule) else embedder and embedder.sends
            late = [one.name for one in wishes[n:] if plugin.load("rule", one.name).private]
            if host is not None and late:
                raise ValueError(
                    f"{wish.name} sends rows to {host} before {late[0]} has taken private data out of them; write {late[0]} before it"
                )
        return self

    @property
    def ordered(self) -> list[RuleSpec]:
        return [*self.quality, *self.relevance, *self.quantity]


class SplitSpec(Spec):
    validation: Share = 0.1
    """The share of rows held back to watch training."""
    test: Share = 0.1
    """The share of rows never seen before the final evaluation."""
    group_by: str | None = None
    """A column whose equal values must stay on one side; sources may override it with map.group."""
    stratify: Literal["auto", "label", "none"] = "auto"
    """Whether each label is given rows on every side; `auto` does it for classification."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Another seed gives another split of the same rows."""
    fold: int = Field(default=0, ge=0, lt=1000)
    """Which part of the rows that are not for the test is held back for validation: the first, the second, ... each disjoint from
    the others. The test rows are the same in all of them."""

    @model_serializer(mode="wrap")
    def _as_before(self, standard: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The first fold is the split that there always was."""
        told: dict[str, Any] = standard(self)
        return {name: value for name, value in told.items() if name != "fold" or value}

    @model_validator(mode="after")
    def _leaves_training_rows(self) -> SplitSpec:
        if self.fold and self.test + (self.fold + 1) * self.validation > 1:
            raise ValueError(
                f"there is no fold {self.fold}: a test of {self.test:g} and {self.fold + 1} parts of {self.validation:g} are more than all rows"
            )
        if self.validation + self.test >= 1:
            raise ValueError(
                f"validation {self.validation:g} and test {self.test:g} leave nothing to train on; their sum must be below 1"
            )
        return self


class EngineSpec(PartSpec):
    """Where rows are worked on; written `local` or `{spark: {master: "local[2]"}}`. The rows are the same wherever that is,
    so it is no part of a dataset's identity."""

    kind = "rows_engine"
    example = "{spark: {master: 'local[2]'}}"


class AboutSpec(Spec):
    """What people say of a dataset. No part of what it is: another owner makes no other dataset."""

    owner: str | None = None
    """Who answers for it: a person, a team, a mailing list."""
    licence: str | None = None
    """Under which terms the rows may be used: an SPDX name, a URL or a contract's number."""
    purpose: str | None = None
    """What it was put together for."""
    retention: str | None = None
    """How long it may be kept, in words; nothing is deleted by it."""
    tags: list[str] = Field(default_factory=list)
    """Words to find it by."""

    @model_validator(mode="after")
    def _says_something(self) -> AboutSpec:
        for name, value in self.plain().items():
            for text in value if isinstance(value, list) else [value]:
                if text is not None and (not text.strip() or len(text) > 1000):
                    wrong = "blank" if not text.strip() else "longer than 1,000 characters"
                    raise ValueError(f"{name} is {wrong}; write a line or leave it out")
        return self


class DataSpec(Spec):
    sources: list[SourceSpec] = Field(min_length=1)
    """Where rows come from."""
    rules: RulesSpec = RulesSpec()
    """What rows must pass, in order: quality, relevance, quantity."""
    split: SplitSpec = SplitSpec()
    """How rows are divided into train, validation and test."""
    canaries: CanarySpec | None = None
    """Artificial secrets to plant among the training rows, so that `evaluate.memorisation` can measure what was learnt by heart."""
    engine: EngineSpec = Field(default_factory=lambda: EngineSpec.model_validate("local"), exclude=True)
    """What carries the rules out, by name: `local` is this machine."""
    about: AboutSpec | None = Field(default=None, exclude=True)
    """Who answers for the dataset, under which terms and what for; shown with it, and no part of its identity."""

    @model_validator(mode="after")
    def _models_are_within_reach(self) -> DataSpec:
        made = [w.name for w in self.rules.ordered if isinstance(plugin.load("rule", w.name), MakeRule)]
        if made and self.engine.name == "spark":
            raise ValueError(
                f"{made[0]} sees all rows of train in one process, which Spark does not have; use engine: local, or prepare the "
                "rows with Spark first and give what it leaves to a recipe of its own"
            )
        if getattr(self.engine.settings, "here", True):
            return self
        for wish in self.rules.ordered:
            if getattr(plugin.load("rule", wish.name), "models", ()):
                raise ValueError(
                    f"{wish.name} asks a model that stands on this machine, where the workers of {self.engine.name} do not reach it; "
                    "use engine: local, or a local master of Spark"
                )
        return self

    @model_validator(mode="after")
    def _no_secret_is_written(self) -> DataSpec:
        from .connectors.database import holds_secret

        read = [getattr(one.settings, "patterns", []) for one in self.sources if one.connector == "files"]
        read += [files for wish in self.rules.ordered for files in reads(wish).values()]
        if any(
            "://" in pattern and holds_secret(pattern, path=True) for patterns in read for pattern in patterns
        ):
            raise ValueError(
                "a secret is written in the URL of files, which would stand in the record; put it in an environment variable and write ${NAME}"
            )
        return self

    @model_validator(mode="after")
    def _sources_are_there(self) -> DataSpec:
        from .prepare import source_names

        for wish in self.rules.ordered:
            named = wish.settings.named_sources() if hasattr(wish.settings, "named_sources") else []
            names = source_names(self.sources) if named else []
            if odd := next((name for name in named if name not in names), None):
                raise ValueError(
                    f"{wish.name} names the source {odd!r}, which is not there; {did_you_mean(odd, names)}"
                )
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_wished(self, standard: SerializerFunctionWrapHandler) -> dict[str, Any]:
        told: dict[str, Any] = standard(self)
        if told.get("canaries", ...) is None:
            del told["canaries"]  # datasets without keep their identity
        return told

    def has(self, side: Literal["validation", "test"]) -> bool:
        """Whether rows are meant to be on that side."""
        return getattr(self.split, side) > 0 or any(source.side == side for source in self.sources)


def reads(wish: RuleSpec) -> dict[str, list[str]]:
    """The files that a rule's settings name, by setting."""
    rule = plugin.load("rule", wish.name)
    found = {name: getattr(wish.settings, name) for name in getattr(rule, "reads", ())}
    return {name: [told] if isinstance(told, str) else list(told) for name, told in found.items() if told}


def rule_version(name: str) -> int:
    """The version of a rule's algorithm; part of a dataset's identity. Raises SpecError for an unknown name."""
    version = plugin.load("rule", name).version
    if not isinstance(version, int):
        raise SpecError(
            f"the rule {name!r} has no whole-number version.", remedy="Set `version` in the plugin."
        )
    return version
