"""Organisations, projects, users, service accounts, grants and keys over HTTP: parse, call one verb of `site.accounts`, print.

A route's permission is to be held somewhere that the key reaches (`anywhere`); the verb asks for it in the scope that the request names.
A key's text is in the answer to the request that made it, once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from fastapi import Request
from fastapi.responses import Response

from luthier.governance.access import KNOWN
from luthier.server.parts import Body, checked
from luthier.server.routes import LISTED, Described, Route

from .account_wire import (
    LARGEST_BODY_BYTES,
    Erasure,
    NewGrant,
    NewKey,
    NewName,
    NewProject,
    NewService,
    NewTitle,
    NewUser,
    Rotation,
    grant_plain,
    key_plain,
    made_plain,
    organisation_plain,
    project_plain,
    user_plain,
)  # fmt: skip
from .asked import answered, body_of, caller
from .query import asked_in, page_of

if TYPE_CHECKING:
    from luthier.app.accounts import Accounts
    from luthier.app.site import Caller, Site

V = "/luthier/v1"
OBJECT = ("object", "id")


class AccountRoutes:
    ROUTES: ClassVar = (
        Route("GET", f"{V}/me", "me", KNOWN),
        Route("GET", f"{V}/organisations", "organisations", "status", anywhere=True),
        Route("POST", f"{V}/organisations", "create_organisation", "organisations.write", anywhere=True),
        Route("GET", f"{V}/organisations/{{organisation_id}}", "organisation", "status", anywhere=True),
        Route("PATCH", f"{V}/organisations/{{organisation_id}}", "retitle_organisation", "organisations.write", anywhere=True),
        Route("DELETE", f"{V}/organisations/{{organisation_id}}", "end_organisation", "organisations.write", anywhere=True),
        Route("GET", f"{V}/projects", "projects", "status", anywhere=True),
        Route("POST", f"{V}/projects", "create_project", "projects.write", anywhere=True),
        Route("GET", f"{V}/projects/{{project_id}}", "project", "status", anywhere=True),
        Route("PATCH", f"{V}/projects/{{project_id}}", "retitle_project", "projects.write", anywhere=True),
        Route("DELETE", f"{V}/projects/{{project_id}}", "end_project", "projects.write", anywhere=True),
        Route("GET", f"{V}/users", "users", "members.read", anywhere=True),
        Route("POST", f"{V}/users", "create_user", "members.write", anywhere=True),
        Route("GET", f"{V}/users/{{user_id}}", "user", "members.read", anywhere=True),
        Route("PATCH", f"{V}/users/{{user_id}}", "rename_user", "members.write", anywhere=True),
        Route("DELETE", f"{V}/users/{{user_id}}", "end_user", "members.write", anywhere=True),
        Route("POST", f"{V}/users/{{user_id}}/erase", "erase_user", "organisations.write", anywhere=True),
        Route("GET", f"{V}/service_accounts", "services", "members.read", anywhere=True),
        Route("POST", f"{V}/service_accounts", "create_service", "members.write", anywhere=True),
        Route("GET", f"{V}/grants", "grants", "members.read", anywhere=True),
        Route("POST", f"{V}/grants", "grant", "members.write", anywhere=True),
        Route("DELETE", f"{V}/grants/{{scope}}/{{user_id}}/{{role}}", "end_grant", "members.write", anywhere=True),
        Route("GET", f"{V}/keys", "keys", "keys.own", anywhere=True),
        Route("POST", f"{V}/keys", "create_key", "keys.own", anywhere=True),
        Route("GET", f"{V}/keys/{{key_id}}", "key", "keys.own", anywhere=True),
        Route("POST", f"{V}/keys/{{key_id}}/rotate", "rotate_key", "keys.own", anywhere=True),
        Route("DELETE", f"{V}/keys/{{key_id}}", "end_key", "keys.own", anywhere=True),
    )  # fmt: skip

    DESCRIBED: ClassVar = {
        "me": Described("Who asks.", gives=("object", "user", "permissions", "grants", "projects")),
        "organisations": Described("Organisations.", gives=LISTED, query=("limit", "after")),
        "create_organisation": Described("The organisation.", takes=NewTitle, gives=OBJECT, status=201),
        "organisation": Described("The organisation.", gives=OBJECT),
        "retitle_organisation": Described("The organisation.", takes=NewTitle, gives=OBJECT),
        "projects": Described("Projects.", gives=LISTED, query=("limit", "after", "organisation")),
        "create_project": Described("The project.", takes=NewProject, gives=OBJECT, status=201),
        "project": Described("The project.", gives=OBJECT),
        "retitle_project": Described("The project.", takes=NewTitle, gives=OBJECT),
        "users": Described("Persons.", gives=LISTED, query=("limit", "after", "scope")),
        "create_user": Described("The person.", takes=NewUser, gives=OBJECT, status=201),
        "user": Described("The user.", gives=OBJECT),
        "rename_user": Described("The user.", takes=NewName, gives=OBJECT),
        "erase_user": Described(
            "Who that was is forgotten.", takes=Erasure, gives=(*OBJECT, "erased", "entries")
        ),
        "services": Described("Service accounts.", gives=LISTED, query=("limit", "after", "scope")),
        "create_service": Described("The service account.", takes=NewService, gives=OBJECT, status=201),
        "grants": Described("Grants.", gives=LISTED, query=("limit", "after", "scope")),
        "grant": Described("The grant.", takes=NewGrant, gives=OBJECT, status=201),
        "keys": Described("Keys, without their texts.", gives=LISTED, query=("limit", "after", "scope")),
        "create_key": Described(
            "The key, its text this once.", takes=NewKey, gives=(*OBJECT, "key"), status=201
        ),
        "key": Described("The key, without its text.", gives=OBJECT),
        "rotate_key": Described("A key for the old one.", takes=Rotation, gives=(*OBJECT, "key"), status=201),
        **{
            f"end_{one}": Described("It is ended.", gives=(*OBJECT, "deleted"))
            for one in ("organisation", "project", "user", "grant", "key")
        },
    }

    def __init__(self, site: Site) -> None:
        self._site = site

    @property
    def _verbs(self) -> Accounts:
        return self._site.accounts

    async def me(self, request: Request) -> Response:
        return await answered(self._me, caller(request))

    def _me(self, who: Caller) -> dict[str, Any]:
        told: dict[str, Any] = {
            "object": "luthier.me", "user": who.user, "name": who.name, "key": who.key_id, "scope": who.scope,
            "organisation": who.organisation, "project": who.project, "permissions": sorted(who.permissions),
            "grants": [grant_plain(one) for one in self._verbs.roles(who)],
            "projects": [project_plain(one) for one in self._verbs.projects(who)],
        }  # fmt: skip
        if who.csrf is not None:
            told["csrf"] = who.csrf
        return told

    # -- organisations and projects -----------------------------------------------------------------------------------

    async def organisations(self, request: Request) -> Response:
        told = asked_in(request, ("limit", "after"))
        return await answered(
            lambda who: page_of(self._verbs.organisations(who), told, organisation_plain), caller(request)
        )

    async def create_organisation(self, request: Request) -> Response:
        body = await _body(request, NewTitle)
        made = lambda who: organisation_plain(self._verbs.create_organisation(who, body.title))  # noqa: E731
        return await answered(made, caller(request), status=201)

    async def organisation(self, request: Request, organisation_id: str) -> Response:
        return await answered(
            lambda who: organisation_plain(self._verbs.organisation(who, organisation_id)), caller(request)
        )

    async def retitle_organisation(self, request: Request, organisation_id: str) -> Response:
        body = await _body(request, NewTitle)
        return await answered(
            lambda who: organisation_plain(
                self._verbs.retitle_organisation(who, organisation_id, body.title)
            ),
            caller(request),
        )

    async def end_organisation(self, request: Request, organisation_id: str) -> Response:
        return await _ended(request, "organisation", self._verbs.end_organisation, organisation_id)

    async def projects(self, request: Request) -> Response:
        told = asked_in(request, ("limit", "after", "organisation"))
        return await answered(
            lambda who: page_of(self._verbs.projects(who, told.get("organisation")), told, project_plain),
            caller(request),
        )

    async def create_project(self, request: Request) -> Response:
        body = await _body(request, NewProject)
        made = lambda who: project_plain(self._verbs.create_project(who, body.organisation, body.title))  # noqa: E731
        return await answered(made, caller(request), status=201)

    async def project(self, request: Request, project_id: str) -> Response:
        return await answered(
            lambda who: project_plain(self._verbs.project(who, project_id)), caller(request)
        )

    async def retitle_project(self, request: Request, project_id: str) -> Response:
        body = await _body(request, NewTitle)
        return await answered(
            lambda who: project_plain(self._verbs.retitle_project(who, project_id, body.title)),
            caller(request),
        )

    async def end_project(self, request: Request, project_id: str) -> Response:
        return await _ended(request, "project", self._verbs.end_project, project_id)

    # -- users and grants ---------------------------------------------------------------------------------------------

    async def users(self, request: Request) -> Response:
        return await self._members(request, "person")

    async def services(self, request: Request) -> Response:
        return await self._members(request, "service")

    async def _members(self, request: Request, kind: str) -> Response:
        told = asked_in(request, ("limit", "after", "scope"))

        def found(who: Caller) -> dict[str, Any]:
            rows = self._verbs.users(who, told.get("scope") or scope_of(who))
            return page_of([one for one in rows if one.kind == kind], told, user_plain)

        return await answered(found, caller(request))

    async def create_user(self, request: Request) -> Response:
        return await self._create(request, "person", await _body(request, NewUser))

    async def create_service(self, request: Request) -> Response:
        return await self._create(request, "service", await _body(request, NewService))

    async def _create(
        self, request: Request, kind: Literal["person", "service"], body: NewService
    ) -> Response:
        return await answered(
            lambda who: user_plain(self._verbs.create_user(who, kind, **dict(body))),
            caller(request),
            status=201,
        )

    async def user(self, request: Request, user_id: str) -> Response:
        return await answered(lambda who: user_plain(self._verbs.user(who, user_id)), caller(request))

    async def rename_user(self, request: Request, user_id: str) -> Response:
        body = await _body(request, NewName)
        return await answered(
            lambda who: user_plain(self._verbs.rename_user(who, user_id, body.name)), caller(request)
        )

    async def end_user(self, request: Request, user_id: str) -> Response:
        return await _ended(request, "user", self._verbs.end_user, user_id)

    async def erase_user(self, request: Request, user_id: str) -> Response:
        body = await _body(request, Erasure)

        def erased(who: Caller) -> dict[str, Any]:
            count = self._verbs.erase_user(who, user_id, body.because)
            return {"object": "luthier.user", "id": user_id, "erased": True, "entries": count}

        return await answered(erased, caller(request))

    async def grants(self, request: Request) -> Response:
        told = asked_in(request, ("limit", "after", "scope"))
        return await answered(
            lambda who: page_of(
                self._verbs.grants(who, told.get("scope") or scope_of(who)), told, grant_plain
            ),
            caller(request),
        )

    async def grant(self, request: Request) -> Response:
        body = await _body(request, NewGrant)
        made = lambda who: grant_plain(self._verbs.grant(who, body.scope, body.user, body.role))  # noqa: E731
        return await answered(made, caller(request), status=201)

    async def end_grant(self, request: Request, scope: str, user_id: str, role: str) -> Response:
        return await _ended(request, "grant", self._verbs.end_grant, scope, user_id, role)

    # -- keys ---------------------------------------------------------------------------------------------------------

    async def keys(self, request: Request) -> Response:
        told = asked_in(request, ("limit", "after", "scope"))
        return await answered(
            lambda who: page_of(self._verbs.keys.list(who, told.get("scope")), told, key_plain),
            caller(request),
        )

    async def create_key(self, request: Request) -> Response:
        body = await _body(request, NewKey)

        def made(who: Caller) -> dict[str, Any]:
            return made_plain(self._verbs.keys.create(
                who, scope=body.scope or scope_of(who), title=body.title, user=body.user, permissions=body.permissions,
                expires_s=body.expires_at,
            ))  # fmt: skip

        return await answered(made, caller(request), status=201)

    async def key(self, request: Request, key_id: str) -> Response:
        return await answered(lambda who: key_plain(self._verbs.keys.get(who, key_id)), caller(request))

    async def rotate_key(self, request: Request, key_id: str) -> Response:
        body = await _body(request, Rotation)
        made = lambda who: made_plain(self._verbs.keys.rotate(  # noqa: E731
            who, key_id, grace_s=body.grace_seconds, expires_s=body.expires_at
        ))  # fmt: skip
        return await answered(made, caller(request), status=201)

    async def end_key(self, request: Request, key_id: str) -> Response:
        return await _ended(request, "key", self._verbs.keys.end, key_id)


def scope_of(who: Caller) -> str:
    """What a request is about that names no scope."""
    return who.project or who.scope


async def _body(request: Request, kind: type[Body]) -> Body:
    return checked(kind, await body_of(request, LARGEST_BODY_BYTES))


async def _ended(request: Request, kind: str, verb: Callable[..., None], *ids: str) -> Response:
    def end(who: Caller) -> dict[str, Any]:
        verb(who, *ids)
        return {"object": f"luthier.{kind}", "id": "/".join(ids), "deleted": True}

    return await answered(end, caller(request))
