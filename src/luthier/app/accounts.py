"""Organisations, projects, users and what they are: every verb, asked for its right in the scope that it names.

    site.accounts.create_project(caller, organisation, "tickets")

Nobody gives what he does not hold himself; the last admin of anything stays. Keys: api_keys; how people come in: login.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from luthier.core.errors import NotAllowed, NotFound, SpecError
from luthier.core.names import clean
from luthier.governance.access import ROLES, SITE, check_role
from luthier.store.accounts import Grant, Organisation, Project, User

from .api_keys import Keys
from .jobs.observing import observer_of
from .login import invited_as
from .rights import Rights
from .site import new_id

if TYPE_CHECKING:
    from .site import Caller, Site

LONGEST_ID = 255
ERASED = "erased"
"""What stands where somebody's name stood."""


class Accounts:
    """`site.accounts`."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._rows = site.store.accounts

    @property
    def keys(self) -> Keys:
        return Keys(self._site)

    def _rights(self, caller: Caller) -> Rights:
        return Rights(self._rows, caller)

    # -- organisations ------------------------------------------------------------------------------------------------

    def create_organisation(self, caller: Caller, title: str) -> Organisation:
        self._rights(caller).need("organisations.write", SITE)
        made = Organisation(new_id("org"), clean(title, "title"), time.time())
        self._rows.add(made, act=caller.actor.act("organisation.created", made.id))
        return made

    def organisations(self, caller: Caller) -> list[Organisation]:
        """Those in which the caller is something as a whole; whoever is something in a project alone sees that project."""
        rights = self._rights(caller)
        return [one for one in self._rows.organisations() if rights.held(one.id)]

    def organisation(self, caller: Caller, organisation_id: str) -> Organisation:
        self._rights(caller).need("status", organisation_id)
        return self._rows.organisation(organisation_id)

    def retitle_organisation(self, caller: Caller, organisation_id: str, title: str) -> Organisation:
        self._rights(caller).need("organisations.write", organisation_id)
        row = replace(self._rows.organisation(organisation_id), title=clean(title, "title"))
        self._rows.retitle(row, caller.actor.act("organisation.changed", row.id))
        return row

    def end_organisation(self, caller: Caller, organisation_id: str) -> None:
        rights = self._rights(caller)
        rights.need("organisations.write", organisation_id)
        rights.need("organisations.write", SITE)
        self._rows.end_organisation(organisation_id, caller.actor.act("organisation.ended", organisation_id))

    # -- projects -----------------------------------------------------------------------------------------------------

    def create_project(self, caller: Caller, organisation_id: str, title: str) -> Project:
        """With a home and records of its own."""
        self._rights(caller).need("projects.write", organisation_id)
        made = Project(new_id("proj"), organisation_id, clean(title, "title"), time.time())
        self._site.make(made.id)
        facts = {"organisation": organisation_id, "project": made.id}
        self._rows.add(made, act=caller.actor.act("project.created", made.id, facts))
        return made

    def projects(self, caller: Caller, organisation: str | None = None) -> list[Project]:
        """Those that the caller's key reaches and in which he is something."""
        rights = self._rights(caller)
        return [one for one in self._rows.projects(organisation) if rights.held(one.id)]

    def project(self, caller: Caller, project_id: str) -> Project:
        self._rights(caller).need("status", project_id)
        return self._rows.project(project_id)

    def retitle_project(self, caller: Caller, project_id: str, title: str) -> Project:
        self._rights(caller).need("projects.write", project_id)
        row = replace(self._rows.project(project_id), title=clean(title, "title"))
        self._rows.retitle(row, caller.actor.act("project.changed", row.id, {"project": row.id}))
        return row

    def end_project(self, caller: Caller, project_id: str) -> None:
        """Nobody reaches it any more: its jobs are cancelled, its schedules submit nothing, its records stay until the server's operator
        removes its home."""
        self._rights(caller).need("projects.write", project_id)
        act = caller.actor.act("project.ended", project_id, {"project": project_id})
        self._rows.end_project(project_id, caller.user, act, observer_of(self._site).ended)

    # -- users --------------------------------------------------------------------------------------------------------

    def create_user(
        self,
        caller: Caller,
        kind: Literal["person", "service"],
        name: str,
        *,
        scope: str,
        role: str,
        issuer: str | None = None,
        subject: str | None = None,
        email: str | None = None,
    ) -> User:
        """Somebody who is `role` in `scope`. A person may come in through the provider `issuer`, known there by `subject`, or the first time
        by a verified address (`email`); without either he has keys alone. A service account has keys alone."""
        rights = self._rights(caller)
        rights.need("members.write", scope)
        rights.at_most(ROLES[check_role(role)], scope)
        if (issuer is None) != (subject is None and email is None) or (subject and email):
            raise SpecError(
                "who that is to a provider is said in part.",
                remedy="Name the issuer and either the subject or the e-mail address, or none of them.",
            )
        if kind == "service" and issuer is not None:
            raise SpecError(
                "a service account does not log in.", remedy="Leave issuer, subject and e-mail out."
            )
        if issuer is not None:
            self._may_name_identity(rights, scope)
        if email is not None:
            subject = invited_as(email)
        elif subject is not None:
            _check_subject(subject)
        now = time.time()
        made = User(
            new_id("user"), kind, clean(name, "name"), now,
            None if issuer is None else clean(issuer, "issuer", LONGEST_ID), subject,
        )  # fmt: skip
        act = caller.actor.act("user.created", made.id, {"kind": kind, **_in(scope), "role": role})
        self._rows.add(made, Grant(scope, made.id, role, now), act=act)
        return made

    def _may_name_identity(self, rights: Rights, scope: str) -> None:
        """Who somebody is to a provider holds for the whole site, and the first who says it has it; so an admin of a project alone makes
        users without it. Raises NotAllowed."""
        wider = self._rows.project(scope).organisation if scope.startswith("proj_") else scope
        if "members.write" not in rights.held(wider):
            raise NotAllowed(
                "who may log in as somebody is for an admin of the organisation to say, and you are one of a project.",
                remedy="Ask an admin of the organisation to add that person, and give him his role here.",
            )

    def users(self, caller: Caller, scope: str) -> list[User]:
        """Those who are something in the scope itself, or in a project of the organisation, or, for the site, all."""
        self._rights(caller).need("members.read", scope)
        if scope == SITE:
            return self._rows.users()
        within = [scope]
        if scope.startswith("org_"):
            within += [one.id for one in self._rows.projects(scope)]
        return self._rows.users(within)

    def user(self, caller: Caller, user_id: str) -> User:
        """Raises NotFound for somebody who is nothing where the caller may see members."""
        found = self._rows.user(user_id)
        if found.id != caller.user and not self._sees(caller, user_id):
            raise NotFound(f"there is no user {user_id!r}.", remedy="`luthier user list` shows them.")
        return found

    def rename_user(self, caller: Caller, user_id: str, name: str) -> User:
        row = replace(self.user(caller, user_id), name=clean(name, "name"))
        self._over(caller, user_id)
        self._rows.change_user(row, caller.actor.act("user.changed", user_id))
        return row

    def end_user(self, caller: Caller, user_id: str) -> None:
        """With keys and sessions. Only by who may write members wherever that user is something."""
        self.user(caller, user_id)
        self._over(caller, user_id)
        act = caller.actor.act("user.ended", user_id)
        self._rows.end_user(user_id, act, observer_of(self._site).ended)

    def erase_user(self, caller: Caller, user_id: str, because: str) -> int:
        """Take out who somebody was who has been ended: the name here, and whom the trails of the site and of all projects name. The id
        stays. In how many entries that was."""
        self._rights(caller).need("organisations.write", SITE)
        because = clean(because, "reason")
        self._rows.forget_user(
            user_id, ERASED, caller.actor.act("user.erased", user_id, {"because": because})
        )
        count = 0
        homes = [self._site.top, *(self._site.app_of(one.id, caller.actor) for one in self._rows.projects())]
        for home in homes:
            try:
                count += home.audit.erase(person=user_id, because=because)
            except NotFound:  # that trail does not name the person
                continue
        return count

    def _sees(self, caller: Caller, user_id: str) -> bool:
        rights = self._rights(caller)
        scopes = {SITE, *(one.scope for one in self._rows.grants(user=user_id))}
        return caller.operator or any("members.read" in rights.held(scope) for scope in scopes)

    def _over(self, caller: Caller, user_id: str) -> None:
        """Raises NotAllowed unless the caller may write members wherever that user is something, and hold what he holds."""
        rights = self._rights(caller)
        grants = self._rows.grants(user=user_id)
        if not grants:  # nobody is over him but who is over all
            rights.need("members.write", SITE)
        for one in grants:
            held = rights.held(one.scope)
            if not held >= {"members.write", *ROLES.get(one.role, ())}:
                raise NotAllowed(
                    f"{user_id} is something in scopes in which you may not write members.",
                    remedy="End the grants that you can, or ask an admin of the site.",
                )

    # -- grants -------------------------------------------------------------------------------------------------------

    def grant(self, caller: Caller, scope: str, user_id: str, role: str) -> Grant:
        rights = self._rights(caller)
        rights.need("members.write", scope)
        rights.at_most(ROLES[check_role(role)], scope)
        self.user(caller, user_id)
        made = Grant(scope, user_id, role, time.time())
        facts = {**_in(scope), "role": role}
        self._rows.add(made, act=caller.actor.act("grant.created", user_id, facts))
        return made

    def grants(self, caller: Caller, scope: str) -> list[Grant]:
        self._rights(caller).need("members.read", scope)
        return self._rows.grants(scopes=[scope])

    def end_grant(self, caller: Caller, scope: str, user_id: str, role: str) -> None:
        rights = self._rights(caller)
        rights.need("members.write", scope)
        rights.at_most(ROLES[check_role(role)], scope)
        facts = {**_in(scope), "role": role}
        self._rows.end_grant(scope, user_id, role, caller.actor.act("grant.ended", user_id, facts))

    def roles(self, caller: Caller) -> Sequence[Grant]:
        """What the caller himself is, as far as his key reaches."""
        rights = self._rights(caller)
        return [one for one in self._rows.grants(user=caller.user) if caller.scope in rights.above(one.scope)]


def _in(scope: str) -> dict[str, str]:
    """How an entry names the scope; `project` is what the trail of a project is found by."""
    return {"scope": scope, **({"project": scope} if scope.startswith("proj_") else {})}


def _check_subject(subject: str) -> None:
    if not (
        0 < len(subject) <= LONGEST_ID and subject.isascii() and subject.isprintable()
    ) or subject.startswith("invited:"):
        raise SpecError(
            "the subject is none that a provider gives.",
            remedy="Take the claim `sub` of the person's id token: at most 255 printable ASCII characters.",
        )
