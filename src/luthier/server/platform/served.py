"""What served models are asked costs somebody's budget: tokens and money of each answer, and no answer where nothing is left. An answer of
which no price is known is counted as such, so that no report takes it for a free one.

    answer ──▶ Served(seen) ──▶ added up in memory ──▶ every FLUSH_S, one transaction ──▶ usage, totals, alerts
    request ──▶ Served.afford(key) ──▶ 429 insufficient_quota              looked up at most once a second for each key

An answer is not held up by its record: killed outright, a server loses the use of its last FLUSH_S seconds, and no more; stopped
properly, none. And a key that has nothing left may get the answers of about FLUSH_S and a second more.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from luthier.app.spending import spend
from luthier.core.errors import NotFound
from luthier.cost.quota import MICRO, MONEY, TOKENS, UNPRICED, micro, month_of
from luthier.server.errors import ApiError
from luthier.store.budgets import Use, Whose

from .ring import caller_of, project_asked

if TYPE_CHECKING:
    from luthier.app.site import Site
    from luthier.server.keys import Key
    from luthier.server.watch import Seen

logger = logging.getLogger("luthier.server")

FLUSH_S = 2.0
LOOK_S = 1.0
MOST = 50_000
"""Of what is added up and of what is remembered; more than there are keys times models."""
KIND = "served"
Place = tuple[str, str, str, str]
"""(key or user, project, model, unit)."""


class Served:
    """server.watch.Observer, and what is asked before an answer. Thread-safe."""

    def __init__(self, site: Site, flush_s: float = FLUSH_S) -> None:
        self._site = site
        self._flush_s = flush_s
        self._waiting: dict[Place, int] = {}
        self._lost = 0
        self._lock = threading.Lock()
        self._whose: dict[tuple[str, str], Whose] = {}
        self._looked: dict[tuple[str, str], tuple[float, str | None]] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __call__(self, seen: Seen) -> None:
        """On the event loop: only adds up."""
        exchange = seen.exchange
        if exchange is None or seen.project is None or seen.key_id is None:
            return
        amounts = {TOKENS: (exchange.prompt_tokens + exchange.completion_tokens) * MICRO}
        if exchange.cost is None:
            amounts[UNPRICED] = MICRO
        else:
            amounts[f"{MONEY}{exchange.cost[1]}"] = micro(exchange.cost[0])
        model = (exchange.release or exchange.model)[:256]
        with self._lock:
            for unit, amount in amounts.items():
                place = (seen.key_id, seen.project, model, unit)
                if place in self._waiting or len(self._waiting) < MOST:
                    self._waiting[place] = self._waiting.get(place, 0) + amount
                else:
                    self._lost += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="luthier-usage", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Enter what is left."""
        self._stop.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()
        self.flush()

    def _run(self) -> None:
        while not self._stop.wait(self._flush_s):
            self.flush()

    def flush(self) -> None:
        """Enter what was added up. What cannot be entered now waits for the next time."""
        with self._lock:
            taken, self._waiting = self._waiting, {}
            lost, self._lost = self._lost, 0
        if lost:
            logger.error(
                "the use of %d answers could not be kept: more than %d sums wait to be entered", lost, MOST
            )
        if not taken:
            return
        try:
            uses = self._uses(taken)
            with self._site.store.database.transaction() as connection:
                spend(self._site, connection, uses)
        except Exception:  # whatever it is, what was used is not lost and the next time comes
            logger.exception("what was used could not be entered; it is tried again")
            with self._lock:
                for place, amount in taken.items():
                    self._waiting[place] = self._waiting.get(place, 0) + amount

    def _uses(self, taken: Mapping[Place, int]) -> list[Use]:
        now, uses = time.time(), []
        for (key, project, model, unit), amount in sorted(taken.items()):
            whose = self._of(key, project)
            if whose is not None:
                uses.append(Use(now, month_of(now), whose, KIND, unit, amount, model=model))
        return uses

    def _of(self, key: str, project: str) -> Whose | None:
        """Whose use that is: as it was when the answer was let in."""
        if (known := self._whose.get((key, project))) is not None:
            return known
        try:
            organisation = self._site.store.accounts.project(project).organisation
        except NotFound:  # ended a moment ago, and its budgets with it
            return None
        found = None if key.startswith("user_") else self._site.store.accounts.key(key)
        whose = Whose(organisation, project, found[1].id if found else key, found[0].id if found else None)
        if len(self._whose) >= MOST:
            self._whose.clear()
        self._whose[key, project] = whose
        return whose

    # -- before an answer -------------------------------------------------------------------------------------------

    async def afford(self, key: Key) -> None:
        """Raises ApiError 429; 400 where no project is named that it could be counted for."""
        caller, project = caller_of(key), project_asked(key)
        place, now = (key.id, project), time.monotonic()
        looked = self._looked.get(place)
        if looked is None or now - looked[0] > LOOK_S:
            whose = Whose(caller.organisation or "", project, caller.user, caller.key_id)
            if len(self._whose) < MOST:
                self._whose[place] = whose
            looked = (now, await asyncio.to_thread(self._exhausted, whose))
            if len(self._looked) >= MOST:
                self._looked.clear()
            self._looked[place] = looked
        if looked[1] is not None:
            raise ApiError(429, "insufficient_quota", looked[1], headers={"x-should-retry": "false"})

    def _exhausted(self, whose: Whose) -> str | None:
        budget = self._site.budgets.exhausted(whose)
        if budget is None:
            return None
        each = "this month" if budget.period == "month" else "in all"
        what = "tokens" if budget.unit == TOKENS else budget.unit.removeprefix(MONEY)
        return f"The budget of {budget.scope} ({what}) has nothing left {each}. `GET /luthier/v1/budgets` shows it."
