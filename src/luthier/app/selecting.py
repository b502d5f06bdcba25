"""Which of several trained models to go on with, by a stated rule and by figures on validation rows alone.

    runs      releases or models: each model's validation rows are its dataset's; they are compared where they are the same rows
    trials    those of a recipe's search, as its study tells them

Figures of test rows are never looked at here: who chooses by them has used them up, and what they then say of the chosen one is
too good. `luthier compare` is the door to them, for two that were chosen before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from luthier.core.artifact import Artifact, short
from luthier.core.errors import NotFound, SpecError
from luthier.evaluation.spec import METRICS
from luthier.training.search import Chosen, Trial, choose

from .trying import RESAMPLES, sets_of

if TYPE_CHECKING:
    from luthier.store import Store

    from .acting import Actor
    from .context import RunContext
    from .recipe import Wish

RULES = ("one_standard_error", "best")


@dataclass(frozen=True)
class Selected:
    """`rows`: {"name", "value", "low", "high", "work", "model", "kept", "best"} each, the best first. `next`: what to run. `named`:
    the further name that the kept release was given."""

    metric: str
    higher: bool
    rule: str
    why: str
    kept: str
    rows: list[dict[str, Any]]
    validation_rows: int | None
    next: str
    named: str | None = None

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def select_runs(
    store: Store, references: Sequence[str], *, metric: str | None = None, rule: str = "one_standard_error"
) -> Selected:
    """Among releases, reports or models by their references. Raises SpecError where they cannot be compared on validation rows."""
    _known(rule)
    if len(references) < 2:
        raise SpecError(
            f"{len(references)} model{'' if len(references) == 1 else 's'} to choose from; give at least two.",
            remedy="luthier select ONE OTHER ...   or, of a search's trials: luthier select --recipe RECIPE",
        )
    models = {one: _model(store, one) for one in references}
    told = {one: _validated(store, model, metric) for one, model in models.items()}
    lacking = [one for one, found in told.items() if found is None]
    if lacking:
        reported = [one for one in lacking if _reported(store, models[one])]
        only = (
            f" Of {', '.join(reported)} there are test figures only, and nothing is chosen by those."
            if reported
            else ""
        )
        raise SpecError(
            f"nothing says what {', '.join(lacking)} {'gives' if len(lacking) == 1 else 'give'} on validation rows{_by(metric)}.{only}",
            remedy="Let a search judge them (luthier search RECIPE), or compare two on the test rows, once: luthier compare ONE OTHER",
        )
    found = {one: pair for one, pair in told.items() if pair is not None}
    names = {artifact.spec["metric"] for artifact in found.values()}
    if len(names) > 1:
        raise SpecError(
            f"they were judged by different metrics: {', '.join(sorted(names))}.",
            remedy="Name one of them: --metric",
        )
    if len({json.dumps(artifact.spec.get("answering"), sort_keys=True) for artifact in found.values()}) > 1:
        raise SpecError(
            "their answers were made in different ways (postprocess: answers, constrain, vote) when they were judged.",
            remedy="Search once more with one way for all, or compare two on the test rows: luthier compare ONE OTHER",
        )
    (name,) = names
    trials, rows = _trials(store, models, found, name)
    higher = METRICS[name].higher_is_better
    chosen = choose(trials, higher=higher, rule=rule)  # type: ignore[arg-type]
    assert chosen is not None
    titles = dict(enumerate(references))
    kept = titles[chosen.kept.number]
    return Selected(
        name, higher, rule, chosen.why, kept, _rows(trials, chosen, titles, higher), rows,
        f"luthier serve {kept}" if "@" in kept else f"luthier show {kept}",
    )  # fmt: skip


def select_trials(wish: Wish, at: RunContext, *, rule: str = "one_standard_error") -> Selected:
    """Among the trials of the recipe's search, as far as it came. Raises SpecError where there is no search."""
    from .line import self_contained
    from .searching import leading
    from .study_opening import open_study

    _known(rule)
    recipe = wish.recipe
    if recipe.search is None:
        raise SpecError(
            "the recipe has no section `search`, so it has no trials.", remedy="Name models to choose from."
        )
    metric = leading(recipe)
    higher = METRICS[metric].higher_is_better
    study = open_study(self_contained(wish), higher, at.home, at.environ, join=True)
    trials = study.trials()
    chosen = choose(trials, higher=higher, rule=rule)  # type: ignore[arg-type]
    if chosen is None:
        raise SpecError("no trial of this search has come to its end.", remedy="luthier search RECIPE")
    titles = {one.number: f"trial {one.number}" if one.setting else "as written" for one in trials}
    words = " ".join(f"--set '{one}'" for one in ("search=null", *sets_of(chosen.kept.setting)))
    return Selected(
        metric, higher, rule, chosen.why, titles[chosen.kept.number], _rows(trials, chosen, titles, higher), None,
        f"luthier run {wish.source} {words}",
    )  # fmt: skip


def _known(rule: str) -> None:
    if rule not in RULES:
        raise SpecError(f"there is no rule {rule!r}.", remedy=f"Choose from {', '.join(RULES)}.")


def _by(metric: str | None) -> str:
    return f" by {metric}" if metric else ""


def _model(store: Store, reference: str) -> Artifact:
    artifact = store.catalog.get(reference)
    while artifact.kind != "model":
        if "model" not in artifact.parents:
            raise SpecError(
                f"{reference} is a {artifact.kind} ({short(artifact.digest)}), and no model was made on the way to it.",
                remedy="Name a release (name@version) or a model.",
            )
        artifact = store.catalog.get(artifact.parents["model"])
    if "dataset" not in artifact.parents:
        raise SpecError(
            f"{reference} is a base model, which was not trained here.", remedy="Name a trained one."
        )
    return artifact


def _validated(store: Store, model: Artifact, metric: str | None) -> Artifact | None:
    """What the model says of validation rows: of several, the newest."""
    found = [
        one
        for one in store.catalog.all("validation")
        if one.parents.get("model") == model.digest and metric in (None, one.spec["metric"])
    ]
    return max(found, key=lambda one: one.created_s, default=None)


def _reported(store: Store, model: Artifact) -> bool:
    return any(one.parents.get("model") == model.digest for one in store.catalog.all("report"))


def _trials(
    store: Store, models: Mapping[str, Artifact], found: Mapping[str, Artifact], metric: str
) -> tuple[list[Trial], int]:
    """On the validation rows that all were asked, with the same right answers."""
    from luthier.evaluation import compare, predictions, tasks
    from luthier.models.weights import describe

    answers, tasks_ = {}, []
    for one, validated in found.items():
        table = predictions.read(store.folder(validated) / "predictions.parquet")
        answers[one] = predictions.by_system(table)["tuned"]
        tasks_.append(
            json.loads((store.folder(models[one]) / "luthier.json").read_text(encoding="utf-8"))["task"]
        )
    first = next(iter(answers.values()))
    truth = [dict(zip(of.ids, of.references, strict=True)) for of in answers.values()]
    shared = [row for row in first.ids if all(of.get(row) == truth[0][row] for of in truth)]
    if not shared or any(task["labels"] != tasks_[0]["labels"] for task in tasks_):
        raise SpecError(
            "they were asked no validation row in common.",
            remedy="Choose among models of one task, with the same sources, rules and split.seed.",
        )
    part, trials = tasks.of(tasks_[0]), []
    for number, (one, of) in enumerate(answers.items()):
        mine = of.only(shared)
        value_R = compare.resampled(part.statistics(mine), len(mine), RESAMPLES, 0)[metric]
        low, high = compare.interval(value_R, 0.95, len(mine)) or (None, None)
        history = json.loads((store.folder(models[one]) / "history.json").read_text(encoding="utf-8"))
        base = store.folder(store.catalog.get(models[one].parents["base"]))
        work = float(sum(step["tokens"] for step in history["steps"])) * describe(base).parameters
        value = float(compare.at_sample(part.statistics(mine), len(mine))[metric])
        trial = Trial(number, {}, "done", value, low, high, work, model=models[one].digest)
        trials.append(replace(trial, value_R=tuple(value_R.tolist())))
    return trials, len(shared)


def _rows(
    trials: Sequence[Trial], chosen: Chosen, titles: Mapping[int, str], higher: bool
) -> list[dict[str, Any]]:
    done = [one for one in trials if one.state == "done"]
    order = sorted(done, key=lambda one: (-(one.value or 0) if higher else one.value or 0, one.number))
    return [
        {
            "name": titles[one.number], "value": one.value, "low": one.low, "high": one.high, "work": one.work,
            "model": one.model, "setting": dict(one.setting), "kept": one.number == chosen.kept.number,
            "best": one.number == chosen.best.number, "front": one.number in chosen.front,
        }
        for one in order
    ]  # fmt: skip


def name_it(store: Store, selected: Selected, name: str, actor: Actor) -> str:
    """Give the kept release another name, as its newest version. Raises SpecError for what is no release."""
    artifact = store.catalog.get(selected.kept)
    if artifact.kind != "release":
        raise SpecError(
            f"{selected.kept} is a {artifact.kind}; a name is given to a release, which a gate has let pass.",
            remedy=f"Run it first: {selected.next}",
        )
    try:
        newest = store.catalog.history(name)
    except NotFound:
        newest = []
    if newest and newest[-1].digest == artifact.digest:
        return str(newest[-1])
    return str(store.catalog.name(name, artifact.digest, actor.act("named", name)))


def version_of(store: Store, reference: str) -> str:
    """A release by one of its versions, which never changes what it stands for; by its digest where it has none."""
    digest = store.catalog.get(reference).digest
    known = [str(one) for one in store.catalog.names_of(digest)]
    return reference if reference in known else known[0] if known else digest
