"""App's verbs over HTTP: a route for each of core/verbs, with its own permission. POST takes the wish and nothing else.

    200  {"object": "luthier.result", "verb", "result", "files"}      done; `files` and files in `result` are fetched by their SHA-256
    202  {"object": "luthier.job", ...}                               a job of kind `verb`; its result has the same form

`Idempotency-Key` makes a verb that becomes a job safe to send again. Not here: what a verb does (app/verbs).
"""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fastapi import Request
from fastapi.responses import Response

from luthier.app import verbs
from luthier.app.desk import Desk
from luthier.core.verbs import VERBS, Verb, Wish
from luthier.server.errors import ApiError
from luthier.server.parts import checked
from luthier.server.routes import Described, Route

from . import retries
from .asked import answered, body_of, caller
from .jobs import plain
from .lanes import RECIPES
from .lanes import VERBS as VERBS_LANE

if TYPE_CHECKING:
    from luthier.app.site import Caller, Site


def endpoint_of(verb: Verb) -> str:
    return f"do_{verb.noun}_{verb.method}"


class VerbRoutes:
    ROUTES: ClassVar = tuple(
        Route("POST", verb.path, endpoint_of(verb), verb.permission) for verb in VERBS.values()
    )
    DESCRIBED: ClassVar = {
        endpoint_of(verb): Described(
            verb.about, takes=verb.wish, gives=("object",), status=202 if verb.long else 200, once=verb.long
        )
        for verb in VERBS.values()
    }

    def __init__(self, site: Site) -> None:
        self._site = site
        for verb in VERBS.values():
            setattr(self, endpoint_of(verb), self._endpoint(verb))

    def _endpoint(self, verb: Verb) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            wish = checked(verb.wish, await body_of(request))
            if verb.long:
                once = retries.once(request, wish.plain())
                return await answered(
                    self._submit, caller(request), verb, wish, once, status=202, lane=RECIPES
                )
            if retries.HEADER in request.headers:
                raise ApiError(
                    400,
                    "invalid_value",
                    f"{verb.name} is answered at once and takes no Idempotency-Key.",
                    param="Idempotency-Key",
                )
            return await answered(self._do, caller(request), verb, wish, lane=VERBS_LANE)

        return endpoint

    def _do(self, who: Caller, verb: Verb, wish: Wish) -> dict[str, Any]:
        app = self._site.app(who)
        Desk(self._site).check_base(who, getattr(wish, "base", None))
        app.home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".verb-", dir=app.home) as folder:
            return {
                "object": "luthier.result",
                "verb": verb.name,
                **verbs.done(app, verb.name, wish, Path(folder)),
            }

    def _submit(self, who: Caller, verb: Verb, wish: Wish, once: retries.Once | None) -> dict[str, Any]:
        verbs.check(self._site.app(who), verb.name, wish)
        job = self._site.jobs.submit(
            who, "verb", {"verb": verb.name, **wish.plain()}, shown={"verb": verb.name}, once=once
        )
        return plain(job)
