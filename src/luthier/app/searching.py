"""A search: several settings of one recipe are trained and asked the validation rows, and the best one's line is walked on.

    recipe as written ─┐
    setting 1 ─────────┼─▶ dataset ─▶ model ─▶ validation rows ─▶ choose ─▶ the rest of the line, with the test rows, once
    setting 2 ─────────┘

Trials are ordinary models of the store, known by their keys: a search that is begun again finds what is there and goes on. What
was proposed, and what came of it, stands in Optuna's own storage (`home/searches`); processes that share the home share the
trials. A trial whose process died is taken up again with the settings it had.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.artifact import Artifact, key_of
from luthier.core.errors import DataError, Interrupted, LuthierError, MissingPart, SpecError, missing_part
from luthier.core.event import Event
from luthier.core.units import Money
from luthier.evaluation.spec import METRICS
from luthier.training.search import SearchSpec, Trial, bounds, choose, suggest
from luthier.training.stopping import Watch, watch_of

from .context import RunContext
from .line import Make, materials, trained
from .recipe import Recipe, Wish, again

if TYPE_CHECKING:
    import optuna

RESAMPLES = 1000
MOST_REPEATS = 20
FEWEST_EXPLAINED = 6
SETTING = "setting"  # of a trial that is one of its own, and no repeat of another


@dataclass(frozen=True)
class Searched:
    """`sets` are the words (`--set`) that make the recipe the one that was kept."""

    name: str
    metric: str
    higher: bool
    trials: list[Trial]
    kept: int
    best: int
    sets: tuple[str, ...]
    stopped: str | None
    seconds: float
    importance: Mapping[str, float] = field(default_factory=dict)
    path: Path | None = field(default=None)

    def plain(self) -> dict[str, Any]:
        trials = [{k: v for k, v in asdict(one).items() if k != "value_R"} for one in self.trials]
        told = {k: v for k, v in vars(self).items() if k not in ("trials", "path")}
        return {**told, "sets": list(self.sets), "trials": trials, "report": self.path and str(self.path)}

    @property
    def kept_trial(self) -> Trial:
        return next(one for one in self.trials if one.number == self.kept)


class Pruned(LuthierError):
    """A trial was given up: others did better at the same point."""


@dataclass
class Trying(RunContext):
    """The context of one trial: validations of its training are reported, and may end it."""

    trial: optuna.Trial | None = None
    figure: Watch | None = None
    higher: bool = False
    seen: int = 0

    def emit(self, kind: str, **data: Any) -> Event:
        event = super().emit(kind, **data)
        if kind != "validation" or self.trial is None or self.figure is None:
            return event
        metric = self.figure.metric
        if isinstance(data.get(metric), float):
            self.seen += 1
            # the study may look for more where this figure looks for less
            sign = 1.0 if self.higher == (self.figure.mode == "max") else -1.0
            self.trial.report(sign * data[metric], self.seen)
            if self.trial.should_prune():
                raise Pruned(
                    f"given up at its validation {self.seen}: {metric} {data[metric]:.4g} is behind the others"
                )
        return event


def search_line(wish: Wish, at: RunContext, hourly: Money | None) -> Searched:
    """Raises SpecError for values that the recipe could not have, before anything is spent."""
    spec, metric = wish.recipe.search, leading(wish.recipe)
    assert spec is not None
    for setting in bounds(spec):
        with_setting(wish, setting)
    higher = METRICS[metric].higher_is_better
    study, folder = _study(wish, spec, at.home / "searches", higher)
    at.emit(
        "search.started", name=wish.recipe.name, trials=spec.trials, metric=metric, over=sorted(spec.over)
    )
    began = time.monotonic()
    written = _try(wish, at, Trial(0, {}, "done"), None, metric)
    if written.state == "failed":
        raise DataError(
            f"the recipe as written cannot be trained: {written.why}",
            remedy="Correct the recipe first; a search starts from it.",
        )
    trials = [written, *_earlier(wish, at, study, folder, metric)]
    stopped = _go_on(wish, at, study, folder, metric, trials, hourly)
    chosen = choose(trials, higher=higher)
    assert chosen is not None  # the recipe as written is done
    kept, best = chosen
    sets = tuple(f"{path}={json.dumps(value)}" for path, value in kept.setting.items())
    seconds = time.monotonic() - began
    name = wish.recipe.name
    found = Searched(
        name, metric, higher, trials, kept.number, best.number, sets, stopped, seconds, _importance(study)
    )
    at.emit(
        "search.finished",
        **{k: v for k, v in found.plain().items() if k not in ("trials", "report")},
        tried=len(trials),
    )
    return replace(found, path=_page(found, at))


def _go_on(
    wish: Wish,
    at: RunContext,
    study: optuna.Study,
    folder: Path,
    metric: str,
    trials: list[Trial],
    hourly: Money | None,
) -> str | None:
    """Add trials until there are enough; why it ended earlier, if it did."""
    spec = wish.recipe.search
    assert spec is not None
    known = {json.dumps(one.setting, sort_keys=True): one for one in trials}
    repeated = 0
    while len(trials) < spec.trials:
        if spec.grid is not None and len(known) > spec.grid:  # one is the recipe as written
            return f"all {spec.grid} settings were tried"
        if why := _spent(spec, trials, hourly):
            return why
        asked = study.ask()
        setting = suggest(asked, spec)
        name = json.dumps(setting, sort_keys=True)
        if seen := known.get(name):
            _tell(study, asked, seen)
            repeated += 1
            if repeated > MOST_REPEATS * spec.trials:
                return "nothing new was proposed any more"
            continue
        with _held(folder / f"{asked.number}.lock"):
            asked.set_user_attr(SETTING, name)
            found = _try(wish, at, Trial(asked.number + 1, setting, "done"), asked, metric)
            _tell(study, asked, found)
        known[name] = found
        trials.append(found)
    return None


def leading(recipe: Recipe) -> str:
    """The metric that decides. Raises SpecError."""
    from luthier.evaluation.validation import lead

    assert recipe.search is not None
    try:
        return lead(recipe.task.kind, recipe.search.metric)
    except ValueError as error:
        raise SpecError(f"search.metric: {error}.", remedy="Leave it out, or name one of those.") from None


def with_setting(wish: Wish, setting: Mapping[str, Any]) -> Wish:
    """The recipe with other values, checked as if a person had written them; the search itself is no part of it."""
    from .checking import check, check_answers

    words = tuple(f"{path}={json.dumps(value)}" for path, value in setting.items())
    try:
        other = again(wish, (*words, "search=null"))
        check(other.recipe)
        check_answers(other)
    except LuthierError as error:
        told = ", ".join(words)
        raise SpecError(f"search.over: with {told}: {error.message}", remedy=error.remedy) from None
    return other


def _try(wish: Wish, at: RunContext, trial: Trial, asked: optuna.Trial | None, metric: str) -> Trial:
    """Train it and ask it the validation rows, as far as that is not there already."""
    from luthier.evaluation.validation import STAGE as VALIDATE
    from luthier.evaluation.validation import ValidateSpec

    other = with_setting(wish, trial.setting)
    recipe, spec = other.recipe, wish.recipe.search
    assert spec is not None
    listens = asked if spec.prune and spec.comparable else None
    method = recipe.train.method.load()(recipe.train.method.settings)
    figure = watch_of(recipe.train.early_stopping, method.watch)
    higher = METRICS[metric].higher_is_better
    context = Trying(**vars(at), trial=listens, figure=figure, higher=higher)
    make = Make(context)
    began = time.monotonic()
    at.emit("trial.started", number=trial.number, setting=dict(trial.setting))
    try:
        so_far = trained(other, make, materials(other, context, make))
        measuring = recipe.evaluate.measuring(recipe.train.dtype)
        asks = ValidateSpec(
            metric=metric,
            max_tokens=measuring.max_tokens,
            dtype=measuring.dtype,
            device=measuring.device,
        )
        parents = {"model": so_far.model, "base": so_far.base, "dataset": so_far.dataset}
        validated = make("validation", VALIDATE, asks, parents)
    except Pruned as error:
        found = replace(trial, state="pruned", why=error.message, seconds=time.monotonic() - began)
    except (Interrupted, SpecError, MissingPart):
        raise
    except LuthierError as error:
        found = replace(trial, state="failed", why=error.message, seconds=time.monotonic() - began)
    else:
        assert so_far.model is not None and so_far.base is not None
        figures = _figures(context, validated, so_far.model, so_far.base, recipe)
        found = replace(trial, **figures, seconds=time.monotonic() - began)
    told = {k: v for k, v in asdict(found).items() if k not in ("value_R", "setting")}
    at.emit("trial.finished", **told, setting=dict(found.setting))
    return found


def _figures(
    at: RunContext, validated: Artifact, model: Artifact, base: Artifact, recipe: Recipe
) -> dict[str, Any]:
    """The metric with its interval and its resamples, and what the model cost."""
    from luthier.evaluation import compare, predictions, tasks
    from luthier.models.weights import describe

    folder = at.folder(validated)
    told = json.loads((folder / "validation.json").read_text(encoding="utf-8"))
    history = json.loads((at.folder(model) / "history.json").read_text(encoding="utf-8"))
    about = json.loads((at.folder(model) / "luthier.json").read_text(encoding="utf-8"))
    answers = predictions.by_system(predictions.read(folder / "predictions.parquet"))["tuned"]
    part = tasks.of(about["task"])
    values = compare.resampled(part.statistics(answers), len(answers), RESAMPLES, recipe.evaluate.seed)
    value_R = values[told["metric"]]
    low, high = compare.interval(value_R, recipe.evaluate.confidence, len(answers)) or (None, None)
    tokens = sum(step["tokens"] for step in history["steps"])
    return {
        "value": told["value"],
        "low": low,
        "high": high,
        "work": float(tokens) * describe(at.folder(base)).parameters,
        "model": model.digest,
        "value_R": value_R.tolist(),
    }


# -- Optuna -------------------------------------------------------------------------------------------------------------


def _study(wish: Wish, spec: SearchSpec, folder: Path, higher: bool) -> tuple[optuna.Study, Path]:
    """The study of this recipe and this search: another value anywhere makes another one, more trials or time do not."""
    try:
        import optuna
    except ImportError:
        raise missing_part("optuna", "search", "A search") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    recipe = wish.recipe.plain()
    for section in ("name", "budget", "postprocess"):
        recipe.pop(section)
    recipe["evaluate"].pop("gate")
    for limit in ("trials", "time", "money"):
        recipe["search"].pop(limit)
    key = key_of("search", recipe, 1, {})
    place = folder / key
    place.mkdir(parents=True, exist_ok=True)
    sampler = optuna.samplers.TPESampler(seed=spec.seed, n_startup_trials=max(4, spec.trials // 3))
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    study = optuna.create_study(
        study_name=key,
        storage=f"sqlite:///{place / 'trials.db'}",
        sampler=sampler,
        pruner=pruner if spec.prune and spec.comparable else optuna.pruners.NopPruner(),
        direction="maximize" if higher else "minimize",
        load_if_exists=True,
    )
    if study.trials:
        sampler.reseed_rng()  # or it would propose what it has proposed
    return study, place


def _earlier(wish: Wish, at: RunContext, study: optuna.Study, folder: Path, metric: str) -> list[Trial]:
    """Trials of earlier runs of this search. One that a process left when it died is begun again; one that another process is
    at is not waited for."""
    found = []
    for one in study.trials:
        if SETTING not in one.user_attrs:
            continue
        trial = Trial(one.number + 1, json.loads(one.user_attrs[SETTING]), "done")
        state = one.state.name
        if state == "COMPLETE":
            found.append(_try(wish, at, trial, None, metric))
        elif state == "RUNNING":
            with _held(folder / f"{one.number}.lock", wait=False) as mine:
                if mine:
                    done = _try(wish, at, trial, None, metric)
                    _tell(study, one.number, done)
                    found.append(done)
        else:
            why = one.user_attrs.get("why")
            found.append(replace(trial, state="pruned" if state == "PRUNED" else "failed", why=why))
    return found


def _importance(study: optuna.Study) -> dict[str, float]:
    """How much of the differences each field explains (fANOVA, Hutter et al. 2014); nothing of too few trials."""
    import optuna

    done = [one for one in study.trials if one.state.name == "COMPLETE"]
    if len(done) < FEWEST_EXPLAINED or len({one.value for one in done}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in found.items()}


def _tell(study: optuna.Study, asked: optuna.Trial | int, found: Trial) -> None:
    from optuna.trial import TrialState

    if found.why and not isinstance(asked, int):
        asked.set_user_attr("why", found.why)
    if found.state == "done":
        study.tell(asked, found.value)
    else:
        study.tell(asked, state=TrialState.PRUNED if found.state == "pruned" else TrialState.FAIL)


@contextmanager
def _held(path: Path, wait: bool = True) -> Iterator[bool]:
    """A lock that is gone with its process; whether it was had."""
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def _spent(spec: SearchSpec, trials: list[Trial], hourly: Money | None) -> str | None:
    """Why no further trial may begin."""
    seconds = sum(one.seconds for one in trials)
    usual = seconds / len(trials)
    if spec.time is not None and seconds + usual > spec.time:
        return f"the time is used up: {seconds:.0f} s of {spec.time:.0f} s, and a trial takes {usual:.0f} s"
    if spec.money is not None:
        assert hourly is not None
        cost = (seconds + usual) / 3600 * hourly.amount
        if cost > spec.money.amount:
            return f"the money is used up: one more trial would make it {Money(cost, hourly.currency)} of {spec.money}"
    return None


def _page(found: Searched, at: RunContext) -> Path:
    from luthier.store.files import write_atomic

    from .report.search_page import render

    path = at.home / "reports" / f"{found.name}-search.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, render(found).encode())
    return path
