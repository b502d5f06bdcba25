"""The recipe's `monitor:` section: how often to look, whom to tell, and when a new run is made. Light: core and Specs only."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlsplit

from pydantic import BeforeValidator, Field, field_validator, model_validator

from luthier.core.errors import did_you_mean
from luthier.core.spec import Spec, references
from luthier.core.units import Count, Seconds, Share
from luthier.data.egress import ServerSpec
from luthier.data.embedders.embedder import EmbedderSpec

View = Literal[
    "length", "unknown", "unlike", "topic", "language", "private", "injection", "answer", "answer_length", "confidence",
    "refused", "right",
]  # fmt: skip
DAY_S = 86_400.0


class ReferenceSpec(Spec):
    """What windows are compared with. Part of the identity of what is fitted."""

    embedder: EmbedderSpec = Field(default_factory=EmbedderSpec.hashed)
    """What makes vectors of requests: `hashed` (of spelling), `static` or `endpoint`."""
    fitted: int = Field(default=20_000, ge=100, le=1_000_000)
    """At most so many training rows say which words are known."""
    near: int = Field(default=1_500, ge=50, le=20_000)
    """At most so many training rows are kept as vectors to be near to, and divided into topics."""
    compared: int = Field(default=2_000, ge=100, le=100_000)
    """At most so many rows that were not trained on stand for what is usual."""


class DriftSpec(Spec):
    """How requests and answers are watched."""

    every: Seconds = Field(default=DAY_S, ge=60, le=31 * DAY_S)
    """How long a window is; each is looked at once, when it is over."""
    alpha: float = Field(default=0.01, gt=0, le=0.5)
    """False alarms in a quiet day, on average at most: 0.01 is one in a hundred days, over all views and however short `every` is."""
    views: list[View] | None = Field(default=None, min_length=1)
    """What is watched; without it everything that can be: length, unknown, unlike, topic, language, private, injection, answer,
    answer_length, confidence, refused, right."""
    at_most: Count = Field(default=20_000, ge=100, le=1_000_000)
    """At most so many requests of a window are looked at, chosen by their ids."""
    reference: ReferenceSpec = ReferenceSpec()
    """What windows are compared with."""

    @field_validator("views")
    @classmethod
    def _each_once(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and len(set(value)) != len(value):
            raise ValueError("the same view stands twice")
        return value


class WebhookSpec(ServerSpec):
    """A server that is told of alerts by POST of JSON, signed."""

    secret: str
    """The key of the signature (HMAC-SHA256) as a reference to an environment variable, ${NAME}."""
    timeout: Seconds = Field(default=10.0, gt=0, le=60)
    """How long it may take to answer."""

    @field_validator("url")
    @classmethod
    def _can_be_asked(cls, value: str) -> str:
        """After what ServerSpec wants of it: a name that can be looked up, and a path that HTTP can carry."""
        try:
            told = urlsplit(value)
        except ValueError:
            return value  # ServerSpec says so
        _name(told.hostname or "")
        if not re.fullmatch(r"[!-~]*", told.path):
            raise ValueError(
                f"the path {told.path[:60]!r} has characters that a URL does not hold; write them with %, as in {quote(told.path[:60])}"
            )
        return value

    @field_validator("secret")
    @classmethod
    def _is_a_reference(cls, value: str) -> str:
        return _reference(value)


class EmailSpec(Spec):
    """A mail server that alerts are sent through."""

    host: str = Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9.:-]+$")
    """The mail server."""
    port: int = Field(default=587, ge=1, le=65_535)
    """Its port: 587 begins in the clear and turns to TLS (which is insisted upon), 465 is TLS from the start."""
    tls: Literal["starttls", "tls", "none"] = "starttls"
    """How the connection is kept private; `none` only on this machine."""
    allow_host: str | None = None
    """The host once more: alerts may leave this machine for it. Not needed for this machine itself."""
    sender: str
    """The address that mails come from."""
    to: list[str] = Field(min_length=1, max_length=20)
    """The addresses that mails go to."""
    user: str | None = None
    """The name to log in with, or a reference to an environment variable, ${NAME}."""
    password: str | None = None
    """The password as a reference to an environment variable, ${NAME}."""
    timeout: Seconds = Field(default=20.0, gt=0, le=120)
    """How long the server may take."""

    @field_validator("host")
    @classmethod
    def _can_be_looked_up(cls, value: str) -> str:
        return _name(value)

    @field_validator("password")
    @classmethod
    def _password_is_a_reference(cls, value: str | None) -> str | None:
        return None if value is None else _reference(value)

    @field_validator("sender", "to")
    @classmethod
    def _addresses(cls, value: Any) -> Any:
        for one in [value] if isinstance(value, str) else value:
            if not re.fullmatch(r"[^@\s<>,;\"\\]{1,64}@[A-Za-z0-9.-]{1,190}", one):
                raise ValueError(f"{one[:60]!r} is no address, as in alerts@firm.com")
        return value

    @model_validator(mode="after")
    def _may_be_sent(self) -> EmailSpec:
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password belong together; write both or neither")
        if self.away and self.allow_host != self.host:
            raise ValueError(
                f"alerts would be sent to {self.host}, which is not this machine; if they may leave it, write allow_host: {self.host}"
            )
        if self.tls == "none" and self.away:
            raise ValueError(
                f"tls: none would send alerts to {self.host} in the clear; write starttls or tls"
            )
        return self

    @property
    def away(self) -> bool:
        """Whether that is another machine."""
        return self.host not in ("localhost", "127.0.0.1", "::1")


def _name(host: str) -> str:
    try:
        host.encode("idna")
    except UnicodeError:
        raise ValueError(
            f"{host[:80]!r} is no name of a host: between its dots stand 1 to 63 characters"
        ) from None
    return host


def _reference(value: str) -> str:
    if references(value) != [value[2:-1]]:
        raise ValueError(
            "a secret is not written in a recipe; refer to an environment variable, as in ${ALERT_SECRET}"
        )
    return value


class AlertsSpec(Spec):
    """Who is told. The log of `luthier monitor step`, its standard output, is told always."""

    webhook: WebhookSpec | None = None
    """A server of yours."""
    email: EmailSpec | None = None
    """People."""
    examples: int = Field(default=3, ge=0, le=20)
    """How many requests an alert shows, private values masked; 0: none leaves."""


TRIGGERS = ("drift", "schedule", "labels")


def _several(value: Any) -> Any:
    value = [value] if isinstance(value, str) else value
    for one in value if isinstance(value, list) else ():
        if one not in TRIGGERS:
            raise ValueError(
                f"there is no reason {str(one)[:40]!r} to train anew; {did_you_mean(str(one), TRIGGERS)}"
            )
    return value


class RetrainSpec(Spec):
    """When a new model is made of old rows and of what people judged, and who lets it be used."""

    on: Annotated[
        list[Literal["drift", "schedule", "labels"]], BeforeValidator(_several), Field(min_length=1)
    ]
    """What makes it due, one of or a list of: `drift` (an alarm since the last time), `schedule` (`every`), `labels` (`min_labels`)."""
    replay: Share = 0.2
    """The share of old rows among the training rows, so that what was learnt is not forgotten; at least 0.05."""
    approve: Literal["human", "gate"] = "human"
    """Who lets a model that passed go on to a rollout: a person (`luthier monitor approve`), or the gate alone."""
    min_labels: Count = Field(default=100, ge=1)
    """How many judged answers must be there that no run has learnt from; fewer, and nothing is made."""
    every: Seconds | None = Field(default=None, gt=0)
    """Of `schedule`: how long after the last time."""
    at_most_every: Seconds = Field(default=DAY_S, ge=0)
    """At least so long passes between two runs, whatever makes them due."""
    start: Literal["base", "release"] = "base"
    """Where training starts: from the recipe's base, or from the merged weights of the release that answers now."""
    forgives: float = Field(default=0.02, gt=0, le=0.5)
    """How much worse than the release in use the new model may be, of all test rows, of the old ones and of the new ones, at the
    lower end of the interval."""

    @model_validator(mode="after")
    def _says_when(self) -> RetrainSpec:
        if "schedule" in self.on and self.every is None:
            raise ValueError("on: schedule needs every, as in every: 30 days")
        if "schedule" not in self.on and self.every is not None:
            raise ValueError("every is of on: schedule, which is not there; add it, or remove every")
        if not 0.05 <= self.replay <= 0.95:
            raise ValueError(f"replay is {self.replay:g}; write a share from 0.05 to 0.95")
        return self


class MonitorSpec(Spec):
    """What `luthier monitor step` does."""

    drift: DriftSpec = DriftSpec()
    """How requests and answers are watched."""
    alerts: AlertsSpec = AlertsSpec()
    """Who is told of an alarm."""
    retrain: RetrainSpec | None = None
    """When a new model is made; without it never."""
    keep_for: Seconds | None = Field(default=None, gt=0)
    """How long traffic is kept: every step takes out what is older. Without it nothing is."""

    @model_validator(mode="after")
    def _keeps_long_enough(self) -> MonitorSpec:
        if self.keep_for is not None and self.keep_for < 2 * self.drift.every:
            raise ValueError(
                "keep_for is shorter than two windows of drift.every, which could not be looked at"
            )
        return self
