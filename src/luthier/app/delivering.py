"""The deliverer: sends what waits for webhooks, again and later where it did not arrive, and gives up after about three days.

Several servers may run one beside each other: each delivery is claimed by one of them, and a claim that its server did not live to
settle runs out. A project has at most OF_EACH under way, and the others do not wait for them to end. So a delivery is made at least once, with the same webhook-id each time. A status of 200 to 299 is its arrival; anything
else, a redirect too, is not.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from luthier.core.egress import NotReached
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
AT_ONCE = 16
OF_EACH = 2
"""Of one project at a time, so that receivers of one that answer slowly leave room for the others'."""
LEFT_S, MOST_SILENT = 60.0, 10_000
"""A host that did not answer is left alone by its project's other deliveries for this long."""
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
        self._stop, self._wake = threading.Event(), threading.Event()
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="deliver")
        self._lock = threading.Lock()
        self._under_way: Counter[str] = Counter()
        self._silent: dict[tuple[str, str], float] = {}
        """(project, host): until when it is left alone."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """In a thread, until the block ends; what is under way then is finished."""
        thread = threading.Thread(target=self._loop, name="deliverer", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._wake.set()
            thread.join()
            self._threads.shutdown()

    def step(self) -> int:
        """Send what is due now, until it has arrived or not; how many tries that was."""
        begun = self._begin()
        for one in begun:
            one.result()
        return len(begun)

    def _begin(self) -> list[Future[None]]:
        """Of each project that has none under way, what is due now."""
        with self._lock:
            room, without = AT_ONCE - self._under_way.total(), list(self._under_way)
        due = self._site.store.webhooks.claim(self._clock(), LEASE_S, room, OF_EACH, without) if room else ()
        with self._lock:
            self._under_way.update(webhook.project for _, webhook in due)
        return [self._threads.submit(self._one, *one) for one in due]

    def _one(self, delivery: Delivery, webhook: Webhook) -> None:
        try:
            self._deliver(delivery, webhook)
        except LuthierError as error:  # the claim runs out, and it is tried again
            logger.warning("what became of %s could not be written: %s", delivery.id, error.message)
        except Exception:
            logger.exception("delivering %s failed", delivery.id)
        finally:
            with self._lock:
                self._under_way[webhook.project] -= 1
                self._under_way += Counter()  # forgets those at nought
            self._wake.set()

    def _loop(self) -> None:
        while not self._stop.is_set():
            try:
                if self._begin():
                    continue
            except LuthierError as error:  # the records are away for a while
                logger.warning("webhooks wait: %s", error.message)
            except Exception:
                logger.exception("delivering failed; it goes on")
            self._wake.wait(self._every_s)
            self._wake.clear()

    def _deliver(self, delivery: Delivery, webhook: Webhook) -> None:
        status, why = None, ""
        where = webhook.project, urlsplit(webhook.url).netloc
        try:
            if self._clock() < self._silent.get(where, 0.0):
                raise NotReached(f"{where[1]} did not answer another delivery a moment ago.")
            status = self._webhooks.send(webhook, delivery.id, delivery.event, self._clock())
            self._silent.pop(where, None)
        except NotReached as error:
            why = error.message
            if len(self._silent) >= MOST_SILENT:
                self._silent.clear()
            self._silent.setdefault(where, self._clock() + LEFT_S)
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
