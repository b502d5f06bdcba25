"""How fast every rule is, how much memory it needs, and how much of what was planted it finds.

    python benchmarks/data/run.py [--rows 20000,200000] [--rounds 3] [--only redact,default] [--into .bench/results]
    python benchmarks/data/run.py --sizes 200000,2000000,10000000     # the default set on growing data, an hour or more

Each measurement is a process of its own, in turns over the rounds, so that a noisy minute hits all of them:

    rules   from record batches in memory to record batches: the rule, its spool and its keys, without reading and writing
    stage   the whole stage: JSON Lines in, sorted Parquet out. Its dataset is then judged by truth.py

What is measured is what the plug-in table has; rules named here that it does not have are told as lacking. `rows/CPU-s` is
rows by the seconds of all processors together (user and system, of the process and its children), the fair number on a
shared machine; memory is the largest of the whole tree. Results go to data.json (after each run) and data.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from results import broken, curve, markdown
from watched import watch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CHATS = {"files": "corpus.jsonl", "map": {"messages": "messages", "on_bad_row": "set_aside"}}
PAIRS = {"files": "pairs.jsonl", "map": {"user": "text", "label": "topic", "on_bad_row": "set_aside"}}
BENCHMARK = "CORPUS/benchmark.jsonl"  # CORPUS stands for its folder
QUALITY = ("mojibake", "html", "normalize", "drop_empty", "turns", "characters", "repetition", "deduplicate")


@dataclass(frozen=True)
class Wish:
    """What is measured: rules, as a recipe writes them. `needs` are the plug-ins that must be there."""

    quality: tuple[Any, ...] = ()
    quantity: tuple[Any, ...] = ()
    pairs: bool = False  # rows with labels instead of chats
    about: str = ""

    @property
    def needs(self) -> list[str]:
        return [next(iter(one)) if isinstance(one, dict) else one for one in (*self.quality, *self.quantity)]

    def data(self) -> dict[str, Any]:
        rules = {"quality": list(self.quality), "quantity": list(self.quantity)}
        return {"sources": [PAIRS if self.pairs else CHATS], "rules": rules}

    @property
    def task(self) -> dict[str, Any]:
        return {"kind": "classify"} if self.pairs else {}


WISHES = {
    "nothing": Wish(about="rows only pass through"),
    "normalize": Wish(("normalize",)),
    "mojibake": Wish(("mojibake",)),
    "html": Wish(("html",)),
    "drop_empty": Wish(("drop_empty",)),
    "length": Wish(({"length": {"min": 20, "max": 20_000, "on": "all"}},)),
    "turns": Wish(("turns",)),
    "characters": Wish(("characters",)),
    "repetition": Wish(("repetition",)),
    "language": Wish(({"language": {"keep": ["en"]}},)),
    "deduplicate": Wish(("deduplicate",)),
    "near_duplicates": Wish(("near_duplicates",)),
    "decontaminate": Wish(({"decontaminate": {"against": [BENCHMARK]}},)),
    "redact": Wish(("redact",)),
    "agree": Wish(("agree",)),
    "balance": Wish(
        quantity=({"balance": {"at_most": "median"}},), pairs=True, about="questions with a topic as label"
    ),
    "default": Wish(QUALITY, about=", ".join(QUALITY)),
}
MODES = ("rules", "stage")


def main() -> int:
    given = arguments()
    into = given.into.resolve()
    into.mkdir(parents=True, exist_ok=True)
    there = set(given.rules)
    wishes, lacking = chosen(there, given.only)
    for name, names in lacking.items():
        print(f"{name} is not measured: there is no rule {', '.join(names)}", flush=True)
    about = {**machine(), "lacking": lacking, "about": {name: wish.about for name, wish in wishes.items()}}
    runs: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    for rows, turn, name, mode in programme(given, list(wishes)):
        folder = corpus(rows, given.corpus)
        one = measured(name, wishes[name], mode, rows, folder, into / "work") | {"round": turn}
        runs.append(one)
        print(told(one), flush=True)
        if mode == "stage" and not one["failed"]:
            if turn == 1 and not given.sizes and given.judge and not wishes[name].pairs:
                scores += judged(name, rows, Path(one["out"]), folder)
            shutil.rmtree(one["out"])
        write(
            into / ("curve.json" if given.sizes else "data.json"), {**about, "runs": runs, "scores": scores}
        )
    text = curve(runs, about) if given.sizes else markdown(runs, scores, about)
    (into / ("curve.md" if given.sizes else "data.md")).write_text(text)
    print(text)
    for promise in (wrong := broken(runs, scores)):
        print(f"NOT KEPT  {promise}")
    return 1 if wrong else 0


def arguments() -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(float(one)) for one in text.split(",")]

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=numbers, default=[20_000, 200_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", type=lambda text: text.split(","), help=f"some of {', '.join(WISHES)}")
    parser.add_argument("--modes", type=lambda text: text.split(","), default=list(MODES))
    parser.add_argument(
        "--sizes", type=numbers, help="rows of each size, for the default set and nothing, whole stage"
    )
    parser.add_argument("--no-truth", dest="judge", action="store_false", help="leave out what was found")
    parser.add_argument("--corpus", type=Path, default=ROOT / ".bench" / "corpus")
    parser.add_argument("--into", type=Path, default=ROOT / ".bench" / "results")
    given = parser.parse_args()
    for name in given.only or []:
        if name not in WISHES:
            parser.error(f"there is no measurement {name!r}; there are {', '.join(WISHES)}")
    code = "import json; from luthier.core import plugin; print(json.dumps(plugin.names('rule')))"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    given.rules = json.loads(asked.stdout)
    return given


def chosen(there: set[str], only: Sequence[str] | None) -> tuple[dict[str, Wish], dict[str, list[str]]]:
    """What can be measured, and what each of the others lacks. The default set is measured with the rules that are there.

    >>> wishes, lacking = chosen({"normalize", "deduplicate"}, ["normalize", "redact", "default"])
    >>> list(wishes), wishes["default"].quality, lacking["redact"]
    (['normalize', 'default'], ('normalize', 'deduplicate'), ['redact'])
    """
    wishes, lacking = {}, {}
    for name, wish in WISHES.items():
        if only and name not in only:
            continue
        missing = [rule for rule in wish.needs if rule not in there]
        if missing:
            lacking[name] = missing
        if name == "default":
            kept = tuple(rule for rule in wish.quality if rule in there)
            wishes[name] = Wish(kept, about=", ".join(kept))
        elif not missing:
            wishes[name] = wish
    return wishes, lacking


def programme(given: argparse.Namespace, names: list[str]) -> Iterator[tuple[int, int, str, str]]:
    """(rows, round, what, mode) in the order of running."""
    if given.sizes:
        names = [name for name in names if name in (given.only or ("nothing", "default"))]
        yield from ((rows, 1, name, "stage") for rows in given.sizes for name in names)
        return
    for rows in given.rows:
        for turn in range(1, given.rounds + 1):
            for mode in given.modes:
                yield from ((rows, turn, name, mode) for name in names)


def corpus(rows: int, into: Path) -> Path:
    """Written by a process of its own, so that this one stays small: Linux counts its memory into a child's peak until
    the child has replaced its program."""
    command = [sys.executable, str(HERE / "corpus.py"), "--rows", str(rows), "--into", str(into)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    return into / str(rows)


def measured(name: str, wish: Wish, mode: str, rows: int, folder: Path, work: Path) -> dict[str, Any]:
    """One run, as it goes into the results."""
    work.mkdir(parents=True, exist_ok=True)
    job, out = work / "job.json", work / "out"
    told = {"mode": mode, "root": str(folder), "out": str(out), "data": wish.data(), "task": wish.task}
    job.write_text(json.dumps(told).replace("CORPUS/", f"{folder}/"))
    log = work / f"{name}-{mode}.log"
    seen = watch([sys.executable, str(HERE / "prepare_once.py"), str(job)], log, os.environ)
    one = {"what": name, "mode": mode, "rows": rows, "out": str(out), **asdict(seen)}
    if mode == "rules" and not seen.failed:
        inside = json.loads(log.read_text().splitlines()[-1])
        one |= {
            "cpu_s": inside["cpu_s"],
            "wall_s": inside["wall_s"],
            "read": inside["rows"],
            "kept": inside["kept"],
        }
    return one


def judged(name: str, rows: int, out: Path, folder: Path) -> list[dict[str, Any]]:
    command = [sys.executable, str(HERE / "truth.py"), str(out), str(folder), "--json"]
    asked = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    if asked.returncode:
        last = (asked.stderr.strip() or "no message").splitlines()[-1]
        print(f"{name}: what it found could not be judged: {last}", flush=True)
        return []
    return [{"what": name, "rows": rows, **one} for one in json.loads(asked.stdout)]


def machine() -> dict[str, Any]:
    from importlib.metadata import version

    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    packages = ("luthier", "polars", "pyarrow", "duckdb", "numpy")
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in packages},
    }


def told(one: dict[str, Any]) -> str:
    head = f"{one['rows']:>10,} rows  {one['what']:16} {one['mode']:6} round {one['round']}"
    if one["failed"]:
        return f"{head}  FAILED  {one['failed']}"
    return (
        f"{head}  {one['rows'] / one['cpu_s']:9,.0f} rows/CPU-s  {one['rows'] / one['wall_s']:9,.0f} rows/s  "
        f"{one['peak_bytes'] / 1e6:7,.0f} MB  load {one['load']:.1f}"
    )


def write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
