"""The race of row rules: Data-Juicer, datatrove, Daft, datasketch and luthier do similar work on the same rows.

    python benchmarks/data/peers.py [--rows 20000] [--rounds 3] [--works clean,exact,near,personal] [--patient] [--into .bench/results]

Each peer lives in an environment of its own under .bench/environments, made once by uv; one that does not install, or
does not run, is named with its reason and the race goes on. Data-Juicer installs packages while it runs, 5 GB of them if it
may: everything runs with the package index switched off, and it is given beforehand what it would fetch.

    clean      control characters, tags and doubled blanks go; rows outside 50 to 20,000 characters go
    exact      of rows that are equal but for case and blanks one stays
    near       of rows that are near duplicates one stays: word 3-grams, 128 hashes, 16 bands of 8 (or what the peer has)
    personal   e-mail addresses, telephone numbers, cards, IBANs, IP addresses, national numbers and keys are masked

Parquet with `id` and `text` goes in, Parquet comes out, and each contestant is a process of its own, in turns. `luthier` runs
its rules through its engine; `luthier, whole` is the stage, which also maps, names, divides and sorts the rows, keeps what
was removed and writes a report. What is similar and what is not is said in
docs/benchmarks-data.md. Results go to peers.json (after each run) and peers.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from results import MB, median
from run import corpus, machine, write
from watched import watch

from luthier.data import compiled

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORKS = ("clean", "exact", "near", "personal")
PATIENCE_S = 1800
COMPILED = (
    ROOT / ".bench" / "compiled"
)  # what luthier compiles once on a machine, as the peers' wheels are compiled


@dataclass(frozen=True)
class Peer:
    """`most` rows for a work that would take too long with more; `alone` goes in before everything else."""

    script: str
    works: tuple[str, ...]
    requirements: tuple[str, ...] = ()
    alone: str | None = None
    shown: str = ""
    most: int = 200_000


PEERS = {
    "luthier": Peer("run_luthier_rules.py", WORKS, shown="luthier"),
    "luthier, whole": Peer("run_luthier.py", WORKS, shown="luthier"),
    "daft": Peer(
        "run_daft.py", ("clean", "exact", "near"), ("daft==0.7.26", "numpy", "pyarrow"), shown="daft"
    ),
    "datasketch": Peer(
        "run_datasketch.py", ("near",), ("datasketch==2.0.0", "pyarrow"), shown="datasketch", most=20_000
    ),
    "datatrove": Peer(
        "run_datatrove.py",
        ("clean", "near", "personal"),
        ("datatrove[io,processing]==0.10.1", "spacy", "pyarrow"),
        shown="datatrove",
        most=20_000,
    ),
    "data-juicer": Peer(
        "run_data_juicer.py",
        WORKS,
        ("py-data-juicer==1.6.1", "aiohttp", "selectolax", "ray", "pyarrow"),
        alone="torch==2.13.0",
        shown="py-data-juicer",
        most=20_000,
    ),
}


class NotInstalled(Exception):
    """Why a peer cannot take part."""


def main() -> int:
    given = arguments()
    into, bench = given.into.resolve(), given.folder.resolve()
    into.mkdir(parents=True, exist_ok=True)
    pythons, absent = environments(given.peers, bench / "environments")
    folder = corpus(given.rows, bench / "corpus")
    texts = folder / "texts.parquet"
    if not texts.exists():
        subprocess.run([sys.executable, str(HERE / "judge.py"), "texts", str(folder)], check=True)  # noqa: S603
    about = {**machine(), "rows": given.rows, "absent": absent, "compiled": compiled.use(COMPILED) or "yes"}
    about["peers"] = {name: version_of(python, PEERS[name].shown) for name, python in pythons.items()}
    runs: list[dict[str, Any]] = []
    for turn in range(1, given.rounds + 1):
        for work in given.works:
            for name, python in pythons.items():
                peer = PEERS[name]
                if work not in peer.works or (given.rows > peer.most and not given.patient):
                    continue
                if any(one["failed"] for one in runs if (one["peer"], one["work"]) == (name, work)):
                    continue  # it would fail again
                one = raced(name, python, work, texts, into / "work" / name) | {
                    "round": turn,
                    "rows": given.rows,
                }
                if not one["failed"] and turn == 1:
                    one |= judged(work, folder, into / "work" / name / "out")
                runs.append(one)
                print(told(one), flush=True)
                write(into / "peers.json", {**about, "runs": runs})
    text = markdown(runs, about)
    (into / "peers.md").write_text(text)
    print(text)
    return 1 if any(one["failed"] for one in runs if one["peer"].startswith("luthier")) else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=lambda text: int(float(text)), default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--works", type=lambda text: text.split(","), default=list(WORKS))
    parser.add_argument("--peers", type=lambda text: text.split(","), default=list(PEERS))
    parser.add_argument(
        "--patient", action="store_true", help="let every peer have all rows, however long it takes"
    )
    parser.add_argument("--folder", type=Path, default=ROOT / ".bench")
    parser.add_argument("--into", type=Path, default=ROOT / ".bench" / "results")
    given = parser.parse_args()
    for what, named, there in (("peer", given.peers, PEERS), ("work", given.works, WORKS)):
        if unknown := sorted(set(named) - set(there)):
            parser.error(f"there is no {what} {unknown[0]!r}; there are {', '.join(there)}")
    return given


def environments(names: Sequence[str], folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """The interpreters, luthier's own among them; and why a peer has none."""
    pythons, absent = {}, {}
    for name in names:
        try:
            pythons[name] = environment(name, folder) if PEERS[name].requirements else Path(sys.executable)
        except NotInstalled as why:
            absent[name] = str(why)
            print(f"{name} does not take part: {why}", flush=True)
    return pythons, absent


def environment(name: str, folder: Path) -> Path:
    """The peer's interpreter, its environment made if need be. Raises NotInstalled."""
    peer, home = PEERS[name], folder / name
    python, ready = home / "bin" / "python", home / "ready.json"
    wanted = [peer.alone, *peer.requirements]
    if ready.exists() and json.loads(ready.read_text()) == wanted:
        return python
    print(f"installing {' '.join(peer.requirements)} into {home}", flush=True)
    ready.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    uv = [sys.executable, "-m", "uv", "--quiet"]
    _run([*uv, "venv", "--clear", "--python", sys.executable, str(home)])
    install = [*uv, "pip", "install", "--python", str(python)]
    first = [peer.alone] if peer.alone else []
    if first:
        _run([*install, *first])
    _run([*install, *first, *peer.requirements])
    ready.write_text(json.dumps(wanted))
    return python


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"`{' '.join(command)}` took more than {PATIENCE_S:,} seconds") from None
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise NotInstalled(f"`{' '.join(command)}` failed: {last}")


def version_of(python: Path, package: str) -> str:
    code = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
    asked = subprocess.run([str(python), "-c", code, package], capture_output=True, text=True, check=True)  # noqa: S603
    return asked.stdout.strip()


def raced(name: str, python: Path, work: str, texts: Path, folder: Path) -> dict[str, Any]:
    """One contestant at one work."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "home").mkdir(parents=True)
    (folder / "out").mkdir()
    job = folder / "job.json"
    told = {"work": work, "texts": str(texts), "out": str(folder / "out"), "scratch": str(folder / "scratch")}
    job.write_text(json.dumps({**told, "processes": os.cpu_count(), "compiled": str(COMPILED)}))
    command = [str(python), str(HERE / "contestants" / PEERS[name].script), str(job)]
    seen = watch(command, folder / "log.txt", offline(folder / "home"), PATIENCE_S)
    return {"peer": name, "work": work, **asdict(seen)}


def offline(home: Path) -> dict[str, str]:
    """The same for everybody: nothing is fetched, nothing is installed, nothing is reported to anyone."""
    kept = {
        k: v
        for k, v in os.environ.items()
        if k in ("PATH", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH")
    }
    nowhere = "http://127.0.0.1:9"  # a port that nobody listens on
    return {
        **kept,
        "HOME": str(home),
        "PIP_NO_INDEX": "1",
        "UV_OFFLINE": "1",
        "UV_NO_INDEX": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "DAFT_ANALYTICS_ENABLED": "0",
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), nowhere),
    }


def judged(work: str, folder: Path, out: Path) -> dict[str, Any]:
    command = [sys.executable, str(HERE / "judge.py"), work, str(folder), str(out)]
    asked = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    if asked.returncode:
        return {"judged": (asked.stderr.strip() or "no message").splitlines()[-1]}
    return json.loads(asked.stdout)


def told(one: dict[str, Any]) -> str:
    head = f"{one['work']:9} {one['peer']:12} round {one['round']}"
    if one["failed"]:
        return f"{head}  FAILED  {one['failed']}"
    speeds = f"{one['rows'] / one['cpu_s']:9,.0f} rows/CPU-s {one['rows'] / one['wall_s']:9,.0f} rows/s {one['peak_bytes'] / MB:7,.0f} MB"
    return f"{head} {speeds}  {one.get('judged', '')}"


def markdown(runs: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["peers"].items())
    parts = [
        f"Machine: {about['processor']}, {about['cores']} cores; {about['rows']:,} rows; {versions}. Medians of the rounds.\n"
    ]
    for work in dict.fromkeys(one["work"] for one in runs):
        lines = [
            "| | rows/CPU-s | least – most | luthier is | rows/s | memory MB | found |",
            "|---|---|---|---|---|---|---|",
        ]
        some = [one for one in runs if one["work"] == work and not one["failed"]]
        ours = [one for one in some if one["peer"] == "luthier"]
        for name in dict.fromkeys(one["peer"] for one in some):
            own = [one for one in some if one["peer"] == name]
            speeds = [one["rows"] / one["cpu_s"] for one in own]
            faster = (
                median(own, "cpu_s") / median(ours, "cpu_s")
                if ours and not name.startswith("luthier")
                else None
            )
            found = next((one["judged"] for one in own if "judged" in one), "")
            lines.append(
                f"| {name} | {own[0]['rows'] / median(own, 'cpu_s'):,.0f} | {min(speeds):,.0f} – {max(speeds):,.0f} "
                f"| {f'{faster:.1f}×' if faster else ''} | {own[0]['rows'] / median(own, 'wall_s'):,.0f} "
                f"| {median(own, 'peak_bytes') / MB:,.0f} | {found} |"
            )
        parts.append(f"### {work}\n\n" + "\n".join(lines) + "\n")
    parts += [f"{one['peer']}, {one['work']}: {one['failed']}\n" for one in runs if one["failed"]]
    parts += [f"{name} did not take part: {why}\n" for name, why in about["absent"].items()]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
