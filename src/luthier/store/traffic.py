"""What was asked and answered, where somebody switched that on, and what people said of it afterwards.

    traffic     an exchange: the conversation and its answers, after private data was taken out of them
    feedback    a judgement of an answer: a rating, a better answer, a comment; the newest that says something counts

Unlike the ledger these lines may be removed: they are people's words, kept for a time. Not here: what may be kept (the server's
capture) and what becomes of it in training (the connector `traffic`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from luthier.core.artifact import canonical

from .audit import Act, Audit
from .database import Database, insert_once
from .tables import feedback, traffic

PAGE_ROWS = 500
AT_ONCE = 500


CORRECTED = sa.or_(feedback.c.correction.is_not(None), feedback.c.calls.is_not(None))


@dataclass(frozen=True)
class Exchange:
    """`name` is what the client asked for, `digest` what answered. `messages`: [{"role", "content"}]; `answers`: [{"text",
    "refusal"}], one of which is None. Where `tools`, as OpenAI writes them, had a part in it, messages also have `tool_calls` or
    `tool_call_id`, and answers `tool_calls`. `masked`: how many private values were taken out."""

    id: str
    name: str
    release: str | None
    digest: str
    key_id: str
    user_sha256: str | None
    messages: Sequence[Mapping[str, Any]]
    answers: Sequence[Mapping[str, Any]]
    probability: float | None
    masked: int
    time_s: float
    seq: int | None = None
    tools: Sequence[Mapping[str, Any]] | None = None

    @property
    def said(self) -> list[Any]:
        """All that was asked and answered."""
        return [self.messages, self.answers]


@dataclass(frozen=True)
class Judgement:
    """Of the answer `choice` to an exchange: `rating` from -1 (bad) to 1 (good), `correction` what should have been said, `calls` what
    should have been called, as OpenAI writes it. `by`: the key that sent it, or who brought it in."""

    exchange: str
    choice: int
    rating: float | None
    correction: str | None
    comment: str | None
    by: str
    time_s: float
    seq: int | None = None
    calls: Sequence[Mapping[str, Any]] | None = None

    @property
    def corrected(self) -> bool:
        return self.correction is not None or self.calls is not None


@dataclass(frozen=True)
class Judged:
    """An exchange with what counts of its feedback. `choice` is the answer that was judged, else the first."""

    exchange: Exchange
    choice: int = 0
    rating: float | None = None
    correction: str | None = None
    comment: str | None = None
    calls: Sequence[Mapping[str, Any]] | None = None

    @property
    def corrected(self) -> bool:
        return self.correction is not None or self.calls is not None


@dataclass(frozen=True)
class Through:
    """How far both tables went at one moment, so that later readers see the same lines."""

    exchanges: int
    judgements: int


class Traffic:
    """Safe for several processes; every write is durable on return."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._audit = Audit(database)

    def keep(self, exchange: Exchange) -> None:
        """An id that is already there stays as it is."""
        row = {
            "id": exchange.id, "name": exchange.name, "release": exchange.release, "digest": exchange.digest,
            "key_id": exchange.key_id, "user_sha256": exchange.user_sha256,
            "messages": [dict(one) for one in exchange.messages], "answers": [dict(one) for one in exchange.answers],
            "probability": exchange.probability, "masked": exchange.masked, "time_s": exchange.time_s,
            "tools": [dict(one) for one in exchange.tools] if exchange.tools else None,
        }  # fmt: skip
        canonical({name: row[name] for name in ("messages", "answers", "tools")})
        with self._database.transaction() as connection:
            connection.execute(insert_once(connection, traffic).values(row))

    def judge(self, new: Iterable[Judgement]) -> int:
        """All or none; how many lines were added."""
        rows = [
            {
                "exchange": one.exchange, "choice": one.choice, "rating": one.rating, "correction": one.correction,
                "comment": one.comment, "by": one.by, "time_s": one.time_s,
                "calls": [dict(call) for call in one.calls] if one.calls else None,
            }
            for one in new
        ]  # fmt: skip
        if rows:
            with self._database.transaction() as connection:
                connection.execute(feedback.insert(), rows)
        return len(rows)

    def find(self, ids: Sequence[str]) -> dict[str, Exchange]:
        """Those that are there."""
        found: dict[str, Exchange] = {}
        for start in range(0, len(ids), AT_ONCE):
            query = sa.select(traffic).where(traffic.c.id.in_(ids[start : start + AT_ONCE]))
            with self._database.reading() as connection:
                found |= {row.id: _exchange(row) for row in connection.execute(query)}
        return found

    def through(self) -> Through:
        """Where both tables stand now."""
        with self._database.reading() as connection:
            last = [
                connection.execute(sa.select(sa.func.max(t.c.seq))).scalar() or 0 for t in (traffic, feedback)
            ]
        return Through(*last)

    def read(
        self,
        name: str | None = None,
        *,
        since_s: float | None = None,
        until_s: float | None = None,
        through: Through | None = None,
    ) -> Iterator[Judged]:
        """Oldest first, in bounded memory; of times `since_s` <= t < `until_s`."""
        query = sa.select(traffic).order_by(traffic.c.seq).limit(PAGE_ROWS)
        if name is not None:
            query = query.where(traffic.c.name == name)
        if since_s is not None:
            query = query.where(traffic.c.time_s >= since_s)
        if until_s is not None:
            query = query.where(traffic.c.time_s < until_s)
        if through is not None:
            query = query.where(traffic.c.seq <= through.exchanges)
        after = 0
        while True:
            with self._database.reading() as connection:
                page = connection.execute(query.where(traffic.c.seq > after)).all()
            said = self._judgements([row.id for row in page], through)
            for row in page:
                yield _judged(_exchange(row), said.get(row.id, ()))
            if len(page) < PAGE_ROWS:
                return
            after = page[-1].seq

    def first_s(self, name: str, since_s: float, until_s: float) -> float | None:
        """When the earliest exchange of a name with `since_s` <= t < `until_s` was asked; lines need not stand in the order of times."""
        query = sa.select(sa.func.min(traffic.c.time_s)).where(
            traffic.c.name == name, traffic.c.time_s >= since_s, traffic.c.time_s < until_s
        )
        with self._database.reading() as connection:
            found: float | None = connection.execute(query).scalar()
        return found

    def first_judged(self, name: str, after: int, through: int) -> Iterator[Judged]:
        """The exchanges of a name whose first judgement is a line `after` < seq <= `through` of feedback, in the order of these lines,
        with what counts of their feedback up to `through`."""
        first = (
            sa.select(feedback.c.exchange.label("id"), sa.func.min(feedback.c.seq).label("first"))
            .group_by(feedback.c.exchange)
            .subquery()
        )
        query = (
            sa.select(traffic, first.c.first)
            .join(first, first.c.id == traffic.c.id)
            .where(traffic.c.name == name, first.c.first <= through)
            .order_by(first.c.first)
            .limit(PAGE_ROWS)
        )
        while True:
            with self._database.reading() as connection:
                page = connection.execute(query.where(first.c.first > after)).all()
            said = self._judgements([row.id for row in page], Through(2**62, through))
            for row in page:
                yield _judged(_exchange(row), said.get(row.id, ()))
            if len(page) < PAGE_ROWS:
                return
            after = page[-1].first

    def _judgements(self, ids: Sequence[str], through: Through | None) -> dict[str, list[Judgement]]:
        query = sa.select(feedback).where(feedback.c.exchange.in_(ids)).order_by(feedback.c.seq)
        if through is not None:
            query = query.where(feedback.c.seq <= through.judgements)
        found: dict[str, list[Judgement]] = {}
        if ids:
            with self._database.reading() as connection:
                for row in connection.execute(query):
                    found.setdefault(row.exchange, []).append(_judgement(row))
        return found

    def bad(self, name: str, release: str, since_s: float) -> list[bool]:
        """Of each judged exchange with this release since then, in the order in which they were first judged: was that first
        judgement a bad one (rated below 0, or corrected)? Later judgements do not change it."""
        query = (
            sa.select(feedback.c.exchange, feedback.c.rating)
            .select_from(feedback.join(traffic, traffic.c.id == feedback.c.exchange))
            .where(traffic.c.name == name, traffic.c.release == release, traffic.c.time_s >= since_s)
            .add_columns(CORRECTED.label("corrected"))
            .where(sa.or_(feedback.c.rating.is_not(None), CORRECTED))
            .order_by(feedback.c.seq)
        )
        found: dict[str, bool] = {}
        with self._database.reading() as connection:
            for row in connection.execute(query):
                found.setdefault(row.exchange, bool(row.corrected) or row.rating < 0)
        return list(found.values())

    def counts(self) -> list[dict[str, Any]]:
        """Of each name: exchanges, how many were judged, the first and the last time."""
        judged = sa.select(feedback.c.exchange.label("id")).distinct().subquery()
        query = (
            sa.select(
                traffic.c.name,
                sa.func.count().label("exchanges"),
                sa.func.count(judged.c.id).label("judged"),
                sa.func.min(traffic.c.time_s).label("first_s"),
                sa.func.max(traffic.c.time_s).label("last_s"),
            )
            .select_from(traffic.outerjoin(judged, judged.c.id == traffic.c.id))
            .group_by(traffic.c.name)
            .order_by(traffic.c.name)
        )
        with self._database.reading() as connection:
            return [dict(row._mapping) for row in connection.execute(query)]

    def remove(
        self,
        *,
        ids: Sequence[str] = (),
        before_s: float | None = None,
        user_sha256: str | None = None,
        name: str | None = None,
        act: Act | None = None,
    ) -> int:
        """Take out exchanges with their feedback: these ids, all older than a time, or all of one user; how many. `name`: only
        what was asked of that one. `act` is entered where any was taken out."""
        wanted: list[sa.ColumnElement[bool]] = [
            traffic.c.id.in_(ids[start : start + AT_ONCE]) for start in range(0, len(ids), AT_ONCE)
        ]
        if before_s is not None:
            wanted.append(traffic.c.time_s < before_s)
        if user_sha256 is not None:
            wanted.append(traffic.c.user_sha256 == user_sha256)
        gone = 0
        with self._database.transaction() as connection:
            if self._database.is_sqlite:
                connection.exec_driver_sql("PRAGMA secure_delete=ON")
            for which in wanted:
                if name is not None:
                    which = sa.and_(which, traffic.c.name == name)
                of_them = sa.select(traffic.c.id).where(which)
                connection.execute(feedback.delete().where(feedback.c.exchange.in_(of_them)))
                gone += connection.execute(traffic.delete().where(which)).rowcount
            if gone and act is not None:
                self._audit.enter(connection, replace(act, data={**act.data, "exchanges": gone}))
        if gone:
            self._database.forget_removed()
        return gone


def _exchange(row: Any) -> Exchange:
    return Exchange(
        row.id, row.name, row.release, row.digest, row.key_id, row.user_sha256, row.messages, row.answers,
        row.probability, row.masked, row.time_s, row.seq, row.tools,
    )  # fmt: skip


def _judgement(row: Any) -> Judgement:
    return Judgement(
        row.exchange,
        row.choice,
        row.rating,
        row.correction,
        row.comment,
        row.by,
        row.time_s,
        row.seq,
        row.calls,
    )


def _judged(exchange: Exchange, said: Sequence[Judgement]) -> Judged:
    """The answer that was judged last, with the newest rating, correction (text and calls together) and comment of that answer."""
    if not said:
        return Judged(exchange)
    choice = said[-1].choice
    told: dict[str, Any] = {}
    for one in said:
        if one.choice == choice:
            told |= {
                name: value for name in ("rating", "comment") if (value := getattr(one, name)) is not None
            }
            if one.corrected:
                told |= {"correction": one.correction, "calls": one.calls}
    return Judged(exchange, choice, **told)
