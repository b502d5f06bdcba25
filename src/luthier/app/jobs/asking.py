"""What every asking of the queue is held to: numbers within bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from luthier.core.errors import SpecError, did_you_mean

if TYPE_CHECKING:
    from luthier.app.site import Caller

HIGHEST = 100
HIGHEST_OF_USERS = 10
"""Priority is one order for all projects, so more than this is an admin's to give."""
MOST_ATTEMPTS = 20
RESOURCES: Mapping[str, int] = {"cores": 4096, "memory_bytes": 1 << 50, "gpus": 64}


def check_priority(caller: Caller, priority: int) -> int:
    """Raises SpecError."""
    highest = HIGHEST if "projects.write" in caller.permissions else HIGHEST_OF_USERS
    if not -HIGHEST <= priority <= highest:
        raise SpecError(
            f"the priority {priority} is not one of {-HIGHEST} to {highest}.",
            remedy=None if highest == HIGHEST else f"More than {HIGHEST_OF_USERS} is an admin's to give.",
        )
    return priority


def check_numbers(resources: Mapping[str, Any], most_attempts: int) -> None:
    """Raises SpecError."""
    for name, value in resources.items():
        if name not in RESOURCES:
            raise SpecError(
                f"there is no resource {name[:40]!r}.", remedy=did_you_mean(name, list(RESOURCES))
            )
        least = 1 if name == "cores" else 0
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= RESOURCES[name]:
            raise SpecError(
                f"the resource {name} is {value!r}, not a whole number from {least} to {RESOURCES[name]}.",
                remedy="Leave it out for this job's part of the host.",
            )
    if not 1 <= most_attempts <= MOST_ATTEMPTS:
        raise SpecError(
            f"most_attempts is {most_attempts}, not one of 1 to {MOST_ATTEMPTS}.", remedy="3 is usual."
        )
