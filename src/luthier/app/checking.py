"""What a recipe asks and cannot have, told when it is read: every rule that needs no row, no weight and no time, in one
pass. Each floor keeps its own rules; a rule that needs the base or the rows is told where those are first read.

    check            before anything else; the same on every machine but for the number of its GPUs
    check_devices    before a run: is there what the recipe wants to compute on?
"""

from __future__ import annotations

from luthier.core.errors import DataError, SpecError

from .recipe import Recipe


def check(recipe: Recipe) -> None:
    """Raises SpecError, or DataError where nothing could be measured, with the first thing that cannot be."""
    from luthier.data.prepare import source_names
    from luthier.evaluation.spec import ColumnSpec
    from luthier.governance import policy
    from luthier.training.refusals import refuse

    task, train, evaluate = recipe.task.kind, recipe.train, recipe.evaluate
    refuse(train, task, source_names(recipe.data.sources), validated=recipe.data.has("validation"))
    if not recipe.data.has("test"):
        raise DataError(
            "data.split.test is 0, so nothing could be measured.",
            remedy="Give it a share of the rows (0.1, say), or say side: test of a source whose rows are for that.",
        )
    if recipe.search is not None:
        from .searching import leading

        leading(recipe)
        if not recipe.data.has("validation"):
            raise SpecError(
                "search compares trials on the validation rows, and data.split.validation is 0.",
                remedy="Give it a share of the rows (0.1, say).",
            )
    kept = {name for source in recipe.data.sources if source.map is not None for name in source.map.keep}
    for one in evaluate.slices or ():
        if isinstance(one, ColumnSpec) and one.column not in kept:
            raise SpecError(
                f"evaluate.slices: no source keeps the column {one.column!r}.",
                remedy=f"Add it to a source's map, as in map: {{keep: [{one.column}]}}.",
            )
    own_head = not train.method.load().through_vocabulary
    policy.check(evaluate.gate, task, evaluate, own_head)
    recipe.postprocess.constrained(task, own_head)
    recipe.postprocess.forms(train.adapter.kind)


def check_devices(recipe: Recipe) -> None:
    """Raises SpecError where a section wants a device that is not there."""
    wanted = {"train": recipe.train.device, "evaluate": recipe.evaluate.device}
    for section in [section for section, device in wanted.items() if device == "cuda"]:
        from luthier.models.place import place

        place("cuda", section=section)
