"""Sessions of people who came through a provider of OpenID Connect, and logins under way: the rows. Of a session only the SHA-256 of its
secret is kept, and of a login that of its state.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from luthier.core.errors import Busy

from .accounts import User
from .audit import Act, Audit
from .database import Database
from .tables import logins, sessions, users

LOGIN_S = 600.0
MOST_LOGINS = 10_000
"""Under way at once: who starts more gets no room for them."""


@dataclass(frozen=True)
class Session:
    """`expires_s`: when it ends if it is not used before."""

    sha256: str
    user: str
    csrf_sha256: str
    created_s: float
    expires_s: float
    ended_s: float | None = None


class Sessions:
    """Safe for several processes; durable on return."""

    def __init__(self, database: Database, audit: Audit) -> None:
        self._database = database
        self._audit = audit

    def add(self, session: Session, act: Act) -> None:
        with self._database.transaction() as connection:
            connection.execute(sessions.insert().values(vars(session)))
            self._audit.enter(connection, act)

    def find(self, sha256: str) -> tuple[Session, User] | None:
        """One that has not ended or expired, of a user who was not ended."""
        query = sa.select(sessions).where(
            sessions.c.sha256 == sha256, sessions.c.ended_s.is_(None), sessions.c.expires_s > time.time()
        )
        with self._database.reading() as connection:
            row = connection.execute(query).first()
            whose = (
                row
                and connection.execute(
                    sa.select(users).where(users.c.id == row.user, users.c.ended_s.is_(None))
                ).first()
            )
        return (Session(**row._mapping), User(**whose._mapping)) if row and whose else None

    def extend(self, sha256: str, expires_s: float) -> None:
        """That it was used; not an act."""
        with self._database.transaction() as connection:
            living = sessions.update().where(sessions.c.sha256 == sha256, sessions.c.ended_s.is_(None))
            connection.execute(living.values(expires_s=expires_s))

    def end(self, sha256: str, act: Act) -> None:
        with self._database.transaction() as connection:
            living = sessions.update().where(sessions.c.sha256 == sha256, sessions.c.ended_s.is_(None))
            if connection.execute(living.values(ended_s=time.time())).rowcount:
                self._audit.enter(connection, act)

    # -- logins under way ---------------------------------------------------------------------------------------------

    def begin(self, state_sha256: str, data: Mapping[str, Any]) -> None:
        """Old ones, and sessions that are over for a day, are removed on the way. Raises Busy where too many are under way."""
        now = time.time()
        with self._database.transaction() as connection:
            connection.execute(logins.delete().where(logins.c.created_s < now - LOGIN_S))
            connection.execute(sessions.delete().where(sessions.c.expires_s < now - 86_400))
            if (
                connection.execute(sa.select(sa.func.count()).select_from(logins)).scalar() or 0
            ) >= MOST_LOGINS:
                raise Busy("too many logins are under way.", remedy="Try again in some minutes.")
            connection.execute(
                logins.insert().values(state_sha256=state_sha256, data=dict(data), created_s=now)
            )

    def take(self, state_sha256: str) -> Mapping[str, Any] | None:
        """What was begun under that state, once, and not after LOGIN_S."""
        with self._database.transaction() as connection:
            that = logins.c.state_sha256 == state_sha256
            row = connection.execute(sa.select(logins).where(that).with_for_update()).first()
            if row is None:
                return None
            connection.execute(logins.delete().where(that))
        return row.data if row.created_s >= time.time() - LOGIN_S else None
