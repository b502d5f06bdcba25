"""What a recipe asks and cannot have, told when it is read: every rule that needs no row, no weight and no time, in one
pass. Each floor keeps its own rules; a rule that needs the base or the rows is told where those are first read.

    check            before anything else; the same on every machine but for the number of its GPUs
    check_answers    with it: what `postprocess` names, in files too
    check_devices    before a run: is there what the recipe wants to compute on?
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from luthier.core.errors import DataError, SpecError
from luthier.evaluation.spec import CostRule

from .asking import check_private
from .recipe import Recipe, Wish

LARGEST_BYTES = 5_000_000
"""Of a schema or a list of words."""


def check(recipe: Recipe) -> None:
    """Raises SpecError, or DataError where nothing could be measured, with the first thing that cannot be."""
    from luthier.data.prepare import source_names
    from luthier.evaluation.spec import ColumnSpec
    from luthier.governance import policy
    from luthier.postprocessing.forms import refuse_heads
    from luthier.training.refusals import refuse

    task, train, evaluate = recipe.task.kind, recipe.train, recipe.evaluate
    if task == "extract":
        from luthier.data.schema import checker

        checker({}, "A task of kind extract")
    refuse(train, task, source_names(recipe.data.sources), validated=recipe.data.has("validation"))
    _refuse_rules_of_other_tasks(recipe)
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
    refuse_unwatched(recipe)
    own_head = not train.method.load().through_vocabulary
    evaluate.judged(task)
    check_private(recipe)
    refuse_unlearnt(recipe, own_head)
    secrets = recipe.data.canaries is not None or bool(
        evaluate.memorisation and evaluate.memorisation.canaries
    )
    policy.check(evaluate.gate, task, evaluate, own_head, secrets)
    refuse_unmeasured(recipe)
    recipe.postprocess.answering(task, own_head)
    refuse_heads(recipe.postprocess.forms(train.adapter.kind), own_head)


def _refuse_rules_of_other_tasks(recipe: Recipe) -> None:
    task = recipe.task.kind
    for wish in recipe.data.rules.ordered:
        settings = wish.settings.plain()
        if wish.name == "weight" and settings["by"] == "label" and task != "classify":
            raise SpecError(
                f"weight by label needs labels, and the task {task} has none.",
                remedy="Use task: {kind: classify}, weigh by source, or remove the rule.",
            )
        if wish.name == "generate" and settings["way"] == "new" and task in ("regress", "extract"):
            raise SpecError(
                f"generate: {{way: new}} has the model write the answers too, and whether one is right for the task {task} nobody looks.",
                remedy="Use paraphrase or back_translate, which keep the answer.",
            )


def refuse_unwatched(recipe: Recipe) -> None:
    """Views that this kind of task does not have. Raises SpecError."""
    wanted = (recipe.monitor and recipe.monitor.drift.views) or ()
    absent = "answer_length" if recipe.task.kind == "classify" else "answer"
    if absent in wanted:
        raise SpecError(
            f"monitor.drift.views: {absent}, and a {recipe.task.kind} task has "
            + ("labels for answers." if absent == "answer_length" else "no labels."),
            remedy=f"Leave it out, or write {'answer' if absent == 'answer_length' else 'answer_length'}.",
        )


def refuse_unmeasured(recipe: Recipe) -> None:
    """A gate on what an answer takes where another model gives some of the answers, as far as that is not measured. Raises SpecError."""
    gate, wish = recipe.evaluate.gate, recipe.postprocess.fallback
    if wish is None:
        return
    if "latency" in gate:
        raise SpecError(
            f"evaluate.gate.latency: postprocess.fallback asks {wish.name} for some answers, and how long that takes is not measured.",
            remedy="Leave the rule out, or the fallback.",
        )
    if isinstance(rule := gate.get("cost"), CostRule):
        price = None if wish.endpoint is None else wish.endpoint.price
        if price is None or price.input.currency != rule.per_1000.at_most.currency:
            raise SpecError(
                f"evaluate.gate.cost: postprocess.fallback asks {wish.name} for some answers, and what that costs in "
                f"{rule.per_1000.at_most.currency} is not known.",
                remedy="Write the price of its server (price: {input: 0.15 USD, output: 0.60 USD}), or leave the rule out.",
            )


def refuse_unlearnt(recipe: Recipe, own_head: bool) -> None:
    """Canaries that nothing would learn, and memorisation of a model that says no tokens. Raises SpecError."""
    method = recipe.train.method.name
    if recipe.evaluate.memorisation is not None and own_head:
        raise SpecError(
            f"evaluate.memorisation: train.method {method} puts a head of its own on the model, which says no tokens that could "
            "be learnt by heart.",
            remedy="Leave it out, or train with a method that keeps the language model (sft).",
        )
    if recipe.data.canaries is None:
        return
    if recipe.task.kind != "chat":
        raise SpecError(
            f"data.canaries: a {recipe.task.kind} task learns its answers alone, and no secret is one of them.",
            remedy="Leave canaries out; evaluate.memorisation: {} measures membership of any task.",
        )
    if method != "sft":
        raise SpecError(
            f"data.canaries: they are questions with one answer, and train.method {method} learns from other rows.",
            remedy="Leave canaries out, or train with sft.",
        )
    mix, order = recipe.train.mix, recipe.train.order
    if getattr(mix, "weights", None) or not isinstance(order, str):
        raise SpecError(
            "data.canaries: train.mix or train.order says which source has which share or turn, and canaries are of none.",
            remedy="Leave canaries out, or mix by size.",
        )


def check_answers(wish: Wish) -> None:
    """What `postprocess` says of answers: files are there, schemas and expressions can be followed, labels exist. Raises SpecError,
    MissingPart."""
    task, post = wish.recipe.task, wish.recipe.postprocess
    own_head = not wish.recipe.train.method.load().through_vocabulary
    schema = task.plain().get("schema")
    told = {
        "kind": task.kind,
        # labels and schemas that the rows will bring stand here as something of their kind
        "labels": task.labels
        if isinstance(task.labels, list)
        else ["", " "]
        if task.kind == "classify"
        else None,
        "schema": schema if isinstance(schema, dict) else {"type": "object"} if schema is not None else None,
    }
    if task.kind == "chat":
        del told["schema"]
    post.check(told, reader(wish.folder), own_head)


def reader(folder: Path) -> Callable[[str], str]:
    """What gives the text of a file that a recipe names, from the recipe's folder. It raises SpecError."""

    def read(name: str) -> str:
        path = folder / Path(name).expanduser()
        try:
            if path.stat().st_size > LARGEST_BYTES:
                raise SpecError(
                    f"{name} is larger than {LARGEST_BYTES:,} bytes.",
                    remedy="Name a schema or a list of words.",
                )
            return path.read_text(encoding="utf-8")
        except OSError as error:
            raise SpecError(
                f"{name} cannot be read: {error.strerror}.",
                remedy=f"Paths start at the recipe's folder ({folder}); name a file that is there.",
            ) from None
        except UnicodeDecodeError as error:
            raise SpecError(
                f"{name} is not UTF-8 text (byte {error.start}).", remedy="Save it as UTF-8."
            ) from None

    return read


def check_devices(recipe: Recipe) -> None:
    """Raises SpecError where a section wants a device that is not there."""
    wanted = {"train": recipe.train.device, "evaluate": recipe.evaluate.device}
    for section in [section for section, device in wanted.items() if device == "cuda"]:
        from luthier.models.place import place

        place("cuda", section=section)
