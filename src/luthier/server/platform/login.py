"""How a browser logs in and out: two redirects and a cookie. Who that is, is the provider's to prove (app/login)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from fastapi import Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from luthier.app.login import Begun, Entered, Login
from luthier.app.oidc import NotProven
from luthier.core.errors import LuthierError
from luthier.governance.access import KNOWN
from luthier.server.errors import ApiError
from luthier.server.routes import PUBLIC, Described, Route
from luthier.store.sessions import LOGIN_S

from .asked import answered, as_api_error, caller
from .lanes import LOGINS
from .query import asked_in
from .ring import cookie_of

if TYPE_CHECKING:
    from luthier.app.site import Site

logger = logging.getLogger("luthier.login")


class LoginRoutes:
    ROUTES: ClassVar = (
        Route("GET", "/luthier/v1/login", "begin", PUBLIC, for_browsers=True),
        Route("GET", "/luthier/v1/login/callback", "finish", PUBLIC, for_browsers=True),
        Route("POST", "/luthier/v1/logout", "leave", KNOWN),
    )

    DESCRIBED: ClassVar = {
        "begin": Described("To the provider.", status=302, query=("provider", "next")),
        "finish": Described("To where the login was for.", status=303, query=("code", "state", "iss")),
        "leave": Described("The session is ended.", gives=("object", "ended")),
    }

    def __init__(self, site: Site) -> None:
        self._site = site
        self._login = Login.of(site)

    async def begin(self, request: Request) -> Response:
        login, told = self._there(), asked_in(request, ("provider", "next"))
        begun: Begun = await _proven(login.begin, told.get("provider"), told.get("next"))
        answer = RedirectResponse(begun.url, 302)
        self._put(answer, self._begun_cookie, begun.secret, int(LOGIN_S))
        return answer

    async def finish(self, request: Request) -> Response:
        login, told = self._there(), asked_in(request, None)
        entered: Entered = await _proven(login.finish, told, request.cookies.get(self._begun_cookie))
        answer = RedirectResponse(entered.next, 303)
        self._put(answer, cookie_of(login), entered.token, None)
        self._put(answer, self._begun_cookie, "", 0)
        return answer

    async def leave(self, request: Request) -> Response:
        login = self._login
        if login is None:
            raise ApiError(404, "not_found", "Nobody logs in here; there are keys alone.")
        await answered(login.leave, caller(request))
        answer = JSONResponse({"object": "luthier.session", "ended": True})
        self._put(answer, cookie_of(login), "", 0)
        return answer

    def _there(self) -> Login:
        if self._login is None:
            raise ApiError(404, "not_found", "Nobody logs in here; there are keys alone.")
        return self._login

    @property
    def _begun_cookie(self) -> str:
        return f"{cookie_of(self._there()).removesuffix('session')}login"

    def _put(self, answer: Response, name: str, value: str, age_s: int | None) -> None:
        answer.set_cookie(
            name,
            value,
            max_age=age_s,
            path="/",
            secure=self._there().spec.secure,
            httponly=True,
            samesite="lax",
        )


async def _proven(work: Callable[..., Any], *given: Any) -> Any:
    """Whoever logs in learns nothing of what failed that he could use; the server's log says why."""
    try:
        return await LOGINS.run(work, *given)
    except NotProven as error:
        logger.warning("a login failed: %s", error.message)
        raise ApiError(
            401, "login_failed", "That login was not accepted. Begin again, or ask an admin to invite you."
        ) from None
    except ApiError:
        raise
    except LuthierError as error:
        raise as_api_error(error) from error
