"""What people may ask of evals: declare one, run it over rows, look at what came out, in the words of OpenAI's API.

    eval       what items look like and what counts as good: an object in the project's home
    run        an object there too, and a job of kind `eval_run` in the site's queue, whose state is the run's
    items      objects of the run, kept one by one by the job

A run holds a copy of its eval's criteria: renaming the eval afterwards changes nothing of what was measured.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from pydantic import TypeAdapter

from luthier.core.errors import Conflict, NotFound
from luthier.evaluation.graders.spec import models_of
from luthier.store.jobs import ENDED, Job
from luthier.store.objects import Object
from luthier.store.retries import KnownJob, Try

from .eval_item import NO_ERROR
from .eval_models import where
from .eval_spec import Criteria, CustomConfig, FileId, LogsConfig, ModelSource
from .eval_tally import USAGE, per_criterion, per_model
from .jobs.eval_run import ITEM, RUN, TALLY

if TYPE_CHECKING:
    from luthier.store.objects import Objects

    from .app import App
    from .eval_spec import JsonlSource
    from .site import Caller, Site

EVAL = "eval"
MOST_EVALS = 1_000
SHOWN_FAILURES = 20
_STATUS = {
    "held": "queued", "queued": "queued", "paused": "queued", "running": "in_progress", "succeeded": "completed",
    "failed": "failed", "cancelled": "canceled",
}  # fmt: skip
Page = tuple[list[dict[str, Any]], bool]


class Evals:
    """Answers are plain JSON as OpenAI's clients read it."""

    def __init__(self, site: Site) -> None:
        self._site = site

    # -- evals --------------------------------------------------------------------------------------------------------

    def create(
        self,
        caller: Caller,
        *,
        name: str | None,
        config: CustomConfig | LogsConfig,
        criteria: Sequence[Mapping[str, Any]],
        metadata: Mapping[str, str] | None,
    ) -> dict[str, Any]:
        """`criteria` as they were written, checked before. Raises Conflict where there are too many evals."""
        app = self._site.app(caller)
        if len(_all(app)) >= MOST_EVALS:
            raise Conflict(
                f"this project has {MOST_EVALS:,} evals.", remedy="Delete those that are not needed."
            )
        eval_id = f"eval_{secrets.token_hex(16)}"
        data = {
            "name": name or eval_id,
            "data_source_config": config.plain(),
            "testing_criteria": [dict(one) for one in criteria],
            "metadata": dict(metadata or {}),
        }
        made = Object(EVAL, eval_id, data, caller.user, time.time())
        app.store.objects.add(
            made, act=caller.actor.act("eval.created", eval_id, {"criteria": len(criteria)})
        )
        return plain_eval(made)

    def get(self, caller: Caller, eval_id: str) -> dict[str, Any]:
        return plain_eval(self._eval(self._site.app(caller), eval_id))

    def list(
        self,
        caller: Caller,
        *,
        after: str | None,
        limit: int,
        newest_first: bool = False,
        order_by: str = "created_at",
    ) -> Page:
        found = _all(self._site.app(caller))
        if order_by == "updated_at":
            found.sort(key=lambda one: (one.changed_s or 0.0, one.seq or 0))
        if newest_first:
            found.reverse()
        if after is not None:
            place = next((i for i, one in enumerate(found) if one.id == after), None)
            if place is None:
                raise NotFound(f"there is no eval {after[:80]!r} to go on after.")
            found = found[place + 1 :]
        return [plain_eval(one) for one in found[:limit]], len(found) > limit

    def update(
        self, caller: Caller, eval_id: str, *, name: str | None, metadata: Mapping[str, str] | None
    ) -> dict[str, Any]:
        """None stays as it is."""
        app = self._site.app(caller)
        was = self._eval(app, eval_id)
        given = {"name": name, "metadata": None if metadata is None else dict(metadata)}
        data = {**was.data, **{key: value for key, value in given.items() if value is not None}}
        act = caller.actor.act("eval.changed", eval_id)
        return plain_eval(app.store.objects.change(EVAL, eval_id, data, act))

    def delete(self, caller: Caller, eval_id: str) -> dict[str, Any]:
        """Its runs are no longer found with it; those under way are cancelled."""
        app = self._site.app(caller)
        self._eval(app, eval_id)
        more, after = True, None
        while more:
            runs, more = app.store.objects.list(RUN, parent=eval_id, after=after, limit=100)
            for one in runs:
                self._stop(caller, one)
                after = one.id
        app.store.objects.end(EVAL, eval_id, caller.actor.act("eval.deleted", eval_id))
        return {"object": "eval.deleted", "deleted": True, "eval_id": eval_id}

    def _eval(self, app: App, eval_id: str) -> Object:
        try:
            return app.store.objects.get(EVAL, eval_id)
        except NotFound:
            raise NotFound(f"there is no eval {eval_id[:80]!r} in this project.") from None

    # -- runs ---------------------------------------------------------------------------------------------------------

    def run(
        self,
        caller: Caller,
        eval_id: str,
        *,
        name: str | None,
        wish: JsonlSource | ModelSource,
        source: Mapping[str, Any],
        metadata: Mapping[str, str] | None,
        once: tuple[str, str] | None = None,
        tried: Try | None = None,
    ) -> dict[str, Any]:
        """Queue one. `wish` is `source`, as it was written, checked. `once`, `tried`: how the request is known when it comes again; then
        the run of before is returned. Raises NotFound for a file or a model that is not there, Conflict."""
        app = self._site.app(caller)
        about = self._eval(app, eval_id)
        if isinstance(wish.source, FileId):
            app.uploaded.get(wish.source.id)
        if isinstance(wish, ModelSource) and wish.sampling_params.schema_wanted() is not None:
            from luthier.models.grammar import Grammar

            Grammar.of_schema(wish.sampling_params.schema_wanted()).check()
        project, retries = caller.project or "", self._site.store.retries
        if once is not None and (known := retries.known(project, caller.user, "eval_run", once)) is not None:
            return self.get_run(caller, eval_id, known)
        run_id = f"evalrun_{secrets.token_hex(16)}"
        model = wish.model if isinstance(wish, ModelSource) and wish.model else ""
        criteria = TypeAdapter(Criteria).validate_python(about.data["testing_criteria"])
        asked = dict.fromkeys([*([model] if model else []), *models_of(criteria)])
        data = {
            "name": name or run_id,
            "metadata": dict(metadata or {}),
            "data_source": dict(source),
            "model": model,
            "models": {one: where(self._site, caller, one) for one in asked},
            "eval": {key: about.data[key] for key in ("data_source_config", "testing_criteria")},
            "through": app.store.traffic.through().exchanges,
        }
        made = Object(RUN, run_id, data, caller.user, time.time(), eval_id)
        act = caller.actor.act("eval.run_created", run_id, {"eval": eval_id, "model": model})
        app.store.objects.add(made, act=act)  # first: the job may begin at once

        def settle(connection: sa.Connection) -> None:
            if tried is not None:
                retries.settle(connection, project, tried, run_id, time.time())

        shown = {"object": "eval.run", "eval_id": eval_id, "model": model}
        wanted = {"eval": eval_id, "run": run_id}
        try:
            job = self._site.jobs.submit(
                caller, "eval_run", wanted, id=run_id, shown=shown, once=once, also=settle
            )
        except KnownJob as error:
            job = self._site.jobs.get(caller, error.job)
        except BaseException:
            app.store.objects.end(RUN, run_id, None)
            raise
        if job.id != run_id:  # this request was worked on before
            app.store.objects.end(RUN, run_id, None)
            return self.get_run(caller, eval_id, job.id)
        return self._plain_run(app, made, job)

    def get_run(self, caller: Caller, eval_id: str, run_id: str) -> dict[str, Any]:
        app = self._site.app(caller)
        found = self._run(app, eval_id, run_id)
        return self._plain_run(app, found, self._job(caller, found))

    def runs(
        self,
        caller: Caller,
        eval_id: str,
        *,
        after: str | None,
        limit: int,
        newest_first: bool = False,
        status: str | None = None,
    ) -> Page:
        app = self._site.app(caller)
        self._eval(app, eval_id)
        found, more = app.store.objects.list(
            RUN,
            parent=eval_id,
            after=after,
            limit=limit,
            newest_first=newest_first,
            matching=None if status is None else lambda one: _status(self._job(caller, one)) == status,
        )
        return [self._plain_run(app, one, self._job(caller, one)) for one in found], more

    def cancel(self, caller: Caller, eval_id: str, run_id: str) -> dict[str, Any]:
        """Raises Conflict where it has ended."""
        app = self._site.app(caller)
        found = self._run(app, eval_id, run_id)
        job = self._job(caller, found)
        if job is None:
            raise Conflict(f"the run {run_id} has failed.", remedy="Create it again if it is still wanted.")
        return self._plain_run(app, found, self._site.jobs.ask(caller, job.id, "cancel"))

    def delete_run(self, caller: Caller, eval_id: str, run_id: str) -> dict[str, Any]:
        """One that is under way is cancelled first."""
        app = self._site.app(caller)
        self._stop(caller, self._run(app, eval_id, run_id))
        app.store.objects.end(RUN, run_id, caller.actor.act("eval.run_deleted", run_id))
        return {"object": "eval.run.deleted", "deleted": True, "run_id": run_id}

    def _stop(self, caller: Caller, run: Object) -> None:
        job = self._job(caller, run)
        if job is not None and job.state not in ENDED:
            try:
                self._site.jobs.ask(caller, job.id, "cancel")
            except Conflict:  # it ended a moment ago
                return

    def _run(self, app: App, eval_id: str, run_id: str) -> Object:
        self._eval(app, eval_id)
        found = app.store.objects.find(RUN, run_id)
        if found is None or found.ended_s is not None or found.parent != eval_id:
            raise NotFound(f"the eval {eval_id[:80]} has no run {run_id[:80]!r}.")
        return found

    def _job(self, caller: Caller, run: Object) -> Job | None:
        """None: the server stopped between keeping the run and queueing it."""
        try:
            return self._site.jobs.get(caller, run.id)
        except NotFound:
            return None

    def _plain_run(self, app: App, run: Object, job: Job | None) -> dict[str, Any]:
        names = [one["name"] for one in run.data["eval"]["testing_criteria"]]
        tally = _tally(app.store.objects, run.id, names)
        counts = tally["counts"]
        error = dict(NO_ERROR)
        if job is None:
            error = {"code": "not_queued", "message": "The run was not queued; create it again."}
        elif job.error is not None:
            error = {
                "code": str(job.error.get("code", "failed")),
                "message": str(job.error.get("message", "")),
            }
        return {
            "id": run.id,
            "object": "eval.run",
            "eval_id": run.parent,
            "name": run.data["name"],
            "status": _status(job),
            "model": run.data["model"],
            "created_at": int(run.created_s),
            "report_url": f"/luthier/v1/evals/{run.parent}/runs/{run.id}/report",
            "result_counts": counts,
            "per_model_usage": per_model(tally["usage"]),
            "per_testing_criteria_results": per_criterion(tally["criteria"]),
            "data_source": dict(run.data["data_source"]),
            "error": error,
            "metadata": dict(run.data["metadata"]),
        }

    # -- items --------------------------------------------------------------------------------------------------------

    def items(
        self,
        caller: Caller,
        eval_id: str,
        run_id: str,
        *,
        after: str | None,
        limit: int,
        newest_first: bool = False,
        status: str | None = None,
    ) -> Page:
        app = self._site.app(caller)
        self._run(app, eval_id, run_id)
        found, more = app.store.objects.list(
            ITEM,
            parent=run_id,
            after=after,
            limit=limit,
            newest_first=newest_first,
            matching=None if status is None else lambda one: one.data["status"] == status,
        )
        return [_plain_item(one) for one in found], more

    def item(self, caller: Caller, eval_id: str, run_id: str, item_id: str) -> dict[str, Any]:
        app = self._site.app(caller)
        self._run(app, eval_id, run_id)
        found = app.store.objects.find(ITEM, item_id)
        if found is None or found.parent != run_id:
            raise NotFound(f"the run {run_id[:80]} has no output item {item_id[:80]!r}.")
        return _plain_item(found)

    def report(self, caller: Caller, eval_id: str, run_id: str) -> dict[str, Any]:
        """What `report_url` leads to: the run, mean scores, and the first items that did not pass."""
        app = self._site.app(caller)
        run = self._run(app, eval_id, run_id)
        plain = self.get_run(caller, eval_id, run_id)
        names = [one["name"] for one in run.data["eval"]["testing_criteria"]]
        tally = _tally(app.store.objects, run_id, names)
        criteria = []
        for name, (passed, failed, errors, scores) in tally["criteria"].items():
            seen = int(passed + failed)
            mean = scores / seen if seen else None
            criteria.append(
                {
                    "name": name,
                    "passed": int(passed),
                    "failed": int(failed),
                    "errors": int(errors),
                    "mean_score": mean,
                }
            )
        failures, _ = app.store.objects.list(
            ITEM,
            parent=run_id,
            limit=SHOWN_FAILURES,
            newest_first=False,
            matching=lambda one: one.data["status"] != "pass",
        )
        return {
            "object": "luthier.eval_report",
            "run": plain,
            "criteria": criteria,
            "not_passed": [_plain_item(one) for one in failures],
        }


def _all(app: App) -> list[Object]:
    return list(app.store.objects.list(EVAL, limit=MOST_EVALS, newest_first=False)[0])


def plain_eval(made: Object) -> dict[str, Any]:
    config = made.data["data_source_config"]
    return {
        "id": made.id,
        "object": "eval",
        "name": made.data["name"],
        "created_at": int(made.created_s),
        "metadata": dict(made.data["metadata"]),
        "data_source_config": shown_config(config),
        "testing_criteria": list(made.data["testing_criteria"]),
    }


def shown_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """With the schema of what graders may look at, as OpenAI answers."""
    sample = {"type": "object", "properties": {"output_text": {"type": "string"}, "output_json": {}}}
    if config["type"] == "custom":
        names = {"item": config["item_schema"]}
        if config["include_sample_schema"]:
            names["sample"] = sample
        return {
            "type": "custom",
            "schema": {"type": "object", "properties": names, "required": list(names)},
        }
    item = {
        "type": "object",
        "properties": {
            "input": {"type": "array"},
            "output_text": {"type": "string"},
            "model": {"type": "string"},
        },
    }
    schema = {
        "type": "object",
        "properties": {"item": item, "sample": sample},
        "required": ["item", "sample"],
    }
    return {"type": config["type"], "schema": schema, "metadata": {}}


def _status(job: Job | None) -> str:
    return "failed" if job is None else _STATUS[job.state]


def _tally(objects: Objects, run_id: str, names: Sequence[str]) -> dict[str, Any]:
    found = objects.find(TALLY, run_id)
    if found is not None:
        return dict(found.data)
    none = {"total": 0, "passed": 0, "failed": 0, "errored": 0}
    return {"counts": none, "criteria": {name: [0, 0, 0, 0.0] for name in names}, "usage": {}}


def _plain_item(one: Object) -> dict[str, Any]:
    return {key: value for key, value in one.data.items() if key != USAGE}
