"""A tiny base, a small dataset of two queues, and the stage run on them as the line runs it."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from luthier.core.artifact import Artifact
from luthier.core.testing import FakeContext

WORDS = ("parcel", "refund", "invoice", "error", "tracking", "payment", "charged", "page", "shows", "twice")
TASK = {"kind": "classify", "instruction": "Route.", "labels": ["billing", "delivery"]}


def conversation(seed: int) -> list[dict[str, str]]:
    rng = random.Random(seed)
    words = [rng.choice(WORDS) for _ in range(rng.randint(2, 20))]
    label = "billing" if "refund" in words else "delivery"
    return [
        {"role": "system", "content": "Route."},
        {"role": "user", "content": " ".join(words)},
        {"role": "assistant", "content": label},
    ]


def record(i: int, **other: Any) -> dict[str, Any]:
    origin = f"tickets.jsonl:{i + 1}"
    plain = {"id": f"{i:032x}", "messages": conversation(i), "text": None, "label": None, "group": None}
    return {**plain, "source": "tickets", "origin": origin, "weight": 1.0, **other}


def write_dataset(folder: Path, **splits: list[dict[str, Any]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from luthier.data.records import RECORD

    folder.mkdir(parents=True, exist_ok=True)
    splits = {"train": [], "validation": [], "test": [], **splits}
    for split, rows in splits.items():
        rows = sorted(rows, key=lambda row: row["id"])
        pq.write_table(pa.Table.from_pylist(rows, RECORD), folder / f"{split}.parquet")
    counts = {split: len(rows) for split, rows in splits.items()}
    (folder / "dataset.json").write_text(json.dumps({"task": TASK, "counts": counts}))
    return folder


@dataclass
class Work:
    """One stage key at work: `run()` as often as needed; scratch survives, `out` starts empty."""

    folder: Path
    base: Path
    dataset: Path
    events: list[Any] = field(default_factory=list)
    stop_after_checks: int | None = None
    times: int = 0
    hourly: Any = None
    others: dict[str, Path] = field(default_factory=dict)

    def run(self, **spec: Any) -> dict[str, Any]:
        from luthier.training.spec import TrainSpec
        from luthier.training.train import STAGE

        small = {
            "epochs": 1,
            "dtype": "fp32",
            "learning_rate": 0.01,
            "batch": {"rows": 8, "micro_tokens": 150},
        }
        there = {"base": self.base, "dataset": self.dataset, **self.others}
        inputs = {role: Artifact(role, role, {}, 1, {}, ()) for role in there}
        folders = {inputs[role].digest: folder for role, folder in there.items()}
        at = FakeContext(
            self.folder, folders=folders, stop_after_checks=self.stop_after_checks, hourly=self.hourly
        )
        self.events = at.events
        self.times += 1
        self.out, scratch = self.folder / f"out{self.times}", self.folder / "scratch"
        self.out.mkdir(parents=True)
        scratch.mkdir(exist_ok=True)
        return dict(
            STAGE.function(TrainSpec.model_validate({**small, **spec}), inputs, self.out, scratch, at).summary
        )

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.out.iterdir())}

    def history(self) -> dict[str, Any]:
        return json.loads((self.out / "history.json").read_text())

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [dict(event.data) for event in self.events if event.kind == kind]


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    from luthier.models.testing import tiny_model

    return tiny_model(tmp_path_factory.mktemp("models") / "tiny", hidden=16, heads=2, kv_heads=1)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    rows = [record(i) for i in range(60)]
    return write_dataset(tmp_path_factory.mktemp("data") / "tickets", train=rows[:48], validation=rows[48:])


@pytest.fixture
def work(tmp_path, base, dataset):
    return Work(tmp_path / "work", base, dataset)


@pytest.fixture
def new_work(tmp_path, base):
    """A Work on rows of one's own."""

    def build(name: str, **splits: list[dict[str, Any]]) -> Work:
        return Work(tmp_path / name, base, write_dataset(tmp_path / f"{name}-data", **splits))

    return build


@pytest.fixture(scope="session")
def work_in(base, dataset):
    """A Work on the small dataset, in a folder of one's own."""
    return lambda folder: Work(folder, base, dataset)


@pytest.fixture(scope="session")
def work_on():
    """A Work in a folder, on a base and a dataset of one's own."""
    return Work


@pytest.fixture(scope="session")
def write():
    """Write a dataset's folder: `write(folder, train=rows, ...)`."""
    return write_dataset


@pytest.fixture(scope="session")
def make_record():
    return record
