"""What people of a server may do: a policy for the site, one for an organisation, one for a project. Each may only tighten the wider one.

    site.yaml ─┐
    org.yaml ──┼──▶ Effective ──▶ refusals, each with the rule, who laid it down, and a way out        (nothing said: DEFAULT holds)
    project ───┘

What is in no list is denied. Whether a release is good enough is another matter: the gate of its recipe (governance/policy). Whether a
recipe reaches beyond its project: governance/vetting, which asks here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import Field, field_validator

from luthier.core.errors import SpecError
from luthier.core.spec import Spec, parse, read_yaml
from luthier.core.units import Seconds

from .access import ROLES, SITE
from .reach import covered, matches, within

CLASS_TAG: Final = "class:"
"""A tag of `data.about` that says of which class the rows are: `class:personal`."""
UNCLASSIFIED: Final = "unclassified"
"""The class of rows of which nothing is said."""
NOT_SAID: Final = "the default"

Name = Literal["viewer", "annotator", "trainer", "deployer", "auditor", "admin"]


class EndpointRule(Spec):
    """A server that recipes may send to."""

    url: str
    """Where it is: a URL, and whatever lies below it; mail servers as `smtp://HOST`."""
    keys: list[str] = Field(default_factory=list, max_length=100)
    """The environment variables that may be sent there as its key, by name. A key is never sent to a server that it is not written at."""


class DataRule(Spec):
    """Who may train on rows of a class."""

    roles: list[Name] = Field(default=["trainer", "admin"], min_length=1)
    """Whoever holds one of these in the project."""
    approval: bool = False
    """Whether another person must agree to each training on them."""


class FloorRule(Spec):
    """What the gate of every recipe must ask of a metric; a stricter gate passes."""

    at_least: float | None = None
    """The gate's own `at_least` is this or more."""
    at_most: float | None = None
    """The gate's own `at_most` is this or less."""
    better_than: str | None = None
    """The gate must ask for more than this system gives."""
    waivable: bool = False
    """Whether whoever runs a recipe may waive the rule; if not, the gate must say `waivable: false` too, so that nobody does."""


class ApprovalSpec(Spec):
    """What another person must agree to. Nobody agrees to what he asked for or trained."""

    release: bool = False
    """Before a new version answers under its name, and before a release is given a further name."""
    rollout: bool = False
    """Before a rollout puts a version in place of the one that answers."""
    roles: list[Name] = Field(default=["deployer", "admin"], min_length=1)
    """Who may agree: whoever holds one of these in the project."""
    within: Seconds = Field(default=7 * 86_400.0, gt=0, le=366 * 86_400)
    """How long an open request waits before it lapses, as in `7 days`."""


class PolicySpec(Spec):
    """One scope's policy. What is left out says nothing: the wider scope's rule holds."""

    bases: list[str] | None = Field(default=None, max_length=1000)
    """Base models that may be used: names, hub ids, folders or URLs, `*` for any part, or `sha256:` and the digest of a known model."""
    licences: list[str] | None = Field(default=None, max_length=1000)
    """Licences that a base and the data of a recipe may have, as they are written there; without it any."""
    methods: list[str] | None = Field(default=None, max_length=1000)
    """Training methods that may be used."""
    sources: list[str] | None = Field(default=None, max_length=1000)
    """Folders, URLs and databases that recipes may read, each with all that lies below; uploaded files need no line."""
    environment: list[str] | None = Field(default=None, max_length=1000)
    """Environment variables of the server that a recipe may refer to as ${NAME}."""
    hub: list[str] | None = Field(default=None, max_length=1000)
    """Models and data sets that may be fetched from a hub, by id, `*` for any part."""
    endpoints: list[EndpointRule] | None = Field(default=None, max_length=1000)
    """Servers that recipes may send to: judges, teachers, embedders, webhooks, mail."""
    parts: list[str] | None = Field(default=None, max_length=1000)
    """Parts of other packages that may be used, as kind:name (`rule:acme_masking`); those of Luthier need no line."""
    engines: list[str] | None = Field(default=None, max_length=100)
    """What may work on rows: `local`, `spark`."""
    data: dict[str, DataRule] | None = Field(default=None, max_length=1000)
    """Classes of data and who may train on them; a class that is not named may not be used. `unclassified`: rows of which nothing is
    said. A recipe says it with the tag class:NAME in data.about."""
    gates: dict[str, FloorRule] = Field(default_factory=dict, max_length=100)
    """What every recipe's gate must ask, by metric."""
    approvals: ApprovalSpec | None = None
    """What another person must agree to."""

    @field_validator("bases", "licences", "methods", "sources", "environment", "hub", "parts", "engines")
    @classmethod
    def _plain(cls, value: list[str] | None) -> list[str] | None:
        for text in value or []:
            if not text.strip() or len(text) > 1000 or not text.isprintable():
                raise ValueError(
                    f"{text[:40]!r} is no entry of a list; write 1 to 1,000 printable characters"
                )
        return value


DEFAULT: Final = PolicySpec(
    bases=["known"],
    sources=[],
    environment=[],
    hub=[],
    endpoints=[],
    parts=[],
    engines=["local"],
    approvals=ApprovalSpec(),
)
"""Where the site says nothing: models that come with Luthier, uploaded files, no network and no secret."""
KNOWN: Final = "known"
"""In `bases`: every model that has a name in Luthier."""
LISTS: Final = ("bases", "licences", "methods", "sources", "environment", "hub", "parts", "engines")


@dataclass(frozen=True)
class Refusal:
    """`rule`: the policy's key. `origin`: who laid it down, the default or a scope."""

    rule: str
    origin: str
    message: str
    remedy: str

    def plain(self) -> dict[str, str]:
        return {"rule": self.rule, "origin": self.origin, "message": self.message, "remedy": self.remedy}


@dataclass(frozen=True)
class Effective:
    """Policies from the widest scope to the narrowest, each with the scope's name. All of them must allow what is done."""

    layers: tuple[tuple[str, PolicySpec], ...] = ()

    def _said(self, rule: str) -> list[tuple[str, Any]]:
        """(who says it, what); the default first where the site says nothing, whatever narrower scopes were once allowed to say."""
        found = [
            (origin, value) for origin, spec in self.layers if (value := getattr(spec, rule)) is not None
        ]
        by_site = any(origin == SITE for origin, _ in found)
        default = getattr(DEFAULT, rule)
        return found if by_site or default is None else [(NOT_SAID, default), *found]

    def _each(self, rule: str, allows: Any, message: str, what: str) -> Refusal | None:
        """The first scope whose list does not have it."""
        for origin, listed in self._said(rule):
            if not any(allows(one) for one in listed):
                return Refusal(
                    rule,
                    origin,
                    message,
                    f"Have {what} entered under `{rule}` of the policy of {_of(origin)}.",
                )
        return None

    def base(self, name: str, *, known: str | None, hub: bool) -> Refusal | None:
        """`known`: the SHA-256 of a model that comes with Luthier. `hub`: it would be fetched from one."""

        def allows(entry: str) -> bool:
            if entry.startswith("sha256:"):
                return entry == f"sha256:{known}"
            if entry == KNOWN:
                return known is not None
            return within(entry, name) if "/" in name and not hub else matches(entry, name)

        refusal = self._each("bases", allows, f"the base {name!r} may not be used", repr(name))
        return refusal or (self.hub(name) if hub else None)

    def hub(self, name: str) -> Refusal | None:
        bare = name.partition("@")[0]
        return self._each(
            "hub",
            lambda e: matches(e, name) or matches(e, bare),
            f"{name!r} may not be fetched from a hub",
            repr(name),
        )

    def licence(self, licence: str, of: str) -> Refusal | None:
        return self._each(
            "licences",
            lambda e: matches(e, licence),
            f"the licence {licence!r} of {of} may not be used",
            repr(licence),
        )

    def method(self, name: str) -> Refusal | None:
        return self._each(
            "methods", lambda e: matches(e, name), f"the method {name!r} may not be used", repr(name)
        )

    def source(self, written: str) -> Refusal | None:
        return self._each(
            "sources",
            lambda e: within(e, written),
            f"{written!r} may not be read",
            "it, or a folder above it,",
        )

    def variable(self, name: str) -> Refusal | None:
        return self._each("environment", lambda e: e == name, f"a recipe may not refer to ${{{name}}}", name)

    def part(self, kind: str, name: str) -> Refusal | None:
        return self._each(
            "parts",
            lambda e: e == f"{kind}:{name}",
            f"the {kind} {name!r} of another package may not be used",
            f"{kind}:{name}",
        )

    def engine(self, name: str) -> Refusal | None:
        return self._each("engines", lambda e: e == name, f"rows may not be worked on by {name!r}", name)

    def endpoint(self, url: str, keys: Sequence[str]) -> Refusal | None:
        def allows(rule: EndpointRule) -> bool:
            return within(rule.url, url) and set(keys) <= set(rule.keys)

        sent = f" with the key {', '.join(keys)}" if keys else ""
        return self._each(
            "endpoints", allows, f"nothing may be sent to {url!r}{sent}", "it, with the names of its keys,"
        )

    def train(self, name: str, roles: Iterable[str]) -> Refusal | None:
        """Whether somebody with these roles may train on rows of that class."""
        held = set(roles)
        for origin, rules in self._said("data"):
            rule = rules.get(name)
            if rule is None:
                return Refusal(
                    "data", origin, f"nothing may be trained on rows of the class {name!r}",
                    f"Say of which class the rows are (data.about.tags: [{CLASS_TAG}NAME]), one of: {', '.join(sorted(rules)) or 'none'}.",
                )  # fmt: skip
            if not held & set(rule.roles):
                return Refusal(
                    "data", origin, f"training on rows of the class {name!r} is for {_or(rule.roles)}",
                    "Ask somebody with that role, or have it granted to you.",
                )  # fmt: skip
        return None

    def gate(self, gate: Mapping[str, Any]) -> list[Refusal]:
        """What a recipe's gate (metric -> its rule) leaves out of what must be asked."""
        found = []
        for origin, floors in self._said("gates"):
            for metric, floor in sorted(floors.items()):
                if (lacking := _below(floor, gate.get(metric))) is not None:
                    found.append(Refusal(
                        "gates", origin, f"the gate does not ask of {metric} what every gate must: {lacking}",
                        f"Write under evaluate.gate: {metric}: {{{lacking}}}",
                    ))  # fmt: skip
        return found

    def gate_floor(self) -> dict[str, dict[str, Any]]:
        """What every gate must ask, as a recipe writes it, the strictest of all scopes: for recipes that are made here."""
        found: dict[str, dict[str, Any]] = {}
        for _, floors in self._said("gates"):
            for metric, floor in floors.items():
                known = found.setdefault(metric, {})
                for name, value in floor.model_dump(exclude_defaults=True, exclude={"waivable"}).items():
                    stricter = {"at_least": max, "at_most": min}.get(name)
                    known[name] = stricter(known[name], value) if stricter and name in known else value
                if not floor.waivable:
                    known["waivable"] = False
        return found

    def needs_approval(self, of: Literal["release", "rollout"]) -> str | None:
        """Who says so; None: nobody."""
        return next((origin for origin, one in self._said("approvals") if getattr(one, of)), None)

    def training_needs_approval(self, name: str) -> str | None:
        return next((o for o, rules in self._said("data") if name in rules and rules[name].approval), None)

    @property
    def approvers(self) -> list[str]:
        """Roles that every scope lets agree."""
        said = [set(one.roles) for _, one in self._said("approvals")]
        return sorted(set.intersection(*said))

    @property
    def approval_s(self) -> float:
        """How long a request stays open."""
        return min(one.within for _, one in self._said("approvals"))

    def plain(self) -> dict[str, Any]:
        """Every rule that holds, and who says it."""
        told: dict[str, Any] = {}
        for rule in PolicySpec.model_fields:
            told[rule] = [
                {"from": origin, "value": _plain(value)} for origin, value in self._said(rule) if value != {}
            ]
        return {
            "rules": told,
            "gate": self.gate_floor(),
            "approvers": self.approvers,
            "approval_s": self.approval_s,
        }


def read_policy(text: str, source: str = "policy") -> PolicySpec:
    """From YAML. Raises SpecError with the line of each fault."""
    spec = parse(PolicySpec, read_yaml(text, source), "docs/policy.md explains every key.")
    if (at := spec.approvals) is not None and any("approvals.decide" not in ROLES[role] for role in at.roles):
        raise SpecError(
            "approvals.roles names a role that may not decide.", remedy="Name deployer, admin, or both."
        )
    return spec


def loosened(narrow: PolicySpec, wide: Effective) -> list[str]:
    """What a narrower policy allows though a wider one does not: it would have no effect, so it is refused."""
    found = []
    for rule in LISTS:
        for entry in getattr(narrow, rule) or []:
            for origin, listed in wide._said(rule):
                if not any(covered(rule, one, entry) for one in listed):
                    found.append(f"{rule}: {entry!r} is not allowed by {_of(origin)}")
    for end in narrow.endpoints or []:
        for origin, listed in wide._said("endpoints"):
            if not any(within(one.url, end.url) and set(end.keys) <= set(one.keys) for one in listed):
                found.append(f"endpoints: {end.url!r} is not allowed by {_of(origin)}")
    for name, rule_ in (narrow.data or {}).items():
        for origin, rules in wide._said("data"):
            if name not in rules:
                found.append(f"data: the class {name!r} is not allowed by {_of(origin)}")
            elif not set(rule_.roles) <= set(rules[name].roles):
                found.append(
                    f"data: {name!r} may be used by {_or(rules[name].roles)} alone, says {_of(origin)}"
                )
    if (narrower := narrow.approvals) is not None:
        if not set(narrower.roles) <= set(wide.approvers):
            found.append(f"approvals: {_or(wide.approvers)} alone may agree")
        if narrower.within > wide.approval_s:
            found.append(f"approvals: a request lapses after {wide.approval_s:.0f} s")
    return found


def _below(floor: FloorRule, asked: Any) -> str | None:
    """What `asked` lacks of the floor, as a recipe would write it."""
    lacking = []
    have = (
        (lambda name: asked.get(name))
        if isinstance(asked, Mapping)
        else (lambda name: getattr(asked, name, None))
    )
    if floor.at_least is not None and not (
        (value := have("at_least")) is not None and value >= floor.at_least
    ):
        lacking.append(f"at_least: {floor.at_least:g}")
    if floor.at_most is not None and not ((value := have("at_most")) is not None and value <= floor.at_most):
        lacking.append(f"at_most: {floor.at_most:g}")
    if floor.better_than is not None and have("better_than") != floor.better_than:
        lacking.append(f"better_than: {floor.better_than}")
    if not floor.waivable and have("waivable") is not False:
        lacking.append("waivable: false")
    if asked is None and not lacking:
        lacking.append("a rule of its own")
    return ", ".join(lacking) or None


def _of(origin: str) -> str:
    return "the site" if origin in (NOT_SAID, "site") else origin


def _or(words: Sequence[str]) -> str:
    return " or ".join(words)


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.plain()
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return {name: _plain(one) for name, one in value.items()} if isinstance(value, dict) else value
