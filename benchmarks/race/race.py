"""The race: TRL, LLaMA-Factory (each at its default and its best setting found) and luthier train the same adapter on the same rows.

    python benchmarks/race/race.py [--quick] [--rounds 3] [--tracks chats,instruction] [--into FOLDER]

Contestants take turns, A B C D A B C D, each in a process and an environment of its own, so that a noisy minute hits all
of them. Everything is kept in `.bench` (environments, models) and FOLDER (race.json after each run; race.md, race.svg).
Exit status 1 when losses do not agree. This file is small on purpose: see runs.py about memory.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import peers
from chart import svg
from contestants import ALPHA, EXACT, RACE, RANK, ROWS_PER_STEP, Contestant
from results import broken, lines, markdown
from runs import Run, fresh, other_tokens, run

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TRACKS = {
    "chats": "SmolLM2-135M, chats of 54 to 414 tokens, 35 % of them supervised",
    "instruction": "SmolLM2-135M, one 300-token instruction before texts of 60 to 100 tokens and a label",
    "chats-qwen3": "Qwen3 layout, 8 layers of 512, random weights; the same chats",
    "instruction-qwen3": "Qwen3 layout, 8 layers of 512, random weights; the same texts with their instruction",
}
USUAL, QUICK = ["chats", "instruction", "chats-qwen3"], ["chats-qwen3", "instruction-qwen3"]
WRITTEN_STEPS = 8
STEPS = {"chats": 3, "instruction": 2, "chats-qwen3": 3, "instruction-qwen3": 2}
FEWER = {"instruction": ("trl-default", "luthier")}
"""Half an hour is enough for one race: who takes part in a long track when nobody is named."""


def main() -> int:
    given = arguments()
    bench, into = given.folder.resolve(), given.into.resolve()
    into.mkdir(parents=True, exist_ok=True)
    (bench / "environments").mkdir(parents=True, exist_ok=True)
    pythons, absent = environments(given.torch, bench / "environments")
    steps = {track: given.steps or STEPS[track] for track in given.tracks}
    tracks = written(given.tracks, bench)
    about = {**machine(given.threads), "steps": steps, "tracks": TRACKS, "absent": absent}
    about["versions"] = {
        name: peers.versions(python, peers.PEERS[name].shown) for name, python in pythons.items() if name
    }
    homes = {one.name: fresh(bench / "homes" / one.name) for one in (*RACE, *EXACT)}
    made: list[Run] = []
    for turn, track, contestant in programme(given.rounds, given.tracks, given.contestants, given.exact):
        if contestant.peer in absent:
            continue
        one = run(
            contestant, pythons[contestant.peer], tracks / track, steps[track],
            homes[contestant.name], given.threads, turn,
        )  # fmt: skip
        one = replace(one, failed=one.failed or other_tokens(one, tracks / track))
        made.append(one)
        print(told(one), flush=True)
        write_json(into / "race.json", {**about, "runs": [each.plain() for each in made]})
    panels = {track: lines(made, track) for track in given.tracks}
    text = markdown(made, steps, about) + "".join(
        f"\n{name} did not take part: {why}\n" for name, why in absent.items()
    )
    (into / "race.md").write_text(text)
    (into / "race.svg").write_text(svg(panels, TRACKS))
    print(text)
    for promise in (wrong := broken(made)):
        print(f"NOT KEPT  {promise}")
    return 1 if wrong else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round on the smaller model")
    parser.add_argument("--rounds", type=int, default=3, help="0: only the runs in fp32")
    parser.add_argument(
        "--steps", type=int, help="optimizer steps of each run, instead of each track's own number"
    )
    parser.add_argument("--tracks", type=lambda text: text.split(","), help=f"some of {', '.join(TRACKS)}")
    parser.add_argument(
        "--contestants",
        type=lambda text: text.split(","),
        help=f"some of {', '.join(one.name for one in RACE)}",
    )
    parser.add_argument("--no-exact", dest="exact", action="store_false", help="leave out the runs in fp32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--torch", default="torch==2.13.0", help="what to install into the peers' environments first"
    )
    parser.add_argument("--folder", type=Path, default=ROOT / ".bench")
    parser.add_argument("--into", type=Path, default=ROOT / ".bench" / "results")
    given = parser.parse_args()
    if given.quick:
        given.rounds = 1
    given.tracks = given.tracks or (QUICK if given.quick else USUAL)
    for what, named, there in (
        ("track", given.tracks, list(TRACKS)),
        ("contestant", given.contestants or [], [one.name for one in RACE]),
    ):
        if unknown := set(named) - set(there):
            parser.error(f"there is no {what} {sorted(unknown)[0]!r}; there are {', '.join(there)}")
    return given


def environments(torch: str, folder: Path) -> tuple[dict[str | None, Path], dict[str, str]]:
    """The interpreters, None being luthier's own; and why a peer has none."""
    pythons: dict[str | None, Path] = {None: Path(sys.executable)}
    absent = {}
    for name in peers.PEERS:
        try:
            pythons[name] = peers.environment(name, torch, folder)
        except peers.NotInstalled as why:
            absent[name] = str(why)
            print(f"{name} does not take part: {why}", flush=True)
    return pythons, absent


def written(names: list[str], bench: Path) -> Path:
    """The folder of tracks, written if need be; named after the code that writes it."""
    code = (HERE / "tracks.py").read_text() + repr((ROWS_PER_STEP, RANK, ALPHA))
    folder = bench / "tracks" / hashlib.sha256(code.encode()).hexdigest()[:8]
    write = [sys.executable, "-W", "ignore", str(HERE / "tracks.py"), str(folder), str(WRITTEN_STEPS), *names]
    subprocess.run(write, check=True)  # noqa: S603  (in a process of its own, which may grow large)
    return folder


def programme(
    rounds: int, tracks: Sequence[str], names: Sequence[str] | None, exact: bool
) -> list[tuple[int, str, Contestant]]:
    """(round, track, contestant) in the order of the race. Losses in fp32 need one round: they do not depend on noise."""
    everybody = [one.name for one in RACE]
    racing = {t: [one for one in RACE if one.name in (names or FEWER.get(t, everybody))] for t in tracks}
    first = [(0, track, one) for track in tracks for one in EXACT] if exact else []
    return first + [
        (k, track, one) for k in range(1, rounds + 1) for track in tracks for one in racing[track]
    ]


def machine(threads: int) -> dict[str, Any]:
    from importlib.metadata import version

    names = [line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    ours = {name: version(name) for name in ("luthier", "torch", "transformers", "peft")}
    processor = names[0] if names else platform.processor()
    return {"processor": processor, "threads": threads, "torch": version("torch"), "ours": ours}


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def told(one: Run) -> str:
    if one.failed:
        return f"{one.track:18} {one.contestant:14} round {one.round}  FAILED  {one.failed}"
    losses = " ".join(f"{loss:.5f}" for loss in one.losses)
    return (
        f"{one.track:18} {one.contestant:14} round {one.round}  {one.tokens_per_s or 0:6.1f} tokens/s  "
        f"{one.peak_bytes / 1e6:7,.0f} MB  first step {one.ended_s[0]:5.1f} s  load {one.load:.1f}  losses {losses}"
    )


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
