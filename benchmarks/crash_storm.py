"""Does a kill ever cost more than time? Tiny runs (LoRA, full, DPO) are killed by SIGKILL at random moments and started
again, unattended, until they come to their end; every file must then be that of a run nobody disturbed.

    python benchmarks/crash_storm.py [--kills 200] [--seed 0]

Prints one line of JSON per kind and a last one for all; exit 1 if any run failed or ended in other bytes.
Each life is a fork of one process in which everything is imported and warm, so that kills fall into the work itself:
reading tokens, the proof, steps, validations, checkpoints, the files at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from luthier.core.artifact import Artifact
from luthier.core.testing import FakeContext
from luthier.training.spec import TrainSpec
from luthier.training.train import STAGE

WORDS = ("parcel", "refund", "invoice", "error", "tracking", "payment", "charged", "page", "shows", "twice")
SHARED = {
    "epochs": 1,
    "dtype": "fp32",
    "learning_rate": 0.01,
    "batch": {"rows": 8, "micro_tokens": 150},
    "checkpoint_every": 1,
    "validate_every": 2,
}
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"adapter": {"kind": "lora", "rank": 4, "dropout": 0.1}},
    "full": {"adapter": {"kind": "full"}, "learning_rate": 0.001, "keep": "average"},
    "dpo": {"method": "dpo", "adapter": {"kind": "lora", "rank": 4, "dropout": 0.1}},
}


def write_rows(folder: Path, train: int = 40, validation: int = 10) -> Path:
    """Questions with an answer and a worse one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from luthier.data.records import RECORD

    folder.mkdir(parents=True)
    counts = {"train": train, "validation": validation, "test": 0}
    task = {"kind": "chat"}
    for split, n in counts.items():
        rows = []
        for i in range(n):
            rng = random.Random(f"{split}/{i}")  # noqa: S311
            said = [rng.choice(WORDS) for _ in range(rng.randint(2, 20))]
            messages = [
                {"role": "user", "content": " ".join(said)},
                {"role": "assistant", "content": said[0]},
            ]
            row = {"id": f"{split}-{i:04d}", "messages": messages, "source": "storm", "weight": 1.0}
            rows.append({**row, "origin": f"storm:{i}", "rejected": f"{said[-1]} {said[-1]}"})
        pq.write_table(pa.Table.from_pylist(rows, RECORD), folder / f"{split}.parquet")
    (folder / "dataset.json").write_text(json.dumps({"task": task, "counts": counts}))
    return folder


def stage(kind: str, base: Path, dataset: Path, folder: Path) -> None:
    """The stage as the line runs it; leaves whether it went on from a checkpoint in `resumed`."""
    inputs = {role: Artifact(role, role, {}, 1, {}, ()) for role in ("base", "dataset")}
    folders = {inputs["base"].digest: base, inputs["dataset"].digest: dataset}
    at = FakeContext(folder, folders=folders)
    out, scratch = folder / "out", folder / "scratch"
    shutil.rmtree(out, ignore_errors=True)  # what `Store.working` does
    for path in (out, scratch):
        path.mkdir(parents=True, exist_ok=True)
    STAGE.function(TrainSpec.model_validate({**SHARED, **KINDS[kind]}), inputs, out, scratch, at)
    (folder / "resumed").write_text(str(sum(event.kind == "resumed" for event in at.events)))


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted((folder / "out").iterdir())}


def live(kind: str, base: Path, dataset: Path, folder: Path, kill_after_s: float | None) -> str:
    """One life of the run in a fork: "killed", "done" or "failed"."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            stage(kind, base, dataset, folder)
            code = 0
        finally:
            os._exit(code)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(
            process, signal.SIGKILL
        )  # of a process that has ended and is not yet waited for: nothing happens
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status):
        return "killed"
    return "failed" if os.WEXITSTATUS(status) else "done"


def storm(
    kind: str, kills: int, base: Path, dataset: Path, folder: Path, rng: random.Random
) -> dict[str, Any]:
    """Runs one after another until `kills` lives were ended; every run is brought to its end and compared."""
    stage(kind, base, dataset, folder / "whole")  # warms everything up too
    whole = digests(folder / "whole")
    begun = time.monotonic()
    assert live(kind, base, dataset, folder / "again", None) == "done"
    usual_s = time.monotonic() - begun
    told = {
        "kind": kind,
        "kills": 0,
        "runs": 0,
        "resumed": 0,
        "identical": 0,
        "failed": 0,
        "usual_s": usual_s,
    }
    if digests(folder / "again") != whole:
        told["failed"] += 1
    while told["kills"] < kills:
        own = folder / f"run-{told['runs']}"
        told["runs"] += 1
        ended = "killed"
        while ended == "killed":
            left = told["kills"] < kills
            ended = live(kind, base, dataset, own, rng.uniform(0, usual_s) if left else None)
            told["kills"] += ended == "killed"
        if ended == "failed":
            told["failed"] += 1
            continue
        told["resumed"] += (own / "resumed").read_text() == "1"
        same = digests(own) == whole
        told["identical"] += same
        told["failed"] += not same
        shutil.rmtree(own)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    wish = parser.parse_args()
    torch.set_num_threads(1)  # a fork has none of its parent's threads
    from luthier.models.testing import tiny_model

    rng, started = random.Random(wish.seed), time.monotonic()  # noqa: S311
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = tiny_model(folder / "base", hidden=16, heads=2, kv_heads=1)
        dataset = write_rows(folder / "dataset")
        for i, kind in enumerate(KINDS):
            share = wish.kills // len(KINDS) + (i < wish.kills % len(KINDS))
            found.append(storm(kind, share, base, dataset, folder / kind, rng))
            print(json.dumps(found[-1]), flush=True)
    total = {k: sum(one[k] for one in found) for k in ("kills", "runs", "resumed", "identical", "failed")}
    print(json.dumps({"kind": "all", **total, "seconds": round(time.monotonic() - started, 1)}))
    sys.exit(1 if total["failed"] or total["identical"] != total["runs"] else 0)


if __name__ == "__main__":
    main()
