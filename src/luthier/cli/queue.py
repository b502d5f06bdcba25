"""The queue that `luthier job` asks: of this host's home, or of the server that is meant. Both answer with the same rows.

Not here: entering jobs at a server (`luthier --remote NAME run` does), schedules, and what is about a host.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

from luthier.core.event import Event
from luthier.store.attempts import AttemptRow
from luthier.store.jobs import ENDED, Job, Wanted

from . import remotes
from .at_site import with_key
from .command import meant

if TYPE_CHECKING:
    from luthier.app.site import Caller, Site
    from luthier.sdk import Client

PAGE = 100
LOOK_S = 1.0


class Queue(Protocol):
    """As app.jobs.Jobs, of one project and one caller."""

    def list(self, states: Sequence[str], limit: int) -> tuple[list[Job], bool]: ...

    def get(self, job_id: str) -> Job: ...

    def attempts(self, job_id: str) -> Sequence[AttemptRow]: ...

    def ask(self, job_id: str, wanted: Wanted) -> Job: ...

    def prioritise(self, job_id: str, priority: int) -> Job: ...

    def events(self, job_id: str, after: int) -> Iterator[Event]: ...

    def follow(self, job_id: str, after: int) -> Iterator[Event]: ...

    def logs(self, job_id: str, attempt: int | None, lines: int, containing: str | None) -> Sequence[str]: ...


def queue(project: str | None, permission: str = "jobs.read") -> Queue:
    """Of the server that is meant, else of this host's home, with the key in LUTHIER_KEY where there is one. Raises SpecError, NotFound,
    NotAllowed."""
    if (found := meant()) is not None:
        remote = found[1] if project is None else found[1].model_copy(update={"project": project})
        return There(remotes.open_client(remote, os.environ))
    from luthier.app.site import Site

    site = Site.open()
    return Here(site, with_key(site, project, permission) or site.local(project))


@dataclass(frozen=True)
class Here:
    site: Site
    caller: Caller

    def list(self, states: Sequence[str], limit: int) -> tuple[list[Job], bool]:
        return self.site.jobs.list(self.caller, states=states, limit=limit, brief=True)

    def get(self, job_id: str) -> Job:
        return self.site.jobs.get(self.caller, job_id)

    def attempts(self, job_id: str) -> Sequence[AttemptRow]:
        return self.site.jobs.attempts(self.caller, job_id)

    def ask(self, job_id: str, wanted: Wanted) -> Job:
        return self.site.jobs.ask(self.caller, job_id, wanted)

    def prioritise(self, job_id: str, priority: int) -> Job:
        return self.site.jobs.prioritise(self.caller, job_id, priority)

    def events(self, job_id: str, after: int) -> Iterator[Event]:
        return self.site.jobs.events(self.caller, job_id, after=after)

    def follow(self, job_id: str, after: int) -> Iterator[Event]:
        return self.site.jobs.follow(self.caller, job_id, after=after)

    def logs(self, job_id: str, attempt: int | None, lines: int, containing: str | None) -> Sequence[str]:
        return self.site.jobs.logs(self.caller, job_id, attempt=attempt, lines=lines, containing=containing)


@dataclass(frozen=True)
class There:
    client: Client

    def list(self, states: Sequence[str], limit: int) -> tuple[list[Job], bool]:
        found: list[Job] = []
        more = True
        while more and len(found) < limit:
            after = {"after": found[-1].id} if found else {}
            wanted = {"state": ",".join(states)} if states else {}
            page = self.client.jobs(limit=min(PAGE, limit - len(found)), **wanted, **after)
            found += [
                _row(Job, {**one, "wish": {"verb": one["verb"]} if "verb" in one else {}})
                for one in page["data"]
            ]
            more = page["has_more"]
        return found, more

    def get(self, job_id: str) -> Job:
        return _row(Job, self.client.job(job_id))

    def attempts(self, job_id: str) -> Sequence[AttemptRow]:
        """Without the handle, which a server keeps to itself."""
        return [
            _row(AttemptRow, {"job": job_id, "fence": 0, **one}) for one in self.client.job(job_id)["history"]
        ]

    def ask(self, job_id: str, wanted: Wanted) -> Job:
        ask = {"cancel": self.client.cancel, "pause": self.client.pause, "run": self.client.resume}
        return _row(Job, ask[wanted](job_id))

    def prioritise(self, job_id: str, priority: int) -> Job:
        return _row(Job, self.client.prioritise(job_id, priority))

    def events(self, job_id: str, after: int) -> Iterator[Event]:
        more = True
        while more:
            page = self.client.events(job_id, after=after)
            for one in page["data"]:
                data = {k: v for k, v in one.items() if k not in ("object", "seq", "time_s")}
                after = one["seq"]
                yield Event("job.told", job_id, data, one["time_s"], after)
            more = page["has_more"]

    def follow(self, job_id: str, after: int) -> Iterator[Event]:
        while True:
            over = (
                self.get(job_id).state in ENDED
            )  # first: all that it told before it ended is then among the events
            for event in self.events(job_id, after):
                after = event.seq or after
                yield event
            if over:
                return
            time.sleep(LOOK_S)

    def logs(self, job_id: str, attempt: int | None, lines: int, containing: str | None) -> Sequence[str]:
        asked = {"attempt": attempt, "lines": lines, "containing": containing}
        found: Sequence[str] = self.client.logs(job_id, **{k: v for k, v in asked.items() if v is not None})[
            "data"
        ]
        return found


def _row(kind: Any, told: dict[str, Any]) -> Any:
    """Without what a newer server tells besides."""
    known = {one.name for one in fields(kind)}
    return kind(**{name: value for name, value in told.items() if name in known})
