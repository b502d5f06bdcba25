"""The platform as an ASGI app: served models and every part."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from luthier.app.login import Login
from luthier.server.openai import Limits, create_app
from luthier.server.routes import Part

from .ring import Ring, SessionRing

if TYPE_CHECKING:
    from fastapi import FastAPI

    from luthier.app.site import Site
    from luthier.server.router import Router
    from luthier.server.watch import Observer

_LIMITS = Limits()
PARTS: dict[str, str] = {
    "accounts": "luthier.server.platform.accounts:AccountRoutes",
    "login": "luthier.server.platform.login:LoginRoutes",
    "audit": "luthier.server.platform.audit:AuditRoutes",
    "jobs": "luthier.server.platform.jobs:JobRoutes",
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
    """The app. Starts no job: reconcilers run beside it (beside.py). Where no `limits` are given, requests are not limited; `luthier server
    start` gives some. Raises SpecError for a `login.yaml` that says what cannot be."""
    login = Login.of(site)
    return create_app(
        models,
        Ring(site),
        allowed_hosts=allowed_hosts,
        limits=limits,
        observers=observers,
        parts=parts(site),
        sessions=None if login is None else SessionRing(login),
    )
