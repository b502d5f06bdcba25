"""Site: a server's home. It knows who may do what, keeps the jobs of all projects, and opens each project as an App of its own.

    site = Site.open()
    caller = site.check(text)          # whose key is that, and what may it do, where
    site.app(caller)                   # the project's App: a home, a database (a schema of PostgreSQL) and nothing of any other project
    site.jobs                          # the queue

A project is a home: projects/ID below the server's, with its own records. So nothing of one project can be named in another, whatever a
request says; only the bytes of blobs, which are known by their hash alone, are kept once for all.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.core import keys
from luthier.core.errors import NotFound, SpecError
from luthier.governance.access import SITE, permissions_of
from luthier.store import Store
from luthier.store.accounts import Grant, KeyRow, Organisation, Project, User

from .acting import Actor
from .app import App

if TYPE_CHECKING:
    from .fine_tuning import FineTuning
    from .jobs import Jobs
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

    @property
    def actor(self) -> Actor:
        return Actor(
            f"key:{self.key_id}" if self.key_id else self.user, {"user": self.user, "name": self.name}
        )


@dataclass
class Site:
    """Thread-safe."""

    top: App
    environ: Mapping[str, str]
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
        if caller.project is None:
            raise NotFound("no project is named.", remedy="Use a key of a project, or send OpenAI-Project.")
        return self.app_of(caller.project, caller.actor)

    def app_of(self, project: str, actor: Actor) -> App:
        environ = self.project_environ(project)
        with self._lock:
            app = App(Path(environ["LUTHIER_HOME"]), environ, actor, self._apps.get(project))
            self._apps[project] = app.store
        return app

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
        """The first organisation, project, admin and key, where nobody was ever let in; the key's text, to be shown once."""
        if self.store.accounts.any():
            return None
        now, (text, key_id, sha256) = time.time(), keys.generate()
        organisation = Organisation(new_id("org"), title, now)
        project = Project(new_id("proj"), organisation.id, title, now)
        admin = User(new_id("user"), "person", "admin", now)
        self.store.accounts.add(
            organisation, project, admin, Grant(SITE, admin.id, "admin", now),
            KeyRow(key_id, sha256, admin.id, project.id, "first", now),
            act=self.top.actor.act("site.founded", organisation.id, {"project": project.id, "user": admin.id, "key": key_id}),
        )  # fmt: skip
        self._make(project.id)
        return text

    def _make(self, project: str) -> None:
        """A project's home and records, before anybody uses them."""
        self.store.make_schema(project)
        self.app_of(project, self.top.actor)

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
        return self._caller(key, user, project)

    def _caller(self, key: KeyRow, user: User, wanted: str | None) -> Caller | None:
        named = wanted or (key.scope if key.scope.startswith("proj_") else None)
        organisation = key.scope if key.scope.startswith("org_") else None
        scopes = [key.scope, SITE]
        if named is not None:
            try:
                project = self.store.accounts.project(named)
            except NotFound:
                return None
            if key.scope not in (project.id, project.organisation, SITE):
                return None
            organisation, scopes = project.organisation, [project.id, project.organisation, SITE]
        roles = self.store.accounts.roles(user.id, scopes)
        permissions = permissions_of(roles, key.permissions)
        return Caller(user.id, user.name, key.id, key.scope, organisation, named, permissions)


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
