"""Which artifacts the systems of `evaluate.against` are: the release in use, candidates, other bases, as parents of the report.

`production` is the newest release of this recipe's name whose model is not the one that is measured: a second run of the same
recipe, whose own release is the newest by then, has the same parents as the first and does nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from luthier.core.artifact import Artifact, short
from luthier.core.errors import SpecError
from luthier.core.spec import Tree, parse, read_yaml
from luthier.evaluation.judge.spec import CriterionSpec, Rubric
from luthier.evaluation.others import roles
from luthier.evaluation.spec import EvaluateSpec, GateRule
from luthier.evaluation.systems import BaseSystem, ProductionSystem, ReleaseSystem, is_release

from .context import RunContext

if TYPE_CHECKING:
    from luthier.store import Store

    from .line import Strategy
    from .recipe import Recipe


def parents(
    spec: EvaluateSpec, recipe: Recipe, at: RunContext, make: Strategy, model: Artifact | None
) -> dict[str, Artifact | None]:
    """Role -> artifact of every other model that is measured (evaluation/others.roles). `model` is the one in question; None:
    it is not there yet, and nobody can say what was in use before it. A name without a release is left out."""
    given: dict[str, Artifact | None] = {}
    for name, entry in spec.named.items():
        if spec.kind_of(name) != "model":
            continue
        if isinstance(entry, BaseSystem):
            from .line import imported

            given[roles(name)["model"]] = imported(entry.base, at, make)
            continue
        reference = _reference(entry)
        if reference is not None:
            given |= _of(at.store, name, at.store.catalog.get(reference))
        elif model is None:
            given[roles(name)["model"]] = None
        elif (release := in_use(at.store, recipe.name, model)) is not None:
            given |= _of(at.store, name, release)
    return given


def measuring(recipe: Recipe, at: RunContext) -> EvaluateSpec:
    """How the recipe measures, with what stands in files of its own read: a judge's rubric is part of what is asked for."""
    spec = recipe.evaluate.measuring(recipe.train.dtype)
    if spec.judge is None or not isinstance(spec.judge.rubric, str):
        return spec
    criteria = _rubric(at.root / spec.judge.rubric)
    return spec.model_copy(update={"judge": spec.judge.model_copy(update={"rubric": criteria})})


def judging(spec: EvaluateSpec, at: RunContext, make: Strategy) -> dict[str, Artifact | None]:
    """Role -> artifact of a judge that runs here, and of what people have said."""
    from luthier.evaluation.judge.judging import HUMAN, ROLE

    from .line import imported, recorded_file

    given: dict[str, Artifact | None] = {}
    if spec.judge is None:
        return given
    if isinstance(spec.judge.model, str):
        if is_release(spec.judge.model):
            given |= _of(at.store, ROLE, at.store.catalog.get(spec.judge.model))
        else:
            given[roles(ROLE)["model"]] = imported(spec.judge.model, at, make)
    if spec.judge.human is not None:
        given[HUMAN] = recorded_file(at, spec.judge.human)
    return given


def _rubric(path: Path) -> list[CriterionSpec]:
    """Raises SpecError with the line of every fault."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(
            f"evaluate.judge.rubric: {path.name} cannot be read ({type(error).__name__}).",
            remedy="Name a YAML file beside the recipe that holds `criteria:`, or write the criteria into the recipe.",
        ) from None
    tree = read_yaml(text, path.name)
    if isinstance(tree.value, list):
        lines = {("criteria", *place): line for place, line in tree.lines.items()}
        tree = Tree({"criteria": tree.value}, lines, tree.source)
    return parse(
        Rubric, tree, "Write `- {name: helpful, asks: ..., scale: [1, 5]}` for each criterion."
    ).criteria


def in_use(store: Store, name: str, model: Artifact | None) -> Artifact | None:
    """The newest release of a name that is of another model."""
    for version in reversed(store.catalog.history(name)):
        artifact = store.catalog.get(version.digest)
        if artifact.kind == "release" and (model is None or artifact.parents.get("model") != model.digest):
            return artifact
    return None


def check(recipe: Recipe, at: RunContext, model: Artifact | None = None) -> list[str]:
    """What a person should know of the systems before anything is spent. Raises NotFound for a name that nothing has, SpecError
    for what cannot answer, or for a gate on a release in use that is not there."""
    told = []
    for name, entry in recipe.evaluate.named.items():
        if recipe.evaluate.kind_of(name) != "model" or isinstance(entry, BaseSystem):
            continue
        if (reference := _reference(entry)) is not None:
            _of(at.store, name, at.store.catalog.get(reference))
            continue
        release = in_use(at.store, recipe.name, model)
        if release is not None:
            names = ", ".join(map(str, at.store.catalog.names_of(release.digest)))
            told.append(f"production is {names} ({short(release.digest)})")
            continue
        rules = [
            metric
            for metric, rule in recipe.evaluate.gate.items()
            if isinstance(rule, GateRule) and rule.rival == "production"
        ]
        if rules:
            raise SpecError(
                f"evaluate.gate.{rules[0]} compares with production, and nothing else has been released as {recipe.name!r} yet.",
                remedy="Run once without that rule; from the second release on there is something to compare with.",
            )
        told.append(
            f"production: nothing else has been released as {recipe.name!r} yet, so there is none to compare with"
        )
    return told


def _reference(entry: object) -> str | None:
    """None for the bare word `production`."""
    if isinstance(entry, ProductionSystem):
        return entry.production
    if isinstance(entry, ReleaseSystem):
        return entry.release
    assert isinstance(entry, str)
    return None if entry == "production" else entry


def _of(store: Store, name: str, artifact: Artifact) -> dict[str, Artifact]:
    """The parts of a release, a package, a tuned model or a base."""
    role, parts = roles(name), {}
    if artifact.kind == "release":
        parts[role["release"]] = artifact
        parts[role["package"]] = store.catalog.get(artifact.parents["package"])
        artifact = store.catalog.get(artifact.parents["model"])
    elif artifact.kind == "package":
        parts[role["package"]] = artifact
        artifact = store.catalog.get(artifact.parents["model"])
    if artifact.kind != "model":
        raise SpecError(
            f"evaluate.against: {name} is a {artifact.kind} ({short(artifact.digest)}), which cannot answer.",
            remedy="Name a release, a package or a model (`luthier list`).",
        )
    parts[role["model"]] = artifact
    if "base" in artifact.parents:
        parts[role["base"]] = store.catalog.get(artifact.parents["base"])
    return parts
