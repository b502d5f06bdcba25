"""What a recipe wishes of a rollout. Light: imports core only."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from luthier.core.spec import Spec
from luthier.core.units import Count, Seconds, Share, seconds


def _off(value: Any) -> Any:
    return None if value in ("off", "none") else seconds(value) if value is not None else None


class RollbackSpec(Spec):
    """By how much the candidate may be worse than the version that answers now, before it is taken back. Each is a difference of two
    shares of answers, in points: with `error_rate: 2%` a candidate that fails on 5 % where the stable version fails on 1 % goes.
    `null`: it is not looked at."""

    error_rate: Share | None = 0.02
    """Requests that end in an error of the engine."""
    latency: Share | None = 0.1
    """Answers that take longer than nineteen in twenty of the stable version's own (its 95th percentile, as it stands then)."""
    refusals: Share | None = 0.1
    """Answers that are declined or that a step or guard holds back."""
    feedback: Share | None = 0.1
    """Judged answers that people rate below 0 or correct; needs `luthier serve --capture`."""

    @model_validator(mode="after")
    def _allow_less_than_all(self) -> RollbackSpec:
        for name, value in self.plain().items():
            if value is not None and value >= 1:
                raise ValueError(f"{name}: 100% allows everything; write null to leave it out, or less")
        return self


class RolloutSpec(Spec):
    """How a new version takes over from the one that answers now."""

    shadow: Annotated[Seconds | None, BeforeValidator(_off)] = None
    """How long the candidate is first asked copies of requests while its answers go to nobody; `null`: not at all."""
    canary: list[Share] | None = Field(default=None, max_length=20)
    """The shares of requests that the candidate then answers, one after the other; `[]`: none. Default: 5%, 25%, 100%."""
    ab: Share | None = None
    """In place of `canary`: the share of requests without the header `x-luthier-variant` that the candidate answers until a person
    promotes it or takes it back; the header chooses."""
    each: Seconds = 1800.0
    """How long each step of `canary` lasts at least."""
    least: Annotated[Count, Field(ge=0, le=1_000_000)] = 200
    """How many requests the candidate must have answered in a step before the next; in `shadow` how many copies."""
    advance: Literal["no_alarm", "not_worse"] = "no_alarm"
    """When it goes on: where nothing speaks against the candidate, or only where it is shown to be no worse than `rollback_on` allows
    (in error rate, latency and refusals), which takes more requests."""
    rollback_on: RollbackSpec = RollbackSpec()
    """When the candidate is taken back."""
    false_alarm: float = Field(default=0.05, gt=0, le=0.5)
    """How probable it may be that a candidate which is no worse is taken back, over the whole rollout however often one looks. In
    shadow and for requests without a `user`; with few users, who each keep one side, it is more (docs/rollout.md)."""
    on_drift: Literal["pause", "roll_back", "ignore"] = "pause"
    """What an alert of drift on this name does meanwhile: data that drifts says nothing of which version is better, so it pauses."""
    approve: Literal["human", "none"] = "none"
    """Whether a person must agree before the candidate becomes the version that answers."""

    @model_validator(mode="after")
    def _has_steps(self) -> RolloutSpec:
        if self.ab is not None and self.canary is not None:
            raise ValueError(
                "ab and canary are both given, and ab is in place of canary; leave one of them out"
            )
        if not self.shadow and not self.shares and self.ab is None:
            raise ValueError("no step is left; give shadow, canary or ab")
        if self.ab in (0, 1):
            raise ValueError("ab: with a share of 0 or 1 there is nothing to compare; write for example 50%")
        if any(share == 0 for share in self.shares) or any(
            b <= a for a, b in zip(self.shares, self.shares[1:], strict=False)
        ):
            raise ValueError("canary: the shares must grow and be above 0, as in [5%, 25%, 100%]")
        return self

    @property
    def shares(self) -> list[float]:
        """The steps of `canary` that are walked."""
        if self.ab is not None:
            return []
        return [0.05, 0.25, 1.0] if self.canary is None else self.canary


class DeploySpec(Spec):
    """The recipe's `deploy:`."""

    rollout: RolloutSpec = RolloutSpec()
    """How a new version takes over, where `luthier rollout start` begins one."""
