"""Schedules: jobs at the times of cron, submitted in the name of who made the schedule, through the door that everybody uses.

A time at which no server ran is made up for once, however many were missed. That a time gives one job holds by the job's idempotency
key (schedule and time), so it does not matter how many servers find it due, or where one of them dies.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.app.permitted import project_of
from luthier.core.artifact import canonical
from luthier.core.errors import LuthierError, SpecError
from luthier.core.event import Event
from luthier.store.schedules import Schedule

from .asking import check_numbers, check_priority
from .cron import parse_cron

if TYPE_CHECKING:
    from luthier.app.site import Caller, Site

logger = logging.getLogger("luthier.jobs")
LONGEST_TITLE = 200
MOST = 100
"""Of one project."""


class Schedules:
    """`site.jobs.schedules`."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._rows = site.store.schedules

    def add(
        self, caller: Caller, title: str, cron: str, kind: str, wish: Mapping[str, Any], *, timezone: str = "UTC", priority: int = 0,
        resources: Mapping[str, Any] | None = None, most_attempts: int = 3,
    ) -> Schedule:  # fmt: skip
        """Raises SpecError."""
        project = project_of(caller)
        check_priority(caller, priority)
        check_numbers(resources or {}, most_attempts)
        if not 0 < len(title) <= LONGEST_TITLE:
            raise SpecError(f"a schedule's title has 1 to {LONGEST_TITLE} characters.", remedy="Shorten it.")
        if len(self._rows.list(project)) >= MOST:
            raise SpecError(f"a project has at most {MOST} schedules.", remedy="Remove one.")
        now_s = time.time()
        job = {
            "kind": kind, "wish": dict(wish), "priority": priority, "resources": dict(resources or {}), "most_attempts": most_attempts,
            "timezone": timezone,
        }  # fmt: skip
        schedule = Schedule(
            f"sched-{secrets.token_hex(12)}", project, title, cron, job, caller.user, now_s,
            next_s=parse_cron(cron, timezone).after(now_s),
        )  # fmt: skip
        return self._rows.add(
            schedule, caller.actor.act("schedule.added", schedule.id, {"project": project, "cron": cron})
        )

    def add_recipe(
        self, caller: Caller, title: str, cron: str, text: str, *, sets: Sequence[str] = (), folder: Path | None = None, **asked: Any
    ) -> Schedule:  # fmt: skip
        """Runs of a recipe; see Jobs.submit_recipe for `folder`. Raises SpecError with every fault of it."""
        from luthier.app.desk import Desk

        from .kinds.recipe import checked, wish_of

        wish = wish_of(text, sets, folder)
        checked(wish)
        Desk(self._site).check_wish(caller, wish)
        return self.add(caller, title, cron, "recipe", wish, **asked)

    def get(self, caller: Caller, schedule_id: str) -> Schedule:
        return self._rows.get(project_of(caller), schedule_id)

    def switch(self, caller: Caller, schedule_id: str, *, on: bool) -> Schedule:
        """Off, nothing is made up for; on, it begins with the next time."""
        schedule = self.get(caller, schedule_id)
        next_s = parse_cron(schedule.cron, schedule.job["timezone"]).after(time.time()) if on else None
        act = caller.actor.act(
            f"schedule.{'on' if on else 'off'}", schedule.id, {"project": schedule.project}
        )
        return self._rows.change(schedule, act, enabled=on, next_s=next_s)

    def remove(self, caller: Caller, schedule_id: str) -> Schedule:
        """Jobs that it has submitted stay."""
        schedule = self.get(caller, schedule_id)
        act = caller.actor.act("schedule.removed", schedule.id, {"project": schedule.project})
        return self._rows.change(schedule, act, enabled=False, ended_s=time.time())

    def list(self, caller: Caller) -> list[Schedule]:
        return self._rows.list(project_of(caller))


def fire_due(site: Site, now_s: float) -> int:
    """Submit what is due; how many."""
    fired = 0
    for schedule in site.store.schedules.due(now_s):
        try:
            fired += _fire(site, schedule, now_s)
        except LuthierError as error:
            logger.warning("the schedule %s: %s", schedule.id, error)
            if _move_on(site, schedule, now_s):
                site.store.ledger.append(Event("schedule.failed", schedule.id, {"message": error.message}))
        except Exception:  # a defect in one schedule is no other's matter
            logger.exception("the schedule %s could not be fired", schedule.id)
    return fired


def _fire(site: Site, schedule: Schedule, now_s: float) -> int:
    assert schedule.next_s is not None
    job = schedule.job
    caller = site.acting(schedule.by, schedule.project)
    if caller is None or "jobs.write" not in caller.permissions:
        raise SpecError("who made this schedule may not submit jobs any more.", remedy="Make it anew.")
    once = (f"\0schedule\0{schedule.id}\0{schedule.next_s!r}", hashlib.sha256(canonical(job)).hexdigest())
    site.jobs.submit(
        caller, job["kind"], job["wish"], priority=job["priority"], resources=job["resources"], most_attempts=job["most_attempts"],
        once=once, schedule=schedule.id,
    )  # fmt: skip
    _move_on(site, schedule, now_s)
    return 1


def _move_on(site: Site, schedule: Schedule, now_s: float) -> bool:
    """To the first time that is still to come: what was missed was made up for by one."""
    return site.store.schedules.fired(
        schedule, parse_cron(schedule.cron, schedule.job["timezone"]).after(now_s)
    )
