"""The package's folders load where they say they load, in plain peft and plain transformers."""

import json

import pytest

from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError, SpecError
from luthier.postprocessing.package import STAGE
from luthier.postprocessing.spec import PostprocessSpec

TASK = {"kind": "classify", "instruction": "Route it.", "labels": ["billing", "delivery"]}


@pytest.fixture
def world(shop):
    return shop.inputs, shop.at, shop.model


def _pack(world, tmp_path, name="out", **spec):
    inputs, at, _ = world
    out = tmp_path / name
    out.mkdir()
    (tmp_path / f"{name}-scratch").mkdir()
    return out, STAGE.function(PostprocessSpec(**spec), inputs, out, tmp_path / f"{name}-scratch", at)


def _files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _logits(model):
    import torch

    with torch.inference_mode():
        return model(input_ids=torch.arange(3, 23)[None]).logits


def test_the_adapter_alone_by_default(world, tmp_path):
    out, output = _pack(world, tmp_path)
    assert _files(out) == [
        "SHA256SUMS",
        "adapter/LICENSE",
        "adapter/README.md",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter/chat_template.jinja",
        "adapter/generation_config.json",
        "adapter/tokenizer.json",
        "adapter/tokenizer_config.json",
        "luthier.json",
        "parity.json",
    ]
    assert json.loads((out / "luthier.json").read_text()) == {
        "role": "package",
        "forms": ["adapter"],
        "base_digest": world[0]["base"].digest,
        "base_name": "tiny-llama",
        "model_digest": world[0]["model"].digest,
        "task": TASK,
        "constrain": "labels",
        "answering": None,
        "temperature": 1.0,
        "isotonic": None,
        "abstain_below": None,
        "vllm": {"ready": True, "why": None, "max_lora_rank": 8},
    }
    assert output.summary["forms"] == ["adapter"]


def test_both_forms_give_the_tuned_models_logits_in_plain_tools(world, tiny_base, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from luthier.models.weights import load

    out, _ = _pack(world, tmp_path, export=["adapter", "merged"], abstain_below=0.6)
    ours = _logits(load(world[2], base_folder=tiny_base))
    plain = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    assert not torch.allclose(_logits(plain), ours, atol=1e-2)
    merged = AutoModelForCausalLM.from_pretrained(out / "merged", dtype=torch.float32)
    adapted = PeftModel.from_pretrained(plain, out / "adapter")
    torch.testing.assert_close(_logits(adapted), ours, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(_logits(merged), ours, atol=1e-4, rtol=1e-4)
    for form in ("adapter", "merged"):
        assert AutoTokenizer.from_pretrained(out / form).chat_template
    facts = json.loads((out / "luthier.json").read_text())
    assert (facts["forms"], facts["abstain_below"]) == (["adapter", "merged"], 0.6)


def test_the_same_twice_gives_the_same_bytes(world, tmp_path):
    one, _ = _pack(world, tmp_path, "one", export=["adapter", "merged"])
    two, _ = _pack(world, tmp_path, "two", export=["adapter", "merged"])
    assert _files(one) == _files(two)
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in _files(one))


def test_a_full_model_is_packed_whole_without_our_records(world, tiny_base, tmp_path):
    import shutil

    _, _, folder = world
    facts = json.loads((folder / "luthier.json").read_text())
    shutil.rmtree(folder)
    shutil.copytree(tiny_base, folder)
    (folder / "luthier.json").write_text(json.dumps({**facts, "adapter": "full"}))
    (folder / "history.json").write_text("{}")
    out, _ = _pack(world, tmp_path)
    assert "merged/model.safetensors" in _files(out)
    assert not {"merged/history.json", "merged/luthier.json"} & set(_files(out))
    with pytest.raises(SpecError, match="full fine-tuning has no adapter"):
        _pack(world, tmp_path, "other", export=["adapter"])


def test_another_base_is_refused_and_nothing_is_written(world, tmp_path):
    _, _, folder = world
    facts = json.loads((folder / "luthier.json").read_text())
    (folder / "luthier.json").write_text(json.dumps({**facts, "base_digest": "f" * 64}))
    with pytest.raises(ModelError, match="tuned from base ffffffffffff"):
        _pack(world, tmp_path)
    assert _files(tmp_path / "out") == []


def test_a_head_goes_along_and_is_never_left_free(world, tiny_base, tmp_path):
    from luthier.models import head
    from luthier.models.weights import load

    model = load(tiny_base)
    head.attach(model, head.Labels(tuple(TASK["labels"])), 0)
    head.save(model, world[2])
    with pytest.raises(SpecError, match="it can say nothing but a label"):
        _pack(world, tmp_path, constrain=None)
    assert _files(tmp_path / "out") == []
    out, _ = _pack(world, tmp_path, "other", export=["adapter", "merged", "int8"])
    heads = [f"{form}/head.safetensors" for form in ("adapter", "merged", "int8")]
    assert set(heads) <= set(_files(out))
    assert head.head_of(load(out / "int8")).gives.labels == tuple(TASK["labels"])
    assert (
        json.loads((out / "luthier.json").read_text())["vllm"]["why"]
        == "its answers come from a head that only Luthier reads"
    )
    with pytest.raises(SpecError, match="gguf was asked, and its engine knows no head"):
        _pack(world, tmp_path, "third", export=["gguf"])


def _calibrated(world, tmp_path, **found):

    inputs, at, folder = world
    learnt = tmp_path / "learnt"
    learnt.mkdir()
    (learnt / "calibration.json").write_text(
        json.dumps({"temperature": 1.5, "threshold": None, "why": None, **found})
    )
    calibration = Artifact("calibration", "key of calibration", {}, 1, {}, ())
    at.folders[calibration.digest] = learnt
    return {**inputs, "calibration": calibration}, at, folder


def test_what_the_validation_rows_taught_is_packed(world, tmp_path):
    threshold = {"at": 0.71, "coverage": 0.8, "wrong": 3, "bound": 0.04}
    world = _calibrated(world, tmp_path, threshold=threshold)
    out, _ = _pack(world, tmp_path, abstain={"risk": 0.05})
    facts = json.loads((out / "luthier.json").read_text())
    assert (facts["temperature"], facts["abstain_below"]) == (1.5, 0.71)
    from luthier.serving.package import read_facts

    served = read_facts(out)
    assert (served.temperature, served.abstain_below) == (1.5, 0.71)


def test_the_way_to_an_answer_is_packed_whole(world, tmp_path):
    wish = PostprocessSpec.model_validate(
        {"answers": ["snap", {"banned": {"file": "words.txt"}}], "fallback": {"to": "big"}}
    ).inlined({"words.txt": "acme\n"}.__getitem__)
    knots = [[0.0, 1.0], [0.1, 0.9]]
    world = _calibrated(world, tmp_path, isotonic=knots, temperature=1.0)
    out, _ = _pack(world, tmp_path, answers=wish.answers, fallback=wish.fallback)
    from luthier.serving.package import read_facts

    served = read_facts(out)
    assert served.isotonic == ((0.0, 1.0), (0.1, 0.9))
    assert served.answering == wish.answering("classify")
    assert served.answering.answers[1].settings.words == ["acme"]
    assert served.way.chain.run("Acme").refusal.startswith("snap")


def test_a_risk_that_cannot_be_kept_is_no_package(world, tmp_path):
    world = _calibrated(world, tmp_path, why="no threshold keeps wrong answers at or below 0.01")
    with pytest.raises(ModelError, match=r"no threshold keeps wrong answers .*\n.*larger risk"):
        _pack(world, tmp_path, abstain={"risk": 0.01})
