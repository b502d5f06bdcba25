"""Organisations, projects, users, roles and API keys: the rows. What a role may do is said elsewhere (governance/access).

Of a key only the SHA-256 of its text is kept. Each change is entered into the trail in its own transaction.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from luthier.core.errors import NotFound

from .audit import Act, Audit
from .database import Database
from .tables import api_keys, grants, organisations, projects, users


@dataclass(frozen=True)
class Organisation:
    id: str
    title: str
    created_s: float
    ended_s: float | None = None


@dataclass(frozen=True)
class Project:
    id: str
    organisation: str
    title: str
    created_s: float
    ended_s: float | None = None


@dataclass(frozen=True)
class User:
    """`kind`: person or service. `issuer` and `subject`: who that is to a provider of OpenID Connect."""

    id: str
    kind: str
    name: str
    created_s: float
    issuer: str | None = None
    subject: str | None = None
    ended_s: float | None = None


@dataclass(frozen=True)
class KeyRow:
    """`permissions` None: all that its user may do in `scope`."""

    id: str
    sha256: str
    user: str
    scope: str
    title: str
    created_s: float
    permissions: Sequence[str] | None = None
    expires_s: float | None = None
    last_used_s: float | None = None
    ended_s: float | None = None
    replaces: str | None = None


@dataclass(frozen=True)
class Grant:
    scope: str
    user: str
    role: str
    created_s: float


class Accounts:
    """Safe for several processes; durable on return."""

    def __init__(self, database: Database, audit: Audit) -> None:
        self._database = database
        self._audit = audit

    def any(self) -> bool:
        """Whether anybody was ever let in."""
        with self._database.reading() as connection:
            return connection.execute(sa.select(users.c.id).limit(1)).first() is not None

    def add(self, *rows: Organisation | Project | User | KeyRow | Grant, act: Act) -> None:
        """All or none. Raises sqlalchemy's IntegrityError for what is there already."""
        with self._database.transaction() as connection:
            for row in rows:
                values = dict(vars(row))
                if isinstance(row, KeyRow) and row.permissions is not None:
                    values["permissions"] = list(row.permissions)
                connection.execute(_TABLES[type(row)].insert().values(values))
            self._audit.enter(connection, act)

    def organisation(self, organisation_id: str) -> Organisation:
        with self._database.reading() as connection:
            query = sa.select(organisations).where(organisations.c.id == organisation_id)
            row = connection.execute(query).first()
        if row is None or row.ended_s is not None:
            raise NotFound(f"there is no organisation {organisation_id!r}.")
        return Organisation(**row._mapping)

    def project(self, project_id: str) -> Project:
        with self._database.reading() as connection:
            row = connection.execute(sa.select(projects).where(projects.c.id == project_id)).first()
        if row is None or row.ended_s is not None:
            raise NotFound(
                f"there is no project {project_id!r}.", remedy="`luthier project list` shows yours."
            )
        return Project(**row._mapping)

    def projects(self, organisation: str | None = None) -> list[Project]:
        query = (
            sa.select(projects)
            .where(projects.c.ended_s.is_(None))
            .order_by(projects.c.created_s, projects.c.id)
        )
        if organisation is not None:
            query = query.where(projects.c.organisation == organisation)
        with self._database.reading() as connection:
            return [Project(**row._mapping) for row in connection.execute(query)]

    def key(self, key_id: str) -> tuple[KeyRow, User] | None:
        """A key that was not ended, and whose it is, where that user was not ended either."""
        query = sa.select(api_keys).where(api_keys.c.id == key_id, api_keys.c.ended_s.is_(None))
        with self._database.reading() as connection:
            row = connection.execute(query).first()
            whose = (
                row
                and connection.execute(
                    sa.select(users).where(users.c.id == row.user, users.c.ended_s.is_(None))
                ).first()
            )
        return (KeyRow(**row._mapping), User(**whose._mapping)) if row and whose else None

    def roles(self, user: str, scopes: Sequence[str]) -> list[str]:
        """What a user is in any of these scopes."""
        query = (
            sa.select(grants.c.role).where(grants.c.user == user, grants.c.scope.in_(list(scopes))).distinct()
        )
        with self._database.reading() as connection:
            return sorted(connection.execute(query).scalars())

    def used(self, key_id: str, at_s: float | None = None) -> None:
        """That a key was used; not an act."""
        with self._database.transaction() as connection:
            connection.execute(
                api_keys.update().where(api_keys.c.id == key_id).values(last_used_s=at_s or time.time())
            )


_TABLES: dict[type, sa.Table] = {
    Organisation: organisations, Project: projects, User: users, KeyRow: api_keys, Grant: grants,
}  # fmt: skip
