"""Keys and sessions of a site as the guard wants them: looked up beside the event loop, and remembered for a second.

So a key that was ended, or whose user lost a role, may be let in for REMEMBERED_S more by each process, and no longer. What is no key is
never remembered. That a key was used is written at most once a minute, and no request waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from luthier.app.login import Login
from luthier.app.site import Caller, Site
from luthier.core import keys
from luthier.core.errors import Busy, LuthierError
from luthier.server.errors import ApiError
from luthier.server.keys import Key

logger = logging.getLogger("luthier.server")

REMEMBERED_S = 1.0
MOST = 10_000
USED_S = 60.0
SECURE_COOKIE, PLAIN_COOKIE = "__Host-luthier-session", "luthier-session"
Look = Callable[[str, str | None], Caller | None]


class Known:
    """Answers of `look` for a second. A text is kept as its hash alone."""

    def __init__(self, look: Look, clock: Callable[[], float] = time.monotonic) -> None:
        self._look = look
        self._clock = clock
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="keys")
        self._found: OrderedDict[tuple[str, str | None], tuple[Key, float]] = OrderedDict()

    async def check(self, text: str, project: str | None) -> Key | None:
        """Raises ApiError 503 where the records cannot be read."""
        asked, now = (keys.sha256_of(text), project), self._clock()
        there = self._found.get(asked)
        if there is not None and now - there[1] < REMEMBERED_S and not _expired(there[0]):
            return there[0]
        try:
            caller = await asyncio.get_running_loop().run_in_executor(
                self._threads, self._look, text, project
            )
        except LuthierError as error:
            logger.exception("a key could not be looked up")
            soon = {"retry-after": "2"} if isinstance(error, Busy) else {}
            raise ApiError(503, "unavailable", "The records cannot be read now.", headers=soon) from None
        self._found.pop(asked, None)
        if caller is None:
            return None
        key = Key(caller.key_id or caller.user, "", caller.permissions, caller)
        self._found[asked] = key, now
        while len(self._found) > MOST:
            self._found.popitem(last=False)
        return key


class Ring:
    """server.keys.Opens over a site."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._known = Known(self._look)
        self._used: dict[str, float] = {}
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="keys-used")

    async def check(self, text: str, project: str | None = None) -> Key | None:
        return None if keys.id_of(text) is None else await self._known.check(text, project)

    def _look(self, text: str, project: str | None) -> Caller | None:
        caller = self._site.check(text, project)
        if caller is not None and caller.key_id is not None:
            self._tell_used(caller.key_id)
        return caller

    def _tell_used(self, key_id: str) -> None:
        now = time.time()
        if now - self._used.get(key_id, 0.0) < USED_S:
            return
        if len(self._used) >= MOST:
            self._used.clear()
        self._used[key_id] = now
        self._writer.submit(self._write, key_id, now)

    def _write(self, key_id: str, at_s: float) -> None:
        try:
            self._site.store.accounts.used(key_id, at_s)
        except LuthierError:
            logger.warning("that the key %s was used could not be written", key_id, exc_info=True)


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
