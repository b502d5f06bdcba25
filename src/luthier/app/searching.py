"""A search: several settings of one recipe are trained and asked the validation rows, and the best one's line is walked on.

    recipe as written ─┐
    setting 1 ─────────┼─▶ trying ─▶ study ─▶ choose ─▶ the rest of the line, with the test rows, once
    setting 2 ─────────┘

Trials are ordinary models of the store, known by their keys: a search that is begun again finds what is there and goes on. Other
processes and hosts may take part (app/study); whoever finishes last sees all trials, and all choose alike.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import Busy, DataError, SpecError, StoreError
from luthier.core.units import Money
from luthier.evaluation.spec import APPLIES, METRICS
from luthier.training.search import SearchSpec, Trial, choose, standard_error
from luthier.training.space import bounds, fits, suggest

from .context import RunContext
from .line import self_contained
from .recipe import Recipe, Wish
from .study import (
    AGAIN,
    ATTEMPT,
    ATTEMPTS,
    REFERENCES,
    SPENT,
    Study,
    packed,
    trial_of,
    unpacked,
)
from .study_opening import AS_WRITTEN, open_study, same_rows
from .trying import attempt, page_of, sets_of, with_setting, yardstick

if TYPE_CHECKING:
    import optuna

MOST_REPEATS = 20
FEWEST_EXPLAINED = 6
WAIT_S = 1.0


@dataclass(frozen=True)
class Reference:
    """A system without training on the same validation rows. `behind`: whether the kept trial is better by more than one standard
    error of their difference."""

    system: str
    value: float
    behind: bool


@dataclass(frozen=True)
class Searched:
    """`sets` are the words (`--set`) that make the recipe the one that was kept; `front` the trials that none beats in both
    quality and cost; `why` says why that one was kept."""

    name: str
    metric: str
    higher: bool
    trials: list[Trial]
    kept: int
    best: int
    why: str
    front: tuple[int, ...]
    sets: tuple[str, ...]
    stopped: str | None
    seconds: float
    money: Money | None = None
    importance: Mapping[str, float] = field(default_factory=dict)
    references: Sequence[Reference] = ()
    storage: str | None = None
    path: Path | None = field(default=None)

    def plain(self) -> dict[str, Any]:
        hidden = ("value_R", "home")
        trials = [{k: v for k, v in asdict(one).items() if k not in hidden} for one in self.trials]
        told = {k: v for k, v in vars(self).items() if k not in ("trials", "path", "references", "money")}
        return {
            **told, "sets": list(self.sets), "front": list(self.front), "trials": trials,
            "money": list(self.money) if self.money else None,
            "references": [asdict(one) for one in self.references], "report": self.path and str(self.path),
        }  # fmt: skip

    @property
    def kept_trial(self) -> Trial:
        return next(one for one in self.trials if one.number == self.kept)


def search_line(
    wish: Wish, at: RunContext, hourly: Money | None, *, join: bool = False, workers: int = 1
) -> Searched:
    """Raises SpecError for values that the recipe could not have, before anything is spent. `join`: take part in a search that
    is there; `workers`: how many processes of this machine take part, this one included."""
    spec, metric = wish.recipe.search, leading(wish.recipe)
    assert spec is not None
    _check(wish, spec)
    higher = METRICS[metric].higher_is_better
    study = open_study(self_contained(wish), higher, at.home, at.environ, join=join)
    at.emit(
        "search.started", name=wish.recipe.name, trials=spec.trials, metric=metric,
        over=sorted([*spec.over, *spec.techniques]),
    )  # fmt: skip
    same_rows(study, yardstick(wish, at).digest)
    with _workers(wish, at, study, workers - 1):
        stopped = _go_on(wish, at, study, metric, hourly)
        _wait(at, study, wish, metric, hourly)
    return _finished(wish, at, study, metric, stopped, hourly)


def leading(recipe: Recipe) -> str:
    """The metric that decides. Raises SpecError."""
    from luthier.evaluation.validation import lead

    assert recipe.search is not None
    try:
        return lead(recipe.task.kind, recipe.search.metric)
    except ValueError as error:
        raise SpecError(f"search.metric: {error}.", remedy="Leave it out, or name one of those.") from None


def _check(wish: Wish, spec: SearchSpec) -> None:
    for setting in bounds(spec.over, spec.techniques):
        with_setting(wish, setting)
    split = wish.recipe.data.split
    if spec.folds is not None and split.test + spec.folds * split.validation > 1:
        raise SpecError(
            f"search.folds: {spec.folds} parts of {split.validation:g} and a test of {split.test:g} are more than all rows.",
            remedy=f"Lower folds, or data.split.validation to at most {(1 - split.test) / spec.folds:.3g}.",
        )


# -- trials -------------------------------------------------------------------------------------------------------------


def _go_on(wish: Wish, at: RunContext, study: Study, metric: str, hourly: Money | None) -> str | None:
    """Take trials until there are enough; why it ended earlier, if it did."""
    spec = wish.recipe.search
    assert spec is not None
    repeated = 0
    while True:
        at.check()
        study.retire()
        _take_up(wish, at, study, metric, hourly)
        done = study.trials()
        _refuse_broken(done)
        if len(study.counted()) >= spec.trials:
            return None
        known = {_name(json.loads(one.user_attrs["setting"])): one for one in study.counted()}
        if spec.grid is not None and len(known) > spec.grid:  # one is the recipe as written
            return f"all {spec.grid} settings were tried"
        if why := _spent(spec, done, study.seconds(), hourly):
            return why
        asked = study.ask()
        setting, technique = _proposed(asked, spec)
        if seen := known.get(_name(setting)):
            if "result" in seen.user_attrs:
                study.repeat(asked, trial_of(seen))
            else:
                study.drop(asked)  # another process is at this very setting
            repeated += 1
            if repeated > MOST_REPEATS * spec.trials:
                return "nothing new was proposed any more"
            continue
        with study.held(asked.number):
            trial = study.take(asked, setting, technique)
            if study.surplus(asked.number):
                study.drop(asked)
                continue
            _do(wish, at, study, trial, asked, metric, hourly)


def _proposed(asked: optuna.Trial, spec: SearchSpec) -> tuple[dict[str, Any], str | None]:
    """The setting of a trial: the recipe's own, what a process elsewhere left, or something new."""
    if asked.user_attrs.get(AS_WRITTEN):
        return {}, None
    if left := asked.user_attrs.get(AGAIN):
        setting = _believed(json.loads(left[0]), left[1], spec)
        if setting:
            suggest(asked, spec.over, spec.techniques)  # the same once more, for the study to learn from
        return setting, left[1]
    return suggest(asked, spec.over, spec.techniques)


def _believed(setting: dict[str, Any], technique: str | None, spec: SearchSpec) -> dict[str, Any]:
    """Raises StoreError for a setting in the study that this recipe could not have."""
    if setting and not fits(setting, technique, spec.over, spec.techniques):
        raise StoreError(
            "the search holds a setting that this recipe does not allow; somebody else has written to it.",
            remedy="Begin a search of its own: --set search.study=NAME",
        )
    return setting


def _name(setting: Mapping[str, Any]) -> str:
    return json.dumps(setting, sort_keys=True)


def _take_up(wish: Wish, at: RunContext, study: Study, metric: str, hourly: Money | None) -> None:
    """What processes of this home left when they died, with the settings it had."""
    for left, asked in study.abandoned():
        tries = int(left.user_attrs.get(ATTEMPT, 1))
        technique = left.user_attrs.get("technique")
        setting = _believed(json.loads(left.user_attrs["setting"]), technique, study.spec)
        trial = Trial(left.number, setting, "done", technique=technique)
        if tries >= ATTEMPTS:
            why = f"{tries} processes ended while they were at it"
            study.tell(
                asked, replace(trial, state="failed", why=why, seconds=left.user_attrs.get(SPENT, 0.0))
            )
            continue
        asked.set_user_attr(ATTEMPT, tries + 1)
        _do(wish, at, study, trial, asked, metric, hourly, float(left.user_attrs.get(SPENT, 0.0)))


def _do(
    wish: Wish,
    at: RunContext,
    study: Study,
    trial: Trial,
    asked: optuna.Trial,
    metric: str,
    hourly: Money | None,
    before_s: float = 0.0,
) -> None:
    spec = study.spec
    asks = APPLIES[wish.recipe.task.kind] if spec.techniques and not trial.setting else ()
    while True:
        try:
            with study.beating(asked, before_s):
                found, references = attempt(wish, at, trial, asked, metric, hourly, before_s, asks)
            break
        except Busy:  # another process makes the same model or dataset just now
            at.check()
            time.sleep(WAIT_S)
    if references:
        told = {name: [value, packed(value_R)] for name, (value, value_R) in references.items()}
        study.told.set_user_attr(REFERENCES, told)
    study.tell(asked, replace(found, home=study.mine))


def _refuse_broken(done: Sequence[Trial]) -> None:
    written = next((one for one in done if not one.setting), None)
    if written is not None and written.state == "failed":
        raise DataError(
            f"the recipe as written cannot be trained: {written.why}",
            remedy="Correct the recipe first; a search starts from it.",
        )


def _spent(spec: SearchSpec, done: Sequence[Trial], seconds: float, hourly: Money | None) -> str | None:
    """Why no further trial may begin. `seconds` are of all trials, of earlier runs and of other processes too."""
    if not done:
        return None
    usual = sum(one.seconds for one in done) / len(done)
    if spec.time is not None and seconds + usual > spec.time:
        return f"the time is used up: {seconds:.0f} s of {spec.time:.0f} s, and a trial takes {usual:.0f} s"
    if spec.money is not None:
        assert hourly is not None
        cost = (seconds + usual) / 3600 * hourly.amount
        if cost > spec.money.amount:
            return f"the money is used up: one more trial would make it {Money(cost, hourly.currency)} of {spec.money}"
    return None


# -- other processes ----------------------------------------------------------------------------------------------------


@contextmanager
def _workers(wish: Wish, at: RunContext, study: Study, more: int) -> Iterator[None]:
    """Processes of this machine that take trials of the same study. What they say stands in files beside the study; one that dies
    costs its trial's time, and no more."""
    started = []
    sets = [word for one in wish.overrides for word in ("--set", one)]
    command = [sys.executable, "-m", "luthier", "search", wish.source, "--join", "--json", *sets]
    environ = {**os.environ, **at.environ, "LUTHIER_HOME": str(at.home)}
    try:
        for n in range(more):
            with (study.folder / f"worker-{n + 1}.log").open("w") as log:
                started.append(
                    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ)  # noqa: S603
                )
            at.emit("search.worker", pid=started[-1].pid, log=str(study.folder / f"worker-{n + 1}.log"))
        yield
        for one in started:
            one.wait()
    finally:
        for one in started:
            if one.poll() is None:
                one.terminate()
                one.wait()


def _wait(at: RunContext, study: Study, wish: Wish, metric: str, hourly: Money | None) -> None:
    """Until no other process is at a trial, so that whoever chooses sees all of them."""
    while running := study.running():
        at.check()
        at.progress("waiting for trials of other processes", 0, len(running))
        study.retire()
        _take_up(wish, at, study, metric, hourly)
        time.sleep(WAIT_S)


# -- the end ------------------------------------------------------------------------------------------------------------


def _finished(
    wish: Wish, at: RunContext, study: Study, metric: str, stopped: str | None, hourly: Money | None
) -> Searched:
    spec, trials = study.spec, study.trials()
    _refuse_broken(trials)
    chosen = choose(trials, higher=study.higher, rule=spec.keep)
    if chosen is None:
        raise DataError(
            "no trial of the search came to its end.",
            remedy="Look at what each says: luthier search RECIPE --json",
        )
    seconds = study.seconds()
    found = Searched(
        wish.recipe.name, metric, study.higher, trials, chosen.kept.number, chosen.best.number, chosen.why,
        chosen.front, sets_of(chosen.kept.setting), stopped, seconds,
        hourly and Money(seconds / 3600 * hourly.amount, hourly.currency),
        study.importance(FEWEST_EXPLAINED), _references(study, chosen.kept), study.shown if spec.storage else None,
    )  # fmt: skip
    told = {k: v for k, v in found.plain().items() if k not in ("trials", "report")}
    at.emit("search.finished", **told, tried=len(trials))
    return replace(found, path=_page(found, at))


def _references(study: Study, kept: Trial) -> list[Reference]:
    sign = 1.0 if study.higher else -1.0
    found = []
    for name, (value, text) in study.told.user_attrs.get(REFERENCES, {}).items():
        other = Trial(-1, {}, "done", value, value_R=unpacked(text))
        ahead = sign * ((kept.value or 0.0) - value)
        found.append(Reference(name, value, ahead > standard_error(replace(kept, value_K=()), other)))
    return found


def _page(found: Searched, at: RunContext) -> Path:
    from luthier.store.files import write_atomic

    from .report.search_page import render

    path = page_of(at.home, found.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, render(found).encode())
    return path
