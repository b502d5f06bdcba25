"""How a study is opened: in which database, and whether it is this recipe's and of these rows.

Not here: what a study holds, and who works on what (app/study).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.artifact import digest_of
from luthier.core.errors import LuthierError, SpecError, StoreError, missing_part
from luthier.core.spec import redact
from luthier.store.database import address_of
from luthier.training.search import SearchSpec
from luthier.training.space import JUDGED

from .study import AGAIN, ATTEMPT, ATTEMPTS, BEAT_S, SETTING, TECHNIQUE, Study

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from .recipe import Recipe

GRACE_S = 60
"""Without a heartbeat for so long a trial of another home is another's to take."""
SCHEMA = "luthier_search"
AS_WRITTEN = "as_written"
RECIPE, ROWS = "recipe", "rows"  # of the study


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
    if spec.storage is None:
        url, shown = f"sqlite:///{folder / 'trials.db'}", str(folder)
    else:
        address, shown = address_of(spec.storage, environ, "search.storage", SpecError)
        url = address.render_as_string(hide_password=False)
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
