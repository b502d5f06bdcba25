"""The recipe's own files of rows beside the task (evaluate.general, evaluate.safety): each set is prepared as a dataset of its
own, so that any layout is understood, forgotten rows stay out, and what was asked can be found again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from luthier.core.artifact import Artifact

from .context import RunContext
from .recipe import Wish

if TYPE_CHECKING:
    from .line import Strategy


def kept_beside(wish: Wish, at: RunContext, make: Strategy) -> dict[str, Artifact | None]:
    """Role -> dataset, for the sets that are files; the built-in ones need none."""
    from luthier.data.prepare import PrepareSpec
    from luthier.data.spec import DataSpec
    from luthier.data.task import TaskSpec

    from .data.forget import watched
    from .line import without_forgotten

    found: dict[str, Artifact | None] = {}
    for role, files in wish.recipe.evaluate.sets.items():
        if files == "auto":
            continue
        data = DataSpec.model_validate(
            {"sources": [{"files": file} for file in files], "split": {"validation": 0, "test": 0}}
        )
        asks = replace(wish, recipe=wish.recipe.model_copy(update={"data": data, "task": TaskSpec()}))
        spec = PrepareSpec(task=TaskSpec(), data=data, watched=watched(at.store))
        found[role] = without_forgotten(asks, at, make, role, spec, {})
    return found
