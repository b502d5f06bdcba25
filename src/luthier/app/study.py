"""The study of a search: what was proposed, by whom it is worked on, and what came of it. Optuna's own storage keeps it, so that
processes and hosts share trials and a stop loses none.

    home/searches/KEY/trials.db     a search of this home alone: its processes share it
    search.storage                  a database for several homes; on PostgreSQL in a schema of its own, `luthier_search`

A trial belongs to one process at a time. Processes of one home know by a lock whether another still lives; those of other homes
by its heartbeat. What a dead one left is taken up with the settings it had, three times at most. All figures that decide stand
in the study (`user_attrs`), so every process chooses alike, and time and money go on where they were.

Not here: which database that is, and whether the study is this recipe's (app/study_opening); training and judging a trial
(app/trying).
"""

from __future__ import annotations

import base64
import fcntl
import json
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import StoreError
from luthier.training.search import SearchSpec, Trial

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

BEAT_S = 10
ATTEMPTS = 3
SETTING, TECHNIQUE, RESULT, ATTEMPT, SPENT, HOME = (
    "setting", "technique", "result", "attempt", "seconds", "home",
)  # fmt: skip
AGAIN = "again"  # the setting of an attempt that died elsewhere
REFERENCES = "references"  # of the study
MOST_ROWS = 10_000_000
"""Validation rows that a trial may tell of; what is more was not written by a search."""
FIGURES = ("value", "low", "high", "work", "money", "why", "model", "home")


@dataclass
class Study:
    """One process's hold of a study. `name` is what it is called; `mine` is this home's own id."""

    name: str
    spec: SearchSpec
    higher: bool
    folder: Path
    mine: str
    told: optuna.Study
    shown: str  # where it stands, without secrets

    # -- reading ------------------------------------------------------------------------------------------------------

    def frozen(self) -> list[FrozenTrial]:
        """Every setting that is one of its own, in the order of their numbers; repeats and what has no setting yet are left out."""
        found = [one for one in self.told.get_trials(deepcopy=False) if SETTING in one.user_attrs]
        return sorted(found, key=lambda one: one.number)

    def trials(self) -> list[Trial]:
        """Those that came to an end."""
        return [trial_of(one) for one in self.frozen() if RESULT in one.user_attrs or _given_up(one)]

    def running(self) -> list[FrozenTrial]:
        """Those that somebody is at, or was."""
        return [one for one in self.frozen() if one.state.name == "RUNNING"]

    def seconds(self) -> float:
        """Of all attempts at all trials, as far as their heartbeats tell."""
        return sum(float(one.user_attrs.get(SPENT, 0.0)) for one in self.frozen())

    # -- taking -------------------------------------------------------------------------------------------------------

    def ask(self) -> optuna.Trial:
        """What to try next; the recipe as written comes first."""
        return self.told.ask()

    def take(self, asked: optuna.Trial, setting: Mapping[str, Any], technique: str | None) -> Trial:
        """Make it this process's own."""
        asked.set_user_attr(HOME, self.mine)
        asked.set_user_attr(TECHNIQUE, technique)
        asked.set_user_attr(SETTING, json.dumps(setting, sort_keys=False))
        return Trial(asked.number, dict(setting), "done", technique=technique)

    def surplus(self, number: int) -> bool:
        """Whether as many as are wished were taken before it: two processes may ask at once. What another has asked for and not
        yet taken counts too."""
        asked = [o.number for o in self.told.get_trials(deepcopy=False) if o.state.name == "RUNNING"]
        before = {one.number for one in self.counted()} | set(asked)
        return sum(one < number for one in before) >= self.spec.trials

    def counted(self) -> list[FrozenTrial]:
        """Trials that count towards `search.trials`: done, given up, failed, or at work."""
        return [
            one
            for one in self.frozen()
            if RESULT in one.user_attrs or _given_up(one) or one.state.name == "RUNNING"
        ]

    def abandoned(self) -> Iterator[tuple[FrozenTrial, optuna.Trial]]:
        """Trials whose process is no longer there, each held for as long as the caller is at it."""
        import optuna

        for one in self.running():
            if one.user_attrs.get(HOME) != self.mine:
                continue
            with self.held(one.number, wait=False) as had:
                fresh = self.told.get_trials(deepcopy=False)[one.number]
                if had and fresh.state.name == "RUNNING":
                    yield fresh, optuna.Trial(self.told, fresh._trial_id)

    def retire(self) -> None:
        """Trials of other homes that have no heartbeat any more: their settings are proposed once more."""
        from optuna.storages import fail_stale_trials

        if self.spec.storage:
            with _plainly(self):
                fail_stale_trials(self.told)

    @contextmanager
    def held(self, number: int, wait: bool = True) -> Iterator[bool]:
        """A lock of this home that is gone with its process; whether it was had."""
        with (self.folder / f"{number}.lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True

    @contextmanager
    def beating(self, trial: optuna.Trial, before_s: float) -> Iterator[None]:
        """Heartbeats while the block runs, each with the seconds that the trial has taken so far."""
        began, stop = time.monotonic(), threading.Event()
        storage: Any = self.told._storage

        def note() -> None:
            trial.set_user_attr(SPENT, before_s + time.monotonic() - began)

        def beat() -> None:
            while not stop.wait(BEAT_S):
                with suppress(Exception):  # a database that is away for a moment must not end the training
                    storage.record_heartbeat(trial._trial_id)
                    note()

        storage.record_heartbeat(trial._trial_id)
        thread = threading.Thread(target=beat, name="luthier-heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            with suppress(Exception):
                note()

    # -- telling ------------------------------------------------------------------------------------------------------

    def tell(self, asked: optuna.Trial, found: Trial) -> None:
        """What came of it; figures first, so that no process sees an end without them. Of a trial that others gave up meanwhile,
        because it had no heartbeat, nothing is told: its setting was proposed anew."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        figures = {name: getattr(found, name) for name in FIGURES}
        figures |= {"state": found.state, "value_K": list(found.value_K), "value_R": packed(found.value_R)}
        try:
            asked.set_user_attr(SPENT, found.seconds)
            asked.set_user_attr(RESULT, figures)
        except UpdateFinishedTrialError:
            return
        if found.state == "done":
            self.told.tell(asked, self.values(found))
        else:
            self.told.tell(asked, state=TrialState.PRUNED if found.state == "pruned" else TrialState.FAIL)

    def repeat(self, asked: optuna.Trial, seen: Trial) -> None:
        """A setting that was tried already: what it gave, under another number."""
        from optuna.trial import TrialState

        if seen.state == "done":
            self.told.tell(asked, self.values(seen))
        else:
            self.told.tell(asked, state=TrialState.FAIL)

    def drop(self, asked: optuna.Trial) -> None:
        from optuna.trial import TrialState

        self.told.tell(asked, state=TrialState.FAIL)

    def values(self, found: Trial) -> list[float]:
        assert found.value is not None
        both = self.spec.objectives == ["quality", "cost"]
        return [found.value, found.work or 0.0] if both else [found.value]

    # -- what mattered ------------------------------------------------------------------------------------------------

    def importance(self, fewest: int) -> dict[str, float]:
        """How much of the differences each field explains (fANOVA, Hutter et al. 2014), over the trials that have the field's
        companions too; nothing of too few trials. The same for every process: it follows from the trials alone."""
        import optuna

        done = [one for one in self.told.get_trials() if one.state.name == "COMPLETE" and one.params]
        done = [one for one in sorted(done, key=lambda one: one.number) if one.values]
        if len(done) < fewest or len({one.values[0] for one in done}) < 2:
            return {}
        alone = optuna.create_study(direction="maximize" if self.higher else "minimize")
        for one in done:
            copy = optuna.trial.create_trial(
                params=one.params, distributions=one.distributions, value=one.values[0]
            )
            alone.add_trial(copy)
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        try:
            found = optuna.importance.get_param_importances(alone, evaluator=evaluator)
        except (RuntimeError, ValueError):  # no field is in all trials
            return {}
        if len(found) < 2:  # of one field that is always all
            return {}
        return {name: float(share) for name, share in found.items()}


def trial_of(one: FrozenTrial) -> Trial:
    """What the study says of a trial that came to an end. Raises StoreError for what no search has written: others may write to a
    shared database."""
    try:
        return _trial(one)
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise StoreError(
            f"trial {one.number} of the search was not written by Luthier ({type(error).__name__}).",
            remedy="Look who else writes to its database, and begin a search of another name: --set search.study=NAME",
        ) from None


def _trial(one: FrozenTrial) -> Trial:
    told = one.user_attrs
    setting, technique = json.loads(told[SETTING]), told.get(TECHNIQUE)
    if _given_up(one):
        why = f"{told.get(ATTEMPT, 1)} processes ended while they were at it"
        return Trial(one.number, setting, "failed", technique=technique, why=why)
    result = dict(told[RESULT])
    value_R = unpacked(result.pop("value_R"))
    value_K = tuple(result.pop("value_K"))
    spent = float(told.get(SPENT, 0.0))
    return Trial(
        one.number, setting, value_R=value_R, value_K=value_K, technique=technique, seconds=spent, **result
    )


def _given_up(one: FrozenTrial) -> bool:
    """Whether too many processes elsewhere died at it."""
    lost = one.state.name == "FAIL" and RESULT not in one.user_attrs
    return lost and int(one.user_attrs.get(ATTEMPT, 1)) >= ATTEMPTS


def packed(value_R: Sequence[float]) -> str:
    """Numbers as text for a database: float32, so that every process reads the same.

    >>> list(unpacked(packed([0.5, 0.25])))
    [0.5, 0.25]
    """
    import numpy as np

    return base64.b85encode(zlib.compress(np.asarray(value_R, "<f4").tobytes(), 9)).decode()


def unpacked(text: str) -> tuple[float, ...]:
    import numpy as np

    reader = zlib.decompressobj()
    plain = reader.decompress(base64.b85decode(text), 4 * MOST_ROWS)
    if not reader.eof:
        raise ValueError(f"more than {MOST_ROWS:,} numbers")
    return tuple(np.frombuffer(plain, "<f4").astype(float).tolist())


@contextmanager
def _plainly(study: Study) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise StoreError(
            f"the searches in {study.shown} cannot be reached any more: {type(error).__name__}.",
            remedy="Check that the database runs; the same command goes on from here.",
        ) from None
