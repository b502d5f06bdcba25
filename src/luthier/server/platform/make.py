"""The platform as an ASGI app: served models and every part."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from luthier.app.login import Login
from luthier.server.openai import Limits, create_app
from luthier.server.routes import Part
from luthier.server.screen import NO_GUARD, GuardSpec

from .ring import Ring, SessionRing
from .served import Served

if TYPE_CHECKING:
    from fastapi import FastAPI

    from luthier.app.site import Site
    from luthier.server.exchange import Traffic
    from luthier.server.keys import Opens
    from luthier.server.router import Router
    from luthier.server.watch import Beside, Observer

_LIMITS = Limits()
PARTS: dict[str, str] = {
    "fine_tuning": "luthier.server.platform.fine_tuning:FineTuningRoutes",
    "files": "luthier.server.platform.files:FileRoutes",
    "models": "luthier.server.platform.models:ModelRoutes",
    "accounts": "luthier.server.platform.accounts:AccountRoutes",
    "login": "luthier.server.platform.login:LoginRoutes",
    "audit": "luthier.server.platform.audit:AuditRoutes",
    "jobs": "luthier.server.platform.jobs:JobRoutes",
    "graders": "luthier.server.platform.graders:GraderRoutes",
    "evals": "luthier.server.platform.evals:EvalRoutes",
    "webhooks": "luthier.server.platform.webhooks:WebhookRoutes",
    "uploads": "luthier.server.platform.uploads:UploadRoutes",
    "passing": "luthier.server.platform.passing:PassingRoutes",
    "verbs": "luthier.server.platform.verbs:VerbRoutes",
    "policy": "luthier.server.platform.policy:PolicyRoutes",
    "approvals": "luthier.server.platform.approvals:ApprovalRoutes",
    "budgets": "luthier.server.platform.budgets:BudgetRoutes",
    "usage": "luthier.server.platform.usage:UsageRoutes",
}
"""Part: module and class, those that are asked most first: routes are looked through in this order. The class takes the site and has `ROUTES`, and `DESCRIBED` where more can be said of them (routes.Described)."""


def parts(site: Site) -> list[Part]:
    made = []
    for target in PARTS.values():
        module, _, name = target.partition(":")
        part: Any = getattr(import_module(module), name)
        made.append(Part(part.ROUTES, part(site), getattr(part, "DESCRIBED", {})))
    return made


def create_platform(
    site: Site,
    models: Router | dict[str, Any],
    *,
    allowed_hosts: Collection[str] = (),
    limits: Limits = _LIMITS,
    observers: Sequence[Observer] = (),
    traffic: Traffic | None = None,
    guard: GuardSpec = NO_GUARD,
    beside: Sequence[Beside] = (),
    keys: Opens | None = None,
) -> FastAPI:
    """The app. Starts no job: reconcilers run beside it (beside.py). `traffic`, `guard`, `beside`: see create_app. `keys`: in place of the site's own. Where no `limits` are given,
    requests are not limited; `luthier server start` gives some. Raises SpecError for a `login.yaml` that says what cannot be."""
    login, served = Login.of(site), Served(site)
    return create_app(
        models,
        keys or Ring(site),
        allowed_hosts=allowed_hosts,
        limits=limits,
        observers=[*observers, served],
        traffic=traffic,
        guard=guard,
        beside=beside,
        parts=parts(site),
        sessions=None if login is None else SessionRing(login),
        afford=served.afford,
    )
