"""The stage that merges models: the laws on whole folders, what does not fit, and the memory it takes."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError
from luthier.core.testing import FakeContext
from luthier.models.adapters import Lora
from luthier.models.merge import merge
from luthier.models.spec import LoraSpec
from luthier.models.testing import tiny_model
from luthier.models.weights import load
from luthier.postprocessing.merge_spec import MergeSpec
from luthier.postprocessing.merging import STAGE


class World:
    """A base and tuned models of it, by name."""

    def __init__(self, tmp_path):
        self.tmp = tmp_path
        self.base = tiny_model(tmp_path / "base", context=64)
        self.at = FakeContext(tmp_path)
        self.artifacts = {"base": Artifact("model", "base", {}, 1, {}, ())}
        self.at.folders[self.artifacts["base"].digest] = self.base

    def add(self, name, folder, **facts):
        told = {"role": "tuned", "adapter": "lora", "base_digest": self.artifacts["base"].digest,
                "task": {"kind": "chat", "labels": None, "instruction": name}}  # fmt: skip
        (folder / "luthier.json").write_text(json.dumps({**told, **facts}))
        self.artifacts[name] = Artifact("model", name, {}, 1, {}, ())
        self.at.folders[self.artifacts[name].digest] = folder

    def adapter(self, name, seed):
        model = Lora().attach(load(self.base), LoraSpec(rank=2), seed=seed)
        for _, parameter in Lora().trainable(model):
            torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(seed))
        folder = self.tmp / name
        folder.mkdir()
        Lora().save(model, folder, "tiny")
        self.add(name, folder)
        return folder

    def whole(self, name, seed):
        folder = self.tmp / name
        merge(self.base, self.adapter(f"{name}-adapter", seed), folder)
        self.add(name, folder, adapter="full")
        return folder

    def merge(self, names, out="out", **spec):
        place = self.tmp / out
        place.mkdir()
        spec.setdefault("weights", [1.0] * len(names))
        inputs = {"base": self.artifacts["base"]}
        inputs |= {f"model.{i}": self.artifacts[name] for i, name in enumerate(names)}
        STAGE.function(MergeSpec(**spec), inputs, place, self.tmp / "scratch", self.at)
        return load_file(place / "model.safetensors")


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_an_adapter_counts_as_the_model_it_makes(world):
    """The mean of an adapter and a whole model is the mean of the two merged models."""
    world.adapter("a", 1)
    merge(world.base, world.tmp / "a", world.tmp / "a-whole")
    b = weights(world.whole("b", 2))
    found = world.merge(["a", "b"], weights=[1.0, 3.0])
    for name, one in weights(world.tmp / "a-whole").items():
        torch.testing.assert_close(found[name], 0.25 * one + 0.75 * b[name], rtol=1e-5, atol=1e-6)


def test_the_result_is_a_model_that_loads_and_says_what_it_is_made_of(world):
    world.adapter("a", 1)
    world.adapter("b", 2)
    world.merge(["a", "b"], method={"kind": "ties", "density": 0.3})
    assert load(world.tmp / "out").config.model_type == "llama"
    facts = json.loads((world.tmp / "out" / "luthier.json").read_text())
    assert facts["adapter"] == "full" and facts["task"]["instruction"] == "a"
    assert facts["merged"]["method"] == {"kind": "ties", "density": 0.3}
    assert [one["digest"] for one in facts["merged"]["models"]] == [world.artifacts[n].digest for n in "ab"]


@pytest.mark.parametrize("method", [{"kind": "linear"}, {"kind": "task_arithmetic"}, {"kind": "ties", "density": 1.0},
                                    {"kind": "dare", "density": 1.0}])  # fmt: skip
def test_one_model_alone_stays_what_it_is(world, method):
    whole = weights(world.whole("a", 1))
    for name, found in world.merge(["a"], method=method).items():
        torch.testing.assert_close(found, whole[name], rtol=1e-6, atol=1e-6)


def test_slerp_at_its_ends(world):
    a, b = weights(world.whole("a", 1)), weights(world.whole("b", 2))
    for at, wanted in ((0.0, a), (1.0, b)):
        found = world.merge(["a", "b"], f"out{at}", method={"kind": "slerp", "t": at})
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_negation_takes_a_task_out(world):
    a = weights(world.whole("a", 1))
    base = weights(world.base)
    found = world.merge(["a"], method={"kind": "task_arithmetic"}, weights=[-1.0])
    for name, one in found.items():
        torch.testing.assert_close(one, 2 * base[name] - a[name], rtol=1e-5, atol=1e-5)


def test_the_same_twice_gives_the_same_bytes(world):
    world.adapter("a", 1)
    world.adapter("b", 2)
    for out in ("one", "two"):
        world.merge(["a", "b"], out, method={"kind": "dare", "density": 0.5, "then": "ties", "seed": 3})
    files = [(world.tmp / out / "model.safetensors").read_bytes() for out in ("one", "two")]
    assert files[0] == files[1]


def _refused(world, names, told):
    with pytest.raises(ModelError, match=told):
        world.merge(names)
    assert list((world.tmp / "out").iterdir()) == []


def test_a_model_of_another_base_is_refused(world):
    world.adapter("a", 1)
    world.add("b", world.adapter("b0", 2), base_digest="f" * 64)
    _refused(world, ["a", "b"], "tuned from base ffffffffffff")


def test_a_head_is_refused(world):
    world.adapter("a", 1)
    (world.adapter("b", 2) / "head.safetensors").write_bytes(b"")
    _refused(world, ["a", "b"], "has a head of its own")


def test_another_tokenizer_and_another_template_are_refused(world):
    folder = world.whole("a", 1)
    (folder / "chat_template.jinja").write_text("other")
    _refused(world, ["a"], "another chat template than its base")
    shutil.copy(world.base / "chat_template.jinja", folder)
    (folder / "tokenizer.json").write_text("{}")
    (world.tmp / "out").rmdir()
    _refused(world, ["a"], "another tokenizer than its base")


def test_another_shape_and_another_tensor_are_refused(world):
    folder = world.whole("a", 1)
    stored = weights(folder)
    save_file({**stored, "model.norm.weight": torch.zeros(7)}, folder / "model.safetensors")
    _refused(world, ["a"], r"'model.norm.weight' has the shape \(7,\), and in the base \(32,\)")
    (world.tmp / "out").rmdir()
    save_file({n: t for n, t in stored.items() if n != "model.norm.weight"}, folder / "model.safetensors")
    _refused(world, ["a"], "lacks the tensor 'model.norm.weight'")


def test_what_is_not_finite_is_not_written(world):
    folder = world.whole("a", 1)
    stored = weights(folder)
    stored["model.norm.weight"][0] = float("nan")
    save_file(stored, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"the merged tensor 'model.norm.weight' is not finite"):
        world.merge(["a"])


def test_a_law_that_does_not_fit_its_weights_is_refused():
    for spec, told in (
        ({"method": {"kind": "slerp"}, "weights": [1, 1, 1]}, "one model to one other"),
        ({"weights": [1, -1]}, "must be above 0"),
        ({"weights": [2, -1]}, "no share"),
        ({"method": {"kind": "ties"}, "weights": [0, 0]}, "every weight is 0"),
    ):
        with pytest.raises(ValueError, match=told):
            MergeSpec(**spec)
