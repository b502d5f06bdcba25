"""The platform as an ASGI app: served models and every part."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from luthier.server.openai import Limits, create_app
from luthier.server.routes import Part

from .ring import Ring
from .served import Served

if TYPE_CHECKING:
    from fastapi import FastAPI

    from luthier.app.site import Site
    from luthier.server.router import Router
    from luthier.server.watch import Observer

_LIMITS = Limits()
PARTS: dict[str, str] = {
    "jobs": "luthier.server.platform.jobs:JobRoutes",
    "policy": "luthier.server.platform.policy:PolicyRoutes",
    "approvals": "luthier.server.platform.approvals:ApprovalRoutes",
    "budgets": "luthier.server.platform.budgets:BudgetRoutes",
    "usage": "luthier.server.platform.usage:UsageRoutes",
}
"""Part: module and class. The class takes the site and has `ROUTES`."""


def parts(site: Site) -> list[Part]:
    made = []
    for target in PARTS.values():
        module, _, name = target.partition(":")
        part: Any = getattr(import_module(module), name)
        made.append(Part(part.ROUTES, part(site)))
    return made


def create_platform(
    site: Site,
    models: Router | dict[str, Any],
    *,
    allowed_hosts: Collection[str] = (),
    limits: Limits = _LIMITS,
    observers: Sequence[Observer] = (),
) -> FastAPI:
    """The app. Starts no job: reconcilers run beside it."""
    served = Served(site)
    return create_app(
        models, Ring(site), allowed_hosts=allowed_hosts, limits=limits, observers=[*observers, served], parts=parts(site),
        afford=served.afford,
    )  # fmt: skip
