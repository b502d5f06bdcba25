"""A whole small world: a tiny random base, an adapter that really changes it, and a dataset with three splits."""

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.core.artifact import Artifact
from luthier.core.testing import FakeContext

LABELS = ["billing", "delivery", "technical"]
TEXTS = {
    "billing": "please refund the payment on my invoice number {}",
    "delivery": "the parcel {} has not arrived",
    "technical": "the tracking page shows an error {}",
}


@dataclass(frozen=True)
class World:
    inputs: dict
    at: FakeContext
    folders: dict

    def run(self, stage, spec, tmp_path, name="out"):
        out, scratch = tmp_path / name, tmp_path / f"{name}-scratch"
        out.mkdir()
        scratch.mkdir(exist_ok=True)
        return out, stage.function(spec, self.inputs, out, scratch, self.at)


def _artifact(kind):
    return Artifact(kind, f"key of {kind}", {}, 1, {}, ())


def _records(task, split, n):
    for i in range(n):
        label = LABELS[i % 3]
        answer = {"classify": label, "extract": json.dumps({"queue": label, "n": i})}.get(
            task["kind"], f"This is about {label}."
        )
        yield {
            "id": f"{split}-{i:03}",
            "messages": [
                {"role": "system", "content": task["instruction"]},
                {"role": "user", "content": TEXTS[label].format(i)},
                {"role": "assistant", "content": answer},
            ],
            "label": label if task["kind"] == "classify" else None,
        }


def write_dataset(folder: Path, task, rows=12):
    from luthier.data.records import RECORD

    folder.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        table = pa.Table.from_pylist(list(_records(task, split, rows)), RECORD)
        pq.write_table(table, folder / f"{split}.parquet")
    (folder / "dataset.json").write_text(json.dumps({"task": task}))


def write_adapter(folder: Path, base: Path, task, base_digest):
    import torch

    from luthier.models.adapters import Lora
    from luthier.models.spec import LoraSpec
    from luthier.models.weights import load

    model = Lora().attach(load(base), LoraSpec(rank=2), seed=1)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in Lora().trainable(model):
        if "lora_B" in name:  # starts at zero, which would leave the base as it is
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    folder.mkdir()
    Lora().save(model, folder, "tiny")
    facts = {"role": "tuned", "adapter": "lora", "base_digest": base_digest, "task": task}
    (folder / "luthier.json").write_text(json.dumps(facts))


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    from luthier.models.testing import tiny_model

    return tiny_model(tmp_path_factory.mktemp("base") / "tiny", context=256)


@pytest.fixture(params=["classify", "chat"])
def kind(request):
    return request.param


@pytest.fixture
def world(kind, tiny_base, tmp_path):
    labels = LABELS if kind == "classify" else None
    task = {"kind": kind, "instruction": "Route the message to one of our queues.", "labels": labels}
    if kind == "extract":
        task["schema"] = {"type": "object", "required": ["queue"]}
    inputs = {role: _artifact(role) for role in ("model", "base", "dataset")}
    folders = {"model": tmp_path / "model", "base": tiny_base, "dataset": tmp_path / "dataset"}
    write_dataset(folders["dataset"], task)
    write_adapter(folders["model"], tiny_base, task, inputs["base"].digest)
    at = FakeContext(tmp_path, folders={inputs[role].digest: folder for role, folder in folders.items()})
    return World(inputs, at, folders)
