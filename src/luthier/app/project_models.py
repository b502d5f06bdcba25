"""Which models a project has: the bases that the server offers, what it fine-tuned, and what other projects let it use.

A model of another project that is not shared is not there: it is found no more than one that never was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import ModelError, NotFound, SpecError

from .bases import bases
from .fine_tuning import MODEL

if TYPE_CHECKING:
    from luthier.store.objects import Object

    from .answering import Answerer
    from .site import Caller, Site

    Opens = Callable[["Found"], tuple[Answerer, str | None]]
    """(an engine, loaded; the release it answers from)"""

logger = logging.getLogger("luthier.server")

OURS = "luthier"
MOST_LISTED = 10_000


@dataclass(frozen=True)
class Found:
    """`project` None: a base, which the server itself opens. `what`: a release, or a base as a recipe names it. `key`: equal for what
    may be answered from the same weights in memory."""

    name: str
    project: str | None
    what: str
    created_s: float
    owned_by: str

    @property
    def key(self) -> tuple[str | None, str, str]:
        return self.project, self.name, self.what

    def plain(self) -> dict[str, Any]:
        return {"id": self.name, "object": "model", "created": int(self.created_s), "owned_by": self.owned_by}


class ProjectModels:
    """`site.models`."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def list(self, caller: Caller) -> list[Found]:
        """Bases first, then the newest."""
        found = [self._base(name) for name in bases(self._site.top.home)]
        if caller.project is None:
            return found
        own, _ = self._site.app(caller).store.objects.list(MODEL, limit=MOST_LISTED)
        found += [_tuned(one, caller.project, caller.organisation) for one in own]
        for one in self._site.sharing.with_(caller.project):
            try:
                found.append(self._shared(str(one.data["owner"]), str(one.parent), caller))
            except NotFound:  # it was deleted, or its project was ended
                continue
        return found

    def find(self, caller: Caller, name: str) -> Found:
        """Raises NotFound."""
        if name in bases(self._site.top.home):
            return self._base(name)
        if caller.project is not None:
            own = self._site.app(caller).store.objects.find(MODEL, name)
            if own is not None and own.ended_s is None:
                return _tuned(own, caller.project, caller.organisation)
            if (owner := self._site.sharing.owner_of(caller.project, name)) is not None:
                return self._shared(owner, name, caller)
        raise NotFound(f"there is no model {name[:200]!r} here.")

    def delete(self, caller: Caller, name: str) -> None:
        """A fine-tuned model of the project: it answers no more. Its release stays in the records, as what was trained. Raises NotFound."""
        self._site.app(caller).store.objects.end(MODEL, name, caller.actor.act("model.deleted", name))

    def opener(self, engine: str, settings: Mapping[str, str]) -> Opens:
        """`open` with another engine than the plain one. Raises SpecError, MissingPart for what no model would change."""
        from .answering import engine_of
        from .engine_parity import ELSEWHERE

        if engine == ELSEWHERE:
            raise SpecError(
                f"the engine {engine} has one model, and a server has as many as its projects make.",
                remedy="Serve that one by itself: `luthier serve NAME --engine upstream`.",
            )
        engine_of(engine, settings)
        return partial(self.open, engine=engine, settings=settings)

    def open(
        self, found: Found, *, engine: str = "transformers", settings: Mapping[str, str] | None = None
    ) -> tuple[Answerer, str | None]:
        """(an engine, loaded; the release it answers from). Takes seconds or minutes. A model that another engine than the plain one cannot
        serve, or does not say as it was measured, is answered by the plain one, and an event says why. Raises NotAllowed where another
        person must agree to the release first."""
        from .answering import REFERENCE, open_engine
        from .context import RunContext
        from .line import import_base

        app = (
            self._site.top
            if found.project is None
            else self._site.app_of(found.project, self._site.top.actor)
        )
        if found.project is not None:
            app.consent("release", found.what)
        at = RunContext(app.store, f"answer-{found.name[:80]}", Path(app.home), self._site.environ)
        release = None if found.project is None else found.what
        digest = release or import_base(found.what, at).digest
        try:
            made = open_engine(at, digest, name=found.name, engine=engine, settings=settings)
        except ModelError as error:
            if engine == REFERENCE:
                raise
            reason = f"{found.name} is answered by the plain engine, and not by {engine}: {error}"
            at.emit("fallback", what="engine", reason=reason)
            logger.warning("%s", reason)
            made = open_engine(at, digest, name=found.name)
        return made, release

    def _base(self, name: str) -> Found:
        base = bases(self._site.top.home)[name]
        return Found(name, None, base.base, base.created_s, OURS)

    def _shared(self, owner: str, name: str, caller: Caller) -> Found:
        """Raises NotFound."""
        if self._site.store.accounts.project(owner).organisation != caller.organisation:
            raise NotFound(f"there is no model {name[:200]!r} here.")
        store = self._site.app_of(owner, self._site.top.actor).store
        return _tuned(store.objects.get(MODEL, name), owner, caller.organisation)


def _tuned(one: Object, project: str, organisation: str | None) -> Found:
    return Found(one.id, project, str(one.data["release"]), one.created_s, organisation or OURS)
