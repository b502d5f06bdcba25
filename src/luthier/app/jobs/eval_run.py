"""A job of kind `eval_run`: the rows of a run, one after the other, each asked, graded and kept before the next.

An item that was kept is not asked again, so a job that was killed, paused or moved to a newer program goes on where it was. What was
declared when the run was made is what counts: the run holds a copy of the eval's criteria.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter
from sqlalchemy.exc import IntegrityError

from luthier.app.eval_item import item_id, made
from luthier.app.eval_models import EvalModels, opened
from luthier.app.eval_rows import rows
from luthier.app.eval_spec import Config, Criteria, ModelSource, RunSource
from luthier.app.eval_tally import USAGE, Tally
from luthier.core.errors import Interrupted
from luthier.store.objects import Object

if TYPE_CHECKING:
    from luthier.store.objects import Objects

    from .attempt import Attempt

RUN, ITEM, TALLY = "eval_run", "eval_item", "eval_tally"
TOLD_EVERY_S = 2.0
PAGE = 500


def run(at: Attempt) -> Mapping[str, Any]:
    """The counts. Raises LuthierError where the run cannot be made as it was declared, Interrupted."""
    objects = at.app.store.objects
    found = objects.get(RUN, at.job.wish["run"])
    criteria = TypeAdapter(Criteria).validate_python(found.data["eval"]["testing_criteria"])
    config = TypeAdapter(Config).validate_python(found.data["eval"]["data_source_config"])
    wish = TypeAdapter(RunSource).validate_python(found.data["data_source"])
    todo = list(rows(at.app, wish, config, found.data["through"]))
    tally = Tally.of([one.name for one in criteria])
    kept = _kept(objects, found.id, tally)
    models = EvalModels(lambda name: opened(at.app, found.data["models"][name]), at.stop.is_set)
    asked = wish if isinstance(wish, ModelSource) and wish.model is not None else None
    try:
        for model in found.data["models"]:
            models.open(model)
        at.tell(f"{len(todo):,} rows, {len(kept):,} of them done before")
        told_s = 0.0
        for row in todo:
            if item_id(found.id, row.number) in kept:
                continue
            if at.stop.is_set():
                _told(objects, found, tally)
                raise Interrupted(
                    "stopped; what was graded is kept.", remedy="Resume the job to go on from here."
                )
            item, usage = made(found.id, str(found.parent), row, criteria, asked, models)
            _keep(
                objects,
                found,
                {**item, USAGE: {m: list(vars(u).values()) for m, u in usage.items()}},
                tally,
            )
            at.watch.progress("grade", tally.counts["total"], len(todo), dict(tally.counts))
            if time.monotonic() - told_s > TOLD_EVERY_S:
                told_s = time.monotonic()
                _told(objects, found, tally)
    finally:
        models.close()
    _told(objects, found, tally)
    at.tell(f"{tally.counts['passed']:,} of {tally.counts['total']:,} items passed")
    tokens = sum(one.tokens_in + one.tokens_out for one in tally.usage.values())
    return {"run": found.id, **tally.counts, "tokens": tokens}


def _kept(objects: Objects, run_id: str, tally: Tally) -> set[str]:
    """Ids of the items that an earlier attempt left, counted."""
    found: set[str] = set()
    after, more = None, True
    while more:
        page, more = objects.list(ITEM, parent=run_id, after=after, limit=PAGE, newest_first=False)
        for one in page:
            found.add(one.id)
            tally.add(one.data)
            after = one.id
    return found


def _keep(objects: Objects, run: Object, item: Mapping[str, Any], tally: Tally) -> None:
    """Where an attempt that was taken for dead was quicker, its item stays."""
    try:
        objects.add(Object(ITEM, item["id"], item, run.by, time.time(), run.id), act=None)
    except IntegrityError:
        item = objects.get(ITEM, item["id"]).data
    tally.add(item)


def _told(objects: Objects, run: Object, tally: Tally) -> None:
    if objects.find(TALLY, run.id) is None:
        try:
            objects.add(Object(TALLY, run.id, tally.plain(), run.by, time.time(), run.id), act=None)
            return
        except IntegrityError:  # entered a moment ago
            pass
    objects.change(TALLY, run.id, tally.plain(), None)
