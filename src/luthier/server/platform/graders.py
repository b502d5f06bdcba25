"""Graders as OpenAI's clients try them: `client.fine_tuning.alpha.graders`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from fastapi import Request
from fastapi.responses import Response
from pydantic import Field

from luthier.app.grading import graded
from luthier.evaluation.graders.spec import AnyGrader
from luthier.server.parts import Wire, checked
from luthier.server.routes import Described, Route

from .asked import answered, body_of, caller
from .lanes import GRADING

if TYPE_CHECKING:
    from luthier.app.site import Caller, Site

LONGEST_SAMPLE = 50_000


class Validated(Wire):
    grader: AnyGrader


class Ran(Wire):
    grader: AnyGrader
    model_sample: Annotated[str, Field(max_length=LONGEST_SAMPLE)]
    item: dict[str, Any] | None = None


class GraderRoutes:
    ROUTES: ClassVar = (
        Route("POST", "/v1/fine_tuning/alpha/graders/validate", "validate", "evals.read"),
        Route("POST", "/v1/fine_tuning/alpha/graders/run", "run", "evals.write"),
    )

    DESCRIBED: ClassVar = {
        "validate": Described("The grader.", takes=Validated, gives=("grader",)),
        "run": Described("What it says.", takes=Ran, gives=("reward", "metadata")),
    }

    def __init__(self, site: Site) -> None:
        self._site = site

    async def validate(self, request: Request) -> Response:
        body = await body_of(request)
        checked(Validated, body)
        return await answered(lambda: {"grader": body["grader"]})

    async def run(self, request: Request) -> Response:
        return await answered(self._run, caller(request), checked(Ran, await body_of(request)), lane=GRADING)

    def _run(self, who: Caller, body: Ran) -> dict[str, Any]:
        return graded(self._site, who, body.grader, body.model_sample, body.item or {})
