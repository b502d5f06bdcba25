"""What may be asked of approvals: ask, list, grant, decline, withdraw. Four eyes: nobody agrees to what he asked for or trained.

kind      subject                       asked for by
job       a job's id                    submitting, where the policy says so for its class of data; the job is held meanwhile
release   name@version                  who wants it to answer under its name
name      NAME=name@version             who wants to give a release a further name
rollout   name@version                  who wants it to take over by a rollout
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from luthier.core.errors import Conflict, NotAllowed, NotFound, SpecError, did_you_mean
from luthier.store.approvals import Approval, Step

from .acting import SERVER
from .jobs.observing import observer_of
from .permitted import project_of, roles_in
from .policies import Policies, check_reason

if TYPE_CHECKING:
    from luthier.governance.site_policy import Effective
    from luthier.store.audit import Entry, Person

    from .site import Caller, Site

ASKED = ("release", "name", "rollout")
"""Kinds that people ask for by hand."""
STATES = ("open", "granted", "declined", "withdrawn", "expired")
LONGEST_SUBJECT = 160
_VERSION = re.compile(r"[A-Za-z0-9._-]+@[0-9]+", re.ASCII)
_FURTHER = re.compile(r"[A-Za-z0-9._-]+=[A-Za-z0-9._-]+@[0-9]+", re.ASCII)


class Approvals:
    """`Approvals(site)`. Raises NotFound for what is not of the caller's project."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._rows = site.store.approvals

    def ask(self, caller: Caller, kind: str, subject: str, reason: str) -> Approval:
        """Raises Conflict where that is asked for already, NotFound for a version that is not there."""
        if kind not in ASKED:
            raise SpecError(
                f"there is no approval of the kind {kind[:40]!r}.", remedy=did_you_mean(kind, ASKED)
            )
        form = _FURTHER if kind == "name" else _VERSION
        if len(subject) > LONGEST_SUBJECT or not form.fullmatch(subject):
            said = "NAME=name@version" if kind == "name" else "name@version"
            raise SpecError(
                f"{subject[:80]!r} is not one version.",
                remedy=f"Write {said}: what is agreed to must not change.",
            )
        self._site.app(caller).store.catalog.get(
            subject.rpartition("=")[2]
        )  # what is not there yet is not agreed to
        policy = Policies(self._site).effective(project_of(caller))
        made = self.opened(caller, policy, kind, subject, check_reason(reason), {})
        act = caller.actor.act(
            "approval.asked", made.id, {"kind": kind, "subject": subject, "project": made.project}
        )
        return self._rows.add(made, act)

    def opened(
        self, caller: Caller, policy: Effective, kind: str, subject: str, reason: str, data: Mapping[str, Any]
    ) -> Approval:
        """One that is not entered yet."""
        now = time.time()
        told = {**data, "expires_s": now + policy.approval_s, "roles": policy.approvers}
        return Approval(
            f"appr-{secrets.token_hex(12)}", project_of(caller), kind, subject, told, caller.user, reason, now
        )

    def get(self, caller: Caller, approval_id: str) -> Approval:
        self.lapse()
        return self._rows.get(project_of(caller), approval_id)

    def list(
        self, caller: Caller, states: Sequence[str] = (), *, before_s: float | None = None, limit: int = 100
    ) -> list[Approval]:
        """Newest first."""
        for state in states:
            if state not in STATES:
                raise SpecError(f"there is no state {state[:40]!r}.", remedy=did_you_mean(state, STATES))
        self.lapse()
        return self._rows.list(project_of(caller), states=states, before_s=before_s, limit=limit)

    def grant(self, caller: Caller, approval_id: str, reason: str) -> Approval:
        """Raises NotAllowed for whoever asked, trained what it is about, or does not hold a role that may agree."""
        approval = self.get(caller, approval_id)
        self._may_decide(caller, approval)
        return self._decide(caller, approval, "granted", reason)

    def decline(self, caller: Caller, approval_id: str, reason: str) -> Approval:
        """As `grant`."""
        approval = self.get(caller, approval_id)
        self._may_decide(caller, approval)
        return self._decide(caller, approval, "declined", reason)

    def withdraw(self, caller: Caller, approval_id: str, reason: str) -> Approval:
        """By whoever asked."""
        approval = self.get(caller, approval_id)
        if caller.user != approval.by:
            raise NotAllowed(
                f"{approval_id} was asked for by somebody else.", remedy="Decline it, if you may."
            )
        return self._decide(caller, approval, "withdrawn", reason)

    def _decide(self, caller: Caller, approval: Approval, step: Step, reason: str) -> Approval:
        why = check_reason(reason)
        act = caller.actor.act(f"approval.{step}", approval.id, facts_of(approval))
        ended = observer_of(self._site).ended
        return self._rows.decide(approval, step, caller.user, why, time.time(), act, ended=ended)

    def lapse(self, now_s: float | None = None) -> int:
        """Requests whose time is over lapse now; how many."""
        now_s = time.time() if now_s is None else now_s
        found = self._rows.expired(now_s)
        for one in found:
            act, ended = SERVER.act("approval.expired", one.id, facts_of(one)), observer_of(self._site).ended
            with suppress(Conflict):  # somebody decided a moment ago
                self._rows.decide(one, "expired", SERVER.id, "nobody decided", now_s, act, ended=ended)
        return len(found)

    # -- four eyes --------------------------------------------------------------------------------------------------

    def _may_decide(self, caller: Caller, approval: Approval) -> None:
        """Checked anew at each decision: roles may have changed since it was asked."""
        who = f"{approval.id} is about what you asked for or trained yourself"
        other = "Another person must decide."
        if caller.operator:
            raise NotAllowed(
                "an approval is given by a person with a key of his own.", remedy="Set LUTHIER_KEY to yours."
            )
        part = {approval.by, *self.makers(approval.project, approval.subject)}
        if caller.user in self._with_keepers(part):
            raise NotAllowed(f"{who}.", remedy=other)
        user = self._user(caller)
        if user is not None and user != "person":
            raise NotAllowed(
                "an approval is given by a person, and this is a key of a service.", remedy=other
            )
        policy = Policies(self._site).effective(approval.project)
        if not set(roles_in(self._site, caller, approval.project)) & set(policy.approvers):
            raise NotAllowed(
                f"{' or '.join(policy.approvers) or 'nobody'} may decide here.",
                remedy="Ask one of them, or have the role granted.",
            )

    def _user(self, caller: Caller) -> str | None:
        found = self._site.store.accounts.key(caller.key_id) if caller.key_id else None
        return found[1].kind if found else None

    def makers(self, project: str, subject: str) -> set[str]:
        """Users who had a part in what is to be approved: who submitted the job, and in whose name it was released."""
        try:
            return {self._site.store.jobs.get(project, subject).by}
        except NotFound:
            pass
        store = self._site.app_of(project, SERVER).store
        try:
            digest = store.catalog.get(subject.rpartition("=")[2]).digest
        except (NotFound, SpecError):  # no reference to anything here, so nobody made it
            return set()
        refs = [str(version) for version in store.catalog.names_of(digest)]
        entries = [one for ref in refs for one in store.audit.read(action="released", subject=ref)]
        people = store.audit.people([one.seq for one in entries])
        return {self._acted(one, people.get(one.seq)) for one in entries}

    def _with_keepers(self, part: set[str]) -> set[str]:
        """For a service account also whoever made it, or made or rotated a key of it: he could act as it, whatever became of the key."""
        found: set[str] = set()
        while new := part - found:
            found |= new
            part = {
                user
                for one in new
                if self._site.store.accounts.is_service(one)
                for user in self._keepers(one)
            }
        return found

    def _keepers(self, service: str) -> set[str]:
        trail = self._site.store.audit
        made = list(trail.read(action="user.created", subject=service))
        made += [
            one for one in trail.read(action="key.")
            if one.action in ("key.created", "key.rotated") and one.data.get("user") == service
        ]  # fmt: skip
        return {self._acted(one, None) for one in made}

    def _acted(self, entry: Entry, person: Person | None) -> str:
        """The user behind an entry of the trail, also where who that is was erased and the key was ended."""
        if person is not None and isinstance(user := person.person.get("user"), str):
            return user
        key = entry.actor[4:] if entry.actor.startswith("key:") else None
        return (self._site.store.accounts.owner(key) if key else None) or entry.actor

    # -- what waits for one -----------------------------------------------------------------------------------------

    def needed(self, project: str, kind: str, subject: str) -> None:
        """Raises NotAllowed where the policy wants another person's word for this and there is none."""
        rule: Literal["release", "rollout"] = "rollout" if kind == "rollout" else "release"
        origin = Policies(self._site).effective(project).needs_approval(rule)
        if origin is not None and self._rows.of(project, kind, subject) is None:
            raise NotAllowed(
                f"{subject}: another person must agree first, says the policy of {origin}.",
                remedy=f"luthier approval ask {kind} {subject} --because '...'",
            )


def facts_of(approval: Approval) -> dict[str, str]:
    """What the trail says of one, whatever becomes of it."""
    return {"kind": approval.kind, "subject": approval.subject, "project": approval.project}
