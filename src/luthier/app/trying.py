"""One trial of a search: a setting is trained, and the model is asked the validation rows of the recipe as written.

    setting ─▶ dataset ─▶ model ─┐
    recipe as written ─▶ dataset ┴─▶ validation rows ─▶ figures          (with folds: once for each)

Every trial is asked the very same rows, whatever its own rules make of its own: otherwise a rule that takes hard rows out would
seem to help. A model that has learnt some of those rows is not compared.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, Interrupted, LuthierError, MissingPart, SpecError, StoreError
from luthier.core.event import Event
from luthier.core.units import Money
from luthier.evaluation.spec import METRICS, System
from luthier.training.search import SearchSpec, Trial
from luthier.training.stopping import Watch, watch_of

from .context import RunContext
from .line import Make, Results, materials, self_contained, trained
from .recipe import Recipe, Wish, again

if TYPE_CHECKING:
    import optuna

    from luthier.evaluation.predictions import Answers
    from luthier.outputs.spec import AnsweringSpec

RESAMPLES = 1000
VALIDATED = "validated"


class Pruned(LuthierError):
    """A trial was given up: others did better at the same point."""


@dataclass
class Trying(RunContext):
    """The context of one trial: validations of its training are reported, and may end it. `seen` are the steps that were
    validated so far, those before a stop included."""

    trial: optuna.Trial | None = None
    figure: Watch | None = None
    higher: bool = False
    prunes: bool = True
    seen: list[int] = field(default_factory=list)

    def emit(self, kind: str, **data: Any) -> Event:
        event = super().emit(kind, **data)
        if kind != "validation" or self.trial is None or self.figure is None:
            return event
        metric = self.figure.metric
        if isinstance(data.get(metric), float):
            step = data.get("step", len(self.seen) + 1)
            if step not in self.seen:
                self.seen.append(step)
                self.trial.set_user_attr(VALIDATED, self.seen)
            at = self.seen.index(step) + 1
            # the study may look for more where this figure looks for less
            sign = 1.0 if self.higher == (self.figure.mode == "max") else -1.0
            self.trial.report(sign * data[metric], at)
            if self.prunes and self.trial.should_prune():
                raise Pruned(
                    f"given up at its validation {at}: {metric} {data[metric]:.4g} is behind the others"
                )
        return event


@dataclass(frozen=True)
class Judged:
    """What one model says of the validation rows. `references`: other systems' answers to them."""

    value: float
    value_R: Sequence[float]
    rows: int
    work: float
    model: str
    references: Mapping[str, tuple[float, Sequence[float]]] = field(default_factory=dict)


def with_setting(wish: Wish, setting: Mapping[str, Any], fold: int = 0) -> Wish:
    """The recipe with other values, checked as if a person had written them; the search itself is no part of it."""
    from .checking import check, check_answers

    words = tuple(f"{path}={json.dumps(value)}" for path, value in setting.items())
    more = (f"data.split.fold={fold}",) if fold else ()
    try:
        other = again(wish, (*words, *more, "search=null"))
        check(other.recipe)
        check_answers(other)
    except LuthierError as error:
        told = ", ".join(words)
        raise SpecError(f"search.over: with {told}: {error.message}", remedy=error.remedy) from None
    return other


def attempt(
    wish: Wish,
    at: RunContext,
    trial: Trial,
    asked: optuna.Trial | None,
    metric: str,
    hourly: Money | None = None,
    before_s: float = 0.0,
    against: Sequence[System] = (),
) -> tuple[Trial, Mapping[str, tuple[float, Sequence[float]]]]:
    """Train it and ask it the validation rows, as far as that is not there already. `before_s` was spent on it earlier.
    `against`: systems without training that are asked too, which come back beside the trial."""
    spec = wish.recipe.search
    assert spec is not None
    began = time.monotonic()
    at.emit("trial.started", number=trial.number, setting=dict(trial.setting))
    references: Mapping[str, tuple[float, Sequence[float]]] = {}
    try:
        judged = [
            _judge(wish, at, trial, asked, metric, fold, against if fold == 0 else ())
            for fold in range(spec.folds or 1)
        ]
    except Pruned as error:
        found = replace(trial, state="pruned", why=error.message)
    except (Interrupted, MissingPart, StoreError):
        raise
    except LuthierError as error:
        found = replace(trial, state="failed", why=error.message)
    else:
        found = replace(trial, **_together(judged, spec, wish.recipe))
        references = judged[0].references
    seconds = before_s + time.monotonic() - began
    money = None if hourly is None else seconds / 3600 * hourly.amount
    found = replace(found, seconds=seconds, money=money)
    told = {k: v for k, v in vars(found).items() if k not in ("value_R", "setting", "home")}
    at.emit("trial.finished", **told, setting=dict(found.setting))
    return found, references


def _judge(
    wish: Wish,
    at: RunContext,
    trial: Trial,
    asked: optuna.Trial | None,
    metric: str,
    fold: int,
    against: Sequence[System],
) -> Judged:
    from luthier.evaluation.validation import STAGE as VALIDATE
    from luthier.evaluation.validation import ValidateSpec

    spec = wish.recipe.search
    assert spec is not None
    other = with_setting(wish, trial.setting, fold)
    recipe = other.recipe
    method = recipe.train.method.load()(recipe.train.method.settings)
    listens = asked if spec.pruner is not None else None
    seen = list(asked.user_attrs.get(VALIDATED, [])) if listens is not None and asked is not None else []
    context = Trying(
        **vars(at), trial=listens, figure=watch_of(recipe.train.early_stopping, method.watch),
        higher=METRICS[metric].higher_is_better, seen=seen,
        prunes=bool(trial.setting),  # the recipe as written is what all are compared with
    )  # fmt: skip
    make = Make(context)
    yard = yardstick(wish, context, fold)
    so_far = materials(other, context, make)
    _refuse_learnt(at, yard, so_far)
    so_far = trained(other, make, so_far)
    measuring = recipe.evaluate.measuring(recipe.train.dtype)
    asks = ValidateSpec(
        metric=metric, embedder=measuring.embedder, max_tokens=measuring.max_tokens, dtype=measuring.dtype, device=measuring.device,
        against=list(against), answering=answering_of(other),
    )  # fmt: skip
    validated = make(
        "validation", VALIDATE, asks, {"model": so_far.model, "base": so_far.base, "dataset": yard}
    )
    assert so_far.model is not None and so_far.base is not None
    return _figures(context, validated, so_far.model, so_far.base, recipe)


def answering_of(wish: Wish) -> AnsweringSpec | None:
    """What the answers of a trial go through before they are judged: what they will go through when they are served, but for
    another model, which is no merit of this one. None where what it says counts. Raises SpecError."""
    recipe = self_contained(wish)
    own_head = not recipe.train.method.load().through_vocabulary
    found = recipe.postprocess.answering(recipe.task.kind, own_head).model_copy(update={"fallback": None})
    usual = "labels" if recipe.task.kind == "classify" else None
    return None if found.plain_way and found.constrain == usual else found


def yardstick(wish: Wish, at: RunContext, fold: int = 0) -> Artifact:
    """The dataset whose validation rows every trial is asked: that of the recipe as written."""
    made = materials(with_setting(wish, {}, fold), at, Make(at)).dataset
    assert made is not None
    return made


def _refuse_learnt(at: RunContext, yard: Artifact, so_far: Results) -> None:
    """Raise DataError where a trial would learn rows that it is then asked, or has other labels."""
    own = so_far.dataset
    assert own is not None
    if own.digest == yard.digest:
        return
    from luthier.data.shards import Side

    folders = at.folder(yard), at.folder(own)
    tasks = [json.loads((one / "dataset.json").read_text(encoding="utf-8"))["task"] for one in folders]
    if tasks[0] != tasks[1]:
        raise DataError(
            "its rules leave other labels or another instruction than those of the recipe as written.",
            remedy="Write the labels out in task.labels.",
        )
    asked = set(Side(folders[0] / "validation.parquet").table(["id"])["id"].to_pylist())
    learnt = set(Side(folders[1] / "train.parquet").table(["id"])["id"].to_pylist())
    if both := asked & learnt:
        raise DataError(
            f"its rules change what rows are divided by: {len(both):,} of the {len(asked):,} validation rows that trials are compared on "
            "stand in its training rows.",
            remedy="Give split.group_by a column that no rule changes; then a row stays on its side whatever rules do.",
        )


def _figures(at: RunContext, validated: Artifact, model: Artifact, base: Artifact, recipe: Recipe) -> Judged:
    """The metric with its resamples, and what the model cost."""
    from luthier.evaluation import compare, predictions, tasks
    from luthier.models.weights import describe

    folder = at.folder(validated)
    told = json.loads((folder / "validation.json").read_text(encoding="utf-8"))
    history = json.loads((at.folder(model) / "history.json").read_text(encoding="utf-8"))
    about = json.loads((at.folder(model) / "luthier.json").read_text(encoding="utf-8"))
    answers = predictions.by_system(predictions.read(folder / "predictions.parquet"))
    part = tasks.of(about["task"])
    metric = told["metric"]

    def resampled(of: Answers) -> Sequence[float] | None:
        values = compare.resampled(part.statistics(of), len(of), RESAMPLES, recipe.evaluate.seed)
        return values[metric].tolist() if metric in values else None

    mine = resampled(answers["tuned"])
    assert mine is not None
    references = {}
    for name, of in answers.items():
        if name != "tuned" and of.ids == answers["tuned"].ids and (drawn := resampled(of)) is not None:
            references[name] = (float(compare.at_sample(part.statistics(of), len(of))[metric]), drawn)
    tokens = sum(step["tokens"] for step in history["steps"])
    work = float(tokens) * describe(at.folder(base)).parameters
    return Judged(told["value"], mine, len(answers["tuned"]), work, model.digest, references)


def _together(judged: Sequence[Judged], spec: SearchSpec, recipe: Recipe) -> dict[str, Any]:
    """The folds' mean; one model's own figures where there are none."""
    import numpy as np

    from luthier.evaluation import compare

    value_R = np.mean([one.value_R for one in judged], axis=0)
    rows = sum(one.rows for one in judged)
    low, high = compare.interval(value_R, recipe.evaluate.confidence, rows) or (None, None)
    return {
        "value": float(np.mean([one.value for one in judged])),
        "low": low,
        "high": high,
        "work": float(np.mean([one.work for one in judged])),
        "model": judged[0].model,
        "value_K": tuple(one.value for one in judged) if spec.folds else (),
        "value_R": tuple(value_R.tolist()),
    }


def sets_of(setting: Mapping[str, Any]) -> tuple[str, ...]:
    """The words (`--set`) that make the recipe the one of this setting."""
    return tuple(f"{path}={json.dumps(value)}" for path, value in setting.items())


def page_of(home: Path, name: str) -> Path:
    """Where the page of a search is written."""
    return home / "reports" / f"{name}-search.html"
