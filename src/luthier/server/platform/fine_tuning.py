"""/v1/fine_tuning: jobs, their events and checkpoints, and who else may use a checkpoint, as OpenAI's clients speak of them.

Unknown fields are refused, at any depth; ours stand under one key, `x_luthier`. A field that could not be honoured is refused too: nothing
is accepted and ignored. Not here: what a job does (app/jobs/fine_tune), what is chosen for "auto" (app/fine_tuning).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from fastapi import Request
from fastapi.responses import Response
from pydantic import Field

from luthier.app.fine_tuning import CHECKPOINT, KIND, Asked
from luthier.app.jobs.verbs import Wanted
from luthier.core.errors import NotFound
from luthier.core.event import Event
from luthier.server.errors import ApiError
from luthier.server.parts import Wire, checked, supported
from luthier.server.routes import LISTED, Described, Route
from luthier.store.jobs import Job
from luthier.store.objects import Object

from . import retries
from .asked import answered, body_of, caller
from .query import LONGEST, asked_in, limit_of, newest_first, page

if TYPE_CHECKING:
    from luthier.app.site import Caller, Site

MOST_METADATA, LONGEST_KEY, LONGEST_VALUE = 16, 64, 512
OBJECT = ("id", "object")
_EVENT = re.compile(r"ftevent-([0-9]{1,18})", re.ASCII)
_OF_METADATA = re.compile(r"metadata\[(.{1,64})\]", re.DOTALL)


class Hyperparameters(Wire):
    n_epochs: Literal["auto"] | Annotated[int, Field(ge=1, le=100)] = "auto"
    batch_size: Literal["auto"] | Annotated[int, Field(ge=1, le=4096)] = "auto"
    learning_rate_multiplier: (
        Literal["auto"] | Annotated[float, Field(gt=0, le=1000)] | Annotated[int, Field(gt=0, le=1000)]
    ) = "auto"


class DpoHyperparameters(Hyperparameters):
    beta: Literal["auto"] | Annotated[float, Field(gt=0, le=100)] | Annotated[int, Field(gt=0, le=100)] = (
        "auto"
    )


class ReinforcementHyperparameters(Hyperparameters):
    compute_multiplier: (
        Literal["auto"] | Annotated[float, Field(gt=0, le=16)] | Annotated[int, Field(gt=0, le=16)]
    ) = "auto"
    eval_interval: Literal["auto"] | Annotated[int, Field(ge=1, le=1_000_000)] = "auto"
    eval_samples: Literal["auto"] = "auto"
    reasoning_effort: Literal["default"] = "default"


class Supervised(Wire):
    hyperparameters: Hyperparameters = Hyperparameters()


class Dpo(Wire):
    hyperparameters: DpoHyperparameters = DpoHyperparameters()


class Reinforcement(Wire):
    grader: dict[str, Any]
    hyperparameters: ReinforcementHyperparameters = ReinforcementHyperparameters()


class MethodBody(Wire):
    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None
    dpo: Dpo | None = None
    reinforcement: Reinforcement | None = None


class Own(Wire):
    """Under x_luthier."""

    task: Literal["chat", "classify"] = "chat"
    instruction: str | None = Field(default=None, max_length=10_000)
    test_file: str | None = Field(default=None, max_length=64)
    adapter: dict[str, Any] = Field(default_factory=dict)
    priority: int = Field(default=0, ge=-10, le=10)


class CreateBody(Wire):
    model: str = Field(min_length=1, max_length=256)
    training_file: str = Field(min_length=1, max_length=64)
    validation_file: str | None = Field(default=None, min_length=1, max_length=64)
    suffix: str | None = Field(default=None, min_length=1, max_length=64)
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    metadata: dict[str, str] | None = None
    method: MethodBody | None = None
    hyperparameters: Hyperparameters | None = None
    x_luthier: Own = Own()


class PermissionsBody(Wire):
    project_ids: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(
        min_length=1, max_length=100
    )


NOT_HONOURED: dict[str, tuple[Any, ...]] = {"integrations": (None, [])}
"""Nothing is sent to Weights & Biases; the figures are in the events and in the results file."""


class FineTuningRoutes:
    ROUTES: ClassVar = (
        Route("POST", "/v1/fine_tuning/jobs", "create", "jobs.write"),
        Route("GET", "/v1/fine_tuning/jobs", "list", "jobs.read"),
        Route("GET", "/v1/fine_tuning/jobs/{job_id}", "get", "jobs.read"),
        Route("POST", "/v1/fine_tuning/jobs/{job_id}/cancel", "cancel", "jobs.write"),
        Route("POST", "/v1/fine_tuning/jobs/{job_id}/pause", "pause", "jobs.write"),
        Route("POST", "/v1/fine_tuning/jobs/{job_id}/resume", "resume", "jobs.write"),
        Route("GET", "/v1/fine_tuning/jobs/{job_id}/events", "events", "jobs.read"),
        Route("GET", "/v1/fine_tuning/jobs/{job_id}/checkpoints", "checkpoints", "jobs.read"),
        Route("GET", "/v1/fine_tuning/checkpoints/{checkpoint}/permissions", "permissions", "models.read"),
        Route("POST", "/v1/fine_tuning/checkpoints/{checkpoint}/permissions", "permit", "models.write"),
        Route(
            "DELETE",
            "/v1/fine_tuning/checkpoints/{checkpoint}/permissions/{permission}",
            "forbid",
            "models.write",
        ),
    )

    DESCRIBED: ClassVar = {
        "create": Described("The job.", takes=CreateBody, gives=OBJECT, once=True),
        "list": Described(
            "Jobs, newest first.", gives=LISTED, query=("after", "limit", "metadata", "metadata[name]")
        ),
        **{one: Described("The job.", gives=OBJECT) for one in ("get", "cancel", "pause", "resume")},
        "events": Described("What it told, newest first.", gives=LISTED, query=("after", "limit")),
        "checkpoints": Described("Its checkpoints.", gives=LISTED, query=("after", "limit")),
        "permissions": Described(
            "Who may use it.", gives=LISTED, query=("after", "limit", "order", "project_id")
        ),
        "permit": Described("Who may use it now.", takes=PermissionsBody, gives=LISTED),
        "forbid": Described("It is taken back.", gives=(*OBJECT, "deleted")),
    }

    def __init__(self, site: Site) -> None:
        self._site = site

    async def create(self, request: Request) -> Response:
        value = await body_of(request)
        body = checked(CreateBody, supported(value, NOT_HONOURED))
        return await answered(self._create, caller(request), body, retries.known_by(request, value))

    async def list(self, request: Request) -> Response:
        return await answered(self._list, caller(request), request)

    async def get(self, request: Request, job_id: str) -> Response:
        return await answered(lambda who: shown(self._job(who, job_id)), caller(request))

    async def cancel(self, request: Request, job_id: str) -> Response:
        return await answered(self._ask, caller(request), job_id, "cancel")

    async def pause(self, request: Request, job_id: str) -> Response:
        return await answered(self._ask, caller(request), job_id, "pause")

    async def resume(self, request: Request, job_id: str) -> Response:
        return await answered(self._ask, caller(request), job_id, "run")

    async def events(self, request: Request, job_id: str) -> Response:
        query = asked_in(request, ("after", "limit"), longest=LONGEST)
        return await answered(
            self._events, caller(request), job_id, query.get("after"), limit_of(query, 20, 1000)
        )

    async def checkpoints(self, request: Request, job_id: str) -> Response:
        query = asked_in(request, ("after", "limit"), longest=LONGEST)
        return await answered(
            self._checkpoints, caller(request), job_id, query.get("after"), limit_of(query, 10, 100)
        )

    async def permissions(self, request: Request, checkpoint: str) -> Response:
        query = asked_in(request, ("after", "limit", "order", "project_id"), longest=LONGEST)
        newest = newest_first(query, ("ascending", "descending"), "descending")
        asked = {"after": query.get("after"), "limit": limit_of(query, 10, 100), "newest_first": newest}
        return await answered(self._permissions, caller(request), checkpoint, query.get("project_id"), asked)

    async def permit(self, request: Request, checkpoint: str) -> Response:
        body = checked(PermissionsBody, await body_of(request))
        return await answered(self._permit, caller(request), checkpoint, body.project_ids)

    async def forbid(self, request: Request, checkpoint: str, permission: str) -> Response:
        return await answered(self._forbid, caller(request), checkpoint, permission)

    # -- in a thread --------------------------------------------------------------------------------------------------

    def _create(self, who: Caller, body: CreateBody, known_by: Mapping[str, Any]) -> dict[str, Any]:
        metadata = check_metadata(body.metadata)
        told = {
            "model": body.model,
            "training_file": body.training_file,
            "validation_file": body.validation_file,
            "suffix": body.suffix,
            "metadata": metadata,
            "method": body.method.type if body.method else "supervised",
            "grader": body.method.reinforcement.grader if body.method and body.method.reinforcement else None,
            "x_luthier": body.x_luthier.model_dump(exclude_defaults=True),
        }
        return shown(self._site.fine_tuning.submit(who, asked_of(body), told, **known_by))

    def _list(self, who: Caller, request: Request) -> dict[str, Any]:
        asked_in(request, None)  # none of them twice
        wanted: dict[str, str] | None = {}
        plain = []
        for name, value in request.query_params.multi_items():
            if name == "metadata" and value == "null":
                wanted = None
            elif (match := _OF_METADATA.fullmatch(name)) and wanted is not None:
                wanted[match[1]] = value
            else:
                plain.append(name)
        if wanted is not None and len(wanted) > MOST_METADATA:
            raise ApiError(
                400, "invalid_value", f"metadata has at most {MOST_METADATA} keys.", param="metadata"
            )
        if unknown := [name for name in plain if name not in ("after", "limit")]:
            raise ApiError(
                400,
                "unknown_parameter",
                f"There is no parameter {unknown[0][:80]!r} here.",
                param=unknown[0][:80],
            )
        query = {str(name): request.query_params[name] for name in plain}

        def matching(job: Job) -> bool:
            has: Mapping[str, str] = job.shown.get("metadata") or {}
            return (
                not has if wanted is None else all(has.get(name) == value for name, value in wanted.items())
            )

        limit = limit_of(query, 20, 100)
        found, more = self._site.jobs.list(
            who, kinds=[KIND], before=query.get("after"), limit=limit, matching=matching
        )
        return page([shown(job) for job in found], more)

    def _job(self, who: Caller, job_id: str) -> Job:
        """Raises ApiError 404 for a job of another kind, which is none of this dialect."""
        job = self._site.jobs.get(who, job_id)
        if job.kind != KIND:
            raise ApiError(404, "not_found", f"there is no fine-tuning job {job_id[:80]!r} in this project.")
        return job

    def _ask(self, who: Caller, job_id: str, wanted: Wanted) -> dict[str, Any]:
        self._job(who, job_id)
        return shown(self._site.jobs.ask(who, job_id, wanted))

    def _events(self, who: Caller, job_id: str, after: str | None, limit: int) -> dict[str, Any]:
        job = self._job(who, job_id)
        before = None
        if after is not None:
            match = _EVENT.fullmatch(after)
            before = int(match[1]) if match else 0
        try:
            told = self._site.jobs.newest_told(job, before=before, limit=limit + 1)
        except NotFound:
            said = f"the job has no event {str(after)[:80]!r} to go on after."
            raise ApiError(404, "not_found", said, param="after") from None
        return page([shown_event(one) for one in told[:limit]], len(told) > limit)

    def _checkpoints(self, who: Caller, job_id: str, after: str | None, limit: int) -> dict[str, Any]:
        self._job(who, job_id)
        objects = self._site.app(who).store.objects
        found, more = objects.list(CHECKPOINT, parent=job_id, after=after, limit=limit)
        return page([shown_checkpoint(one) for one in found], more)

    def _permissions(
        self, who: Caller, checkpoint: str, project: str | None, asked: Mapping[str, Any]
    ) -> dict[str, Any]:
        found, more = self._site.sharing.list(who, checkpoint, project=project, **asked)
        return page([shown_permission(one) for one in found], more)

    def _permit(self, who: Caller, checkpoint: str, projects: Sequence[str]) -> dict[str, Any]:
        return page(
            [shown_permission(one) for one in self._site.sharing.permit(who, checkpoint, projects)], False
        )

    def _forbid(self, who: Caller, checkpoint: str, permission: str) -> dict[str, Any]:
        self._site.sharing.forbid(who, checkpoint, permission)
        return {"id": permission, "object": "checkpoint.permission", "deleted": True}


def asked_of(body: CreateBody) -> Asked:
    """Raises ApiError 400 where parts of the request disagree."""
    kind = body.method.type if body.method else "supervised"
    if body.method is not None:
        for other in ("supervised", "dpo", "reinforcement"):
            if other != kind and getattr(body.method, other) is not None:
                message = f"method.{other} is not read, since method.type is {kind!r}; leave it out."
                raise ApiError(400, "invalid_value", message, param=f"method.{other}")
    settings: Any = getattr(body.method, kind) if body.method else None
    if kind == "reinforcement" and settings is None:
        raise ApiError(
            400,
            "missing_required_parameter",
            "method.reinforcement.grader is missing.",
            param="method.reinforcement",
        )
    numbers: Any = settings.hyperparameters if settings else Hyperparameters()
    if body.hyperparameters is not None:
        if kind != "supervised" or settings is not None:
            message = "hyperparameters and method both say how; keep method."
            raise ApiError(400, "invalid_value", message, param="hyperparameters")
        numbers = body.hyperparameters

    def given(name: str) -> Any:
        value = getattr(numbers, name, "auto")
        return None if value == "auto" else value

    own = body.x_luthier
    return Asked(
        body.model, body.training_file, kind, body.validation_file, own.test_file, body.suffix, body.seed, given("n_epochs"),
        given("batch_size"), given("learning_rate_multiplier"), given("beta"),
        settings.grader if kind == "reinforcement" else None, given("compute_multiplier"), given("eval_interval"),
        own.task, own.instruction, own.adapter, own.priority,
    )  # fmt: skip


def check_metadata(metadata: dict[str, str] | None) -> dict[str, str] | None:
    if metadata is None:
        return None
    if len(metadata) > MOST_METADATA:
        raise ApiError(400, "invalid_value", f"metadata has at most {MOST_METADATA} keys.", param="metadata")
    for name, value in metadata.items():
        if not 0 < len(name) <= LONGEST_KEY or len(value) > LONGEST_VALUE:
            message = f"a key of metadata has 1 to {LONGEST_KEY} characters, a value at most {LONGEST_VALUE}."
            raise ApiError(400, "invalid_value", message, param="metadata")
    return metadata


# -- OpenAI's objects -----------------------------------------------------------------------------------------------------

STATUS = {"held": "queued"}
"""Ours that OpenAI's clients do not know; `paused` is in OpenAI's examples, and in no list of theirs."""


def shown(job: Job) -> dict[str, Any]:
    """OpenAI's job object. Under x_luthier what it has no word for."""
    told, result = job.shown, job.result or {}
    ended = job.finished_s
    chosen = dict(told.get("hyperparameters") or {})
    method = told.get("method", "supervised")
    more = {"grader": told["grader"]} if told.get("grader") else {}
    own = {
        "state": job.state,
        "wanted": job.wanted,
        "attempts": job.attempts,
        "priority": job.priority,
        **told.get("x_luthier", {}),
    }
    own |= {"progress": dict(job.progress)} if job.progress else {}
    own |= {name: result[name] for name in ("release", "report") if name in result}
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": int(job.created_s),
        "finished_at": int(ended)
        if ended is not None and job.state in ("succeeded", "failed", "cancelled")
        else None,
        "model": told.get("model", ""),
        "fine_tuned_model": result.get("fine_tuned_model"),
        "organization_id": told.get("organization_id", ""),
        "status": STATUS.get(job.state, job.state),
        "training_file": told.get("training_file", ""),
        "validation_file": told.get("validation_file"),
        "result_files": list(result.get("result_files", [])),
        "trained_tokens": result.get("trained_tokens"),
        "seed": told.get("seed", 0),
        "error": _error(job),
        "hyperparameters": {
            name: chosen[name]
            for name in ("n_epochs", "batch_size", "learning_rate_multiplier")
            if name in chosen
        },
        "method": {"type": method, method: {"hyperparameters": chosen, **more}},
        "metadata": told.get("metadata"),
        "integrations": [],
        "estimated_finish": _estimated(job),
        "x_luthier": own,
    }


def _error(job: Job) -> dict[str, Any] | None:
    if not job.error:
        return None
    return {
        "code": str(job.error.get("code", "failed")),
        "message": str(job.error.get("message", "")),
        "param": job.error.get("param"),
    }


def _estimated(job: Job) -> int | None:
    """From what the run forecast of itself, as long as it runs."""
    import time

    left_s = (job.progress or {}).get("left_in_all_s", (job.progress or {}).get("left_s"))
    if job.state != "running" or not isinstance(left_s, int | float):
        return None
    return int(time.time() + left_s)


def shown_event(event: Event) -> dict[str, Any]:
    data = event.data
    figures = data.get("data") or {}
    message = str(data["message"])
    if data["type"] == "metrics" and ("train_loss" in figures or "valid_loss" in figures):
        of = f"/{figures['total_steps']}" if figures.get("total_steps") else ""
        names = (("training", "train_loss"), ("validation", "valid_loss"))
        losses = ", ".join(f"{word} loss={figures[name]:.4f}" for word, name in names if name in figures)
        message = f"Step {figures.get('step')}{of}: {losses}"
    return {
        "id": f"ftevent-{event.seq}",
        "object": "fine_tuning.job.event",
        "created_at": int(event.time_s),
        "level": data["level"],
        "message": message,
        "type": data["type"],
        "data": figures,
    }


def shown_checkpoint(one: Object) -> dict[str, Any]:
    return {
        "id": one.id,
        "object": "fine_tuning.job.checkpoint",
        "created_at": int(one.created_s),
        "fine_tuning_job_id": one.parent,
        **{name: one.data[name] for name in ("fine_tuned_model_checkpoint", "step_number", "metrics")},
    }


def shown_permission(one: Object) -> dict[str, Any]:
    told = {"id": one.id, "object": "checkpoint.permission", "created_at": int(one.created_s)}
    return {**told, "project_id": one.data["project"]}
