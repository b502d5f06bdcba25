"""A checkpoint is a transaction: whatever fails, and wherever, the last good one stays and no damage is loaded."""

import errno
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from luthier.core.errors import StoreError
from luthier.core.testing import arm
from luthier.training.checkpoint import Checkpoints
from luthier.training.tensors import pieces

POINTS = (
    "checkpoint.write",
    "checkpoint.fsync",
    "checkpoint.rename",
    "checkpoint.renamed",
    "checkpoint.remove",
    "files.fsync",
)


def tensors(seed):
    torch.manual_seed(seed)
    return {"b": torch.randn(3, 2), "a": torch.randn(4).bfloat16(), "step": torch.tensor(float(seed))}


def save(found, seed, **other):
    return found.save({"step": seed}, tensors(seed), {"m": torch.ones(seed)}, **other)[0]


def newest(found):
    damage = []
    return found.newest(lambda name, why: damage.append((name, why))), damage


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def test_what_went_in_comes_out(tmp_path):
    found = Checkpoints(tmp_path / "c", "x")
    assert newest(found) == (None, [])
    assert save(found, 3) == "checkpoint-000001"
    one, damage = newest(Checkpoints(tmp_path / "c", "x"))
    assert damage == [] and one.state == {"step": 3}
    assert same(one.weights(), tensors(3)) and same(one.optimizer(), {"m": torch.ones(3)})


def test_our_safetensors_are_the_librarys(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load

    for given in (tensors(1), {}, {"empty": torch.zeros(0, 3), "half": torch.ones(3, dtype=torch.float16)}):
        data = b"".join(pieces(given))
        assert same(load(data), given)
        (tmp_path / "x.safetensors").write_bytes(data)
        with safe_open(tmp_path / "x.safetensors", "pt") as file:
            assert sorted(file.keys()) == sorted(given)


def test_the_newest_two_stay_and_what_they_need(tmp_path):
    found = Checkpoints(tmp_path / "c", "x")
    best = save(found, 1)
    for seed in (2, 3, 4):
        save(found, seed, needs=[best])
    assert found._names() == ["checkpoint-000001", "checkpoint-000003", "checkpoint-000004"]
    save(found, 5, needs=["checkpoint-000005"])  # itself the best
    assert found._names() == [
        "checkpoint-000001",
        "checkpoint-000004",
        "checkpoint-000005",
    ]  # 4 still needs 1
    save(found, 6, needs=["checkpoint-000005"])
    assert found._names() == ["checkpoint-000005", "checkpoint-000006"]


@pytest.mark.parametrize("how", ["flip", "cut", "lengthen", "remove", "empty"])
@pytest.mark.parametrize(
    "file", ["weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
)
def test_no_damage_is_loaded(tmp_path, file, how):
    found = Checkpoints(tmp_path / "c", "x")
    save(found, 1)
    path = found.folder / save(found, 2) / file
    sound = path.read_bytes()
    places = range(0, len(sound), max(1, len(sound) // 40)) if how == "flip" else [0]
    for place in places:
        if how == "flip":
            path.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        elif how == "remove":
            path.unlink()
        else:
            path.write_bytes({"cut": sound[:-1], "lengthen": sound + b" ", "empty": b""}[how])
        one, damage = newest(found)
        if how == "lengthen" and file == "manifest.json":  # a space after JSON changes nothing that is read
            assert one.state == {"step": 2}
            continue
        assert one.state == {"step": 1}, place
        assert [name for name, _ in damage] == ["checkpoint-000002"] and "checkpoint-000002" in damage[0][1]


def test_a_checkpoint_without_its_best_is_passed_over(tmp_path):
    found = Checkpoints(tmp_path / "c", "x")
    best = save(found, 1)
    save(found, 2, needs=[best])
    (found.folder / best / "weights.safetensors").write_bytes(b"")
    one, damage = newest(found)
    assert one is None and [name for name, _ in damage] == ["checkpoint-000002", "checkpoint-000001"]
    assert "has 0 bytes instead of" in damage[0][1]


def test_checkpoints_of_other_work_are_not_gone_on_from(tmp_path):
    save(Checkpoints(tmp_path / "c", "x"), 1)
    one, damage = newest(Checkpoints(tmp_path / "c", "y"))
    assert one is None and damage == [("checkpoint-000001", "checkpoint-000001 belongs to other work")]


def test_a_checkpoint_under_anothers_name_is_not_taken_for_it(tmp_path):
    found = Checkpoints(tmp_path / "c", "x")
    save(found, 1)
    (found.folder / save(found, 2)).rename(found.folder / "checkpoint-000007")
    one, damage = newest(found)
    assert one.state == {"step": 1}
    assert damage == [("checkpoint-000007", "checkpoint-000007 is checkpoint-000002 under another name")]


def test_random_harm_is_always_seen():
    script = Path(__file__).parents[2] / "benchmarks" / "damaged_checkpoints.py"
    told = subprocess.run([sys.executable, str(script), "--times", "60"], capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr[-2000:]
    assert json.loads(told.stdout)["detected"] == 60


def passes(tmp_path, point):
    """How often a save passes a fault point."""
    for k in itertools.count(1):
        found = Checkpoints(tmp_path / f"count-{point}-{k}", "x")
        for seed in (1, 2, 3):
            save(found, seed)
        with arm(point, error=KeyError("stop"), at_pass=k):
            try:
                save(found, 4)
            except KeyError:
                continue
        return k - 1
    raise AssertionError


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("point", POINTS)
def test_a_failure_at_every_write_sync_and_rename(tmp_path, point, number):
    total = passes(tmp_path, point)
    assert total >= 1
    for k in range(1, total + 1):
        found = Checkpoints(tmp_path / f"{number}-{point}-{k}", "x")
        for seed in (1, 2, 3):
            save(found, seed)
        with (
            arm(point, error=OSError(number, os.strerror(number)), at_pass=k),
            pytest.raises(StoreError) as told,
        ):
            save(found, 4)
        assert str(found.folder) in str(told.value)
        if number == errno.ENOSPC:
            assert (
                "is full" in str(told.value)
                and "free)" in str(told.value)
                and "run the same command again" in str(told.value)
            )
        one, damage = newest(Checkpoints(found.folder, "x"))
        # After the rename the new one counts; before it the old one stands. There is never a damaged one.
        assert damage == [] and one.state["step"] in (3, 4)
        assert same(one.weights(), tensors(one.state["step"]))
        again = Checkpoints(found.folder, "x")
        save(again, 5)
        assert newest(again)[0].state == {"step": 5} and len(list(found.folder.iterdir())) == 2


def test_what_a_dead_process_left_is_swept_away(tmp_path):
    found = Checkpoints(tmp_path / "c", "x")
    save(found, 1)
    (found.folder / ".partial-checkpoint-000002").mkdir()
    (found.folder / ".partial-checkpoint-000002" / "weights.safetensors").write_bytes(b"half")
    again = Checkpoints(found.folder, "x")
    assert [path.name for path in found.folder.iterdir()] == ["checkpoint-000001"]
    assert save(again, 2) == "checkpoint-000002"
