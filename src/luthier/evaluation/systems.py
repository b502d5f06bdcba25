"""Who is measured beside the tuned model: names that are ours, and names that a recipe gives.

    base, base_3shot, tfidf   known for every run
    production                what is released under this recipe's name now, or a release that is named
    router@2, {release: ..}   any release, package or model of this home, as a candidate
    {base: ..}                another base model
    {endpoint: .., model: ..} a model behind a server that speaks OpenAI's protocol

A name is what report.json, the gate and the page call it. Not here: how each is asked (prompted, external), and which artifact
a reference means (app/systems).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from luthier.core.errors import did_you_mean
from luthier.core.spec import Spec

from .asking.endpoint import EndpointSpec
from .asking.purse import AskBudgetSpec, PriceSpec

OURS = ("tuned", "base", "base_3shot", "tfidf", "production")
"""Names that a recipe cannot give to something else, in the order in which they are told."""
Kind = Literal["tuned", "base", "base_3shot", "tfidf", "model", "endpoint"]
"""What a system is, for what can be known of it: `model` is any other model that runs here."""
KINDS: tuple[Kind, ...] = ("tuned", "base", "base_3shot", "tfidf", "model", "endpoint")
_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,59}")


def ordered(names: Iterable[str]) -> list[str]:
    """Ours first, then the others by name: the one order of every table.

    >>> ordered(["gpt", "tfidf", "router@2", "tuned"])
    ['tuned', 'tfidf', 'gpt', 'router@2']
    """
    return sorted(names, key=lambda name: (OURS.index(name), "") if name in OURS else (len(OURS), name))


def _a_name(value: str) -> str:
    if value in OURS:
        raise ValueError(f"{value!r} is the name of a system that is always called so; choose another")
    if not _NAME.fullmatch(value):
        raise ValueError(
            f"{value[:80]!r} cannot be a name; use lower-case letters, digits, '-', '_', '.' and '@', at most 60"
        )
    return value


Name = Annotated[str, AfterValidator(_a_name)]


def is_release(reference: str) -> bool:
    """Whether it is NAME@VERSION, and not a model of the hub at a revision.

    >>> is_release("router@2"), is_release("owner/model@1"), is_release("router@main"), is_release("router")
    (True, False, False, False)
    """
    name, _, version = reference.partition("@")
    return bool(name) and "/" not in name and version.isdecimal()


def _written(value: str) -> str:
    """One of ours, or NAME@VERSION."""
    if value in OURS[1:]:
        return value
    if is_release(value):
        return _a_name(value)
    raise ValueError(
        f"there is no system {value!r}; {did_you_mean(value, list(OURS[1:]))} "
        "A release is written NAME@VERSION, a server {endpoint: URL, model: NAME, name: ...}"
    )


class ProductionSystem(Spec):
    """A release that counts as the one in use."""

    production: str
    """The release that is in use, as NAME@VERSION; the bare word `production` means the newest of this recipe's name."""


class ReleaseSystem(Spec):
    """Another model of this home, as a candidate."""

    release: str
    """A release (NAME@VERSION), or the digest of a package or of a model."""
    name: Name
    """What the report calls it."""


class BaseSystem(Spec):
    """Another base model, as it is."""

    base: str
    """Another base model, written as `base` of the recipe."""
    name: Name
    """What the report calls it."""


class SentSpec(EndpointSpec):
    """A server that rows of the test split are sent to."""

    url: str = Field(alias="endpoint")
    """Where the server is, up to its version, as in `http://localhost:8000/v1`."""
    price: PriceSpec | None = None
    """What a million tokens cost there: part of what is measured."""
    budget: AskBudgetSpec = Field(default=AskBudgetSpec(), exclude=True)
    """What asking it may cost; the whole forecast is held against it before the first request."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """How freely it writes; 0 always takes the likeliest."""
    unredacted: bool = Field(default=False, exclude=True)
    """Whether rows may be sent to another machine though no rule of the recipe takes private data out of them."""

    @model_validator(mode="after")
    def _payable(self) -> SentSpec:
        if self.budget.money is not None:
            if self.price is None:
                raise ValueError(
                    "a budget of money needs a price: price: {input: 0.15 USD, output: 0.60 USD}"
                )
            if self.price.input.currency != self.budget.money.currency:
                raise ValueError(
                    f"the budget is in {self.budget.money.currency} and the price in {self.price.input.currency}; write one currency"
                )
        return self


class EndpointSystem(SentSpec):
    """A model behind a server, asked the same rows."""

    name: Name
    """What the report calls it."""
    max_tokens: int | None = Field(default=None, ge=1, le=32_768)
    """Longest answer, in tokens; without it evaluate.max_tokens for a free answer, and what the longest label needs otherwise."""


Named = ProductionSystem | ReleaseSystem | BaseSystem | EndpointSystem
_TAGS: dict[str, type[Spec]] = {
    "endpoint": EndpointSystem,
    "release": ReleaseSystem,
    "production": ProductionSystem,
    "base": BaseSystem,
}


def _tag(value: Any) -> str | None:
    if isinstance(value, str):
        return "name"
    if isinstance(value, Mapping):
        return next((tag for tag in _TAGS if tag in value), None)
    return next((tag for tag, spec in _TAGS.items() if isinstance(value, spec)), None)


System = Annotated[
    Annotated[str, AfterValidator(_written), Tag("name")]
    | Annotated[EndpointSystem, Tag("endpoint")]
    | Annotated[ReleaseSystem, Tag("release")]
    | Annotated[ProductionSystem, Tag("production")]
    | Annotated[BaseSystem, Tag("base")],
    Discriminator(
        _tag,
        custom_error_type="no_system",
        custom_error_message="a system is base, base_3shot, tfidf, production, NAME@VERSION, or one of {release: ..}, {base: ..}, "
        "{production: ..}, {endpoint: .., model: .., name: ..}",
    ),
]
"""One entry of evaluate.against."""


def name_of(entry: str | Named) -> str:
    """
    >>> name_of("base"), name_of(ReleaseSystem(release="router@2", name="old"))
    ('base', 'old')
    """
    if isinstance(entry, str):
        return entry
    return "production" if isinstance(entry, ProductionSystem) else entry.name


def kind_of(entry: str | Named) -> Kind:
    """
    >>> kind_of("base"), kind_of("production"), kind_of("router@2")
    ('base', 'model', 'model')
    """
    if isinstance(entry, EndpointSystem):
        return "endpoint"
    for kind in KINDS:
        if entry == kind:
            return kind
    return "model"


def described(entry: str | Named) -> str:
    """What a system is, for a reader of the report.

    >>> described("base"), described("router@2")
    ('the base model', 'router@2')
    """
    if isinstance(entry, EndpointSystem):
        return f"{entry.model} at {entry.host}"
    if isinstance(entry, ReleaseSystem):
        return entry.release
    if isinstance(entry, ProductionSystem):
        return entry.production
    if isinstance(entry, BaseSystem):
        return f"the base model {entry.base}"
    return _TOLD.get(entry, entry)


_TOLD = {
    "tuned": "the tuned model",
    "base": "the base model",
    "base_3shot": "the base model with three examples in its prompt",
    "tfidf": "the plain baseline (word counts and logistic regression, TF-IDF)",
    "production": "the release in use",
}
