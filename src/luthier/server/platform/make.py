"""The platform as an ASGI app: served models and every part."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from luthier.server.openai import Limits, create_app
from luthier.server.routes import Part

from .ring import Ring

if TYPE_CHECKING:
    from fastapi import FastAPI

    from luthier.app.site import Site
    from luthier.server.keys import Opens
    from luthier.server.router import Router
    from luthier.server.watch import Observer

_LIMITS = Limits()
PARTS: dict[str, str] = {
    "jobs": "luthier.server.platform.jobs:JobRoutes",
    "files": "luthier.server.platform.files:FileRoutes",
    "uploads": "luthier.server.platform.uploads:UploadRoutes",
    "fine_tuning": "luthier.server.platform.fine_tuning:FineTuningRoutes",
    "models": "luthier.server.platform.models:ModelRoutes",
    "graders": "luthier.server.platform.graders:GraderRoutes",
    "evals": "luthier.server.platform.evals:EvalRoutes",
    "webhooks": "luthier.server.platform.webhooks:WebhookRoutes",
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
    keys: Opens | None = None,
) -> FastAPI:
    """The app. Starts no job: reconcilers run beside it. `keys`: in place of the site's own."""
    return create_app(
        models,
        keys or Ring(site),
        allowed_hosts=allowed_hosts,
        limits=limits,
        observers=observers,
        parts=parts(site),
    )
