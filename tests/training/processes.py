"""Run by test_parallel.py: the stage in two processes that talk through gloo, as torchrun would start them.

    python processes.py BASE DATASET FOLDER '[{"name": ..., "spec": ..., "stop_after_checks": ..., "others": ...}, ...]'

`others` are folders by role, in place of the base and the dataset or beside them. Each process of a case is a fork of this one, in which everything is imported and warm. Of each case the events of
process 0 are left in FOLDER/NAME/events.json, and how each process ended is printed.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import torch
import torch.distributed
from torch.distributed.fsdp import fully_shard

from luthier.core.artifact import Artifact
from luthier.core.errors import Interrupted
from luthier.core.testing import FakeContext
from luthier.training import assembly, loop, proof
from luthier.training.parallel import deal
from luthier.training.spec import TrainSpec
from luthier.training.train import train

WARM = (fully_shard, assembly, loop, proof, deal)
SIZE = 2


def work(rank: int, port: int, base: Path, dataset: Path, folder: Path, case: dict) -> str:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(SIZE),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }
    there = {
        "base": base,
        "dataset": dataset,
        **{role: Path(one) for role, one in case.get("others", {}).items()},
    }
    inputs = {role: Artifact(role, role, {}, 1, {}, ()) for role in there}
    folders = {inputs[role].digest: one for role, one in there.items()}
    at = FakeContext(folder, folders=folders)
    if rank == 1:  # whichever process hears of it, all stop
        at.stop_after_checks = case.get("stop_after_checks")
    out, scratch = folder / "out", folder / "scratch"
    for path in (out, scratch):
        path.mkdir(parents=True, exist_ok=True)
    ended = "done"
    try:
        train(TrainSpec.model_validate(case["spec"]), inputs, out, scratch, at)
    except Interrupted as stop:
        ended = stop.message
    if rank == 0:
        told = [{"kind": event.kind, **event.data} for event in at.events]
        (folder / "events.json").write_text(json.dumps(told))
    return ended


def main() -> None:
    torch.set_num_threads(1)  # a fork has none of its parent's threads
    base, dataset, folder = map(Path, sys.argv[1:4])
    for case in json.loads(sys.argv[4]):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        own = folder / case["name"]
        own.mkdir(parents=True)
        children = []
        for rank in range(SIZE):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    (own / f"ended-{rank}").write_text(work(rank, port, base, dataset, own, case))
                    code = 0
                finally:
                    os._exit(code)
            children.append(child)
        failed = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        if any(failed):
            raise SystemExit(f"{case['name']}: the processes ended with {failed}")
        print(json.dumps([(own / f"ended-{rank}").read_text() for rank in range(SIZE)]), flush=True)


if __name__ == "__main__":
    main()
