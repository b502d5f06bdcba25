"""The rollout as a state machine: one table says what leads from which state to which. Pure: no clock, no store, no server.

A rollout is one line for each step; the newest is what holds. `take` makes the next line from the one before, or raises
SpecError. Versions are references as `ticket-router@3`: they never change what they mean.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from luthier.core.errors import SpecError

from .spec import RolloutSpec

State = Literal[
    "steady", "shadow", "canary", "ab", "paused", "awaiting_approval", "promoted", "rolled_back", "rejected"
]
Action = Literal["start", "advance", "pause", "resume", "approve", "promote", "roll_back", "reject"]
Variant = Literal["stable", "candidate"]

STATES: tuple[State, ...] = get_args(State)
ACTIONS: tuple[Action, ...] = get_args(Action)
ENDED: tuple[State, ...] = ("steady", "promoted", "rolled_back", "rejected")
STEPPING: tuple[State, ...] = ("shadow", "canary", "ab")
UNDER_WAY: tuple[State, ...] = (*STEPPING, "paused", "awaiting_approval")

TRANSITIONS: Mapping[tuple[State, Action], tuple[State, ...]] = {
    **{(state, "start"): ("shadow", "canary", "ab") for state in ENDED},
    ("shadow", "advance"): ("canary", "ab", "awaiting_approval", "promoted"),
    ("canary", "advance"): ("canary", "awaiting_approval", "promoted"),
    **{(state, "pause"): ("paused",) for state in STEPPING},
    ("paused", "resume"): STEPPING,
    ("awaiting_approval", "approve"): ("promoted",),
    **{(state, "promote"): ("promoted",) for state in UNDER_WAY},
    **{(state, "roll_back"): ("rolled_back",) for state in (*UNDER_WAY, "promoted")},
    **{(state, "reject"): ("rejected",) for state in UNDER_WAY},
}
"""(state, action) -> where it may lead. What is not here is not possible."""

WORDS: Mapping[State, str] = {
    "rolled_back": "rolled back",
    "awaiting_approval": "awaiting approval",
    "ab": "A/B",
}


@dataclass(frozen=True)
class Stage:
    """A step of a plan. `share`: of requests that the candidate answers. `least_s` None: it ends only by a person's word."""

    state: State
    share: float
    least_s: float | None


def stages(plan: RolloutSpec) -> tuple[Stage, ...]:
    """The steps of a plan, in order; never none.

    >>> [(s.state, s.share) for s in stages(RolloutSpec(shadow=60, canary=[0.1, 1]))]
    [('shadow', 0.0), ('canary', 0.1), ('canary', 1.0)]
    """
    found = [Stage("shadow", 0.0, plan.shadow)] if plan.shadow else []
    if plan.ab is not None:
        return (*found, Stage("ab", plan.ab, None))
    return (*found, *(Stage("canary", share, plan.each) for share in plan.shares))


@dataclass(frozen=True)
class Rollout:
    """One line of a name's rollouts. `stable` is what answered when it began, `candidate` what is to take over. `since_s`: since when
    this stage counts; `held`: what `paused` goes back to. `id` is of one rollout, from `start` to its end."""

    name: str
    step: int
    state: State
    action: Action
    stable: str
    candidate: str
    plan: RolloutSpec
    id: str
    stage: int
    since_s: float
    began_s: float
    by: str
    reason: str
    time_s: float
    held: State | None = None

    @property
    def answers(self) -> str:
        """The version that answers whoever is not the candidate's."""
        return self.candidate if self.state == "promoted" else self.stable

    @property
    def under_way(self) -> bool:
        return self.state in UNDER_WAY

    @property
    def share(self) -> float:
        """Of requests that the candidate answers as long as this line is the newest."""
        if self.state == "promoted":
            return 1.0
        return stages(self.plan)[self.stage].share if self.under_way else 0.0

    @property
    def acting(self) -> State:
        """How requests are treated: a paused rollout goes on as it was."""
        return self.held if self.state == "paused" and self.held is not None else self.state

    def told(self) -> str:
        """As a person reads it."""
        word = WORDS.get(self.state, self.state)
        return f"{word} {self.share:.3g}" if self.state == "canary" else word


def begin(
    name: str, before: Rollout | None, stable: str, candidate: str, plan: RolloutSpec, *, by: str, reason: str, now_s: float
) -> Rollout:  # fmt: skip
    """The first line of a rollout. Raises SpecError where one is under way, or candidate and stable are the same."""
    state: State = before.state if before is not None else "steady"
    _refuse(name, state, "start")
    if stable == candidate:
        raise SpecError(
            f"{candidate} is what answers already.",
            remedy="Name another version (`luthier list` shows them).",
        )
    step = before.step + 1 if before is not None else 1
    return Rollout(
        name, step, stages(plan)[0].state, "start", stable, candidate, plan, f"{name}#{step}", 0, now_s, now_s, by, reason, now_s
    )  # fmt: skip


def take(before: Rollout, action: Action, *, by: str, reason: str, now_s: float) -> Rollout:
    """The next line. Raises SpecError where the table has no such step from here."""
    if action == "start":
        raise ValueError("a rollout is begun by `begin`")
    _refuse(before.name, before.state, action)
    after = replace(
        before, step=before.step + 1, action=action, by=by, reason=reason, time_s=now_s, held=None
    )
    if action == "advance":
        return _advanced(after, now_s)
    if action == "pause":
        return replace(after, state="paused", held=before.state)
    if action == "resume":
        assert before.held is not None
        # the time that it stood still does not count
        return replace(after, state=before.held, since_s=now_s - (before.time_s - before.since_s))
    (state,) = TRANSITIONS[before.state, action]
    return replace(after, state=state, since_s=now_s)


def _advanced(after: Rollout, now_s: float) -> Rollout:
    following = stages(after.plan)[after.stage + 1 :]
    if following:
        return replace(after, state=following[0].state, stage=after.stage + 1, since_s=now_s)
    state: State = "awaiting_approval" if after.plan.approve == "human" else "promoted"
    return replace(after, state=state, since_s=now_s)


def _refuse(name: str, state: State, action: Action) -> None:
    if (state, action) in TRANSITIONS:
        return
    verb = action.replace("_", " ")
    possible = sorted(a.replace("_", " ") for s, a in TRANSITIONS if s == state)
    raise SpecError(
        f"{name}: the rollout is {WORDS.get(state, state)}, and from there one cannot {verb}.",
        remedy=f"From here one can: {', '.join(possible)}. `luthier rollout status {name}` says more.",
    )


def variant(
    rollout: Rollout, key_id: str, user: str | None, drawn: float, asked: Variant | None = None
) -> Variant:
    """Who answers this request. The same key and user always get the same within one rollout, and whoever has the candidate keeps it
    as the share grows. A request without a user stands for itself, at `drawn` (uniform in 0..1, below 1): by its key alone, one
    application with one key would get the candidate always or never. `asked` (the header) chooses in the state `ab` alone."""
    acting = rollout.acting
    if acting not in ("canary", "ab", "awaiting_approval"):
        return "stable"  # of a promoted name the stable version is the candidate
    if acting == "ab" and asked is not None:
        return asked
    where = drawn if user is None else place(rollout.id, key_id, user)
    return "candidate" if where < rollout.share else "stable"


def place(rollout_id: str, key_id: str, user: str) -> float:
    """Where a user of a key stands in 0..1, in this rollout.

    >>> place("router#4", "k", "ann") == place("router#4", "k", "ann") != place("router#9", "k", "ann")
    True
    """
    told = "\0".join((rollout_id, key_id, user))
    return int.from_bytes(hashlib.sha256(told.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64
