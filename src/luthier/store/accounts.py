"""Organisations, projects, users, roles and API keys: the rows. What a role may do is said elsewhere (governance/access).

Of a key only the SHA-256 of its text is kept. Each change is entered into the trail in its own transaction.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from luthier.core.errors import Conflict, NotFound
from luthier.core.names import folded

from .audit import Act, Audit
from .database import Database
from .ending import cancel_waiting, end_project
from .jobs import Ended
from .tables import api_keys, grants, jobs, organisations, projects, sessions, users

ADMIN: Final = "admin"
"""The role that must not get lost."""


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


Row = Organisation | Project | User | KeyRow | Grant


class Accounts:
    """Safe for several processes; durable on return. Changes are made one after the other, so what one has checked still holds when it
    is written."""

    def __init__(self, database: Database, audit: Audit) -> None:
        self._database = database
        self._audit = audit

    @contextmanager
    def _changing(self, act: Act) -> Iterator[sa.Connection]:
        with self._database.transaction() as connection:
            if not self._database.is_sqlite:  # there BEGIN IMMEDIATE has let nobody else in
                connection.exec_driver_sql("LOCK TABLE grants IN SHARE ROW EXCLUSIVE MODE")
            yield connection
            self._audit.enter(connection, act)

    # -- what is added ------------------------------------------------------------------------------------------------

    def any(self) -> bool:
        """Whether anybody was ever let in."""
        with self._database.reading() as connection:
            return _any(connection)

    def add(self, *rows: Row, act: Act, only_first: bool = False) -> bool:
        """All or none. `only_first`: where nobody was ever let in; False: somebody was. Raises Conflict for an organisation, or a project
        of one, whose title is taken, and for somebody or a grant that is there already."""
        try:
            with self._changing(act) as connection:
                if only_first and _any(connection):
                    raise _Late
                for row in rows:
                    _check_title(connection, row)
                    values = dict(vars(row))
                    if isinstance(row, KeyRow) and row.permissions is not None:
                        values["permissions"] = list(row.permissions)
                    connection.execute(_TABLES[type(row)].insert().values(values))
        except _Late:
            return False
        except IntegrityError:
            what = next((_ALREADY[type(row)] for row in rows if type(row) in _ALREADY), "that")
            raise Conflict(f"{what} is there already.", remedy="Look at what there is.") from None
        return True

    # -- organisations and projects -----------------------------------------------------------------------------------

    def organisation(self, organisation_id: str) -> Organisation:
        row = self._one(sa.select(organisations).where(organisations.c.id == organisation_id))
        if row is None or row.ended_s is not None:
            raise NotFound(
                f"there is no organisation {organisation_id!r}.", remedy="`luthier org list` shows yours."
            )
        return Organisation(**row._mapping)

    def organisations(self) -> list[Organisation]:
        query = sa.select(organisations).where(organisations.c.ended_s.is_(None))
        rows = self._all(query.order_by(organisations.c.created_s, organisations.c.id))
        return [Organisation(**row._mapping) for row in rows]

    def project(self, project_id: str) -> Project:
        row = self._one(sa.select(projects).where(projects.c.id == project_id))
        if row is None or row.ended_s is not None:
            raise NotFound(
                f"there is no project {project_id!r}.", remedy="`luthier project list` shows yours."
            )
        return Project(**row._mapping)

    def projects(self, organisation: str | None = None) -> list[Project]:
        query = sa.select(projects).where(projects.c.ended_s.is_(None))
        if organisation is not None:
            query = query.where(projects.c.organisation == organisation)
        rows = self._all(query.order_by(projects.c.created_s, projects.c.id))
        return [Project(**row._mapping) for row in rows]

    def ended_projects(self) -> list[Project]:
        query = sa.select(projects).where(projects.c.ended_s.is_not(None))
        return [Project(**row._mapping) for row in self._all(query.order_by(projects.c.ended_s))]

    def retitle(self, row: Organisation | Project, act: Act) -> None:
        """As `row` has it. Raises Conflict for a title that is taken."""
        table = _TABLES[type(row)]
        with self._changing(act) as connection:
            _check_title(connection, row)
            connection.execute(table.update().where(table.c.id == row.id).values(title=row.title))

    def end_organisation(self, organisation_id: str, act: Act) -> None:
        """Raises Conflict while it has projects."""
        now = time.time()
        with self._changing(act) as connection:
            living = projects.c.ended_s.is_(None) & (projects.c.organisation == organisation_id)
            if connection.execute(sa.select(projects.c.id).where(living).limit(1)).first():
                raise Conflict("the organisation still has projects.", remedy="End those first.")
            connection.execute(
                organisations.update().where(organisations.c.id == organisation_id).values(ended_s=now)
            )
            _end_scope(connection, organisation_id, now)

    def organisation_of(self, project_id: str) -> str:
        """Also of a project that has ended: its last jobs may still be stopping. Raises NotFound."""
        row = self._one(sa.select(projects.c.organisation).where(projects.c.id == project_id))
        if row is None:
            raise NotFound(f"there never was a project {project_id!r}.")
        return str(row.organisation)

    def end_project(self, project_id: str, by: str, act: Act, ended: Ended) -> None:
        """Its keys end with it, and what it has in the queue (store/ending). Its records stay where they are."""
        now = time.time()
        with self._changing(act) as connection:
            connection.execute(projects.update().where(projects.c.id == project_id).values(ended_s=now))
            _end_scope(connection, project_id, now)
            end_project(connection, self._audit, project_id, by, act, now, ended)

    # -- users and what they are --------------------------------------------------------------------------------------

    def user(self, user_id: str) -> User:
        row = self._one(sa.select(users).where(users.c.id == user_id))
        if row is None or row.ended_s is not None:
            raise NotFound(f"there is no user {user_id!r}.", remedy="`luthier user list` shows them.")
        return User(**row._mapping)

    def who(self, issuer: str, subject: str) -> User | None:
        """Who that is to a provider of OpenID Connect."""
        there = users.c.ended_s.is_(None) & (users.c.issuer == issuer) & (users.c.subject == subject)
        row = self._one(sa.select(users).where(there))
        return User(**row._mapping) if row else None

    def users(self, scopes: Sequence[str] | None = None) -> list[User]:
        """Those who hold a role in any of these scopes; None: all."""
        query = sa.select(users).where(users.c.ended_s.is_(None))
        if scopes is not None:
            query = query.where(
                users.c.id.in_(sa.select(grants.c.user).where(grants.c.scope.in_(list(scopes))))
            )
        return [User(**row._mapping) for row in self._all(query.order_by(users.c.created_s, users.c.id))]

    def change_user(self, user: User, act: Act) -> None:
        """Name, issuer and subject as `user` has them. Raises Conflict where another has those."""
        told = {"name": user.name, "issuer": user.issuer, "subject": user.subject}
        try:
            with self._changing(act) as connection:
                connection.execute(users.update().where(users.c.id == user.id).values(told))
        except IntegrityError:
            raise Conflict("somebody else is that to this provider.", remedy="End that user first.") from None

    def end_user(self, user_id: str, act: Act, ended: Ended) -> None:
        """With his grants, keys, sessions and the jobs of his that wait. Raises Conflict for the last admin of anything."""
        now = time.time()
        with self._changing(act) as connection:
            held = connection.execute(sa.select(grants).where(grants.c.user == user_id)).all()
            connection.execute(grants.delete().where(grants.c.user == user_id))
            for row in held:
                if row.role == ADMIN:
                    _check_admin(connection, row.scope)
            connection.execute(users.update().where(users.c.id == user_id).values(ended_s=now))
            _end_keys(connection, api_keys.c.user == user_id, now)
            connection.execute(
                sessions.update()
                .where(sessions.c.user == user_id, sessions.c.ended_s.is_(None))
                .values(ended_s=now)
            )
            why = "who submitted it is no user any more"
            cancel_waiting(connection, self._audit, jobs.c.by == user_id, act, why, now, ended)

    def forget_user(self, user_id: str, name: str, act: Act) -> None:
        """Of somebody who was ended, take out who that was; the id stays, and says nothing."""
        with self._changing(act) as connection:
            if self._database.is_sqlite:
                connection.exec_driver_sql("PRAGMA secure_delete=ON")
            there = users.update().where(users.c.id == user_id, users.c.ended_s.is_not(None))
            if not connection.execute(there.values(name=name, issuer=None, subject=None)).rowcount:
                raise NotFound(f"there is no ended user {user_id!r}.", remedy="End the user first.")
            connection.execute(api_keys.update().where(api_keys.c.user == user_id).values(title=name))
        self._database.forget_removed()

    def grants(self, *, user: str | None = None, scopes: Sequence[str] | None = None) -> list[Grant]:
        query = sa.select(grants)
        if user is not None:
            query = query.where(grants.c.user == user)
        if scopes is not None:
            query = query.where(grants.c.scope.in_(list(scopes)))
        rows = self._all(query.order_by(grants.c.scope, grants.c.user, grants.c.role))
        return [Grant(**row._mapping) for row in rows]

    def end_grant(self, scope: str, user: str, role: str, act: Act) -> None:
        """Raises NotFound; Conflict for the last admin there."""
        that = (grants.c.scope == scope) & (grants.c.user == user) & (grants.c.role == role)
        with self._changing(act) as connection:
            if not connection.execute(grants.delete().where(that)).rowcount:
                raise NotFound(f"{user!r} is no {role} there.", remedy="List the grants of the scope.")
            if role == ADMIN:
                _check_admin(connection, scope)

    def roles(self, user: str, scopes: Sequence[str]) -> list[str]:
        """What a user is in any of these scopes."""
        query = (
            sa.select(grants.c.role).where(grants.c.user == user, grants.c.scope.in_(list(scopes))).distinct()
        )
        with self._database.reading() as connection:
            return sorted(connection.execute(query).scalars())

    # -- keys ---------------------------------------------------------------------------------------------------------

    def key(self, key_id: str) -> tuple[KeyRow, User] | None:
        """A key that was not ended, and whose it is, where that user was not ended either."""
        with self._database.reading() as connection:
            row = connection.execute(_KEY, {"wanted": key_id}).first()
        if row is None:
            return None
        told = row._mapping
        key = KeyRow(**{column.name: told[column.name] for column in api_keys.c})
        return key, User(**{column.name: told[f"user_{column.name}"] for column in users.c})

    def owner(self, key_id: str) -> str | None:
        """The id of whose key that is or was; None for one that there never was."""
        row = self._one(sa.select(api_keys.c.user).where(api_keys.c.id == key_id))
        return None if row is None else str(row.user)

    def is_service(self, user_id: str) -> bool:
        """Also of one that was ended."""
        row = self._one(sa.select(users.c.kind).where(users.c.id == user_id))
        return row is not None and row.kind == "service"

    def keys(self, *, user: str | None = None, scopes: Sequence[str] | None = None) -> list[KeyRow]:
        """Those that were not ended, newest first."""
        query = sa.select(api_keys).where(api_keys.c.ended_s.is_(None))
        if user is not None:
            query = query.where(api_keys.c.user == user)
        if scopes is not None:
            query = query.where(api_keys.c.scope.in_(list(scopes)))
        rows = self._all(query.order_by(api_keys.c.created_s.desc(), api_keys.c.id))
        return [KeyRow(**row._mapping) for row in rows]

    def replace_key(self, new: KeyRow, old_expires_s: float, act: Act) -> None:
        """`new` in place of the one that it names, which expires at that time, or earlier where it does so anyway. Raises Conflict where
        that one was replaced or ended a moment ago."""
        assert new.replaces is not None
        living = (api_keys.c.id == new.replaces) & api_keys.c.ended_s.is_(None)
        with self._changing(act) as connection:
            taken = sa.select(api_keys.c.id).where(api_keys.c.replaces == new.replaces)
            old = connection.execute(sa.select(api_keys).where(living)).first()
            if old is None or connection.execute(taken).first():
                raise Conflict(
                    f"the key {new.replaces} was replaced or ended already.", remedy="List the keys."
                )
            until = old_expires_s if old.expires_s is None else min(old.expires_s, old_expires_s)
            connection.execute(api_keys.update().where(living).values(expires_s=until))
            values = {**vars(new), "permissions": None if new.permissions is None else list(new.permissions)}
            connection.execute(api_keys.insert().values(values))

    def end_key(self, key_id: str, act: Act) -> None:
        """Raises NotFound where it was ended already."""
        with self._changing(act) as connection:
            if not _end_keys(connection, api_keys.c.id == key_id, time.time()):
                raise NotFound(f"there is no key {key_id!r}.", remedy="`luthier key list` shows them.")

    def used(self, keys: Mapping[str, float]) -> None:
        """When each of these keys was used; not an act."""
        this = api_keys.update().where(api_keys.c.id == sa.bindparam("key"))
        with self._database.transaction() as connection:
            connection.execute(
                this.values(last_used_s=sa.bindparam("at_s")),
                [{"key": key, "at_s": at_s} for key, at_s in sorted(keys.items())],
            )

    def _one(self, query: sa.Select) -> sa.Row | None:
        with self._database.reading() as connection:
            return connection.execute(query).first()

    def _all(self, query: sa.Select) -> Sequence[sa.Row]:
        with self._database.reading() as connection:
            return connection.execute(query).all()


class _Late(Exception):
    """Somebody was let in a moment ago."""


def _any(connection: sa.Connection) -> bool:
    return connection.execute(sa.select(users.c.id).limit(1)).first() is not None


def _end_keys(connection: sa.Connection, which: sa.ColumnElement[bool], at_s: float) -> int:
    living = api_keys.update().where(which, api_keys.c.ended_s.is_(None))
    return connection.execute(living.values(ended_s=at_s)).rowcount


def _end_scope(connection: sa.Connection, scope: str, at_s: float) -> None:
    _end_keys(connection, api_keys.c.scope == scope, at_s)
    connection.execute(grants.delete().where(grants.c.scope == scope))


def _check_title(connection: sa.Connection, row: Row) -> None:
    """Two living organisations, or projects of one, whose titles people would take for the same are refused."""
    if not isinstance(row, Organisation | Project):
        return
    table = _TABLES[type(row)]
    beside = table.c.ended_s.is_(None) & (table.c.id != row.id)
    if isinstance(row, Project):
        beside &= projects.c.organisation == row.organisation
    for title in connection.execute(sa.select(table.c.title).where(beside)).scalars():
        if folded(title) == folded(row.title):
            raise Conflict(f"there is one called {title!r} already.", remedy="Choose another title.")


def _check_admin(connection: sa.Connection, scope: str) -> None:
    """That somebody is still admin of a scope, or of the organisation that it is in. The site's own admins count for the site alone:
    whoever runs it need not run what is in it."""
    above = connection.execute(sa.select(projects.c.organisation).where(projects.c.id == scope)).scalar()
    scopes = [scope] if above is None else [scope, above]
    left = (
        sa.select(grants.c.user)
        .join(users, users.c.id == grants.c.user)
        .where(grants.c.role == ADMIN, grants.c.scope.in_(scopes), users.c.ended_s.is_(None))
    )
    if connection.execute(left.limit(1)).first() is None:
        raise Conflict(f"that is the last admin of {scope}.", remedy="Make another one first.")


_KEY = (  # one look, which takes as long for a key that there is not
    sa.select(*api_keys.c, *(column.label(f"user_{column.name}") for column in users.c))
    .join(users, users.c.id == api_keys.c.user)
    .where(api_keys.c.id == sa.bindparam("wanted"), api_keys.c.ended_s.is_(None), users.c.ended_s.is_(None))
)
_TABLES: dict[type, sa.Table] = {
    Organisation: organisations, Project: projects, User: users, KeyRow: api_keys, Grant: grants,
}  # fmt: skip
_ALREADY: dict[type, str] = {User: "a user who is that to this provider", Grant: "that grant"}
