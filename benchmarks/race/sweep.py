"""Which of TRL's settings is the fastest here? Each is tried once on the chats; the fastest that takes the same steps as
everybody becomes `TRL_BEST` in contestants.py. The same for LLaMA-Factory.

    python benchmarks/race/sweep.py [--only NAME,NAME] [--steps 3] [--into FOLDER]
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import peers
from contestants import LLAMAFACTORY_DEFAULT, TRL_DEFAULT, Contestant
from race import ROOT, environments, machine, told, write_json, written
from runs import fresh, run

_HALF: dict[str, Any] = {"weights": "bfloat16", "bf16": True, "checkpointing": False}
TRL: dict[str, dict[str, Any]] = {
    "default": dict(TRL_DEFAULT),
    "no-checkpointing": {**TRL_DEFAULT, "checkpointing": False},
    "half": {**TRL_DEFAULT, "weights": "bfloat16"},
    "half-8": {**_HALF, "rows": 8},
    "half-4": {**_HALF, "rows": 4},
    "half-2": {**_HALF, "rows": 2},
    "half-1": {**_HALF, "rows": 1},
    "half-8-sorted": {**_HALF, "rows": 8, "sorted": True},
    "half-4-sorted": {**_HALF, "rows": 4, "sorted": True},
    "half-2-sorted": {**_HALF, "rows": 2, "sorted": True},
    "half-2-sorted-no-autocast": {**_HALF, "bf16": False, "rows": 2, "sorted": True},
    "half-1-no-autocast": {**_HALF, "bf16": False, "rows": 1},
    "half-4-sorted-no-autocast": {**_HALF, "bf16": False, "rows": 4, "sorted": True},
    "half-2-sorted-eager": {**_HALF, "rows": 2, "sorted": True, "attention": "eager"},
    "half-4-padding-free": {**_HALF, "rows": 4, "padding_free": True},
    "half-8-padding-free": {**_HALF, "rows": 8, "padding_free": True},
    "half-4-group-by-length": {**_HALF, "rows": 4, "sampling": "group_by_length"},  # steps of its own
    "half-2-sorted-compiled": {**_HALF, "rows": 2, "sorted": True, "compile": True},
    "fp32-2-sorted": {**_HALF, "weights": "float32", "bf16": False, "rows": 2, "sorted": True},
    "fp32-4-sorted": {**_HALF, "weights": "float32", "bf16": False, "rows": 4, "sorted": True},
}
LLAMAFACTORY: dict[str, dict[str, Any]] = {
    "default": dict(LLAMAFACTORY_DEFAULT),
    "rows-2": {**LLAMAFACTORY_DEFAULT, "rows": 2},
    "rows-2-no-checkpointing": {"rows": 2, "checkpointing": False},
    "rows-2-sorted-no-checkpointing": {"rows": 2, "checkpointing": False, "sorted": True},
    "rows-4-sorted-no-checkpointing": {"rows": 4, "checkpointing": False, "sorted": True},
    "rows-1-no-checkpointing": {"rows": 1, "checkpointing": False},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=lambda text: text.split(","), help="these settings, as trl:half-2")
    parser.add_argument("--track", default="chats")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--torch", default="torch==2.13.0")
    parser.add_argument("--folder", type=Path, default=ROOT / ".bench")
    parser.add_argument("--into", type=Path, default=ROOT / ".bench" / "results")
    given = parser.parse_args()
    bench = given.folder.resolve()
    for folder in (bench / "environments", given.into):
        folder.mkdir(parents=True, exist_ok=True)
    pythons, _ = environments(given.torch, bench / "environments")
    track = written([given.track], bench) / given.track
    home = fresh(bench / "homes" / "sweep")
    runs = []
    for name, peer, script, settings in tried(given.only):
        if peer in pythons:
            one = run(
                Contestant(name, name, peer, script, settings, "tried"),
                pythons[peer],
                track,
                given.steps,
                home,
                given.threads,
            )
            runs.append({**one.plain(), "settings": settings})
            print(told(one), flush=True)
            write_json(given.into / "sweep.json", {**machine(given.threads), "runs": runs})


def tried(only: list[str] | None) -> list[tuple[str, str, str, dict[str, Any]]]:
    """(name, peer, script, settings)."""
    scripts = {"trl": "run_trl.py", "llamafactory": "run_llamafactory.py"}
    tables = {"trl": TRL, "llamafactory": LLAMAFACTORY}
    assert set(tables) == set(peers.PEERS)
    every = [(f"{p}:{name}", p, scripts[p], s) for p, table in tables.items() for name, s in table.items()]
    return [one for one in every if only is None or one[0] in only]


if __name__ == "__main__":
    sys.exit(main())
