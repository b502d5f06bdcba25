"""Evals, runs and output items as OpenAI's clients ask for them. Cancelling has two paths: clients of different ages use either."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from fastapi import Request
from fastapi.responses import Response
from pydantic import AfterValidator

from luthier.app.eval_spec import Config, Criteria, Metadata, RunSource, Title, own_names
from luthier.app.evals import Evals, Page
from luthier.server.errors import ApiError
from luthier.server.parts import Wire, checked
from luthier.server.routes import LISTED, Described, Route

from .asked import answered, body_of, caller
from .query import LONGEST, asked_in, limit_of, newest_first, page
from .retries import known_by

if TYPE_CHECKING:
    from luthier.app.site import Caller, Site

READ, WRITE = "evals.read", "evals.write"
MOST = 100
"""Objects on a page."""
OBJECT = ("object", "id")
_EVAL = "/v1/evals/{eval_id}"
_RUN = _EVAL + "/runs/{run_id}"


class Created(Wire):
    data_source_config: Config
    testing_criteria: Annotated[Criteria, AfterValidator(own_names)]
    name: Title | None = None
    metadata: Metadata | None = None


class Updated(Wire):
    name: Title | None = None
    metadata: Metadata | None = None


class Run(Wire):
    data_source: RunSource
    name: Title | None = None
    metadata: Metadata | None = None


class EvalRoutes:
    ROUTES: ClassVar = (
        Route("POST", "/v1/evals", "create", WRITE),
        Route("GET", "/v1/evals", "list", READ),
        Route("GET", _EVAL, "get", READ),
        Route("POST", _EVAL, "update", WRITE),
        Route("DELETE", _EVAL, "delete", WRITE),
        Route("POST", _EVAL + "/runs", "run", WRITE),
        Route("GET", _EVAL + "/runs", "runs", READ),
        Route("GET", _RUN, "get_run", READ),
        Route("POST", _RUN, "cancel", WRITE),
        Route("POST", _RUN + "/cancel", "cancel", WRITE),
        Route("DELETE", _RUN, "delete_run", WRITE),
        Route("GET", _RUN + "/output_items", "items", READ),
        Route("GET", _RUN + "/output_items/{item_id}", "item", READ),
        Route("GET", "/luthier" + _RUN + "/report", "report", READ),
    )

    DESCRIBED: ClassVar = {
        "create": Described("The eval.", takes=Created, gives=OBJECT, status=201),
        "list": Described("Evals.", gives=LISTED, query=("after", "limit", "order", "order_by")),
        "get": Described("The eval.", gives=OBJECT),
        "update": Described("The eval.", takes=Updated, gives=OBJECT),
        "delete": Described("It is gone.", gives=("object", "deleted", "eval_id")),
        "run": Described("The run.", takes=Run, gives=OBJECT, status=201, once=True),
        "runs": Described("Runs.", gives=LISTED, query=("after", "limit", "order", "status")),
        "get_run": Described("The run.", gives=OBJECT),
        "cancel": Described("The run.", gives=OBJECT),
        "delete_run": Described("It is gone.", gives=("object", "deleted", "run_id")),
        "items": Described(
            "What each row came to.", gives=LISTED, query=("after", "limit", "order", "status")
        ),
        "item": Described("What a row came to.", gives=OBJECT),
        "report": Described("The run's statistics."),
    }

    def __init__(self, site: Site) -> None:
        self._evals = Evals(site)

    async def create(self, request: Request) -> Response:
        given = await body_of(request)
        body = checked(Created, given)
        return await answered(
            self._evals.create,
            caller(request),
            name=body.name,
            config=body.data_source_config,
            criteria=given["testing_criteria"],
            metadata=body.metadata,
            status=201,
        )

    async def list(self, request: Request) -> Response:
        asked = _asked(request, order_by=("created_at", "updated_at"))
        return await answered(_paged, self._evals.list, caller(request), **asked)

    async def get(self, request: Request, eval_id: str) -> Response:
        return await answered(self._evals.get, caller(request), eval_id)

    async def update(self, request: Request, eval_id: str) -> Response:
        body = checked(Updated, await body_of(request))
        return await answered(
            self._evals.update, caller(request), eval_id, name=body.name, metadata=body.metadata
        )

    async def delete(self, request: Request, eval_id: str) -> Response:
        return await answered(self._evals.delete, caller(request), eval_id)

    async def run(self, request: Request, eval_id: str) -> Response:
        given = await body_of(request)
        body = checked(Run, given)
        return await answered(
            self._with_link,
            request,
            self._evals.run,
            caller(request),
            eval_id,
            name=body.name,
            wish=body.data_source,
            source=given["data_source"],
            metadata=body.metadata,
            **known_by(request, given),
            status=201,
        )

    async def runs(self, request: Request, eval_id: str) -> Response:
        states = ("queued", "in_progress", "completed", "canceled", "failed")
        asked = _asked(request, status=states)
        return await answered(lambda: _paged(self._evals.runs, caller(request), eval_id, **asked))

    async def get_run(self, request: Request, eval_id: str, run_id: str) -> Response:
        return await answered(self._with_link, request, self._evals.get_run, caller(request), eval_id, run_id)

    async def cancel(self, request: Request, eval_id: str, run_id: str) -> Response:
        return await answered(self._with_link, request, self._evals.cancel, caller(request), eval_id, run_id)

    async def delete_run(self, request: Request, eval_id: str, run_id: str) -> Response:
        return await answered(self._evals.delete_run, caller(request), eval_id, run_id)

    async def items(self, request: Request, eval_id: str, run_id: str) -> Response:
        asked = _asked(request, status=("pass", "fail", "error"))
        return await answered(lambda: _paged(self._evals.items, caller(request), eval_id, run_id, **asked))

    async def item(self, request: Request, eval_id: str, run_id: str, item_id: str) -> Response:
        return await answered(self._evals.item, caller(request), eval_id, run_id, item_id)

    async def report(self, request: Request, eval_id: str, run_id: str) -> Response:
        return await answered(self._evals.report, caller(request), eval_id, run_id)

    @staticmethod
    def _with_link(request: Request, work: Any, *given: Any, **named: Any) -> dict[str, Any]:
        """`report_url` as seen by who asks; the guard has seen to it that the host is ours."""
        told = work(*given, **named)
        return {**told, "report_url": f"{str(request.base_url).rstrip('/')}{told['report_url']}"}


def _paged(work: Any, who: Caller, *given: Any, **asked: Any) -> dict[str, Any]:
    found: Page = work(who, *given, **asked)
    return page(*found)


def _asked(request: Request, **choices: tuple[str, ...]) -> dict[str, Any]:
    """What page of a list is asked for. Raises ApiError 400."""
    query = asked_in(request, ("after", "limit", "order", *choices), longest=LONGEST)
    for name, may in choices.items():
        if name in query and query[name] not in may:
            raise ApiError(400, "invalid_value", f"{name} is one of {', '.join(may)}.", param=name)
    return {
        "after": query.get("after"),
        "limit": limit_of(query, 20, MOST),
        "newest_first": newest_first(query, default="asc"),
        **{name: query[name] for name in choices if name in query},
    }
