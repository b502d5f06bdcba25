"""Whether a job may still do, when it runs, what it was let in for: rights end and policies change while it waits.

Not here: recipes of others, which are vetted anew with their files put in (foreign).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.core.errors import NotAllowed

if TYPE_CHECKING:
    from luthier.app.site import Site
    from luthier.store.jobs import Job


def permission_of(job: Job) -> str:
    """What submitting it takes."""
    from luthier.core.verbs import VERBS

    if job.kind == "verb" and (verb := VERBS.get(str(job.wish.get("verb")))) is not None:
        return verb.permission
    return "evals.write" if job.kind == "eval_run" else "jobs.write"


def still_allowed(site: Site, job: Job) -> None:
    """Raises NotAllowed where whoever submitted it may not do that here any more, or the policy of this moment speaks against it."""
    from luthier.app.desk import Desk

    caller, needed = site.acting(job.by, job.project), permission_of(job)
    if caller is None or needed not in caller.permissions:
        raise NotAllowed(
            f"whoever submitted this job does not hold {needed!r} in this project any more.",
            remedy="Have somebody submit it who does.",
        )
    if job.kind == "fine_tune":
        Desk(site).check_tuning(caller, job.wish, job.shown)
