"""What a caller may ask of the queue. Whether he may is settled before (the route's permission); whose job it is, here."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa

from luthier.core.errors import NotFound
from luthier.core.event import Event
from luthier.store.jobs import Job

if TYPE_CHECKING:
    from luthier.app.site import Caller, Site

Wanted = Literal["run", "pause", "cancel"]
_SAID: dict[str, str] = {"run": "Job resumed", "pause": "Job paused", "cancel": "Job cancelled"}


class Jobs:
    """`site.jobs`."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._rows = site.store.jobs

    def submit(
        self,
        caller: Caller,
        kind: str,
        wish: Mapping[str, Any],
        *,
        prefix: str = "job-",
        id: str | None = None,
        shown: Mapping[str, Any] | None = None,
        priority: int = 0,
        resources: Mapping[str, Any] | None = None,
        needs: Sequence[str] = (),
        not_before_s: float | None = None,
        most_attempts: int = 3,
        once: tuple[str, str] | None = None,
        also: Callable[[sa.Connection], None] | None = None,
    ) -> Job:
        """Durable on return. `id`: made by the caller, in place of one made here. `once`: see store.jobs.Jobs.submit."""
        job = Job(
            id or f"{prefix}{secrets.token_hex(12)}", _project(caller), kind, wish, caller.user, time.time(), caller.key_id,
            priority=priority, shown=shown or {}, resources=resources or {}, not_before_s=not_before_s, most_attempts=most_attempts,
        )  # fmt: skip
        act = caller.actor.act("job.submitted", job.id, {"project": job.project, "kind": kind})
        return self._rows.submit(job, act, needs=needs, once=once, also=also)

    def get(self, caller: Caller, job_id: str) -> Job:
        return self._rows.get(_project(caller), job_id)

    def list(self, caller: Caller, **asked: Any) -> tuple[list[Job], bool]:
        """See store.jobs.Jobs.list."""
        return self._rows.list(_project(caller), **asked)

    def ask(self, caller: Caller, job_id: str, wanted: Wanted) -> Job:
        act = caller.actor.act(f"job.{wanted}", job_id, {"project": _project(caller)})
        return self._rows.ask(_project(caller), job_id, wanted, act, message=_SAID[wanted])

    def events(self, caller: Caller, job_id: str, *, after: int = 0) -> Iterator[Event]:
        """Oldest first."""
        self.get(caller, job_id)
        return self._rows.events(job_id, after=after)


def _project(caller: Caller) -> str:
    if caller.project is None:
        raise NotFound("no project is named.", remedy="Use a key of a project, or send OpenAI-Project.")
    return caller.project
