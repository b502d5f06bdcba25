"""A name that follows its rollout while it is served: versions come and go, no request is lost, none gets a mixture.

    poll (one thread) ──▶ newest line of the rollout ──▶ Table: who answers, who is tried       one pointer, moved under a lock
         │                                                 ▲                    │
         ├──▶ load, first question (a thread a name) ──────┘                    ├──▶ take: a request keeps its Arm to the end
         └──▶ what was seen, the rule                                           └──▶ shadow: copies, asked after the answer is out

At most two versions of a name are in memory. What answered before stays loaded for `grace_s`, so that going back takes no loading.
A candidate that cannot be loaded or cannot answer a first question is rejected, and what answers goes on. What is to answer is
tried again until it does. The rollout itself is elsewhere (deployment, app); this moves requests.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from luthier.core.errors import LuthierError, NotFound, StoreError
from luthier.deployment.evidence import Outcome, Pairs, Tally
from luthier.deployment.rollout import Rollout, Variant, variant
from luthier.server.arm import Arm, smoke
from luthier.server.errors import ApiError
from luthier.server.router import Asker, Ending, Fixed, Lease, Router
from luthier.server.served import ServedModel
from luthier.server.shadow import asked_again

logger = logging.getLogger("luthier.server")

POLL_S = 1.0
GRACE_S = 600.0
TELL_S, REVIEW_S = 30.0, 5.0
RETRY_S = 30.0
"""After a version could not be loaded: how long until it is tried again, where it is still to answer or to be tried."""
TRIES = 3
"""So often must the store have failed before that is held against the candidate."""
SHADOWS = 16
"""How many copies may wait; one more is dropped."""
COPY_S = 300.0
"""How long a copy may take; one that takes longer has failed."""


class Source(Protocol):
    """Where rollouts are kept and versions come from. Called from threads, never from the event loop; may raise."""

    def current(self, name: str) -> Rollout | None: ...

    def load(self, name: str, ref: str) -> ServedModel:
        """With its engine loaded."""

    def reject(self, at: Rollout, why: str) -> Rollout | None: ...

    def observe(self, at: Rollout, tally: Tally) -> None: ...

    def review(self, name: str) -> Rollout | None: ...


@dataclass(frozen=True)
class Table:
    """What holds for new requests, all of it at once."""

    rollout: Rollout | None
    stable: Arm
    candidate: Arm | None = None


@dataclass
class _Lease:
    _name: Followed
    _table: Table
    _arm: Arm
    headers: Mapping[str, str]
    _ended: bool = False

    @property
    def model(self) -> ServedModel:
        return self._arm.model

    def end(self, ending: Ending | None) -> None:
        if self._ended:
            return
        self._ended = True
        try:
            if ending is not None:
                self._name.ended(self._table, self._arm, ending)
        finally:
            self._arm.end()


class Followed:
    """One name. `first` is what answers at the start, loaded."""

    def __init__(
        self,
        name: str,
        first: Arm,
        source: Source,
        *,
        grace_s: float = GRACE_S,
        retry_s: float = RETRY_S,
        copy_s: float = COPY_S,
    ) -> None:
        self.name = name
        self._source = source
        self._grace_s, self._retry_s, self._copy_s = grace_s, retry_s, copy_s
        self._lock = threading.Lock()
        self._table = Table(None, first)
        self._pool: dict[str, Arm] = {first.ref: first}
        self._unwanted_s: dict[str, float] = {}
        self._leaving: list[Arm] = []
        self._loading: threading.Thread | None = None
        self._loaded: Arm | None = None
        self._failed: dict[tuple[str, str], tuple[int, float]] = {}
        """(rollout, version) that could not be loaded -> how often that was, when it is tried again."""
        self._stop = threading.Event()
        self._pairs, self._pairs_of, self._counting = Pairs(), "", threading.Lock()
        self._untold: dict[tuple[str, int], tuple[Rollout, Tally]] = {}
        """What was seen and not yet told, by rollout and stage: a request counts in the stage in which it began."""
        self._told_s = self._reviewed_s = 0.0
        self._told_requests = 0
        self._copies: queue.Queue[tuple[Table, Ending]] = queue.Queue(SHADOWS)
        self._shadowing: threading.Thread | None = None

    # -- on the event loop ------------------------------------------------------------------------------------------

    @property
    def table(self) -> Table:
        return self._table

    @property
    def arms(self) -> list[Arm]:
        """Every version in memory that may still be asked."""
        return list(self._pool.values())

    def take(self, asker: Asker) -> Lease:
        asked = _variant(asker.variant)
        with self._lock:  # held elsewhere only to move the pointer
            table = self._table
            which: Variant = "stable"
            if table.rollout is not None and table.candidate is not None:
                which = variant(table.rollout, asker.key_id, asker.user, asker.drawn, asked)
            arm = table.candidate if which == "candidate" and table.candidate is not None else table.stable
            arm.begin()
        return _Lease(self, table, arm, {"x-luthier-variant": which} if table.candidate is not None else {})

    def ended(self, table: Table, arm: Arm, ending: Ending) -> None:
        """Count it, or have it asked once more; takes microseconds and never waits."""
        at = table.rollout
        if at is None or table.candidate is None:
            return
        if at.acting == "shadow":
            if ending.again is not None:
                self._copy(table, ending)
            return
        with self._counting:
            if (pairs := self._counted(at)) is not None:
                (pairs.candidate if arm is table.candidate else pairs.stable)(_outcome(ending))

    def _copy(self, table: Table, ending: Ending) -> None:
        assert table.rollout is not None
        try:
            self._copies.put_nowait((table, ending))
        except queue.Full:
            with self._counting:
                if (pairs := self._counted(table.rollout)) is not None:
                    pairs.tally.dropped += 1

    def _counted(self, at: Rollout) -> Pairs | None:
        """The pairs, set to count in this stage; None where the rollout is over. Under `_counting`."""
        if self._pairs_of != at.id:
            return None
        _, self._pairs.tally = self._untold.setdefault((at.id, at.stage), (at, Tally()))
        return self._pairs

    # -- in the polling thread --------------------------------------------------------------------------------------

    def poll(self) -> None:
        """Look at the store once and follow it."""
        at = self._source.current(self.name)
        if at is not None:
            self._follow(at)
            self._tell(at)
        self._clear()

    def _follow(self, at: Rollout) -> None:
        self._collect()
        with self._counting:
            if self._pairs_of != at.id:
                self._pairs, self._pairs_of, self._told_requests = Pairs(), at.id, 0
                self._failed = {}
        stable = self._pool.get(at.answers)
        candidate = self._pool.get(at.candidate) if at.under_way else None
        if stable is None:
            # until it is loaded, what answers goes on, and alone
            with self._lock:
                self._table = Table(None, self._table.stable)
            self._load(at, at.answers)
            return
        new = Table(at, stable, candidate)
        if new != self._table:
            with self._lock:
                self._table = new
        if at.acting == "shadow" and self._shadowing is None:
            self._shadowing = threading.Thread(target=self._shadow, name=f"shadow-{self.name}", daemon=True)
            self._shadowing.start()
        if at.under_way and candidate is None:
            self._load(at, at.candidate)

    def _collect(self) -> None:
        """What the loading thread has brought."""
        if self._loading is not None and not self._loading.is_alive():
            self._loading = None
            if self._loaded is not None:
                self._pool[self._loaded.ref] = self._loaded
                self._loaded = None

    def _clear(self) -> None:
        """Versions that neither answer nor are tried leave when their grace is over."""
        used = {arm.ref for arm in (self._table.stable, self._table.candidate) if arm is not None}
        now_s = time.monotonic()
        for ref in list(self._pool):
            if ref in used:
                self._unwanted_s.pop(ref, None)
            elif now_s - self._unwanted_s.setdefault(ref, now_s) >= self._grace_s:
                self._drop(ref)
        self._leaving = [arm for arm in self._leaving if not arm.closed.is_set()]

    def _drop(self, ref: str) -> None:
        arm = self._pool.pop(ref)
        self._unwanted_s.pop(ref, None)
        self._leaving.append(arm)
        arm.retire()

    def _load(self, at: Rollout, ref: str) -> None:
        _, not_before_s = self._failed.get((at.id, ref), (0, 0.0))
        if self._loading is not None or time.monotonic() < not_before_s:
            return
        used = {arm.ref for arm in (self._table.stable, self._table.candidate) if arm is not None}
        for other in [other for other in self._pool if other not in used]:
            self._drop(other)  # room: at most two are in memory
        self._loading = threading.Thread(
            target=self._bring, args=(at, ref, list(self._leaving)), name=f"load-{ref}", daemon=True
        )
        self._loading.start()

    def _bring(self, at: Rollout, ref: str, leaving: Sequence[Arm]) -> None:
        """Load, ask a first question; in a thread of its own, while what answers goes on."""
        for arm in leaving:
            while not arm.closed.wait(0.1):
                if self._stop.is_set():
                    return
        model: ServedModel | None = None
        try:
            model = self._source.load(self.name, ref)
            smoke(model)
        except Exception as error:  # whatever is wrong with a candidate must not touch what answers
            logger.warning("%s cannot answer and is not used: %s", ref, error)
            if model is not None:
                Arm(ref, model).retire()
            times = self._failed.get((at.id, ref), (0, 0.0))[0] + 1
            store_is_away = isinstance(error, StoreError) and not isinstance(error, NotFound)
            if ref == at.candidate and (times >= TRIES or not store_is_away):
                self._rejected(at, error)
            # a rejected one is not asked for again; the stable version, or one whose rejection could not be recorded, is
            self._failed[at.id, ref] = times, time.monotonic() + self._retry_s
            return
        self._loaded = Arm(ref, model)

    def _rejected(self, at: Rollout, error: Exception) -> None:
        why = error.message if isinstance(error, LuthierError) else type(error).__name__
        try:
            self._source.reject(at, f"it cannot answer: {' '.join(why.split())[:500]}")
        except Exception:
            logger.exception("%s: that the candidate is broken could not be recorded", self.name)

    def _tell(self, at: Rollout) -> None:
        """Hand over what was seen, often at first and then each time that it is a tenth more; and have the rule look."""
        now_s, told = time.monotonic(), False
        for of, tally in self._due(at, now_s):
            try:
                self._source.observe(of, tally)
            except Exception:
                self._tell_later(of, tally)
                raise
            told = True
            self._told_s = now_s
            if of.id == at.id:
                self._told_requests += tally.requests
        if at.under_way and (told or now_s - self._reviewed_s >= REVIEW_S):
            self._reviewed_s = now_s
            after = self._source.review(self.name)
            if after is not None and after != at:
                self._follow(after)

    def _due(self, at: Rollout, now_s: float) -> Iterator[tuple[Rollout, Tally]]:
        """What is to be told now: of this stage when there is enough of it, of one that is over at once."""
        for key in list(self._untold):
            with self._counting:
                of, tally = self._untold[key]
                seen = tally.requests
                enough = seen and seen * 10 >= self._told_requests
                waited = (seen or tally.stable) and now_s - self._told_s >= TELL_S
                if key == (at.id, at.stage) and at.under_way and not (enough or waited):
                    continue
                del self._untold[key]
            yield of, tally

    def _tell_later(self, of: Rollout, tally: Tally) -> None:
        with self._counting:
            _, since = self._untold.setdefault((of.id, of.stage), (of, Tally()))
            since.take_in(tally.plain())

    # -- shadow -----------------------------------------------------------------------------------------------------

    def _shadow(self) -> None:
        """Ask the candidate what the client was already answered. One copy at a time."""
        while not self._stop.is_set():
            try:
                table, ending = self._copies.get(timeout=0.2)
            except queue.Empty:
                continue
            at, arm = table.rollout, table.candidate
            if at is None or arm is None or not self._tried(arm) or not arm.begin():
                continue
            try:
                assert ending.again is not None
                wanted = partial(self._tried, arm)
                outcome = asyncio.run(asked_again(arm.model, ending.again, wanted, self._copy_s))
            except Exception:  # of ours, not of the engine; the next copy is asked all the same
                logger.exception("%s: a copy could not be asked", arm.ref)
                continue
            finally:
                arm.end()
            with self._counting:
                if outcome is not None and (pairs := self._counted(at)) is not None:
                    pairs.shadow(outcome, _outcome(ending))

    def _tried(self, arm: Arm) -> bool:
        return not self._stop.is_set() and self._table.candidate is arm

    # -- the end ----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """After the last request. Engines are closed and what was seen is told, if the database is there. Raises nothing."""
        self._stop.set()
        for thread in (self._loading, self._shadowing):
            if thread is not None:
                thread.join(timeout=30)
        self._collect()
        for ref in list(self._pool):
            self._drop(ref)
        with self._counting:
            untold, self._untold = list(self._untold.values()), {}
        for of, tally in untold:
            try:
                self._source.observe(of, tally)
            except Exception as error:
                logger.warning("%s: what was seen last could not be told: %s", self.name, error)
        for arm in self._leaving:
            arm.closed.wait(30)


class Following(Router):
    """Names that follow their rollouts, and models that nobody swaps. Use as a context: inside it polls."""

    def __init__(
        self,
        followed: Mapping[str, Followed],
        pinned: Mapping[str, ServedModel] | None = None,
        poll_s: float = POLL_S,
    ) -> None:
        self.followed = followed
        self.pinned = pinned or {}
        self._poll_s = poll_s
        self._fixed = Fixed(self.pinned)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="rollouts", daemon=True)

    def __getitem__(self, name: str) -> ServedModel:
        one = self.followed.get(name)
        return self.pinned[name] if one is None else one.table.stable.model

    def __iter__(self) -> Iterator[str]:
        return iter([*self.followed, *self.pinned])

    def __len__(self) -> int:
        return len(self.followed) + len(self.pinned)

    def take(self, name: str, asker: Asker) -> Lease:
        if (one := self.followed.get(name)) is not None:
            return one.take(asker)
        return self._fixed.take(name, asker)

    def loaded(self) -> Iterator[tuple[str, ServedModel]]:
        for name, one in self.followed.items():
            yield from ((name, arm.model) for arm in one.arms)
        yield from self.pinned.items()

    def close(self) -> None:
        self._fixed.close()

    def __enter__(self) -> Following:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=30)
        for one in self.followed.values():
            try:
                one.stop()
            except Exception:  # the other names' engines are closed all the same
                logger.exception("%s: it could not be stopped", one.name)

    def _poll(self) -> None:
        while not self._stop.wait(self._poll_s):
            for one in self.followed.values():
                try:
                    one.poll()
                except Exception as error:  # a database that is away for a while must not end the following
                    logger.warning("%s: the rollout could not be looked at: %s", one.name, error)


def _variant(header: str | None) -> Variant | None:
    if header is None:
        return None
    if header == "stable":
        return "stable"
    if header == "candidate":
        return "candidate"
    raise ApiError(
        400, "invalid_value", "x-luthier-variant is 'stable' or 'candidate'.", param="x-luthier-variant"
    )


def _outcome(ending: Ending) -> Outcome:
    return Outcome(ending.failed, ending.seconds, ending.refused, ending.sha256)
