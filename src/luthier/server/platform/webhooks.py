"""Webhooks over HTTP: as OpenAI's client asks for them (`client.webhooks`), and once more under Luthier's own path with what became of
each delivery. The secret stands in the answer to creating and to rotating, and nowhere else."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from fastapi import Request
from fastapi.responses import Response
from pydantic import Field

from luthier.app.webhooks import LONGEST_TITLE, Webhooks
from luthier.core.egress import LONGEST_URL
from luthier.server.parts import Wire, checked
from luthier.server.routes import LISTED, Described, Route
from luthier.store.webhooks import TYPES, Webhook

from .asked import answered, body_of, caller
from .lanes import HOOKS
from .query import LONGEST, asked_in, limit_of, page

if TYPE_CHECKING:
    from luthier.app.site import Caller, Site

OBJECT = ("object", "id")
READ, WRITE = "webhooks.read", "webhooks.write"
Name = Annotated[str, Field(min_length=1, max_length=LONGEST_TITLE)]
Url = Annotated[str, Field(min_length=1, max_length=LONGEST_URL)]
EventType = Annotated[str, Field(min_length=1, max_length=80)]
EventTypes = Annotated[list[EventType], Field(min_length=1, max_length=40)]


class Created(Wire):
    name: Name
    url: Url
    event_types: EventTypes


class Changed(Wire):
    name: Name | None = None
    url: Url | None = None
    event_types: EventTypes | None = None


class Rotated(Wire):
    keep_old_secret_active_for_24_hours: bool = False


class Tested(Wire):
    event_type: EventType


def _routes(root: str) -> tuple[Route, ...]:
    return (
        Route("POST", root, "create", WRITE),
        Route("GET", root, "list", READ),
        Route("GET", root + "/{webhook_id}", "get", READ),
        Route("POST", root + "/{webhook_id}", "change", WRITE),
        Route("DELETE", root + "/{webhook_id}", "end", WRITE),
        Route("POST", root + "/{webhook_id}/rotate_secret", "rotate", WRITE),
        Route("POST", root + "/{webhook_id}/test", "test", WRITE),
    )


class WebhookRoutes:
    ROUTES: ClassVar = (
        *_routes("/v1/webhook_endpoints"),
        Route("GET", "/v1/webhook_event_types", "event_types", READ),
        *_routes("/luthier/v1/webhooks"),
        Route("GET", "/luthier/v1/webhooks/{webhook_id}/deliveries", "deliveries", READ),
    )

    DESCRIBED: ClassVar = {
        "create": Described(
            "The webhook, its secret this once.", takes=Created, gives=(*OBJECT, "signing_secret")
        ),
        "list": Described("Webhooks.", gives=LISTED, query=("after", "limit")),
        "get": Described("The webhook.", gives=OBJECT),
        "change": Described("The webhook.", takes=Changed, gives=OBJECT),
        "end": Described("It is gone.", gives=(*OBJECT, "deleted")),
        "rotate": Described(
            "The webhook, its new secret this once.", takes=Rotated, gives=(*OBJECT, "signing_secret")
        ),
        "test": Described("A sample was sent.", takes=Tested, gives=("object", "status_code", "success")),
        "event_types": Described("What can be told of.", gives=LISTED),
        "deliveries": Described("The newest deliveries.", gives=LISTED),
    }

    def __init__(self, site: Site) -> None:
        self._webhooks = Webhooks(site)

    async def create(self, request: Request) -> Response:
        return await answered(self._create, caller(request), checked(Created, await body_of(request)))

    async def list(self, request: Request) -> Response:
        query = asked_in(request, ("after", "limit"), longest=LONGEST)
        return await answered(
            self._list, caller(request), after=query.get("after"), limit=limit_of(query, 20, 100)
        )

    async def get(self, request: Request, webhook_id: str) -> Response:
        return await answered(lambda: self._plain(self._webhooks.get(caller(request), webhook_id)))

    async def change(self, request: Request, webhook_id: str) -> Response:
        body = checked(Changed, await body_of(request))
        return await answered(
            lambda: self._plain(
                self._webhooks.change(
                    caller(request), webhook_id, title=body.name, url=body.url, events=body.event_types
                )
            )
        )

    async def end(self, request: Request, webhook_id: str) -> Response:
        def end() -> dict[str, Any]:
            self._webhooks.end(caller(request), webhook_id)
            return {"id": webhook_id, "object": "webhook_endpoint.deleted", "deleted": True}

        return await answered(end)

    async def rotate(self, request: Request, webhook_id: str) -> Response:
        body = checked(Rotated, await body_of(request))
        return await answered(
            lambda: self._with_secret(
                *self._webhooks.rotate(
                    caller(request), webhook_id, keep_previous=body.keep_old_secret_active_for_24_hours
                )
            )
        )

    async def test(self, request: Request, webhook_id: str) -> Response:
        body = checked(Tested, await body_of(request))
        return await answered(self._test, caller(request), webhook_id, body.event_type, lane=HOOKS)

    async def event_types(self, request: Request) -> Response:
        return await answered(lambda: {"object": "list", "data": sorted(TYPES)})

    async def deliveries(self, request: Request, webhook_id: str) -> Response:
        return await answered(self._deliveries, caller(request), webhook_id)

    def _create(self, who: Caller, body: Created) -> dict[str, Any]:
        return self._with_secret(
            *self._webhooks.create(who, title=body.name, url=body.url, events=body.event_types)
        )

    def _list(self, who: Caller, *, after: str | None, limit: int) -> dict[str, Any]:
        found, more = self._webhooks.list(who, after=after, limit=limit)
        return page([self._plain(one) for one in found], more)

    def _test(self, who: Caller, webhook_id: str, event_type: str) -> dict[str, Any]:
        status = self._webhooks.test(who, webhook_id, event_type)
        return {
            "object": "webhook_endpoint.test",
            "webhook_endpoint_id": webhook_id,
            "event_type": event_type,
            "status_code": status,
            "success": True,
        }

    def _deliveries(self, who: Caller, webhook_id: str) -> dict[str, Any]:
        found = self._webhooks.deliveries(who, webhook_id)
        told = [{"object": "luthier.delivery", **asdict(one)} for one in found]
        return page([{k: v for k, v in one.items() if k != "seq"} for one in told], False)

    def _plain(self, webhook: Webhook) -> dict[str, Any]:
        return {
            "id": webhook.id,
            "object": "webhook_endpoint",
            "name": webhook.title,
            "url": webhook.url,
            "event_types": list(webhook.events),
            "created_at": int(webhook.created_s),
            "updated_at": int(webhook.changed_s),
            "signing_secret_hint": self._webhooks.hint(webhook),
        }

    def _with_secret(self, webhook: Webhook, secret: str) -> dict[str, Any]:
        return {**self._plain(webhook), "signing_secret": secret}
