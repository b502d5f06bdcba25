"""Which models a project has: the bases that the server offers, what it fine-tuned, and what other projects let it use.

A model of another project that is not shared is not there: it is found no more than one that never was.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import LuthierError, NotFound, SpecError

from .bases import bases
from .fine_tuning import MODEL

if TYPE_CHECKING:
    from luthier.store.objects import Object

    from .answering import Answerer
    from .context import RunContext
    from .site import Caller, Site

    Opens = Callable[["Found"], tuple[Answerer, str | None]]
    """(an engine, loaded; the release it answers from)"""

logger = logging.getLogger("luthier.server")

OURS = "luthier"
AGAIN_S = 600.0
"""How long a model that an engine refused is not given to it again."""
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


@dataclass
class By:
    """An engine that serves what it can. `refused`: until when a model, by project, is not given to it again; `lost`: at whose last opening
    it was lost on the way."""

    engine: str
    settings: Mapping[str, str]
    refused: dict[tuple[str | None, str], float] = field(default_factory=dict)
    lost: set[tuple[str | None, str]] = field(default_factory=set)
    clock: Callable[[], float] = time.monotonic

    def opened(self, at: RunContext, what: str, found: Found) -> tuple[Answerer | None, str | None]:
        """(the model, or None and why not; no reason where it was told before). Raises Unavailable."""
        from luthier.serving.engine import Unavailable

        from .answering import open_engine

        key = found.project, what
        if self.clock() < self.refused.get(key, -math.inf):
            return None, None
        try:
            made = open_engine(at, what, name=found.name, engine=self.engine, settings=self.settings)
        except Unavailable as error:
            if key not in self.lost:
                self.lost.add(key)
                raise
            why = error.message  # a second time: whatever is wrong with it, its clients are to be answered
        except LuthierError as error:
            why = error.message
        except Exception as error:  # of native code, memory or the disk
            logger.exception("%s by %s", found.name, self.engine)
            why = f"{type(error).__name__}: {error}"
        else:
            self.lost.discard(key)
            return made, None
        self.refused[key] = self.clock() + AGAIN_S
        return None, why


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
        """`open` by this engine. Raises SpecError, MissingPart for what no model would change."""
        from .answering import engine_of

        if why := getattr(engine_of(engine, settings), "alone", None):
            raise SpecError(
                f"the engine {engine} is not for a server of many models: {why}.",
                remedy=f"Serve one model by itself: `luthier serve NAME --engine {engine}`.",
            )
        return partial(self.open, by=By(engine, settings))

    def open(self, found: Found, *, by: By | None = None) -> tuple[Answerer, str | None]:
        """(an engine, loaded; the release it answers from). Takes seconds or minutes. A model that `by` cannot serve, or would answer
        otherwise than it was measured, is answered by the plain engine, and an event says why. Raises NotAllowed where another person
        must agree to the release first, Unavailable where it may go better in a moment."""
        from .answering import open_engine
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
        what = release or import_base(found.what, at).digest
        made, why = (None, None) if by is None else by.opened(at, what, found)
        if made is None:
            made = open_engine(at, what, name=found.name)
            if by is not None and why is not None:
                reason = f"{found.name} is answered by the plain engine, and not by {by.engine}: {why}"
                at.emit("fallback", what="engine", reason=reason)
                logger.warning("%s: %s", found.project or "of the server", reason)
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
