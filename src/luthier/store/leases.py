"""Leases: who may act on something just now, for how long, and the how-manieth he is.

    take     a free one, an expired one, or one's own once more
    held     in the transaction that acts: raises Stale where another has taken over since

The fence grows by one whenever the owner changes, and its row stays for ever, so no fence comes twice. A lease that has expired and that
nobody else took is still its owner's: what makes acting safe is the fence, the time only says when another may take over. Times are
those of the host that asks, so the clocks of hosts should agree to within a lease.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from luthier.core.errors import Stale

from .database import Database, insert_once
from .tables import leases


@dataclass(frozen=True)
class Lease:
    name: str
    owner: str
    fence: int
    expires_s: float


class Leases:
    """Safe for several processes; durable on return."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, name: str, owner: str, *, now_s: float, for_s: float) -> Lease | None:
        """None where another holds it."""
        with self._database.transaction() as connection:
            return take(connection, name, owner, now_s=now_s, for_s=for_s)

    def release(self, lease: Lease) -> None:
        """Others need not wait until it expires; nothing where it is another's by now."""
        with self._database.transaction() as connection:
            release(connection, lease)


def take(connection: sa.Connection, name: str, owner: str, *, now_s: float, for_s: float) -> Lease | None:
    """In a transaction of the caller's; see Leases.take."""
    connection.execute(insert_once(connection, leases).values(name=name, owner="", fence=0, expires_s=0.0))
    row = _locked(connection, name)
    if row.owner != owner and row.expires_s > now_s:
        return None
    fence = row.fence if row.owner == owner else row.fence + 1
    return _written(connection, Lease(name, owner, fence, now_s + for_s))


def advance(connection: sa.Connection, lease: Lease) -> Lease:
    """The same lease with the next fence: for what must not be taken for what its owner did before. Raises Stale."""
    held(connection, lease)
    return _written(connection, Lease(lease.name, lease.owner, lease.fence + 1, lease.expires_s))


def held(connection: sa.Connection, lease: Lease) -> None:
    """Raises Stale where another has taken it since; until the transaction ends, nobody can."""
    row = _locked(connection, lease.name)
    if (row.owner, row.fence) != (lease.owner, lease.fence):
        raise Stale(f"{lease.name} was taken over by another process.", remedy="It goes on there.")


def release(connection: sa.Connection, lease: Lease) -> None:
    connection.execute(
        leases.update()
        .where(leases.c.name == lease.name, leases.c.owner == lease.owner, leases.c.fence == lease.fence)
        .values(expires_s=0.0)
    )


def alone(connection: sa.Connection, name: str) -> None:
    """Until the transaction ends, no other that asks for `name` goes on: for what must be decided by one at a time."""
    connection.execute(insert_once(connection, leases).values(name=name, owner="", fence=0, expires_s=0.0))
    _locked(connection, name)


def _locked(connection: sa.Connection, name: str) -> sa.Row:
    return connection.execute(sa.select(leases).where(leases.c.name == name).with_for_update()).one()


def _written(connection: sa.Connection, lease: Lease) -> Lease:
    connection.execute(
        leases.update()
        .where(leases.c.name == lease.name)
        .values(owner=lease.owner, fence=lease.fence, expires_s=lease.expires_s)
    )
    return lease
