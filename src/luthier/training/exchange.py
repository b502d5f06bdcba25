"""How long the processes of a parallel run take to exchange what a step makes them exchange: tried with numbers of the
same sizes, in as many processes, on this machine, with nothing to compute in between.

    ddp    the gradients of what moves, once a step                                  (parallel.Processes.add_gradients)
    fsdp   each block's weights twice and its gradients once, every round of micro-batches     (torch's fully_shard)

    python -m torch.distributed.run .. -m luthier.training.exchange JOB      one of the processes; not for people

A run may hide a part of it behind computing (fsdp fetches the next block early), so this is the most it can be. Not here:
machines of other names.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import ModelError
from luthier.core.stage import Context

from .launch import environment_of, processes_of
from .spec import TrainSpec

if TYPE_CHECKING:
    from .assembly import Assembly

TRIES = 5
PATIENCE_S = 300
POLL_S = 0.1


def sizes_of(made: Assembly) -> list[int]:
    """Numbers in each thing that is exchanged as one: of every parameter that moves (ddp), of every block and of what is
    around the blocks (fsdp)."""
    from .parallel import blocks_of

    if made.spec.parallel.kind == "ddp":
        return [p.numel() for _, p in made.parameters]
    blocks = [sum(p.numel() for p in block.parameters()) for block in blocks_of(made.model)]
    return [*blocks, sum(p.numel() for p in made.model.parameters()) - sum(blocks)]


def seconds_of(spec: TrainSpec, sizes: Sequence[int], rounds: int, at: Context) -> float:
    """A step's, the median of a few. `rounds` of micro-batches count for fsdp alone. Raises ModelError when the processes
    cannot speak to each other, and Interrupted when the user asks to stop."""
    job = {"kind": spec.parallel.kind, "sizes": list(sizes), "rounds": rounds, "device": spec.device}
    processes = processes_of(spec)
    with tempfile.TemporaryDirectory(prefix="luthier-exchange-") as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(job), encoding="utf-8")
        command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        with open(path.with_name("said"), "wb") as said:
            torchrun = subprocess.Popen(  # noqa: S603
                [sys.executable, *command, "-m", "luthier.training.exchange", str(path)],
                stdout=said,
                stderr=said,
                env=environment_of(processes),
                start_new_session=True,  # Ctrl-C is this process's to pass on
            )
            try:
                _wait(torchrun, processes, at)
            finally:
                if torchrun.poll() is None:  # asked, torchrun ends its workers; killed, it would leave them
                    torchrun.terminate()
                    torchrun.wait()
        if torchrun.returncode or not path.with_name("told.json").is_file():
            told = path.with_name("said").read_text(encoding="utf-8", errors="replace")
            raise _failed(processes, "\n".join(told.splitlines()[-10:]))
        return float(json.loads(path.with_name("told.json").read_text(encoding="utf-8")))


def _wait(torchrun: subprocess.Popen[bytes], processes: int, at: Context) -> None:
    begun = time.monotonic()
    while torchrun.poll() is None:
        at.check()
        if time.monotonic() - begun > PATIENCE_S:
            raise _failed(processes, f"they took longer than {PATIENCE_S} s")
        time.sleep(POLL_S)


def _failed(processes: int, why: str) -> ModelError:
    return ModelError(
        f"{processes} processes could not exchange gradients on this machine: {why}",
        remedy="Leave train.parallel out, or find out what keeps them from speaking to each other (a firewall, say).",
    )


def main(path: str) -> int:
    import torch
    import torch.distributed as dist

    from .parallel import joined

    job = json.loads(Path(path).read_text(encoding="utf-8"))
    spec = TrainSpec.model_validate({"parallel": {"kind": job["kind"]}, "device": job["device"],
                                     "adapter": {"kind": "full"}})  # fmt: skip
    with joined(spec) as world:
        device = torch.device("cuda", torch.cuda.current_device()) if _on_gpu(spec) else torch.device("cpu")
        things = _things(job, world.size, device)
        taken = []
        for _ in range(TRIES + 1):
            world.barrier()
            begun = time.perf_counter()
            for _ in range(job["rounds"] if job["kind"] == "fsdp" else 1):
                _exchange(job["kind"], world, things)
            if device.type == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - begun)
        if dist.get_rank() == 0:  # the first try pays for connections
            told = Path(path).with_name("told.json")
            told.write_text(json.dumps(statistics.median(taken[1:])), encoding="utf-8")
    return 0


def _on_gpu(spec: TrainSpec) -> bool:
    import torch

    return spec.device != "cpu" and torch.cuda.is_available()


def _things(job: dict[str, Any], size: int, device: Any) -> list[Any]:
    """ddp: parameters with gradients; fsdp: (a shard, room for the whole)."""
    import torch

    if job["kind"] == "ddp":
        found = []
        for k, n in enumerate(job["sizes"]):
            p = torch.nn.Parameter(torch.zeros(n, device=device))
            p.grad = torch.ones(n, device=device)
            found.append((str(k), p))
        return found
    shards = [torch.ones(-(-n // size), device=device) for n in job["sizes"]]
    room = torch.empty(max(map(len, shards)) * size, device=device)  # one block is whole at a time
    return [(shard, room[: len(shard) * size]) for shard in shards]


def _exchange(kind: str, world: Any, things: list[Any]) -> None:
    import torch.distributed as dist

    if kind == "ddp":
        world.add_gradients(things)
        return
    for shard, whole in things:
        for _ in range(2):
            dist.all_gather_into_tensor(whole, shard)
        dist.reduce_scatter_tensor(shard, whole)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
