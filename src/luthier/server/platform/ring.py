"""Keys and sessions of a site as the guard wants them: looked up beside the event loop, and remembered.

A session for REMEMBERED_S. A key for as long as nothing was entered into the trail, which is looked at once in REMEMBERED_S for all keys
together: whatever changes what a key may do is entered there in the same transaction. So a key that was ended, or whose user lost a role, may be
let in for a moment more by each process (twice REMEMBERED_S at most), and no longer. What is no key is never remembered. That a key was used is
written at most once a minute, with that of all others in a moment, and no request waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from luthier.app.login import Login
from luthier.app.site import Caller, Site
from luthier.core import keys
from luthier.core.errors import Busy, LuthierError
from luthier.server.errors import ApiError
from luthier.server.keys import Key

logger = logging.getLogger("luthier.server")

REMEMBERED_S = 1.0
MOST = 10_000
LONGEST_S = 600.0
"""After so long a key is looked up again although nothing was entered."""
USED_S, GATHER_S = 60.0, 2.0
SECURE_COOKIE, PLAIN_COOKIE = "__Host-luthier-session", "luthier-session"
Look = Callable[[str, str | None], Caller | None]
T = TypeVar("T")


@dataclass
class Found:
    key: Key
    mark: str
    """Of the records, as they were before it was looked up."""
    at_s: float
    """When it was last known to hold."""
    looked_s: float


class Known:
    """Answers of `look`, for a second; where `mark` tells whether anything has changed since, for as long as nothing has, and at most
    LONGEST_S. A text is kept as its hash alone."""

    def __init__(
        self, look: Look, mark: Callable[[], str] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._look, self._mark = look, mark
        self._clock = clock
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="keys")
        self._found: OrderedDict[tuple[str, str | None], Found] = OrderedDict()
        self._marked: tuple[float, asyncio.Future[str]] | None = None

    async def check(self, text: str, project: str | None) -> Key | None:
        """Raises ApiError 503 where the records cannot be read."""
        asked, now = (keys.sha256_of(text), project), self._clock()
        there = self._found.get(asked)
        if there is not None and not _expired(there.key) and now - there.looked_s < LONGEST_S:
            if now - there.at_s < REMEMBERED_S:
                return there.key
            if self._mark is not None and await self._told(self._now(now)) == there.mark:
                there.at_s = now
                return there.key
        mark = "" if self._mark is None else await self._told(self._now(now))
        caller = await self._told(self._thread(self._look, text, project))
        self._found.pop(asked, None)
        if caller is None:
            return None
        key = Key(caller.key_id or caller.user, "", caller.permissions, caller)
        self._found[asked] = Found(key, mark, now, now)
        while len(self._found) > MOST:
            self._found.popitem(last=False)
        return key

    def _now(self, now: float) -> asyncio.Future[str]:
        """The mark, read at most once in REMEMBERED_S however many ask."""
        assert self._mark is not None
        if self._marked is None or now - self._marked[0] >= REMEMBERED_S:
            self._marked = now, self._thread(self._mark)
        return self._marked[1]

    def _thread(self, work: Callable[..., T], *given: Any) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, work, *given)

    @staticmethod
    async def _told(work: asyncio.Future[T]) -> T:
        try:
            return await asyncio.shield(work)  # one who leaves ends nothing for the others
        except LuthierError as error:
            logger.exception("a key could not be looked up")
            soon = {"retry-after": "2"} if isinstance(error, Busy) else {}
            raise ApiError(503, "unavailable", "The records cannot be read now.", headers=soon) from None


class Ring:
    """server.keys.Opens over a site."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._known = Known(site.check, self._mark)
        self._used: dict[str, float] = {}
        self._due: dict[str, float] = {}
        self._lock = threading.Lock()  # of what is due: the event loop puts in, the writer takes out
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="keys-used")

    async def check(self, text: str, project: str | None = None) -> Key | None:
        found = None if keys.id_of(text) is None else await self._known.check(text, project)
        if found is not None and (key_id := caller_of(found).key_id) is not None:
            self._tell_used(key_id)
        return found

    def _mark(self) -> str:
        head = self._site.store.audit.head()
        return head.sha256 if head else ""

    def _tell_used(self, key_id: str) -> None:
        now = time.time()
        if now - self._used.get(key_id, 0.0) < USED_S:
            return
        if len(self._used) >= MOST:
            self._used.clear()
        self._used[key_id] = now
        with self._lock:
            first = not self._due
            self._due[key_id] = now
        if first:
            self._writer.submit(self._write)

    def _write(self) -> None:
        time.sleep(GATHER_S)
        with self._lock:
            due, self._due = self._due, {}
        try:
            self._site.store.accounts.used(due)
        except LuthierError as error:
            logger.warning("when %d keys were used could not be written: %s", len(due), error.message)


class SessionRing:
    """server.keys.Sessions over a site's logins."""

    def __init__(self, login: Login) -> None:
        self.cookie = cookie_of(login)
        self._login = login
        self._known = Known(login.check)

    async def check(self, token: str, project: str | None = None) -> Key | None:
        return await self._known.check(token, project)

    def proves(self, token: str, csrf: str) -> bool:
        return self._login.proves(token, csrf)


def cookie_of(login: Login) -> str:
    return SECURE_COOKIE if login.spec.secure else PLAIN_COOKIE


def _expired(key: Key) -> bool:
    expires_s = caller_of(key).expires_s
    return expires_s is not None and expires_s <= time.time()


def caller_of(key: Key) -> Caller:
    """Of a key that a Ring gave."""
    assert isinstance(key.caller, Caller)
    return key.caller


def project_asked(key: Key) -> str:
    """For which project it asks. Raises ApiError 400 where that is not said."""
    if (project := caller_of(key).project) is None:
        message = "This key is of no single project. Say for which one it asks: the header OpenAI-Project."
        raise ApiError(400, "missing_required_parameter", message, param="OpenAI-Project")
    return project
