"""Who acts: an id that the audit trail keeps for ever, and who that is as a person, which it may have to forget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from luthier.store.audit import Act, Outcome

LONGEST_SUBJECT = 256


@dataclass(frozen=True)
class Actor:
    """`id` tells nothing of a person: `local`, `key:abcdefgh`, `server`. `person` may be erased from the trail."""

    id: str
    person: Mapping[str, Any] | None = None

    def act(
        self,
        action: str,
        subject: str,
        data: Mapping[str, Any] | None = None,
        *,
        outcome: Outcome = "done",
        named: str | None = None,
    ) -> Act:
        """An entry for the trail. `named`: who says that it was him, where a command asks (--by)."""
        person = dict(self.person or {})
        if named is not None:
            person["named"] = named
        shown = subject if len(subject) <= LONGEST_SUBJECT else f"{subject[: LONGEST_SUBJECT - 1]}…"
        return Act(self.id, action, shown, data or {}, outcome, person or None)


def local() -> Actor:
    """Who this process works for, as the operating system knows it; an environment variable cannot say otherwise."""
    return Actor("local", {"user": system_user()})


def system_user() -> str:
    import os
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


SERVER = Actor("server")
"""What a server does by itself: purging, the rule of a rollout, counting who was denied."""
