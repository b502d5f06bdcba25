"""A name that follows its rollout while it is served: versions come and go, no request is lost, none gets a mixture.

    poll (one thread) ──▶ newest line of the rollout ──▶ Table: who answers, who is tried       one pointer, moved under a lock
         │                                                 ▲                    │
         ├──▶ load, first question (a thread a name) ──────┘                    ├──▶ take: a request keeps its Arm to the end
         └──▶ what was seen, the rule                                           └──▶ shadow: copies, asked after the answer is out

At most two versions of a name are in memory. What answered before stays loaded for `grace_s`, so that going back takes no loading.
A candidate that cannot be loaded or cannot answer a first question is rejected, and what answers goes on. The rollout itself is
elsewhere (deployment, app); this moves requests.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from luthier.core.errors import LuthierError
from luthier.deployment.evidence import Outcome, Pairs, Tally
from luthier.deployment.rollout import Rollout, Variant, variant
from luthier.server.arm import Arm, smoke
from luthier.server.errors import ApiError
from luthier.server.exchange import hash_text
from luthier.server.router import Asker, Ending, Fixed, Lease, Router
from luthier.server.served import ServedModel

logger = logging.getLogger("luthier.server")

POLL_S = 1.0
GRACE_S = 600.0
TELL_S, REVIEW_S = 30.0, 5.0
SHADOWS = 16
"""How many copies may wait; one more is dropped."""


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

    def __init__(self, name: str, first: Arm, source: Source, *, grace_s: float = GRACE_S) -> None:
        self.name = name
        self._source = source
        self._grace_s = grace_s
        self._lock = threading.Lock()
        self._table = Table(None, first)
        self._pool: dict[str, Arm] = {first.ref: first}
        self._unwanted_s: dict[str, float] = {}
        self._leaving: list[Arm] = []
        self._loading: threading.Thread | None = None
        self._loaded: Arm | None = None
        self._failed: set[tuple[str, str]] = set()
        self._stop = threading.Event()
        self._pairs, self._pairs_of, self._counting = Pairs(), "", threading.Lock()
        self._told_s = self._reviewed_s = 0.0
        self._told_requests = 0
        self._copies: queue.Queue[tuple[Table, Ending]] = queue.Queue(SHADOWS)
        self._shadowing: threading.Thread | None = None

    # -- on the event loop ------------------------------------------------------------------------------------------

    @property
    def table(self) -> Table:
        return self._table

    def take(self, asker: Asker) -> Lease:
        asked = _variant(asker.variant)
        with self._lock:  # held elsewhere only to move the pointer
            table = self._table
            which: Variant = "stable"
            if table.rollout is not None and table.candidate is not None:
                which = variant(table.rollout, asker.key_id, asker.user, asked)
            arm = table.candidate if which == "candidate" and table.candidate is not None else table.stable
            arm.begin()
        return _Lease(self, table, arm, {"x-luthier-variant": which} if table.candidate is not None else {})

    def ended(self, table: Table, arm: Arm, ending: Ending) -> None:
        """Count it, or have it asked once more; takes microseconds and never waits."""
        if table.rollout is None or table.candidate is None:
            return
        if table.rollout.acting == "shadow":
            if ending.request is not None and not ending.failed:
                self._copy(table, ending)
            return
        with self._counting:
            if self._pairs_of == table.rollout.id:
                (self._pairs.candidate if arm is table.candidate else self._pairs.stable)(_outcome(ending))

    def _copy(self, table: Table, ending: Ending) -> None:
        try:
            self._copies.put_nowait((table, ending))
        except queue.Full:
            with self._counting:
                self._pairs.tally.dropped += 1

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
        if self._loading is not None or (at.id, ref) in self._failed:
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
            self._failed.add((at.id, ref))
            if model is not None:
                Arm(ref, model).retire()
            if ref == at.candidate:
                self._rejected(at, error)
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
        if not at.under_way:
            return
        now_s = time.monotonic()
        with self._counting:
            seen = self._pairs.tally.requests
            due = seen and (seen * 10 >= self._told_requests or now_s - self._told_s >= TELL_S)
            tally = self._pairs.handed_over() if due else None
        if tally is not None:
            try:
                self._source.observe(at, tally)
            except Exception:
                with self._counting:  # told the next time
                    self._pairs.tally.take_in(tally.plain())
                raise
            self._told_s, self._told_requests = now_s, self._told_requests + seen
        if tally is not None or now_s - self._reviewed_s >= REVIEW_S:
            self._reviewed_s = now_s
            after = self._source.review(self.name)
            if after is not None and after != at:
                self._follow(after)

    # -- shadow -----------------------------------------------------------------------------------------------------

    def _shadow(self) -> None:
        """Ask the candidate what the client was already answered. One copy at a time."""
        while not self._stop.is_set():
            try:
                table, ending = self._copies.get(timeout=0.2)
            except queue.Empty:
                continue
            arm = table.candidate
            if table.rollout is None or arm is None or table.rollout.id != self._pairs_of or not arm.begin():
                continue
            try:
                outcome = self._asked(arm, ending)
            finally:
                arm.end()
            with self._counting:
                if outcome is not None and self._pairs_of == table.rollout.id:
                    self._pairs.shadow(outcome, _outcome(ending))

    def _asked(self, arm: Arm, ending: Ending) -> Outcome | None:
        assert ending.request is not None
        started_s, texts, refused, whole = time.monotonic(), [], False, False
        chunks = arm.model.engine.generate(ending.request, self._stop.is_set)
        try:
            for chunk in chunks:
                texts.append(chunk.text)
                refused, whole = chunk.refusal is not None, chunk.finish is not None
                if self._stop.is_set():
                    return None
        except Exception as error:
            logger.info("%s failed on a copy: %s", arm.ref, type(error).__name__)
        finally:
            chunks.close()
        seconds = time.monotonic() - started_s
        return Outcome(not whole, seconds, refused, hash_text("".join(texts)) if whole else None)

    # -- the end ----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """After the last request. What was seen is told; engines are closed."""
        self._stop.set()
        for thread in (self._loading, self._shadowing):
            if thread is not None:
                thread.join(timeout=30)
        self._collect()
        at = self._table.rollout
        with self._counting:
            tally = self._pairs.handed_over()
        if at is not None and at.under_way and (tally.requests or tally.dropped):
            self._source.observe(at, tally)
        for ref in list(self._pool):
            self._drop(ref)
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

    def close(self) -> None:
        self._fixed.close()

    def __enter__(self) -> Following:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=30)
        for one in self.followed.values():
            one.stop()

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
