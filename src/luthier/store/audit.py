"""The audit trail: who did, or was denied, what. Each entry holds the hash of the one before, so that none can be changed, taken out
or put in unseen; what an entry tells of is written in the same transaction as the entry, or not at all.

    audit          seq (1, 2, 3, ... without a gap), time, actor, action, subject, outcome, data, previous, sha256
    audit_people   who the actor is as a person; salted and hashed into the entry, so it can be erased and the chain still holds

An actor is an id that tells nothing of a person (`local`, `key:abcdefgh`). Not here: what verifying finds, and signed checkpoints
(governance/trail).
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import sqlalchemy as sa

from luthier.core.artifact import canonical

from .database import Database, at_its_end
from .tables import audit, audit_people

PAGE_ROWS = 1_000
UNREADABLE = "unreadable"
"""The only key of what stands in the table and is no JSON object: nothing of ours wrote it, and no hash is of it."""
FIRST = "0" * 64
"""What the first entry names as the one before."""
Outcome = Literal["done", "denied", "failed"]


@dataclass(frozen=True)
class Act:
    """What is to be entered. `data` is plain JSON and names nobody; `person` may, and may be erased later."""

    actor: str
    action: str
    subject: str
    data: Mapping[str, Any] = field(default_factory=dict)
    outcome: Outcome = "done"
    person: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Entry:
    """One line of the trail. `time_us`: microseconds of Unix time."""

    seq: int
    time_us: int
    actor: str
    action: str
    subject: str
    outcome: str
    data: Mapping[str, Any]
    person_sha256: str | None
    previous: str
    sha256: str

    def reckoned(self) -> str:
        """What `sha256` must be.

        >>> one = Entry(1, 0, "local", "released", "router@1", "done", {}, None, FIRST, "")
        >>> one.reckoned()[:12]
        '31bc961e9b75'
        """
        told = {
            "seq": self.seq, "time_us": self.time_us, "actor": self.actor, "action": self.action, "subject": self.subject,
            "outcome": self.outcome, "data": dict(self.data), "person_sha256": self.person_sha256, "previous": self.previous,
        }  # fmt: skip
        return hashlib.sha256(canonical(told)).hexdigest()


@dataclass(frozen=True)
class Person:
    """Who stands behind an entry."""

    seq: int
    salt: str
    person: Mapping[str, Any]

    def reckoned(self) -> str:
        """What the entry's `person_sha256` must be; the salt keeps a name from being guessed after it was erased. Empty for a salt that
        is none."""
        try:
            salt = bytes.fromhex(self.salt)
        except ValueError:
            return ""
        return hashlib.sha256(salt + canonical(dict(self.person))).hexdigest()


class Audit:
    """Safe for several processes: entries are made one after the other, whoever makes them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, act: Act) -> Entry:
        """An entry by itself, for what changes nothing here: something denied, something sent out. Durable on return."""
        check(act)
        with self._database.transaction() as connection:
            return self._write(connection, act)

    def append_all(self, acts: Iterable[Act]) -> None:
        """All of them or none."""
        with self._database.transaction() as connection:
            for act in acts:
                self.enter(connection, act)

    def enter(self, connection: sa.Connection, act: Act) -> None:
        """An entry in the transaction that makes the change; written at its end, for whoever writes an entry keeps everybody else from
        doing so until he is done. Raises TypeError for data without a plain form, ValueError for what is too long."""
        check(act)
        at_its_end(connection, lambda: self._write(connection, act))

    @staticmethod
    def _write(connection: sa.Connection, act: Act) -> Entry:
        if connection.dialect.name != "sqlite":  # there BEGIN IMMEDIATE has let nobody else in
            connection.exec_driver_sql("LOCK TABLE audit IN SHARE ROW EXCLUSIVE MODE")
        last = connection.execute(
            sa.select(audit.c.seq, audit.c.sha256).order_by(audit.c.seq.desc()).limit(1)
        ).first()
        seq = last.seq + 1 if last else 1
        person = None if act.person is None else Person(seq, secrets.token_hex(16), dict(act.person))
        bare = Entry(
            seq, time.time_ns() // 1000, act.actor, act.action, act.subject, act.outcome, dict(act.data),
            person.reckoned() if person else None, last.sha256 if last else FIRST, "",
        )  # fmt: skip
        entry = Entry(**{**vars(bare), "sha256": bare.reckoned()})
        connection.execute(audit.insert().values(vars(entry)))
        if person is not None:
            connection.execute(audit_people.insert().values(vars(person)))
        return entry

    def read(
        self,
        *,
        after: int = 0,
        action: str | None = None,
        actor: str | None = None,
        subject: str | None = None,
        since_us: int | None = None,
        mentions: str | None = None,
    ) -> Iterator[Entry]:
        """Entries with `seq` > `after`, oldest first, in bounded memory. `action` may be a beginning that ends with a dot; `mentions`: the
        project that an entry of a server's own trail concerns."""
        query = _ENTRIES.order_by(audit.c.seq).limit(PAGE_ROWS)
        if action is not None:
            whole = audit.c.action == action
            query = query.where(
                audit.c.action.startswith(action, autoescape=True) if action.endswith(".") else whole
            )
        if actor is not None:
            query = query.where(audit.c.actor == actor)
        if subject is not None:
            query = query.where(audit.c.subject == subject)
        if since_us is not None:
            query = query.where(audit.c.time_us >= since_us)
        if (
            mentions is not None
        ):  # a first choice, by the text: what is no JSON any more must not end the reading
            text = sa.cast(audit.c.data, sa.Text).contains(f'"{mentions}"', autoescape=True)
            query = query.where(text | (audit.c.subject == mentions))
        while True:
            with self._database.reading() as connection:
                page = connection.execute(query.where(audit.c.seq > after)).all()
            for row in page:
                entry = _entry(row)
                if mentions is None or mentions in (entry.data.get("project"), entry.subject):
                    yield entry
            if len(page) < PAGE_ROWS:
                return
            after = page[-1].seq

    def head(self) -> Entry | None:
        """The newest."""
        with self._database.reading() as connection:
            row = connection.execute(_ENTRIES.order_by(audit.c.seq.desc()).limit(1)).first()
        return _entry(row) if row else None

    def people(self, seqs: Sequence[int]) -> dict[int, Person]:
        """Who stands behind these entries, for those of whom it is still known."""
        found: dict[int, Person] = {}
        for start in range(0, len(seqs), 500):
            query = _PEOPLE.where(audit_people.c.seq.in_(seqs[start : start + 500]))
            with self._database.reading() as connection:
                found |= {
                    row.seq: Person(row.seq, row.salt, _object(row.person))
                    for row in connection.execute(query)
                }
        return found

    def erase(self, seqs: Sequence[int], act: Act) -> int:
        """Take out who stands behind these entries; that it was done is an entry itself, which names them. How many were there."""
        from dataclasses import replace

        with self._database.transaction() as connection:
            if self._database.is_sqlite:
                connection.exec_driver_sql("PRAGMA secure_delete=ON")
            there: list[int] = []
            for start in range(0, len(seqs), 500):
                part = audit_people.c.seq.in_(seqs[start : start + 500])
                there += connection.execute(sa.select(audit_people.c.seq).where(part)).scalars().all()
                connection.execute(audit_people.delete().where(part))
            if there:
                self.enter(connection, replace(act, data={**act.data, "seqs": sorted(there)}))
        self._database.forget_removed()
        return len(there)


# As text: whoever tampers with the table may leave there what is no JSON, and verifying must be able to say so.
_ENTRIES = sa.select(
    *(column for column in audit.c if column.name != "data"), sa.cast(audit.c.data, sa.Text).label("data")
)
_PEOPLE = sa.select(
    audit_people.c.seq, audit_people.c.salt, sa.cast(audit_people.c.person, sa.Text).label("person")
)


def check(act: Act) -> None:
    """Whether it can be entered. Raises TypeError for data without a plain form, ValueError for what is too long."""
    for name, most in (("actor", 128), ("action", 64), ("subject", 256)):
        if len(getattr(act, name)) > most:
            raise ValueError(f"{name} has more than {most} characters")
    canonical(dict(act.data))
    canonical(dict(act.person or {}))


def _object(text: Any) -> dict[str, Any]:
    """
    >>> _object('{"a": 1}'), _object("{"), _object("[NaN]")
    ({'a': 1}, {'unreadable': '{'}, {'unreadable': '[NaN]'})
    """
    try:
        told = json.loads(text)
        canonical(told)
    except (ValueError, TypeError, RecursionError):
        told = None
    return told if isinstance(told, dict) else {UNREADABLE: str(text)[:200]}


def _entry(row: sa.Row) -> Entry:
    return Entry(
        row.seq, row.time_us, row.actor, row.action, row.subject, row.outcome, _object(row.data), row.person_sha256, row.previous, row.sha256
    )  # fmt: skip
