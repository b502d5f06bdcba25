"""The deliverer: sends what waits for webhooks, again and later where it did not arrive, and gives up after about three days.

Several servers may run one beside each other: each delivery is claimed by one of them, and a claim that its server did not live to
settle runs out. So a delivery is made at least once, with the same webhook-id each time. A status of 200 to 299 is its arrival; anything
else, a redirect too, is not.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from luthier.core.errors import LuthierError
from luthier.store.webhooks import Delivery, Webhook

from .webhooks import Webhooks

if TYPE_CHECKING:
    from luthier.core.egress import Egress

    from .site import Site

logger = logging.getLogger("luthier.delivering")

MOST_TRIES = 28
FIRST_WAIT_S, LONGEST_WAIT_S = 10.0, 4 * 3600.0
LEASE_S = 120.0
"""Far longer than one try may take (core/egress)."""
AT_ONCE = 8
EVERY_S = 1.0


class Deliverer:
    """`clock`: Unix time."""

    def __init__(
        self,
        site: Site,
        egress: Egress | None = None,
        *,
        clock: Callable[[], float] = time.time,
        every_s: float = EVERY_S,
    ) -> None:
        self._site, self._clock, self._every_s = site, clock, every_s
        self._webhooks = Webhooks(site, egress)
        self._stop = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """In a thread, until the block ends; what is under way then is finished."""
        thread = threading.Thread(target=self._loop, name="deliverer", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def step(self) -> int:
        """Send what is due now; how many tries that was."""
        due = self._site.store.webhooks.claim(self._clock(), LEASE_S, AT_ONCE)
        if due:
            with ThreadPoolExecutor(len(due), thread_name_prefix="deliver") as threads:
                list(threads.map(lambda one: self._deliver(*one), due))
        return len(due)

    def _loop(self) -> None:
        while not self._stop.is_set():
            try:
                if self.step():
                    continue
            except LuthierError as error:  # the records are away for a while
                logger.warning("webhooks wait: %s", error.message)
            except Exception:
                logger.exception("delivering failed; it goes on")
            self._stop.wait(self._every_s)

    def _deliver(self, delivery: Delivery, webhook: Webhook) -> None:
        status, why = None, ""
        try:
            status = self._webhooks.send(webhook, delivery.id, delivery.event, self._clock())
        except LuthierError as error:
            why = error.message
        rows = self._site.store.webhooks
        if status is not None and 200 <= status < 300:
            rows.settle(delivery, "delivered", status, delivery.next_s, "")
        elif delivery.tries >= MOST_TRIES:
            rows.settle(delivery, "given_up", status, delivery.next_s, why or f"answered {status}")
            logger.warning("%s for %s was given up after %d tries", delivery.id, webhook.id, delivery.tries)
        else:
            rows.settle(delivery, "waiting", status, self._clock() + wait_s(delivery.tries), why)


def wait_s(tries: int) -> float:
    """After the n-th try: twice as long each time, up to four hours, give or take a fifth.

    >>> 8 <= wait_s(1) <= 12, 14400 * 0.8 <= wait_s(28) <= 14400 * 1.2
    (True, True)
    """
    plain = min(FIRST_WAIT_S * 2.0 ** (tries - 1), LONGEST_WAIT_S)
    return plain * random.uniform(0.8, 1.2)  # noqa: S311  (so that many do not come at once; nothing secret)
