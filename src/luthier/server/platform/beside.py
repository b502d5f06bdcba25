"""What works in a process of the platform beside its routes: the models that projects serve, and what takes jobs from the queue.

A line here is all that it takes. `MODELS` names a class that is made with the site and what is said of it, and is a server.router.Router; each of `WORKERS` a class
that is made with the site and whose `running()` is a context manager: it works for as long as the block lasts, in threads of its own, and
several processes of one site may each have one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luthier.app.site import Site
    from luthier.server.router import Router

MODELS = "luthier.server.platform.models:ProjectRouter"
WORKERS = (
    "luthier.app.jobs.reconciler:Reconciler",
    "luthier.app.delivering:Deliverer",
    "luthier.app.housekeeping:Housekeeping",
)


@contextmanager
def working(site: Site, **models: Any) -> Iterator[Router]:
    """The models, while the workers work. What was begun last ends first. `models`: what their router is made with beside the site."""
    with ExitStack() as until:
        for target in WORKERS:
            until.enter_context(_made(target, site).running())
        yield _made(MODELS, site, **models)


def _made(target: str, site: Site, **more: Any) -> Any:
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)(site, **more)
