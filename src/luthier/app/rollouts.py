"""How a new version of a name takes over: begun, looked at, gone on with, taken back. Each step is one line in the store and one
event in the ledger, written together, with who took it and why.

People take steps by name (`start`, `promote`, ...). What serves a name tells what it sees (`observe`), says where a candidate cannot
answer (`reject`) and has the rule take what follows (`review`); as many servers as follow one name may do so at once. Not here:
which step may follow which and when (deployment), and moving requests (server).
"""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.core.errors import Conflict, NotAllowed, NotFound, SpecError, did_you_mean
from luthier.core.event import Event
from luthier.core.spec import Tree, override, parse, read_yaml
from luthier.deployment.evidence import Tally, feedback_counts
from luthier.deployment.rollout import Action, Rollout, begin, stages, take
from luthier.deployment.rule import PROVEN, Finding, can_notice, decide, judge
from luthier.deployment.spec import DeploySpec, RolloutSpec
from luthier.store.rollouts import Line

from .acting import SERVER

if TYPE_CHECKING:
    from .app import App

EVENT, SEEN, SERVING, RETRAIN = "rollout", "rollout.seen", "rollout.serving", "retrain"
DRIFT, LOOK = "drift", "drift.look"
"""Events of others about a name: an alert, and a look at traffic with the alarms that it raised (none: a quiet day)."""
ADVANCES = frozenset({"start", "advance", "promote", "approve", "resume"})
"""Steps that bring a candidate forward, to which another person may have to agree first."""
RULE = "the rule"
"""Who takes the steps that nobody took by hand."""


@dataclass(frozen=True)
class Status:
    """What holds and what speaks for it. `tally` is of the whole rollout, `requests` of this stage."""

    rollout: Rollout
    tally: Tally
    requests: int
    findings: list[Finding]
    now_s: float

    def waits_for(self) -> str | None:
        """What must happen before it goes on; None where it is over."""
        at = self.rollout
        if not at.under_way:
            return None
        if at.state == "paused":
            return "somebody to resume it"
        if at.state == "awaiting_approval":
            return "somebody to approve it"
        if at.state == "ab":
            return "somebody to promote it or to roll it back"
        stage, missing = stages(at.plan)[at.stage], []
        if stage.least_s is not None and (left_s := stage.least_s - (self.now_s - at.since_s)) > 0:
            missing.append(f"{left_s:.0f} s")
        if (more := at.plan.least - self.requests) > 0:
            missing.append(
                f"{more:,} more requests to the candidate, which gets {stage.share * 100:.3g} % of all"
                if stage.share
                else f"{more:,} more copies"
            )
        if at.plan.advance == "not_worse" and (
            unshown := [one.metric for one in self.findings if one.metric in PROVEN and not one.shown]
        ):
            missing.append(f"proof that it is no worse in {', '.join(unshown)}")
        return " and ".join(missing) or "the rule to look at it, which it does while the name is served"

    def plain(self) -> dict[str, Any]:
        return {
            **plain(self.rollout),
            "waits_for": self.waits_for(),
            "can_notice": can_notice(self.rollout.plan) if self.rollout.under_way else None,
            "requests": self.requests,
            "seen": self.tally.plain(),
            "findings": [
                {
                    "metric": one.metric, "difference": one.difference, "pairs": one.count.pairs, "allowed": one.margin,
                    "evidence": one.evidence, "cleared": one.cleared, "needed": one.needed, "worse": one.worse, "shown": one.shown,
                    "told": one.told(),
                }
                for one in self.findings
            ],
        }  # fmt: skip


def plain(rollout: Rollout) -> dict[str, Any]:
    """One line, for JSON."""
    told = {name: value for name, value in vars(rollout).items() if name != "plan"}
    return told | {
        "answers": rollout.answers, "share": rollout.share, "plan": rollout.plan.plain(), "told": rollout.told(),
        "under_way": rollout.under_way, "can_notice": can_notice(rollout.plan) if rollout.action == "start" else None,
    }  # fmt: skip


class Rollouts:
    """Each verb raises NotFound for a name that has none, SpecError for a step that cannot be taken from here, and Conflict where
    somebody else took one a moment before."""

    def __init__(self, app: App) -> None:
        self._store = app.store
        self._actor = app.actor
        self._consent = app.consent

    # -- what people do ---------------------------------------------------------------------------------------------

    def start(
        self, ref: str, *, by: str, reason: str, plan: RolloutSpec | Mapping[str, Any] | None = None
    ) -> Rollout:
        """Begin to put a version (NAME@VERSION; NAME: the newest) in place of the one that answers now. `plan`: how; None: as the recipe
        of that version says, else the defaults."""
        candidate = self._version(ref)
        name = candidate.partition("@")[0]
        before = self.current(name)
        stable = before.answers if before is not None else self._another(name, candidate)
        made = (
            self.plan_of(candidate)
            if plan is None
            else plan
            if isinstance(plan, RolloutSpec)
            else parse(
                RolloutSpec, Tree(dict(plan), source="the plan"), "docs/rollout.md explains every key."
            )
        )
        return self._keep(
            begin(name, before, stable, candidate, made, by=_who(by), reason=_why(reason), now_s=time.time())
        )

    def promote(self, name: str, *, by: str, reason: str) -> Rollout:
        """The candidate answers from now on, whatever steps are left."""
        return self._take(name, "promote", by, reason)

    def roll_back(self, name: str, *, by: str, reason: str) -> Rollout:
        """What answered before answers again."""
        return self._take(name, "roll_back", by, reason)

    def pause(self, name: str, *, by: str, reason: str) -> Rollout:
        """Stay at this share; only the rule may still take the candidate back."""
        return self._take(name, "pause", by, reason)

    def resume(self, name: str, *, by: str, reason: str) -> Rollout:
        """Go on with what was paused."""
        return self._take(name, "resume", by, reason)

    def approve(self, name: str, *, by: str, reason: str) -> Rollout:
        """Agree to a candidate that waits for it: it answers from now on."""
        return self._take(name, "approve", by, reason)

    # -- what can be seen -------------------------------------------------------------------------------------------

    def current(self, name: str) -> Rollout | None:
        """What holds; None where the name never had a rollout."""
        line = self._store.rollouts.newest(name)
        return None if line is None else _rollout(line)

    def answering(self, name: str) -> str | None:
        """The version that answers whoever asks for the name: as its rollouts left it; where it never had one, the newest that waits for
        nobody's word. None for a name without versions."""
        at = self.current(name)
        if at is not None:
            return at.answers
        versions = [str(v) for v in self._store.catalog.history(name) if self._agreed("release", str(v))]
        free = [version for version in versions if version not in self._held_back(name)]
        kept = free or versions
        return kept[-1] if kept else None

    def _agreed(self, kind: str, ref: str) -> bool:
        """Whether nobody else's word is missing."""
        try:
            self._consent(kind, ref)
        except NotAllowed:
            return False
        return True

    def _held_back(self, name: str) -> set[str]:
        """Versions that a new run made (`retrain`) and that nobody has handed over: they wait for a person, or were declined."""
        found: set[str] = set()
        for event in self._store.ledger.read(kind=RETRAIN, subject=name):
            if (release := event.data.get("release")) is not None:
                (found.discard if event.data["state"] == "handed over" else found.add)(release)
        return found

    def history(self, name: str) -> list[Rollout]:
        """Every step that was ever taken, oldest first."""
        self._needed(name)
        return [_rollout(line) for line in self._store.rollouts.history(name)]

    def listing(self) -> list[Rollout]:
        """What holds of every name that has or had a rollout."""
        lines = (self._store.rollouts.newest(name) for name in self._store.rollouts.names())
        return [_rollout(line) for line in lines if line is not None]

    def status(self, name: str) -> Status:
        return self._status(self._needed(name))

    def _status(self, at: Rollout) -> Status:
        whole, requests = Tally(), 0
        for event in self._store.ledger.read(kind=SEEN, subject=at.id):
            whole.take_in(event.data)
            requests += event.data["requests"] if event.data["stage"] == at.stage else 0
        bad = {ref: self._store.traffic.bad(at.name, ref, at.began_s) for ref in (at.stable, at.candidate)}
        counts = {**whole.counts, "feedback": feedback_counts(bad[at.stable], bad[at.candidate])}
        return Status(at, whole, requests, judge(counts, at.plan), time.time())

    # -- what servers do --------------------------------------------------------------------------------------------

    def serving(self, name: str, ref: str) -> None:
        """Tell which version answers the name from now on; where it never had a rollout, the first one takes over from this."""
        self._store.ledger.append(Event(SERVING, name, {"version": ref}))

    def observe(self, at: Rollout, tally: Tally) -> None:
        """Tell what was seen while this line held."""
        self._store.ledger.append(Event(SEEN, at.id, {"stage": at.stage, "name": at.name, **tally.plain()}))

    def reject(self, at: Rollout, why: str) -> Rollout | None:
        """The candidate cannot answer: it is out, also where a person has promoted it. Returns what holds then."""
        newest = self.current(at.name)
        if newest is None or newest.id != at.id or newest.state in ("rolled_back", "rejected"):
            return newest
        action: Action = "roll_back" if newest.state == "promoted" else "reject"
        return self._unless_taken(take(newest, action, by=RULE, reason=why, now_s=time.time()))

    def review(self, name: str) -> Rollout | None:
        """Have the rule look, and take what follows. Returns what holds then."""
        at = self.current(name)
        if at is None or not at.under_way:
            return at
        status = self._status(at)
        found = decide(
            at, status.findings, requests=status.requests, drifted=self._drifted(at), now_s=status.now_s
        )
        if found is None:
            return at
        return self._unless_taken(take(at, found.action, by=RULE, reason=found.reason, now_s=time.time()))

    def _drifted(self, at: Rollout) -> str | None:
        """What the newest alert, or any look, since the last step says; older ones were looked at then."""
        alert = self._store.ledger.last(kind=DRIFT, subject=at.name)
        if alert is not None and alert.time_s > at.time_s:
            return str(alert.data.get("reason") or "an alert came in")[:300]
        looks = self._store.ledger.read(kind=LOOK, subject=at.name, since_s=at.time_s)
        if any(look.data.get("alarms") for look in looks if look.time_s > at.time_s):
            return "a look at the traffic found a shift (`luthier monitor` tells of it)"
        return None

    def _unless_taken(self, after: Rollout) -> Rollout | None:
        try:
            return self._keep(after)
        except (Conflict, NotAllowed):
            return self.current(after.name)

    # -- keeping ----------------------------------------------------------------------------------------------------

    def _take(self, name: str, action: Action, by: str, reason: str) -> Rollout:
        before = self._needed(name)
        return self._keep(take(before, action, by=_who(by), reason=_why(reason), now_s=time.time()))

    def _keep(self, at: Rollout) -> Rollout:
        if at.action in ADVANCES:
            self._consent("rollout", at.candidate)
        detail = {
            "id": at.id, "stage": at.stage, "since_s": at.since_s, "began_s": at.began_s, "held": at.held, "plan": at.plan.plain()
        }  # fmt: skip
        line = Line(
            at.name, at.step, at.state, at.action, at.stable, at.candidate, detail, at.by, at.reason, at.time_s
        )  # fmt: skip
        told = {
            "rollout": at.id, "step": at.step, "action": at.action, "state": at.state, "stable": at.stable,
            "candidate": at.candidate, "share": at.share, "by": at.by, "reason": at.reason,
        }  # fmt: skip
        by_itself = at.by == RULE
        act = (SERVER if by_itself else self._actor).act(
            f"rollout.{at.action}", at.candidate, {"rollout": at.id, "step": at.step, "state": at.state, "stable": at.stable},
            named=None if by_itself else at.by,
        )  # fmt: skip
        self._store.rollouts.append(line, Event(EVENT, at.name, told, at.time_s), act)
        return at

    def _needed(self, name: str) -> Rollout:
        at = self.current(name)
        if at is None:
            known = sorted({version.name for version in self._store.catalog.history()})
            raise NotFound(
                f"{name} has no rollout." if name in known else f"nothing here is called {name!r}.",
                remedy=f"`luthier rollout start {name}` begins one."
                if name in known
                else did_you_mean(name, known) if known else "nothing has been released yet",
            )  # fmt: skip
        return at

    # -- versions and plans -----------------------------------------------------------------------------------------

    def _version(self, ref: str) -> str:
        name, at, number = ref.partition("@")
        history = self._store.catalog.history(name)
        found = [v for v in history if not at or str(v.version) == number]
        if not found:
            self._store.catalog.get(ref)  # says what is wrong with it
            raise SpecError(
                f"{ref!r} is no version of a name.", remedy="Write NAME@VERSION (`luthier list` shows them)."
            )
        return str(found[-1])

    def _another(self, name: str, candidate: str) -> str:
        """What answers where there never was a rollout: the version that was served last; where none ever was, the newest other one,
        an older one first."""
        served = self._store.ledger.last(kind=SERVING, subject=name)
        if served is not None:
            return str(served.data["version"])
        versions = [str(v) for v in self._store.catalog.history(name)]
        there = versions.index(candidate)
        if len(versions) == 1:
            raise SpecError(
                f"{candidate} is the only version of {name}, so there is none that it could take over from.",
                remedy=f"`luthier serve {name}` serves it; a rollout is for the next version.",
            )
        held = self._held_back(name)
        before = [one for one in versions[:there] if one not in held]
        return before[-1] if before else versions[there - 1] if there else versions[-1]

    def plan_of(self, ref: str) -> RolloutSpec:
        """What the recipe says of which this version was made; the defaults where it says nothing or there is none."""
        version = self._version(ref)
        ledger = self._store.ledger
        runs = [e.subject for e in ledger.read(kind="run.finished") if e.data.get("release") == version]
        started = ledger.last(kind="run.started", subject=runs[-1]) if runs else None
        if started is None:
            return RolloutSpec()
        tree = override(read_yaml(started.data["recipe"], "its recipe"), started.data["overrides"])
        written = tree.value.get("deploy")
        if not written:
            return RolloutSpec()
        return parse(DeploySpec, Tree(written, source=f"deploy in the recipe of {version}")).rollout


def _rollout(line: Line) -> Rollout:
    told = dict(line.detail)
    plan = RolloutSpec.model_validate(told.pop("plan"))
    return Rollout(
        line.name, line.step, line.state, line.action, line.stable, line.candidate, plan,  # type: ignore[arg-type]
        by=line.by, reason=line.reason, time_s=line.time_s, **told,
    )  # fmt: skip


def _who(by: str) -> str:
    return _clean(by, "who takes this step", 256)


def _why(reason: str) -> str:
    return _clean(reason, "why this step is taken", 1000)


def _clean(text: str, what: str, most: int) -> str:
    text = " ".join(text.split())
    if not text:
        raise SpecError(f"it is not said {what}.", remedy="Say it; it stands in the record.")
    if len(text) > most:
        raise SpecError(f"{what}: {len(text):,} characters are given.", remedy=f"Give at most {most:,}.")
    if odd := next((c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn")), None):
        raise SpecError(
            f"{what}: the invisible character U+{ord(odd):04X} is in it.", remedy="Write it in plain text."
        )
    return text
