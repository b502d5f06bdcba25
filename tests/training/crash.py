"""Run by test_crash.py: the stage in processes that die by SIGKILL at a fault point, then the stage again.

    python crash.py BASE DATASET FOLDER '[[["loop.backward", 3]], ...]'

Each case is a list of deaths, one after another, and ends with a run that nothing disturbs. The first line of JSON is
of a run in this very process; each other run is a fork of it, in which everything is imported and warm.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import torch

from luthier.core.artifact import Artifact
from luthier.core.testing import FakeContext, arm
from luthier.training.spec import TrainSpec
from luthier.training.train import STAGE

SPEC = TrainSpec.model_validate(
    {
        "adapter": {"kind": "lora", "rank": 4, "dropout": 0.1},
        "epochs": 1,
        "dtype": "fp32",
        "learning_rate": 0.01,
        "batch": {"rows": 8, "micro_tokens": 150},
        "checkpoint_every": 1,
        "validate_every": 2,
    }
)


def run(base: Path, dataset: Path, folder: Path, death: tuple[str, int] | None) -> bool:
    """Whether it came to its end."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            stage(base, dataset, folder, death)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status):
        return False
    if os.WEXITSTATUS(status):
        raise SystemExit(f"the stage failed in {folder} after {death}")
    return True


def stage(base: Path, dataset: Path, folder: Path, death: tuple[str, int] | None) -> None:
    inputs = {role: Artifact(role, role, {}, 1, {}, ()) for role in ("base", "dataset")}
    at = FakeContext(folder, folders={inputs["base"].digest: base, inputs["dataset"].digest: dataset})
    out, scratch = folder / "out", folder / "scratch"
    for path in (out, scratch):
        path.mkdir(parents=True, exist_ok=True)
    for path in out.iterdir():  # what `Store.working` does
        path.unlink()
    with arm(death[0], at_pass=death[1]) if death else nullcontext():
        STAGE.function(SPEC, inputs, out, scratch, at)
    (folder / "resumed").write_text(str(sum(event.kind == "resumed" for event in at.events)))


def main() -> None:
    torch.set_num_threads(1)  # a fork has none of its parent's threads
    base, dataset, folder = map(Path, sys.argv[1:4])
    stage(base, dataset, folder / "whole", None)
    tell(folder / "whole", [])
    for i, deaths in enumerate(json.loads(sys.argv[4])):
        own = folder / str(i)
        died = [not run(base, dataset, own, tuple(death)) for death in deaths]
        run(base, dataset, own, None)
        tell(own, died)


def tell(folder: Path, died: list[bool]) -> None:
    digests = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((folder / "out").iterdir())
    }
    resumed = (folder / "resumed").read_text() == "1"
    print(json.dumps({"died": died, "files": digests, "resumed": resumed}), flush=True)


if __name__ == "__main__":
    main()
