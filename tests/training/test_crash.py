"""kill -9 at any moment, run again: the same bytes as a run that was never disturbed."""

import json
import os
import subprocess
import sys
from pathlib import Path

# Deaths by (fault point, passing). One checkpoint of this run is 8 writes and 4 fsyncs of files at the very least
# (its tensors are written one by one); a step is several backward passes.
DEATHS = [
    [["loop.backward", 1]],  # before the first step is done
    [["loop.backward", 7]],  # between two micro-batches
    [["loop.gradients", 3]],  # before the weights change
    [["loop.stepped", 4]],  # after they have
    [["checkpoint.write", 2]],  # inside the very first checkpoint
    [["checkpoint.write", 150]],  # inside a later one's files
    [["checkpoint.fsync", 3]],  # its files written, not yet durable
    [["checkpoint.fsync", 14]],  # at a manifest or beside it
    [["files.fsync", 2]],  # among the tokens
    [["checkpoint.rename", 1]],  # the first one whole, but without its name
    [["checkpoint.rename", 3]],
    [["checkpoint.renamed", 3]],
    [["checkpoint.remove", 1]],
    [
        ["checkpoint.remove", 2],
        ["checkpoint.write", 60],
        ["loop.stepped", 1],
        ["checkpoint.rename", 1],
    ],  # again and again
]


def test_killed_at_any_moment_the_end_is_the_same(tmp_path, base, dataset):
    driver = Path(__file__).with_name("crash.py")
    told = subprocess.run(
        [sys.executable, str(driver), str(base), str(dataset), str(tmp_path), json.dumps(DEATHS)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert told.returncode == 0, told.stderr[-2000:]
    undisturbed, *killed = map(json.loads, told.stdout.splitlines())
    assert "adapter_model.safetensors" in undisturbed["files"]
    for deaths, one in zip(DEATHS, killed, strict=True):
        assert all(one["died"]), deaths
        assert one["files"] == undisturbed["files"], deaths
    # Only those who died before the first checkpoint had its name began from nothing.
    anew = [
        [["checkpoint.write", 2]],
        [["checkpoint.fsync", 3]],
        [["files.fsync", 2]],
        [["checkpoint.rename", 1]],
    ]
    assert [deaths for deaths, one in zip(DEATHS, killed, strict=True) if not one["resumed"]] == anew


def test_random_kills_over_lora_full_and_preference_runs(tmp_path):
    """The short form of the storm: six kills at random moments, then the same bytes."""
    script = Path(__file__).parents[2] / "benchmarks" / "crash_storm.py"
    told = subprocess.run(
        [sys.executable, str(script), "--kills", "6"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert told.returncode == 0, told.stdout + told.stderr[-2000:]
    *kinds, total = map(json.loads, told.stdout.splitlines())
    assert [one["kind"] for one in kinds] == ["lora", "full", "dpo"]
    assert total["kills"] == 6 and total["identical"] == total["runs"] and total["failed"] == 0
