"""Which other projects of an organisation may use a fine-tuned model: OpenAI's permissions of checkpoints.

A permission stands in the server's own home, because two projects must see it: the one that has the model and the one that may use it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from luthier.core.errors import NotFound
from luthier.store.objects import Object

from .fine_tuning import MODEL

if TYPE_CHECKING:
    from .site import Caller, Site

PERMISSION = "permission"


class Sharing:
    """`site.sharing`."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def permit(self, caller: Caller, model: str, projects: Sequence[str]) -> Sequence[Object]:
        """Once each: what was permitted before is returned as it is. Raises NotFound for a model that is not the project's, and for a
        project that is not of its organisation."""
        self._own(caller, model)
        for project in projects:
            if self._site.store.accounts.project(project).organisation != caller.organisation:
                raise NotFound(f"there is no project {project!r}.")
        made = []
        for project in dict.fromkeys(projects):
            found, _ = self._rows(model, project)
            if not found:
                told = {"owner": caller.project, "project": project}
                new = Object(
                    PERMISSION, f"cp_{secrets.token_hex(12)}", told, caller.user, time.time(), parent=model
                )
                self._site.store.objects.add(
                    new, act=caller.actor.act("model.shared", model, {"project": project})
                )
                found = [new]
            made.append(found[0])
        return made

    def list(
        self,
        caller: Caller,
        model: str,
        *,
        project: str | None = None,
        after: str | None = None,
        limit: int = 10,
        newest_first: bool = True,
    ) -> tuple[Sequence[Object], bool]:
        self._own(caller, model)
        return self._rows(model, project, after=after, limit=limit, newest_first=newest_first)

    def forbid(self, caller: Caller, model: str, permission: str) -> None:
        self._own(caller, model)
        if self._site.store.objects.get(PERMISSION, permission).parent != model:
            raise NotFound(f"the model has no permission {permission[:80]!r}.")
        self._site.store.objects.end(
            PERMISSION, permission, caller.actor.act("model.unshared", model, {"permission": permission})
        )

    def owner_of(self, project: str, model: str) -> str | None:
        """Whose model that is, where another project lets this one use it."""
        found, _ = self._rows(model, project)
        return str(found[0].data["owner"]) if found else None

    def with_(self, project: str) -> Sequence[Object]:
        """Every permission that this project holds."""
        found, _ = self._site.store.objects.list(
            PERMISSION, limit=10_000, matching=lambda one: one.data["project"] == project
        )
        return found

    def _own(self, caller: Caller, model: str) -> None:
        self._site.app(caller).store.objects.get(MODEL, model)

    def _rows(
        self,
        model: str,
        project: str | None,
        *,
        after: str | None = None,
        limit: int = 10,
        newest_first: bool = True,
    ) -> tuple[Sequence[Object], bool]:
        return self._site.store.objects.list(
            PERMISSION, parent=model, after=after, limit=limit, newest_first=newest_first,
            matching=None if project is None else lambda one: one.data["project"] == project,
        )  # fmt: skip
