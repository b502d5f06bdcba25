"""Is a damaged checkpoint ever loaded? Checkpoints of a tiny run are harmed at random: bits flipped, files cut,
emptied, zeroed in part, lengthened, removed, renamed, swapped with another checkpoint's or with one another.

    python benchmarks/damaged_checkpoints.py [--times 500] [--seed 0]

Each time, what is gone on from must be another checkpoint, whole and as it was written, and the harm must be told.
Prints one line of JSON; exit 1 if any harm went unseen.
"""

# ruff: noqa: ARG001  (one signature for every kind of harm)

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from luthier.training.checkpoint import Checkpoints

FILES = ("weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


def flip(path: Path, other: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def cut(path: Path, other: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])


def empty(path: Path, other: Path, rng: random.Random) -> None:
    path.write_bytes(b"")


def zero(path: Path, other: Path, rng: random.Random) -> None:
    """A stretch that was never written, as a disk leaves it after a power failure."""
    data = bytearray(path.read_bytes())
    begin = rng.randrange(len(data))
    end = min(len(data), begin + rng.choice((1, 8, 512, 4096)))
    if not any(data[begin:end]):  # zeros already: nothing would change
        begin, end = 0, len(data)
    data[begin:end] = bytes(end - begin)
    path.write_bytes(data)


def lengthen(path: Path, other: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randint(1, 64)))


def remove(path: Path, other: Path, rng: random.Random) -> None:
    path.unlink()


def rename(path: Path, other: Path, rng: random.Random) -> None:
    path.rename(path.with_name(path.name + ".old"))


def from_another(path: Path, other: Path, rng: random.Random) -> None:
    """The same file of an older checkpoint, whole in itself."""
    shutil.copyfile(other / path.name, path)


def swap(path: Path, other: Path, rng: random.Random) -> None:
    """Two files of one checkpoint under each other's names."""
    second = path.with_name(rng.choice([name for name in FILES if name != path.name]))
    first_bytes = path.read_bytes()
    path.write_bytes(second.read_bytes())
    second.write_bytes(first_bytes)


def exchange(path: Path, other: Path, rng: random.Random) -> None:
    """Two whole checkpoints under each other's names: neither may be taken for the other."""
    aside = other.with_name("aside")
    other.rename(aside)
    path.parent.rename(other)
    aside.rename(path.parent)


HARMS: tuple[Callable[[Path, Path, random.Random], None], ...] = (
    flip,
    cut,
    empty,
    zero,
    lengthen,
    remove,
    rename,
    from_another,
    swap,
    exchange,
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    wish = parser.parse_args()
    rng, seen, missed = random.Random(wish.seed), Counter(), []  # noqa: S311
    with tempfile.TemporaryDirectory() as name:
        sound = Path(name) / "sound"
        found = Checkpoints(sound, "work")
        for step in (1, 2):
            torch.manual_seed(step)
            tensors = {f"layer.{k}": torch.randn(16, 16) for k in range(4)}
            moments = {f"exp_avg.layer.{k}": torch.randn(16, 16) for k in range(4)}
            found.save({"state": {"step": step, "losses": [3.5 / step] * 20}}, tensors, moments)
        for k in range(wish.times):
            folder = Path(name) / "harmed"
            shutil.copytree(sound, folder)
            newest, older = folder / "checkpoint-000002", folder / "checkpoint-000001"
            harm, file = rng.choice(HARMS), rng.choice(FILES)
            harm(newest / file, older, rng)
            told: list[str] = []
            taken = Checkpoints(folder, "work").newest(lambda which, why, told=told: told.append(which))
            step = taken.state["state"]["step"] if taken else None
            both = harm is exchange
            if told == ([newest.name, older.name] if both else [newest.name]) and step == (
                None if both else 1
            ):
                seen[harm.__name__] += 1
            else:
                missed.append({"case": k, "harm": harm.__name__, "file": file})
            shutil.rmtree(folder)
    print(json.dumps({"times": wish.times, "detected": seen.total(), "by": dict(seen), "missed": missed}))
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
