"""A server whose records hold what OpenAI's tests ask for: fixed ids, one project, keys that are no keys of ours.

A part is a module beside this one (files.py, fine_tuning.py, ...) with

    TESTS    the test files it is for, as paths in the sdist
    SKIPPED  test ids that are not run, each with its reason (docs/conformance.md repeats them)
    NAMES    end of a path -> {word in its query: the id that stands for it here, made by the server itself and so not to be chosen}
    seed     (tenant) -> None, once, before the first request
    restore  (tenant, method, path) -> None, before each request: tests delete, cancel and complete one object again and again, in any order

Nothing trains here: no reconciler runs, and what a finished job left is written into the records. Not part of the product.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode

from luthier.app.site import Caller, Site
from luthier.server.keys import Key
from luthier.server.platform.make import create_platform
from luthier.server.platform.models import ProjectRouter
from luthier.server.platform.ring import Ring
from luthier.server.serve import running

KEYS = ("My API Key", "My Admin API Key")
"""What the tests send."""
PARTS: tuple[str, ...] = ("files", "fine_tuning", "models", "evals", "webhooks")
"""Modules beside this one."""


class Part(Protocol):
    TESTS: Sequence[str]
    SKIPPED: Mapping[str, str]
    NAMES: Mapping[str, Mapping[str, str]]

    def seed(self, tenant: Tenant) -> None: ...

    def restore(self, tenant: Tenant, method: str, path: str) -> None: ...


def part_of(name: str) -> Part:
    if name not in PARTS:
        raise SystemExit(f"there is no part {name!r}; there are {', '.join(PARTS)}")
    return import_module(name)  # type: ignore[return-value]


class Tenant:
    """`site`, `caller` (an admin of its one project) and the parts that filled it."""

    def __init__(self, folder: Path, parts: Sequence[Part]) -> None:
        self.site = Site.open({"LUTHIER_HOME": str(folder / "home")})
        text = self.site.found()
        assert text is not None
        self.caller: Caller = self.site.check(text)  # type: ignore[assignment]
        self.parts = parts
        self._text = text
        for part in parts:
            part.seed(self)

    @contextmanager
    def served(self) -> Iterator[str]:
        """The address of the server, as long as the block runs."""
        app = create_platform(self.site, ProjectRouter(self.site), keys=_AnyOf(self.site, self._text))
        app.add_middleware(_Restoring, tenant=self)  # type: ignore[arg-type]
        with running(app) as url:
            yield url


class _AnyOf(Ring):
    """Takes what the tests send for the tenant's own key. A request that names a project gets the one there is."""

    def __init__(self, site: Site, text: str) -> None:
        super().__init__(site)
        self._text = text

    def check(self, text: str, project: str | None = None) -> Key | None:
        return super().check(self._text if text in KEYS else text, None)


class _Restoring:
    """Outermost: the fixed objects are as they were, and words that stand for ids of ours are those ids."""

    def __init__(self, app: Any, tenant: Tenant) -> None:
        self._app, self._tenant = app, tenant
        self._names = {end: names for part in tenant.parts for end, names in part.NAMES.items()}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = [
                (k, v) for k, v in scope["headers"] if k not in (b"openai-project", b"openai-organization")
            ]
            scope = {**scope, "headers": headers, "query_string": self._renamed(scope)}
            for part in self._tenant.parts:
                part.restore(self._tenant, scope["method"], scope["path"])
        await self._app(scope, receive, send)

    def _renamed(self, scope: Any) -> bytes:
        names = next((names for end, names in self._names.items() if scope["path"].endswith(end)), {})
        pairs = parse_qsl(scope["query_string"].decode("ascii"), keep_blank_values=True)
        return urlencode([(key, names.get(value, value)) for key, value in pairs]).encode()
