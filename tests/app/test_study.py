"""A study that processes share: claims, what dead ones leave, whose study it is, what stands in it. No model is trained here."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from luthier.app import study as studies
from luthier.app import study_opening as opening
from luthier.app.recipe import read_recipe
from luthier.app.searching import _spent
from luthier.core.errors import MissingPart, SpecError, StoreError
from luthier.core.units import Money
from luthier.training.search import SearchSpec, Trial, choose

RECIPE = """\
name: router
base: tiny
task: {kind: classify, instruction: "Route the message."}
data: {sources: [{files: rows.jsonl, map: {user: text, label: queue}}]}
search: {over: {train.seed: {low: 0, high: 1000000}}, trials: TRIALS, storage: "STORAGE"}
"""
# What a worker process does: takes trials until there are enough; a trial's figures follow from its setting.
WORKER = """\
import json, os, sys, time
from pathlib import Path
from luthier.app.study_opening import open_study
from luthier.app.recipe import read_recipe
from luthier.app.searching import _proposed
from luthier.training.search import Trial, choose
recipe = read_recipe(Path(sys.argv[1])).recipe
study = open_study(recipe, True, Path(sys.argv[2]), os.environ, join=sys.argv[3] == "join")
mine = []
while len(study.counted()) < recipe.search.trials:
    asked = study.ask()
    setting, technique = _proposed(asked, recipe.search)
    with study.held(asked.number):
        trial = study.take(asked, setting, technique)
        if study.surplus(asked.number):
            study.drop(asked)
            continue
        with study.beating(asked, 0.0):
            time.sleep(0.05)
        value = setting.get("train.seed", 500000) / 1e6
        done = Trial(trial.number, setting, "done", value, work=1.0 + value, seconds=2.0, value_R=(value, value + 0.01))
        study.tell(asked, done)
        mine.append(trial.number)
while study.running():
    time.sleep(0.05)
found = choose(study.trials(), higher=True)
print(json.dumps({"mine": mine, "kept": found.kept.number, "seconds": study.seconds(), "trials": len(study.trials())}))
"""


def _recipe(folder: Path, storage: str, trials: int = 6, **more: str) -> Path:
    path = folder / "recipe.yaml"
    text = RECIPE.replace("STORAGE", storage).replace("TRIALS", str(trials))
    for old, new in more.items():
        text = text.replace(old, new)
    path.write_text(text)
    return path


def _open(path: Path, home: Path, join: bool = False, environ=None):
    return opening.open_study(read_recipe(path).recipe, True, home, environ or {}, join=join)


def _start(path: Path, home: Path, how: str) -> subprocess.Popen:
    command = [sys.executable, "-c", WORKER, str(path), str(home), how]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _two(path: Path, homes: tuple[Path, Path], trials: int) -> None:
    _open(path, homes[0])  # begun, so that the second can join
    workers = [_start(path, home, how) for home, how in zip(homes, ("begin", "join"), strict=True)]
    told = []
    for worker in workers:
        out, error = worker.communicate(timeout=240)
        assert worker.returncode == 0, error
        told.append(json.loads(out.splitlines()[-1]))
    taken = sorted(number for one in told for number in one["mine"])
    assert len(taken) == len(set(taken)) == trials  # each trial by one of them, and no more than were wished
    assert told[0]["kept"] == told[1]["kept"]
    assert told[0]["trials"] == told[1]["trials"] == trials
    # two seconds each, as told; never lost and never counted twice
    assert told[0]["seconds"] == pytest.approx(2.0 * trials)


def test_two_processes_of_one_home_share_the_trials_and_choose_alike(tmp_path):
    _two(_recipe(tmp_path, f"sqlite:///{tmp_path}/shared.db"), (tmp_path / "home", tmp_path / "home"), 6)


@pytest.mark.postgres
def test_two_homes_share_the_trials_on_postgresql(tmp_path, postgres_url):
    pytest.importorskip("psycopg")
    _two(_recipe(tmp_path, postgres_url), (tmp_path / "one", tmp_path / "two"), 6)
    # beside Luthier's own records: both have a table alembic_version, each in a schema of its own
    from luthier.store.database import Database

    Database(postgres_url, {})
    assert _open(tmp_path / "recipe.yaml", tmp_path / "one", join=True).trials()
    assert postgres_url.split("@")[0] not in _open(tmp_path / "recipe.yaml", tmp_path / "one").name


def test_what_a_killed_process_left_is_taken_up_with_its_settings_and_its_time(tmp_path):
    path, home = _recipe(tmp_path, f"sqlite:///{tmp_path}/shared.db"), tmp_path / "home"
    study = _open(path, home)
    hold = WORKER.replace(
        "time.sleep(0.05)\n        value", "print('held', flush=True); time.sleep(600)\n        value"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", hold, str(path), str(home), "join"], stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout.readline().strip() == "held"
    assert list(study.abandoned()) == []  # it lives
    (left,) = study.running()
    worker.kill()
    worker.wait()
    study.told.set_user_attr("x", 1)  # the study itself goes on
    with_it = list(study.abandoned())
    assert [one.number for one, _ in with_it] == [left.number]
    _, asked = with_it[0]
    asked.set_user_attr(studies.SPENT, 7.5)
    found = Trial(
        left.number,
        json.loads(left.user_attrs[studies.SETTING]),
        "done",
        0.5,
        work=1.0,
        seconds=9.5,
        value_R=(0.5,),
    )
    study.tell(asked, found)
    assert [one.seconds for one in study.trials()] == [9.5]
    assert study.running() == []


def test_a_trial_of_another_home_without_a_heartbeat_is_proposed_anew_three_times_at_most(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(studies, "BEAT_S", 1)
    monkeypatch.setattr(opening, "BEAT_S", 1)
    monkeypatch.setattr(opening, "GRACE_S", 1)
    path = _recipe(tmp_path, f"sqlite:///{tmp_path}/shared.db")
    one, other = _open(path, tmp_path / "one"), _open(path, tmp_path / "two", join=True)
    from luthier.app.searching import _proposed

    def dies():
        asked = one.ask()
        setting, technique = _proposed(asked, one.spec)
        one.take(asked, setting, technique)
        one.told._storage.record_heartbeat(asked._trial_id)
        time.sleep(2.5)
        return setting

    first = dies()
    assert list(other.abandoned()) == []  # whether it lives is not for a lock of this home to say
    other.retire()
    assert other.running() == []
    assert dies() == first
    other.retire()
    assert dies() == first
    other.retire()
    (lost,) = other.trials()
    assert lost.state == "failed"
    assert "3 processes ended" in lost.why
    asked = other.ask()
    assert _proposed(asked, other.spec)[0] != first


def test_one_name_is_one_recipe(tmp_path):
    storage = f"sqlite:///{tmp_path}/shared.db"
    _open(_recipe(tmp_path, storage), tmp_path / "home")
    _open(_recipe(tmp_path, storage, trials=9), tmp_path / "home")  # more trials of the same search
    with pytest.raises(SpecError, match=r"of another recipe; they differ in task\.instruction") as error:
        _open(_recipe(tmp_path, storage, Route="Send"), tmp_path / "home")
    assert "search.study=NAME" in error.value.remedy
    with pytest.raises(SpecError, match="no search 'router' to join"):
        _open(_recipe(tmp_path, f"sqlite:///{tmp_path}/other.db"), tmp_path / "home", join=True)
    study = _open(_recipe(tmp_path, storage), tmp_path / "home")
    opening.same_rows(study, "a" * 64)
    opening.same_rows(study, "a" * 64)
    with pytest.raises(SpecError, match="not those of the search 'router'"):
        opening.same_rows(study, "b" * 64)


def test_a_storage_that_cannot_be_had_is_told_without_its_secrets(tmp_path):
    written = "postgresql://luthier:${PGPASSWORD}@127.0.0.1:1/searches"
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError) as error:
        _open(_recipe(tmp_path, written), tmp_path / "home", environ={"PGPASSWORD": "hunter2"})
    assert "hunter2" not in str(error.value)
    assert "cannot be read or written" in error.value.message
    with pytest.raises(SpecError, match="PGPASSWORD is not set"):
        _open(_recipe(tmp_path, written), tmp_path / "home")
    for url, told in (("mysql://host/x", "mysql is not a database"), ("nonsense", "not a database URL")):
        with pytest.raises((SpecError, MissingPart), match=told):
            _open(_recipe(tmp_path, url), tmp_path / "home")


def test_the_records_own_file_is_no_place_for_trials(tmp_path):
    from luthier.store.database import Database

    Database(f"sqlite:///{tmp_path}/luthier.db", {})
    with pytest.raises(SpecError, match="keeps its records"):
        _open(_recipe(tmp_path, f"sqlite:///{tmp_path}/luthier.db"), tmp_path / "home")


def test_figures_come_back_as_they_went_in_and_decide_alike(tmp_path):
    path = _recipe(tmp_path, f"sqlite:///{tmp_path}/shared.db")
    study = _open(path, tmp_path / "home")
    told = []
    for value in (0.5, 0.75):
        asked = study.ask()
        study.take(asked, {"train.seed": int(value * 100)} if asked.number else {}, None)
        one = Trial(asked.number, {"train.seed": 1}, "done", value, value - 0.1, value + 0.1, 5.0, 3.0, 0.25, None, "m" * 64,
                    value_K=(value, value), value_R=(value, 0.5))  # fmt: skip
        study.tell(asked, one)
        told.append(one)
    again = _open(path, tmp_path / "two", join=True).trials()
    assert [(t.value, t.low, t.work, t.seconds, t.money, t.value_R, t.value_K) for t in again] == [
        (t.value, t.low, t.work, t.seconds, t.money, t.value_R, t.value_K) for t in told
    ]
    assert choose(again, higher=True).best.number == 1


def test_time_and_money_of_earlier_runs_count():
    done = [Trial(0, {}, "done", 0.5, seconds=10.0), Trial(1, {"a": 1}, "done", 0.5, seconds=20.0)]
    spec = SearchSpec.model_validate({"over": {"train.seed": [1, 2]}, "time": "1 min"})
    assert _spent(spec, done, 44.0, None) is None  # 44 + 15, the mean of both
    assert "46 s of 60 s" in _spent(spec, done, 46.0, None)
    spec = SearchSpec.model_validate({"over": {"train.seed": [1, 2]}, "money": "1 USD"})
    # an hour costs 60: a minute is one
    assert _spent(spec, done, 44.0, Money(60, "USD")) is None
    assert "1.02 USD of 1.00 USD" in _spent(spec, done, 46.0, Money(60, "USD"))
    assert _spent(spec, [], 1e9, Money(60, "USD")) is None  # the recipe as written is always tried


@pytest.mark.parametrize("planted", [{"value_R": "no base85 \u00e9"}, {"value_R": 7}, {}, {"unknown": 1}])
def test_a_trial_that_no_search_wrote_is_told_and_no_traceback(planted):
    from types import SimpleNamespace

    from luthier.app.study import trial_of
    from luthier.core.errors import StoreError

    told = {"setting": "{}", "result": {"value": 0.5, **planted}}
    alien: Any = SimpleNamespace(number=3, user_attrs=told, state=SimpleNamespace(name="COMPLETE"))
    with pytest.raises(StoreError, match="trial 3 of the search was not written by Luthier"):
        trial_of(alien)


def test_numbers_beyond_any_search_are_not_unpacked(monkeypatch):
    from luthier.app import study

    monkeypatch.setattr(study, "MOST_ROWS", 100)
    assert len(study.unpacked(study.packed([0.5] * 100))) == 100
    with pytest.raises(ValueError, match="more than 100"):
        study.unpacked(study.packed([0.5] * 101))


def test_what_one_field_explains_is_not_told_and_of_two_it_is(tmp_path):
    import optuna

    real = optuna.distributions.FloatDistribution(0, 1)
    shared = {
        "one": [{"rate": n / 8} for n in range(8)],
        # rows says nothing: the value is the rate's alone
        "two": [{"rate": n / 8, "rows": n * 5 % 8 / 8} for n in range(8)],
    }
    found = {}
    for name, settings in shared.items():
        told = optuna.create_study()
        for params in settings:
            told.add_trial(
                optuna.trial.create_trial(
                    params=params, distributions=dict.fromkeys(params, real), value=params["rate"]
                )
            )
        found[name] = studies.Study(name, None, False, tmp_path, "", told, "").importance(6)
    assert found["one"] == {}
    assert found["two"]["rate"] > 0.8 and sum(found["two"].values()) == pytest.approx(1.0)
