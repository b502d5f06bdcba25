"""The models of all projects behind one door: loaded when somebody asks, a few at a time, each seen by its own project alone.

    lease ──▶ find (records, in a thread) ──▶ held? ──▶ leased
                                              │ no: make room (the one that was asked least lately and answers nobody) ──▶ load ──▶ leased

A request waits for its model no longer than its deadline; loading goes on then, and the next request finds it. Only the event loop changes
what is held, so nothing here needs a lock.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from fastapi import Request
from fastapi.responses import Response

from luthier.core.errors import LuthierError, NotFound
from luthier.server.errors import ApiError
from luthier.server.router import Asker, Ending, Lease, Router, unknown
from luthier.server.routes import Described, Route
from luthier.server.served import ServedModel

from .asked import answered, as_api_error, caller
from .lanes import COMMON

if TYPE_CHECKING:
    from luthier.app.project_models import Found, Opens
    from luthier.app.site import Caller, Site
    from luthier.core.units import Money

logger = logging.getLogger("luthier.server")

MOST_HELD = 4
WAIT_S = 120.0
Key = tuple[str | None, str, str]


class ModelRoutes:
    """Reading is a route of served models."""

    ROUTES: ClassVar = (Route("DELETE", "/v1/models/{model_id:path}", "delete", "models.write"),)

    DESCRIBED: ClassVar = {"delete": Described("It is gone.", gives=("id", "object", "deleted"))}

    def __init__(self, site: Site) -> None:
        self._site = site

    async def delete(self, request: Request, model_id: str) -> Response:
        return await answered(self._delete, caller(request), model_id)

    def _delete(self, who: Caller, model_id: str) -> dict[str, Any]:
        self._site.models.delete(who, model_id)
        return {"id": model_id, "object": "model", "deleted": True}


@dataclass
class _Held:
    """A model in memory, and how many requests it answers now."""

    model: ServedModel
    leases: int = 0


@dataclass
class _Lease:
    """Of a model that stays in memory until it is given back."""

    _router: ProjectRouter
    _held: _Held
    headers: Mapping[str, str] = field(default_factory=dict)
    _ended: bool = False

    @property
    def model(self) -> ServedModel:
        return self._held.model

    def end(self, ending: Ending | None) -> None:
        if not self._ended:
            self._ended = True
            self._held.leases -= 1
            self._router.freed()


class ProjectRouter(Router):
    """`most`: models in memory at once. `wait_s`: how long a request waits for its model where it says no deadline. `hourly`: what an hour of
    the machine costs, where that is known. `opens`: by which engine; default: the plain one."""

    def __init__(
        self,
        site: Site,
        *,
        most: int = MOST_HELD,
        wait_s: float = WAIT_S,
        hourly: Money | None = None,
        opens: Opens | None = None,
    ) -> None:
        self._site = site
        self._opens = opens or site.models.open
        self._hourly = hourly
        self._most, self._wait_s = most, wait_s
        self._held: OrderedDict[Key, _Held] = OrderedDict()
        self._loading: dict[Key, asyncio.Task[None]] = {}
        self._awaited: Counter[Key] = Counter()
        self._changed: asyncio.Event | None = None
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="models")
        self._closed = False

    # -- what is in memory, for metrics and health --------------------------------------------------------------------

    def __getitem__(self, name: str) -> ServedModel:
        for held in self._held.values():
            if held.model.name == name:
                return held.model
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter([held.model.name for held in self._held.values()])

    def __len__(self) -> int:
        return len(self._held)

    def loaded(self) -> Iterator[tuple[str, ServedModel]]:
        return iter([(held.model.name, held.model) for held in self._held.values()])

    def take(self, name: str, asker: Asker) -> Lease:
        """Of what is in memory for this asker. Requests use `lease`."""
        raise unknown(name)

    # -- per caller ---------------------------------------------------------------------------------------------------

    async def listing(self, asker: Asker) -> list[dict[str, Any]]:
        return [one.plain() for one in await _found(self._site.models.list, asker.caller)]

    async def described(self, name: str, asker: Asker) -> dict[str, Any]:
        found: Found = await self._find(name, asker)
        return found.plain()

    async def _find(self, name: str, asker: Asker) -> Any:
        try:
            return await _found(self._site.models.find, asker.caller, name)
        except NotFound:
            raise unknown(name) from None

    async def lease(self, name: str, asker: Asker, wait_s: float | None = None) -> Lease:
        """Raises ApiError 404; 503 where the model is not there in time."""
        found: Found = await self._find(name, asker)
        try:
            async with asyncio.timeout(min(self._wait_s, wait_s or self._wait_s)):
                held = self._held.get(found.key) or await self._awaited_one(found)
        except TimeoutError:
            message = f"The model {name[:200]!r} is not in memory yet. Try again soon."
            raise ApiError(503, "model_loading", message, headers={"retry-after": "5"}) from None
        self._held.move_to_end(found.key)
        held.leases += 1
        return _Lease(self, held)

    async def _awaited_one(self, found: Found) -> _Held:
        """The model, once it is there. Until then it is loaded for nobody else's sake: who waits for room does not take it away again
        before those who waited for it have it."""
        self._awaited[found.key] += 1
        try:
            while (held := self._held.get(found.key)) is None:
                await self._come_nearer(found)
            return held
        finally:
            self._awaited[found.key] -= 1
            self._awaited += Counter()  # forgets those at nought
            self.freed()

    async def _come_nearer(self, found: Found) -> None:
        """Wait for the model's loading, begin it, or wait until there is room. Raises ApiError where it cannot be loaded."""
        task = self._loading.get(found.key)
        if task is None:
            if not self._make_room():
                await self._change()
                return
            task = self._loading[found.key] = asyncio.create_task(self._load(found))
            task.add_done_callback(partial(_looked_at, found.name))
        await asyncio.wait([task])
        if (error := task.exception()) is not None:
            raise ApiError(
                503, "engine_unavailable", "The model cannot be loaded now; the server's log says why."
            ) from error

    async def _load(self, found: Found) -> None:
        loop = asyncio.get_running_loop()
        try:
            answerer, release = await loop.run_in_executor(self._threads, self._opens, found)
            model = ServedModel(
                found.name,
                answerer.engine,
                package_digest=answerer.digest,
                release=release,
                created_s=found.created_s,
                hourly=self._hourly,
            )
            if self._closed:
                await loop.run_in_executor(None, _shut, model)
                return
            self._held[found.key] = _Held(model)
        finally:
            del self._loading[found.key]
            self.freed()

    def _make_room(self) -> bool:
        """Whether one more may be loaded. What answers somebody stays."""
        if len(self._held) + len(self._loading) < self._most:
            return True
        idle = next(
            (key for key, held in self._held.items() if not held.leases and not self._awaited[key]), None
        )
        if idle is None:
            return False
        model = self._held.pop(idle).model
        logger.info("the model %r leaves memory", model.name)
        self._threads.submit(_shut, model)
        return True

    async def _change(self) -> None:
        if self._changed is None:
            self._changed = asyncio.Event()
        await self._changed.wait()

    def freed(self) -> None:
        """Something may have become possible."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def close(self) -> None:
        self._closed = True
        for held in self._held.values():
            _shut(held.model)
        self._held.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)


async def _found(work: Any, *given: Any) -> Any:
    """NotFound as it is, other errors as the API's."""
    try:
        return await COMMON.run(work, *given)
    except (NotFound, ApiError):
        raise
    except LuthierError as error:
        raise as_api_error(error) from error


def _looked_at(name: str, task: asyncio.Task[None]) -> None:
    """So that a failure whose askers have all left is no riddle in the log."""
    if not task.cancelled() and (error := task.exception()) is not None:
        known = isinstance(error, LuthierError)
        logger.error("the model %r could not be loaded: %s", name, error, exc_info=None if known else error)


def _shut(model: ServedModel) -> None:
    model.threads.shutdown(wait=True, cancel_futures=True)
    model.engine.close()
