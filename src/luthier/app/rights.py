"""What a caller may do in a scope that he names: asked by every verb over accounts, whichever way the caller came.

A scope that a caller does not reach, or in which he is nothing, is answered as one that does not exist, in the same words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from luthier.core.errors import NotAllowed, NotFound
from luthier.governance.access import PERMISSIONS, SITE, permissions_of

if TYPE_CHECKING:
    from luthier.store.accounts import Accounts

    from .site import Caller


class Rights:
    def __init__(self, rows: Accounts, caller: Caller) -> None:
        self._rows = rows
        self._caller = caller

    def above(self, scope: str) -> list[str]:
        """The scope and what it lies in. Raises NotFound for one that does not exist."""
        if scope == SITE:
            return [SITE]
        if scope.startswith("org_"):
            return [self._rows.organisation(scope).id, SITE]
        if scope.startswith("proj_"):
            project = self._rows.project(scope)
            return [project.id, project.organisation, SITE]
        raise missing(scope)

    def held(self, scope: str) -> frozenset[str]:
        """Empty where the caller's key does not reach. Raises NotFound for a scope that does not exist."""
        return self.held_in(self.above(scope))

    def held_in(self, above: Sequence[str]) -> frozenset[str]:
        """`above`: a scope and what it lies in."""
        if self._caller.operator:
            return PERMISSIONS
        if self._caller.scope not in above:
            return frozenset()
        return permissions_of(self._rows.roles(self._caller.user, above), self._caller.least)

    def need(self, permission: str, scope: str) -> frozenset[str]:
        """All that is held there. Raises NotAllowed; NotFound where the caller is nothing there."""
        held = self.held(scope)
        if not held and scope != SITE:
            raise missing(scope)
        if permission not in held:
            raise NotAllowed(
                f"that needs the permission {permission!r} in {scope}.", remedy="Ask an admin there to do it."
            )
        return held

    def at_most(self, asked: Iterable[str], scope: str) -> None:
        """Nobody hands out more than he holds. Raises NotAllowed."""
        if more := sorted(frozenset(asked) - self.held(scope)):
            raise NotAllowed(
                f"that would give the permission {more[0]!r} in {scope}, which you do not hold there yourself.",
                remedy="Give less, or ask somebody who holds it.",
            )


def missing(scope: str) -> NotFound:
    """In the words of the store."""
    if scope.startswith("org_"):
        return NotFound(f"there is no organisation {scope!r}.", remedy="`luthier org list` shows yours.")
    return NotFound(f"there is no project {scope!r}.", remedy="`luthier project list` shows yours.")
