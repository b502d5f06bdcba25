"""A tiny base, a model tuned from it, a dataset: what the packing stage is given."""

import json

import pytest

from luthier.core.artifact import Artifact
from luthier.core.testing import FakeContext
from luthier.postprocessing.package import stage
from luthier.postprocessing.spec import PostprocessSpec

TASK = {"kind": "classify", "instruction": "Route it.", "labels": ["billing", "delivery"]}


class World:
    """`pack` runs the stage; `plant(form, change)` changes a form's folder before anybody looks at it."""

    def __init__(self, tmp_path, base, adapter_std=0.2, **attach):
        import torch

        from luthier.models.adapters import Lora
        from luthier.models.spec import LoraSpec
        from luthier.models.weights import load

        roles = ("model", "base", "dataset")
        self.tmp, self.base = tmp_path, base
        self.inputs = {role: Artifact(role, f"key of {role}", {}, 1, {}, ()) for role in roles}
        self.model = tmp_path / "model"
        self.model.mkdir()
        model = Lora().attach(load(base), LoraSpec(rank=2, **attach), seed=1)
        for _, parameter in Lora().trainable(model):
            torch.nn.init.normal_(parameter, std=adapter_std, generator=torch.Generator().manual_seed(0))
        Lora().save(model, self.model, "tiny")
        facts = {"role": "tuned", "adapter": "lora", "base_digest": self.inputs["base"].digest, "task": TASK}
        (self.model / "luthier.json").write_text(json.dumps(facts))
        (self.model / "history.json").write_text("{}")
        places = {"model": self.model, "base": base, "dataset": dataset(tmp_path / "dataset")}
        folders = {self.inputs[role].digest: place for role, place in places.items()}
        self.at = FakeContext(tmp_path, folders=folders)

    def pack(self, name="out", serve=None, **spec):
        out = self.tmp / name
        out.mkdir()
        scratch = self.tmp / f"{name}-scratch"
        scratch.mkdir()
        return out, stage(serve).function(PostprocessSpec(**spec), self.inputs, out, scratch, self.at)


def dataset(folder):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from luthier.data.records import RECORD

    folder.mkdir()
    rows = [
        {
            "id": f"{n}",
            "messages": [
                {"role": "user", "content": f"the parcel {n} is late"},
                {"role": "assistant", "content": TASK["labels"][n % 2]},
            ],
        }
        for n in range(12)
    ]
    for name in ("train", "validation"):
        pq.write_table(pa.Table.from_pylist(rows, RECORD), folder / f"{name}.parquet")
    return folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    from luthier.models.testing import tiny_model

    folder = tiny_model(tmp_path_factory.mktemp("base") / "tiny", context=128)
    (folder / "LICENSE").write_text("the base's licence\n")
    return folder


@pytest.fixture
def shop(tmp_path, tiny_base):
    return World(tmp_path, tiny_base)
