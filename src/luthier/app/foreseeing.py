"""What a job will use, said before it is let in: by the size of its files and by what such jobs took before. Nothing is opened or tried,
so it is quick and rough; the plan of a recipe (app/planning) is the one to read before a long run.

    tokens       bytes of the rows ÷ BYTES_PER_TOKEN × epochs, and no more than train.stop_at.tokens
    time         tokens × the seconds a token took in such jobs that succeeded, while they ran; not known where there were none
    GPU hours    time × the GPUs that the job asks for, or that it is given where it does not say (jobs/scheduling)
    money        time × the price of an hour of the server's machine

What is not known is promised in parts (spending.CHUNK_S) while the job runs.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from luthier.cost.quota import MICRO, TOKENS, Wanted, micro, spent
from luthier.store.tables import attempts, holds, jobs

from .spending import CHUNK_S, hourly_of, trained_tokens

if TYPE_CHECKING:
    from .site import Site

BYTES_PER_TOKEN = 3.0
"""Of rows as JSON, keys and quotes included; text alone has about four. Fewer bytes a token make the forecast larger."""
EPOCHS = 3.0
EARLIER_JOBS = 50


def foresee(
    site: Site,
    kind: str,
    wish: Mapping[str, Any],
    resources: Mapping[str, Any],
    sizes_bytes: Mapping[str, int],
) -> Wanted:
    """`sizes_bytes`: of the uploaded files that the wish names."""
    gpus, hourly = _gpus(site, resources), hourly_of(site)
    tokens, basis = _tokens(wish, sum(sizes_bytes.values()))
    a_token_s = None if tokens is None else _seconds_a_token(site, kind, wish)
    chunk = spent(CHUNK_S, gpus, hourly)
    known: dict[str, int] = {} if tokens is None else {TOKENS: micro(tokens)}
    if tokens is None or a_token_s is None:
        why = f"how long it takes is not known: a quarter of an hour is promised at a time ({kind})"
        return Wanted(known, {**({TOKENS: 0} if tokens is None else {}), **chunk}, (*basis, why))
    seconds = tokens * a_token_s
    return Wanted(
        {**known, **spent(seconds, gpus, hourly)},
        {},
        (*basis, f"{a_token_s * 1e3:.3g} ms a token, as such jobs took"),
    )


def _gpus(site: Site, resources: Mapping[str, Any]) -> int:
    from .jobs.queue_spec import host_of, read_queue
    from .jobs.scheduling import gpus_wanted

    host = host_of(read_queue(site.top.home / "queue.yaml"), "", site.environ)
    return gpus_wanted(resources, host)


def _tokens(wish: Mapping[str, Any], size_bytes: int) -> tuple[float | None, tuple[str, ...]]:
    if size_bytes <= 0:
        return None, ("how many tokens it learns from is not known",)
    epochs, most = _epochs(wish)
    found = size_bytes / BYTES_PER_TOKEN * epochs
    if most is not None:
        found = min(found, most)
    return found, (f"{size_bytes:,} bytes of rows, {BYTES_PER_TOKEN:g} a token, {epochs:g} epochs",)


def _epochs(wish: Mapping[str, Any]) -> tuple[float, float | None]:
    """(passes over the rows, the most tokens)."""
    from .jobs.foreign import foreign
    from .recipe import Recipe

    if (written := foreign(wish)) is not None and isinstance(recipe := written.read()[0], Recipe):
        return recipe.train.epochs, recipe.train.stop_at.tokens
    told = wish.get("train")
    epochs = told.get("epochs") if isinstance(told, Mapping) else None
    return (float(epochs) if isinstance(epochs, int | float) and epochs > 0 else EPOCHS), None


def _seconds_a_token(site: Site, kind: str, wish: Mapping[str, Any]) -> float | None:
    """The median of earlier jobs of this kind (of this verb) that name the same base; of any where none does. A job's time is that of its
    attempts together: between them it waited."""
    query = (
        sa.select(jobs.c.id, jobs.c.wish, jobs.c.result, holds.c.metered_micro)
        .outerjoin(holds, sa.and_(holds.c.job == jobs.c.id, holds.c.unit == TOKENS))
        .where(jobs.c.kind == kind, jobs.c.state == "succeeded", jobs.c.started_s.is_not(None))
        .order_by(jobs.c.seq.desc())
        .limit(EARLIER_JOBS)
    )
    ran_s = sa.func.sum(attempts.c.finished_s - attempts.c.started_s).label("ran_s")
    with site.store.database.reading() as connection:
        rows = connection.execute(query).all()
        times = sa.select(attempts.c.job, ran_s).where(attempts.c.job.in_([row.id for row in rows]))
        took_s = {row.job: row.ran_s for row in connection.execute(times.group_by(attempts.c.job))}
    took = [
        (row.wish.get("base") == wish.get("base"), float(seconds) / tokens)
        for row in rows
        if row.wish.get("verb") == wish.get("verb")
        and (tokens := trained_tokens(row.result) or (row.metered_micro or 0) / MICRO)
        and (seconds := took_s.get(row.id))
    ]
    alike = [seconds for same, seconds in took if same] or [seconds for _, seconds in took]
    return statistics.median(alike) if alike else None
