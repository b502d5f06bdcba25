"""Site: a server's home. It knows who may do what, keeps the jobs of all projects, and opens each project as an App of its own.

    site = Site.open()
    caller = site.check(text)          # whose key is that, and what may it do, where
    site.accounts                      # organisations, projects, users, roles, keys
    site.app(caller)                   # the project's App: a home, a database (a schema of PostgreSQL) and nothing of any other project
    site.jobs                          # the queue

A project is a home: projects/ID below the server's, with its own records. So nothing of one project can be named in another, whatever a
request says; only the bytes of blobs, which are known by their hash alone, are kept once for all.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.core import keys
from luthier.core.errors import NotFound, SpecError
from luthier.governance.access import PERMISSIONS, SITE, permissions_of
from luthier.store import Store
from luthier.store.accounts import Grant, KeyRow, Organisation, Project, User

from .acting import Actor, local, system_user
from .app import App
from .permitted import project_of

if TYPE_CHECKING:
    from .accounts import Accounts
    from .approvals import Approvals
    from .budgets import Budgets
    from .fine_tuning import FineTuning
    from .jobs import Jobs
    from .jobs.observing import Observer
    from .policies import Policies
    from .project_models import ProjectModels
    from .sharing import Sharing


@dataclass(frozen=True)
class Caller:
    """Who asks. `project` None: the key is of an organisation or of the site and no project was named. `permissions` are those in
    `project`, or in the key's own scope where there is none."""

    user: str
    name: str
    key_id: str | None
    scope: str
    organisation: str | None
    project: str | None
    permissions: frozenset[str]
    anywhere: frozenset[str] = frozenset()
    """What is held in any scope that the key reaches; what is asked there is settled in that scope (site.accounts)."""
    least: frozenset[str] | None = None
    """What the key was made for, where it was made for less than all."""
    expires_s: float | None = None
    session: str | None = None
    """SHA-256 of the session, where no key was sent."""
    csrf: str | None = field(default=None, repr=False)
    """What a page of ours shows to change something in that session."""
    operator: bool = False
    """Whoever works on the server's home itself. He may everything, as he could write the database anyway."""

    @property
    def actor(self) -> Actor:
        if self.operator:
            return local()
        return Actor(
            f"key:{self.key_id}" if self.key_id else self.user, {"user": self.user, "name": self.name}
        )


@dataclass(frozen=True)
class Held:
    """What lets somebody in: a key, or a session, which reaches all that its user does."""

    user: User
    scope: str = SITE
    key_id: str | None = None
    permissions: frozenset[str] | None = None
    expires_s: float | None = None
    session: str | None = None

    @classmethod
    def of_key(cls, key: KeyRow, user: User) -> Held:
        least = None if key.permissions is None else frozenset(key.permissions)
        return cls(user, key.scope, key.id, least, key.expires_s)


@dataclass
class Site:
    """Thread-safe."""

    top: App
    environ: Mapping[str, str]
    observer: Observer | None = None
    _apps: dict[str, Store] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(cls, environ: Mapping[str, str] | None = None) -> Site:
        """As App.open. Nothing is made but what a home needs."""
        import os

        environ = dict(os.environ if environ is None else environ)
        return cls(App.open(environ), environ)

    @property
    def store(self) -> Store:
        return self.top.store

    @property
    def jobs(self) -> Jobs:
        from .jobs import Jobs

        return Jobs(self)

    @property
    def accounts(self) -> Accounts:
        from .accounts import Accounts

        return Accounts(self)

    @property
    def policies(self) -> Policies:
        from .policies import Policies

        return Policies(self)

    @property
    def approvals(self) -> Approvals:
        from .approvals import Approvals

        return Approvals(self)

    @property
    def budgets(self) -> Budgets:
        from .budgets import Budgets

        return Budgets(self)

    @property
    def fine_tuning(self) -> FineTuning:
        from .fine_tuning import FineTuning

        return FineTuning(self)

    @property
    def sharing(self) -> Sharing:
        from .sharing import Sharing

        return Sharing(self)

    @property
    def models(self) -> ProjectModels:
        from .project_models import ProjectModels

        return ProjectModels(self)

    # -- projects ---------------------------------------------------------------------------------------------------

    def app(self, caller: Caller) -> App:
        """The App of the caller's project, which acts in the caller's name. Raises NotFound where there is no project."""
        return self.app_of(project_of(caller), caller.actor)

    def app_of(self, project: str, actor: Actor) -> App:
        environ = self.project_environ(project)
        with self._lock:
            app = App(
                Path(environ["LUTHIER_HOME"]), environ, actor, self._apps.get(project),
                lambda kind, subject: self.approvals.needed(project, kind, subject),
            )  # fmt: skip
            self._apps[project] = app.store
        return app

    def ended(self) -> list[str]:
        """The projects that have ended, where their records are still there: they stay until somebody takes them away."""
        schemas, ids = self.store.schemas(), [one.id for one in self.store.accounts.ended_projects()]
        if self.store.database.is_sqlite:
            return [one for one in ids if (self.top.home / "projects" / one / "luthier.db").is_file()]
        return [one for one in ids if one in schemas]

    def project_environ(self, project: str) -> dict[str, str]:
        """The environment in which a process works for one project, and for no other."""
        home = self.top.home / "projects" / project
        told = {
            **self.environ,
            "LUTHIER_HOME": str(home),
            "LUTHIER_BLOBS": self.environ.get("LUTHIER_BLOBS") or str(self.top.home / "blobs"),
        }
        if database := self.environ.get("LUTHIER_DATABASE"):
            told["LUTHIER_DATABASE"] = _of_project(database, project)
        return told

    # -- who --------------------------------------------------------------------------------------------------------

    def found(self, title: str = "default") -> str | None:
        """The first organisation, project, admin and key, where nobody was ever let in; the key's text, to be shown once. Of several
        processes that start at once, one does."""
        if self.store.accounts.any():
            return None
        now, (text, key_id, sha256) = time.time(), keys.generate()
        organisation = Organisation(new_id("org"), title, now)
        project = Project(new_id("proj"), organisation.id, title, now)
        admin = User(new_id("user"), "person", "admin", now)
        self.make(project.id)
        first = self.store.accounts.add(
            organisation, project, admin, Grant(SITE, admin.id, "admin", now),
            KeyRow(key_id, sha256, admin.id, project.id, "first", now), only_first=True,
            act=self.top.actor.act("site.founded", organisation.id, {"project": project.id, "user": admin.id, "key": key_id}),
        )  # fmt: skip
        return text if first else None

    def make(self, project: str) -> None:
        """A project's home and records, before anybody knows of it."""
        self.store.make_schema(project)
        self.app_of(project, self.top.actor)

    def operator(self, project: str | None = None) -> Caller:
        """Whoever works on this home itself, in one of its projects or in none. Raises NotFound."""
        organisation = None if project is None else self.store.accounts.project(project).organisation
        return Caller(
            "local", system_user(), None, SITE, organisation, project, PERMISSIONS, PERMISSIONS, operator=True
        )

    def check(self, text: str, project: str | None = None) -> Caller | None:
        """Whose key `text` is, and what it may do in `project` (the key's own where none is named); None for a key that is none, was
        ended or has expired, and for a project that the key does not reach."""
        key_id = keys.id_of(text)
        found = self.store.accounts.key(key_id) if key_id else None
        if not keys.same(text, found[0].sha256 if found else None) or found is None:
            return None
        key, user = found
        if key.expires_s is not None and key.expires_s <= time.time():
            return None
        return self.caller(Held.of_key(key, user), project)

    def caller(self, held: Held, wanted: str | None = None) -> Caller | None:
        """Who that is in `wanted`; None for a project that does not exist or that he does not reach, which is the same from outside."""
        named = wanted or (held.scope if held.scope.startswith("proj_") else None)
        organisation = held.scope if held.scope.startswith("org_") else None
        within = [held.scope, SITE]
        if named is not None:
            try:
                project = self.store.accounts.project(named)
            except NotFound:
                return None
            organisation, within = project.organisation, [project.id, project.organisation, SITE]
            if held.scope not in within:
                return None
        granted = self.store.accounts.grants(user=held.user.id)
        if held.scope == SITE and named is not None and not any(one.scope in within for one in granted):
            return None
        return Caller(
            held.user.id, held.user.name, held.key_id, held.scope, organisation, named,
            permissions_of((one.role for one in granted if one.scope in within), held.permissions),
            permissions_of(self._reached(granted, held.scope, organisation), held.permissions),
            held.permissions, held.expires_s, held.session,
        )  # fmt: skip

    def _reached(self, granted: Iterable[Grant], scope: str, organisation: str | None) -> list[str]:
        """Of these grants, the roles in what a key of `scope` reaches: the scope, what is in it and what is above it."""
        reached = {scope, SITE, organisation}
        if scope.startswith("org_"):
            reached |= {one.id for one in self.store.accounts.projects(scope)}
        return [one.role for one in granted if scope == SITE or one.scope in reached]

    def denied(self, times: Iterable[tuple[tuple[str, str, str, str | None, str | None], int]]) -> None:
        """Requests that were refused for want of a right: (code, method, route, key or user or None, project or None) and how often."""
        acts = []
        for (code, method, route, who, project), count in times:
            known = who is not None and who.startswith("user_")
            actor = Actor("nobody" if who is None else who if known else f"key:{who}")
            facts = {"code": code, "times": count, **({"project": project} if project else {})}
            acts.append(actor.act("request", f"{method} {route}", facts, outcome="denied"))
        self.store.audit.append_all(acts)

    def acting(self, user_id: str, project_id: str) -> Caller | None:
        """Who acts in a user's name without a key (a schedule), with what that user may do now; None where he may do nothing there."""
        if user_id == LOCAL:
            return self.local(project_id)
        try:
            user, project = self.store.accounts.user(user_id), self.store.accounts.project(project_id)
        except NotFound:
            return None
        scopes = [project.id, project.organisation, SITE]
        permissions = permissions_of(self.store.accounts.roles(user_id, scopes))
        if not permissions:
            return None
        return Caller(user.id, user.name, None, project.id, project.organisation, project.id, permissions)

    def local(self, project_id: str | None = None) -> Caller:
        """Whoever may read and write this home on its host, who could do anything anyhow. Without a project, the only one. Raises
        NotFound, and SpecError where there are several."""
        if project_id is None:
            there = self.store.accounts.projects()
            if len(there) != 1:
                raise SpecError(
                    f"there are {len(there)} projects, and none was named.",
                    remedy="Add --project ID; `luthier project list` shows them."
                    if there
                    else "Start the server once, or found the site.",
                )
            project_id = there[0].id
        return self.operator(project_id)


LOCAL = "local"
"""The user that is nobody's account: see Site.local."""


def new_id(kind: str) -> str:
    """`org_`, `proj_`, `user_` and twelve random bytes as hexadecimal."""
    return f"{kind}_{secrets.token_hex(12)}"


def _of_project(database: str, project: str) -> str:
    """The same server's address, with a schema (PostgreSQL) or a file (SQLite) of the project's own.

    >>> _of_project("postgresql://db/luthier", "proj_1")
    'postgresql://db/luthier?options=-csearch_path%3Dproj_1'
    """
    if not database.startswith("postgres"):
        raise SpecError(
            "a server with projects keeps each project's records in its own file, so LUTHIER_DATABASE cannot name one SQLite file.",
            remedy="Leave LUTHIER_DATABASE out, or name a PostgreSQL database.",
        )
    return f"{database}{'&' if '?' in database else '?'}options=-csearch_path%3D{project}"
