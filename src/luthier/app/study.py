"""The study of a search: what was proposed, by whom it is worked on, and what came of it. Optuna's own storage keeps it, so that
processes and hosts share trials and a stop loses none.

    home/searches/KEY/trials.db     a search of this home alone: its processes share it
    search.storage                  a database for several homes; on PostgreSQL in a schema of its own, `luthier_search`

A trial belongs to one process at a time. Processes of one home know by a lock whether another still lives; those of other homes
by its heartbeat. What a dead one left is taken up with the settings it had, three times at most. All figures that decide stand
in the study (`user_attrs`), so every process chooses alike, and time and money go on where they were.

Not here: training and judging a trial (app/trying).
"""

from __future__ import annotations

import base64
import fcntl
import json
import threading
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.artifact import digest_of
from luthier.core.errors import LuthierError, SpecError, StoreError, missing_part
from luthier.core.spec import redact, resolve
from luthier.training.search import SearchSpec, Trial
from luthier.training.space import JUDGED

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from .recipe import Recipe

BEAT_S = 10
GRACE_S = 60
"""Without a heartbeat for so long a trial of another home is another's to take."""
ATTEMPTS = 3
SCHEMA = "luthier_search"
SETTING, TECHNIQUE, RESULT, ATTEMPT, SPENT, HOME = (
    "setting", "technique", "result", "attempt", "seconds", "home",
)  # fmt: skip
AGAIN = "again"  # the setting of an attempt that died elsewhere
AS_WRITTEN = "as_written"
RECIPE, ROWS, REFERENCES = "recipe", "rows", "references"  # of the study
FIGURES = ("value", "low", "high", "work", "money", "why", "model", "home")


def fingerprint(recipe: Recipe) -> dict[str, Any]:
    """What one study is of: another value anywhere makes another study; more trials, time or money do not. Of `postprocess` it is
    what trials' answers go through, with files put in (line.self_contained)."""
    plain = recipe.plain()
    for section in ("name", "budget", "deploy"):
        plain.pop(section)
    plain["postprocess"] = {name: plain["postprocess"][name] for name in JUDGED}
    plain["evaluate"].pop("gate", None)
    for limit in ("trials", "time", "money", "storage", "study", "keep"):
        plain["search"].pop(limit)
    return plain


def differs(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """The paths at which two plain values differ.

    >>> list(differs({"a": {"b": 1}, "c": 2}, {"a": {"b": 2}, "c": 2}))
    ['a.b']
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for name in dict.fromkeys([*one, *other]):
            yield from differs(one.get(name), other.get(name), f"{path}.{name}".lstrip("."))
    elif one != other:
        yield path


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
        return {name: float(share) for name, share in found.items()}


def trial_of(one: FrozenTrial) -> Trial:
    """What the study says of a trial that came to an end."""
    told = one.user_attrs
    if _given_up(one):
        why = f"{told.get(ATTEMPT, 1)} processes ended while they were at it"
        setting = json.loads(told[SETTING])
        return Trial(one.number, setting, "failed", technique=told.get(TECHNIQUE), why=why)
    result = dict(told[RESULT])
    value_R = unpacked(result.pop("value_R"))
    value_K = tuple(result.pop("value_K"))
    setting, technique = json.loads(told[SETTING]), told.get(TECHNIQUE)
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

    return tuple(np.frombuffer(zlib.decompress(base64.b85decode(text)), "<f4").astype(float).tolist())


# -- opening ------------------------------------------------------------------------------------------------------------


def open_study(
    recipe: Recipe, higher: bool, home: Path, environ: Mapping[str, str], *, join: bool = False
) -> Study:
    """The study of this recipe, made where it is not there yet. Raises SpecError where the name belongs to another recipe, or
    where there is nothing to `join`; StoreError for a database that cannot be had."""
    optuna = _optuna()
    spec = recipe.search
    assert spec is not None
    wished = fingerprint(recipe)
    key = digest_of(wished)
    folder = home / "searches" / (key if spec.storage is None else f"{key}-shared")
    folder.mkdir(parents=True, exist_ok=True)
    name = key if spec.storage is None else spec.study or recipe.name
    url, shown = (
        (f"sqlite:///{folder / 'trials.db'}", str(folder))
        if spec.storage is None
        else _url(spec.storage, environ)
    )
    directions = ["maximize" if higher else "minimize"]
    directions += ["minimize"] if spec.objectives == ["quality", "cost"] else []
    with _told(spec, environ, shown):
        storage = _storage(optuna, url, spec)
        known = set(optuna.get_all_study_names(storage))
        if join and name not in known:
            raise SpecError(
                f"there is no search {spec.study or recipe.name!r} to join in {shown}.",
                remedy="luthier search RECIPE begins it; others then join it, with the same recipe.",
            )
        sampler = optuna.samplers.TPESampler(
            seed=spec.seed, n_startup_trials=max(4, spec.trials // 3), multivariate=False, constant_liar=True
        )
        study = optuna.create_study(
            study_name=name, storage=storage, sampler=sampler, pruner=_pruner(optuna, spec),
            directions=directions, load_if_exists=True,
        )  # fmt: skip
        kept = study.user_attrs.get(RECIPE)
        if kept is None:
            study.set_user_attr(RECIPE, wished)
        elif digest_of(kept) != key:
            others = ", ".join(list(differs(kept, wished))[:6])
            raise SpecError(
                f"the search {name!r} in {shown} is of another recipe; they differ in {others}.",
                remedy="Give this one a name of its own: --set search.study=NAME",
            )
        if not any(AS_WRITTEN in one.user_attrs for one in study.get_trials(deepcopy=False)):
            study.enqueue_trial({}, user_attrs={AS_WRITTEN: True})
        if study.trials:
            sampler.reseed_rng()  # or it would propose what it has proposed
    return Study(name, spec, higher, folder, _own(home), study, shown)


def same_rows(study: Study, digest: str) -> None:
    """Raise SpecError where another process of the study has other rows under the same recipe."""
    kept = study.told.user_attrs.get(ROWS)
    if kept is None:
        study.told.set_user_attr(ROWS, digest)
    elif kept != digest:
        raise SpecError(
            f"the rows here are not those of the search {study.name!r}: its dataset is {kept[:12]}, and here it is {digest[:12]}.",
            remedy="Give every host the same data files, or begin a search of their own: --set search.study=NAME",
        )


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise missing_part("optuna", "search", "A search") from None
    import warnings

    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    warnings.filterwarnings(
        "ignore", message="Heartbeat of storage is supposed"
    )  # ours beats beside ask and tell
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    return optuna


def _pruner(optuna: Any, spec: SearchSpec) -> Any:
    if spec.pruner == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    if spec.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource="auto", reduction_factor=3)
    return optuna.pruners.NopPruner()


def _url(written: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """(the address with its secrets, the address as it may be shown)."""
    import sqlalchemy as sa

    try:
        address = sa.make_url(resolve(written, environ))
    except sa.exc.ArgumentError:
        raise SpecError(
            "search.storage is not a database URL.",
            remedy="Write for example postgresql://user:${PGPASSWORD}@host/searches or sqlite:////shared/searches.db",
        ) from None
    if address.drivername in ("postgresql", "postgres"):
        address = address.set(drivername="postgresql+psycopg")
    if address.get_backend_name() not in ("sqlite", "postgresql"):
        raise SpecError(
            f"search.storage: {address.get_backend_name()} is not a database that searches are kept in.",
            remedy="Use PostgreSQL, or SQLite where one host is enough.",
        )
    shown = redact(address.render_as_string(hide_password=True), written, environ)
    return address.render_as_string(hide_password=False), shown


def _storage(optuna: Any, url: str, spec: SearchSpec) -> Any:
    """Optuna's tables have the name of Luthier's for their version, so they never stand in one schema."""
    import sqlalchemy as sa

    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("postgresql"):
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.execute(sa.text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        engine.dispose()
        options["connect_args"] = {"options": f"-csearch_path={SCHEMA}"}
    else:
        options = {"connect_args": {"timeout": 60}}
        engine = sa.create_engine(url)
        with engine.connect() as connection:
            if "artifacts" in sa.inspect(connection).get_table_names():
                raise SpecError(
                    "search.storage is the file in which Luthier keeps its records.",
                    remedy="Name another file, as in sqlite:////shared/searches.db",
                )
        engine.dispose()
    return optuna.storages.RDBStorage(
        url, engine_kwargs=options, heartbeat_interval=BEAT_S, grace_period=GRACE_S,
        heartbeat_stale_trial_callback=_again if spec.storage else None,
    )  # fmt: skip


def _again(study: optuna.Study, left: FrozenTrial) -> None:
    """What a dead process of another home left is proposed again, with the settings it had."""
    told = left.user_attrs
    attempt = int(told.get(ATTEMPT, 1))
    if SETTING not in told or attempt >= ATTEMPTS:
        return
    fixed = {**left.params}
    keep = {ATTEMPT: attempt + 1, AGAIN: [told[SETTING], told.get(TECHNIQUE)]}
    study.enqueue_trial(fixed, user_attrs=keep)


def _own(home: Path) -> str:
    """An id of this home, wherever it is mounted."""
    path = home / "searches" / "home-id"
    with suppress(FileExistsError), path.open("x") as handle:
        handle.write(uuid.uuid4().hex)
    return path.read_text() or "new"


@contextmanager
def _told(spec: SearchSpec, environ: Mapping[str, str], shown: str) -> Iterator[None]:
    """What the database's driver says, without what nobody should read."""
    import sqlalchemy as sa

    try:
        yield
    except LuthierError:
        raise
    except ModuleNotFoundError as error:
        raise missing_part(str(error.name), "postgres", "A search on PostgreSQL") from None
    except Exception as error:
        if not isinstance(error, sa.exc.SQLAlchemyError | OSError) and "optuna" not in type(error).__module__:
            raise
        said = redact(str(getattr(error, "orig", None) or error), spec.storage or "", environ)
        raise StoreError(
            f"the searches in {shown} cannot be read or written: {said.strip().splitlines()[0]}.",
            remedy="Check that the database runs and that the address and credentials of search.storage are right.",
        ) from None


@contextmanager
def _plainly(study: Study) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise StoreError(
            f"the searches in {study.shown} cannot be reached any more: {type(error).__name__}.",
            remedy="Check that the database runs; the same command goes on from here.",
        ) from None
