"""What may be asked of policies: what holds for a project and who says it, what a scope lays down, laying something down."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from luthier.core.errors import SpecError
from luthier.governance.access import SITE
from luthier.governance.site_policy import Effective, PolicySpec, loosened, read_policy
from luthier.store.policies import Laid

from .permitted import need, organisation_of, project_of, wider

if TYPE_CHECKING:
    from .site import Caller, Site

LONGEST_REASON = 1000


class Policies:
    """`Policies(site)`."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._rows = site.store.policies

    def effective(self, scope: str) -> Effective:
        """What holds in a project or an organisation, or for the site."""
        scopes = [
            one
            for one in reversed(wider(self._site, scope))
            if one == SITE or one.startswith(("org_", "proj_"))
        ]
        laid = self._rows.newest(scopes)
        return Effective(
            tuple((one, PolicySpec.model_validate(laid[one].data)) for one in scopes if one in laid)
        )

    def show(self, caller: Caller) -> dict[str, Any]:
        """What holds for the caller's project (else his organisation, else the site), each rule with who says it."""
        scope = caller.project or caller.organisation or SITE
        return {"scope": scope, **self.effective(scope).plain()}

    def laid(self, caller: Caller, scope: str) -> Laid | None:
        """What the scope itself lays down; for whoever the scope holds for."""
        scope = self._named(caller, scope)
        if scope not in {SITE, caller.organisation, caller.project}:
            need(self._site, caller, "policy.read", scope)
        return self._rows.newest([scope]).get(scope)

    def history(self, caller: Caller, scope: str) -> list[Laid]:
        scope = self._named(caller, scope)
        need(self._site, caller, "policy.read", scope)
        return self._rows.history(scope)

    def lay(self, caller: Caller, scope: str, text: str, reason: str, *, source: str = "policy") -> Laid:
        """From YAML. Raises SpecError with every fault, or where it allows what a wider policy does not; Conflict where somebody else laid
        something down a moment before."""
        scope = self._named(caller, scope)
        need(self._site, caller, "policy.write", scope)
        spec, why = read_policy(text, source), check_reason(reason)
        before = self._rows.newest([scope]).get(scope)
        above = [one for one in wider(self._site, scope) if one != scope]
        if above and (found := loosened(spec, self.effective(above[0]))):
            raise SpecError(
                "\n".join(found),
                remedy="A narrower policy may only tighten: leave these out, or have the wider one changed.",
            )
        data = spec.model_dump(mode="json", exclude_unset=True)
        act = caller.actor.act("policy.laid", scope, {"reason": why, "rules": sorted(data)})
        return self._rows.add(
            scope, data, caller.user, why, time.time(), act, after=before.seq if before else None
        )

    def _named(self, caller: Caller, scope: str) -> str:
        """`project` and `organisation` are the caller's own."""
        if scope in ("project", "organisation"):
            return project_of(caller) if scope == "project" else organisation_of(caller)
        if scope != SITE and not scope.startswith(("org_", "proj_")):
            raise SpecError(
                f"{scope[:40]!r} has no policy.", remedy="Name site, an organisation, or a project."
            )
        return scope


def check_reason(reason: str) -> str:
    """Raises SpecError for none."""
    told = " ".join(reason.split())
    if not told or len(told) > LONGEST_REASON or not told.isprintable():
        raise SpecError(
            "a reason is needed, in 1 to 1,000 printable characters.",
            remedy="Say why; it stands in the record.",
        )
    return told
