"""What a caller may ask of the queue. Whether he may is settled before (the route's permission); whose job it is, here."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, unquote_plus

import sqlalchemy as sa

from luthier.app.permitted import need, project_of
from luthier.core.errors import SpecError
from luthier.core.event import Event
from luthier.governance.access import SITE
from luthier.store.attempts import AttemptRow
from luthier.store.jobs import ENDED, Job, Wanted

from . import logs
from .asking import check_numbers, check_priority
from .observing import observer_of

if TYPE_CHECKING:
    from luthier.app.site import Caller, Site

    from .schedules import Schedules

_SAID: dict[str, str] = {"run": "Job resumed", "pause": "Job paused", "cancel": "Job cancelled"}
MOST_LINES = 10_000
LONGEST_WORD = 200
WAIT_S = 1.0


class Jobs:
    """`site.jobs`."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._rows = site.store.jobs

    @property
    def schedules(self) -> Schedules:
        from .schedules import Schedules

        return Schedules(self._site)

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
        schedule: str | None = None,
    ) -> Job:
        """Durable on return. `id`: made by the caller, in place of one made here. `once`: see store.jobs.Jobs.submit. Raises SpecError for numbers out of bounds, NotAllowed for what policy
        denies, OverBudget where a budget has not enough left."""
        from luthier.app.desk import Desk  # it reads wishes with a module of this package

        check_priority(caller, priority)
        check_numbers(resources or {}, most_attempts)
        admitted = Desk(self._site).admit(caller, kind, wish, resources, shown)
        job = Job(
            id or f"{prefix}{secrets.token_hex(12)}", project_of(caller), kind, wish, caller.user, time.time(), caller.key_id,
            state="held" if admitted.held else "queued", priority=priority, shown=shown or {}, resources=resources or {},
            not_before_s=not_before_s, most_attempts=most_attempts, schedule=schedule,
        )  # fmt: skip
        act = caller.actor.act("job.submitted", job.id, {"project": job.project, "kind": kind})

        def together(connection: sa.Connection) -> None:
            admitted.also(connection, job)
            if also is not None:
                also(connection)

        return self._rows.submit(job, act, needs=needs, once=once, also=together)

    def get(self, caller: Caller, job_id: str) -> Job:
        return self._rows.get(project_of(caller), job_id)

    def list(self, caller: Caller, **asked: Any) -> tuple[list[Job], bool]:
        """See store.jobs.Jobs.list."""
        return self._rows.list(project_of(caller), **asked)

    def ask(self, caller: Caller, job_id: str, wanted: Wanted) -> Job:
        act = caller.actor.act(f"job.{wanted}", job_id, {"project": project_of(caller)})
        ended = observer_of(self._site).ended
        return self._rows.ask(project_of(caller), job_id, wanted, act, message=_SAID[wanted], ended=ended)

    def prioritise(self, caller: Caller, job_id: str, priority: int) -> Job:
        """Raises SpecError for one that the caller may not give."""
        check_priority(caller, priority)
        act = caller.actor.act("job.priority", job_id, {"project": project_of(caller), "priority": priority})
        return self._rows.prioritise(project_of(caller), job_id, priority, act)

    # -- what became of it --------------------------------------------------------------------------------------------

    def events(
        self, caller: Caller, job_id: str, *, after: int = 0, limit: int | None = None
    ) -> Iterator[Event]:
        """Oldest first."""
        self.get(caller, job_id)
        return self._rows.events(job_id, after=after, limit=limit)

    def newest_told(self, job: Job, *, before: int | None = None, limit: int) -> Sequence[Event]:
        """Of a job that `get` gave: see store.jobs.Jobs.newest_told."""
        return self._rows.newest_told(job.id, before=before, limit=limit)

    def follow(
        self, caller: Caller, job_id: str, *, after: int = 0, pause: Callable[[float], object] = time.sleep
    ) -> Iterator[Event]:
        """Its story as it is told, until it ends."""
        while True:
            over = (
                self.get(caller, job_id).state in ENDED
            )  # looked at first: all that was told by then is read below
            for event in self._rows.events(job_id, after=after):
                after = event.seq or after
                yield event
            if over:
                return
            pause(WAIT_S)

    def attempts(self, caller: Caller, job_id: str) -> Sequence[AttemptRow]:
        """Oldest first."""
        self.get(caller, job_id)
        return self._site.store.attempts.of(job_id)

    def steps(self, caller: Caller, job_id: str) -> dict[str, Mapping[str, Any]]:
        """The journal: steps that are finished, and what they gave."""
        self.get(caller, job_id)
        return self._site.store.attempts.steps(job_id)

    def logs(
        self, caller: Caller, job_id: str, *, attempt: int | None = None, lines: int = 200, containing: str | None = None
    ) -> Sequence[str]:  # fmt: skip
        """The last lines that an attempt (the newest) printed, or the last that contain a word; what the server keeps secret is not
        shown. They lie on the host that ran it, and are empty elsewhere."""
        if not 1 <= lines <= MOST_LINES:
            raise SpecError(f"{lines} lines cannot be shown.", remedy=f"Ask for 1 to {MOST_LINES:,}.")
        if containing is not None and len(containing) > LONGEST_WORD:
            raise SpecError(
                f"a word to look for has at most {LONGEST_WORD} characters.", remedy="Shorten it."
            )
        job = self.get(caller, job_id)
        number = job.attempts if attempt is None else attempt
        if not 0 <= number <= job.attempts:
            raise SpecError(
                f"the job {job_id} has {job.attempts} attempts, and {number} is none.", remedy="Leave it out."
            )
        from .reconciler import folder_of

        found = logs.read(folder_of(self._site, job_id), number, lines=lines, containing=containing)
        return masked(found, self._site.environ)

    def abandon(self, caller: Caller, host: str) -> Sequence[str]:
        """A host is gone for good: what ran there, of whichever project, begins again elsewhere. Whoever says so of a host that lives has two
        trainers. Raises NotAllowed for who may not write jobs everywhere."""
        need(self._site, caller, "jobs.write", SITE)
        act = caller.actor.act("host.abandoned", host)
        return self._site.store.attempts.abandon(host, act, time.time(), observer_of(self._site).ended)

    # -- recipes ------------------------------------------------------------------------------------------------------

    def submit_recipe(
        self, caller: Caller, text: str, *, sets: Sequence[str] = (), folder: Path | None = None, **asked: Any
    ) -> Job:  # fmt: skip
        """A run of a recipe. `folder`: where its paths start, for whoever is at this host himself; else that is one of the job's own
        with the uploaded files that it names. Raises SpecError with every fault. `asked`: see `submit`."""
        from .kinds.recipe import checked, wish_of

        wish = wish_of(text, sets, folder)
        checked(wish)
        return self.submit(caller, "recipe", wish, **asked)


def masked(lines: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Without values of the environment that look like secrets, and without the passwords in addresses there, as they are written and as
    they are meant.

    >>> masked(["cannot log in with hunter22"], {"PGPASSWORD": "hunter22"})
    ['cannot log in with ${PGPASSWORD}']
    >>> masked(["no p@ss (p%40ss) for proxy:80"], {"HTTP_PROXY": "http://me:p%40ss@proxy:80"})
    ['no ${HTTP_PROXY} (${HTTP_PROXY}) for proxy:80']
    """
    words = ("PASSWORD", "SECRET", "TOKEN", "KEY", "CREDENTIAL", "DATABASE", "_URL", "_DSN", "CONNECTION")
    secret = [
        (value, name) for name, value in environ.items()
        if len(value) >= 6 and any(word in name.upper() for word in words)
    ]  # fmt: skip
    secret += [(one, name) for name, value in environ.items() for one in _passwords(value)]
    secret.sort(key=lambda pair: -len(pair[0]))  # what holds another is masked whole
    found = []
    for line in lines:
        for value, name in secret:
            line = line.replace(value, f"${{{name}}}")
        found.append(line)
    return found


SHORTEST_PASSWORD = 4
"""A shorter one stands in words that are no secret."""
_PASSWORD = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#:@]*:([^\s/?#]*)@")
_ASKED = re.compile(r"[?&](?:password|passwd|pwd)=([^\s&#]+)", re.IGNORECASE)


def _passwords(value: str) -> set[str]:
    """In addresses, raw and percent-decoded.

    >>> sorted(_passwords("postgresql://me:a%2Fb%20c@db/luthier?password=hunter22"))
    ['a%2Fb%20c', 'a/b c', 'hunter22']
    """
    raw = {*_PASSWORD.findall(value), *_ASKED.findall(value)}
    return {
        one
        for text in raw
        for one in (text, unquote(text), unquote_plus(text))
        if len(one) >= SHORTEST_PASSWORD
    }
