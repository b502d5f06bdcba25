"""Every kind of adapter: trained, saved, read back and merged to the same logits; counted by hand; frozen where it says."""

import json
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from luthier.core import plugin
from luthier.core.errors import ModelError
from luthier.models import weights
from luthier.models.inspection import inspect
from luthier.models.merge import merge
from luthier.models.spec import AdapterSpec, FullSpec, HeadSpec, Ia3Spec, LoraSpec
from luthier.models.testing import tiny_model

IDS = torch.tensor([list(range(20, 40))])
LORA = [
    LoraSpec(rank=4, rslora=True),
    LoraSpec(rank=4, dora=True),
    LoraSpec(rank=4, dora=True, rslora=True, alpha=3, last_layers=1),
    LoraSpec(rank=4, last_layers=1, targets=["q_proj", "down_proj"]),
]
BESIDE = [*LORA, Ia3Spec(), Ia3Spec(targets=["o_proj", "down_proj"])]
WHOLE = [
    FullSpec(last_layers=1),
    FullSpec(last_layers=2, embeddings=True),
    FullSpec(embeddings=False),
    FullSpec(init="random"),
    HeadSpec(),
]
QUANTISED = [LoraSpec(rank=4, quantize="8bit"), LoraSpec(rank=4, quantize="4bit", dora=True)]


def name_of(spec):
    changed = {k: v for k, v in spec.plain().items() if v != type(spec).model_fields[k].default}
    return "-".join([spec.kind, *(f"{k}={v}" for k, v in changed.items())])


def attached(spec, folder, seed=0, dtype="fp32"):
    adapter = plugin.load("adapter", spec.kind)()
    model = adapter.attach(weights.load(folder, dtype=dtype), spec, seed)
    return adapter, model, adapter.trainable(model)


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS, use_cache=False).logits.float()


def two_steps(model, parameters):
    """Every parameter that moves gets a gradient, and nothing else does."""
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for _, p in parameters], lr=0.02, weight_decay=0.0)
    for _ in range(2):
        said = model.train()(input_ids=IDS, use_cache=False).logits.float()
        torch.nn.functional.cross_entropy(said[0, :-1], IDS[0, 1:]).backward()
        assert all(p.grad is not None for _, p in parameters)
        optimizer.step()
        optimizer.zero_grad()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p.detach(), before[n])}
    assert moved == {n for n, _ in parameters}


def saved(adapter, model, folder):
    folder.mkdir()
    adapter.save(model, folder, "tiny-llama")
    inspect(folder)
    return folder


@pytest.mark.parametrize("spec", [*BESIDE, *WHOLE], ids=name_of)
def test_trained_saved_and_read_back_it_says_the_same(spec, tiny_folder, tmp_path):
    adapter, model, parameters = attached(spec, tiny_folder)
    assert len({id(p) for _, p in parameters}) == len(parameters)
    two_steps(model, parameters)
    ours = logits(model)
    assert not torch.allclose(ours, logits(weights.load(tiny_folder)), atol=1e-3)
    folder = saved(adapter, model, tmp_path / "tuned")
    assert (folder / "adapter_config.json").exists() == spec.beside
    again = weights.load(folder, base_folder=tiny_folder)
    torch.testing.assert_close(logits(again), ours, atol=0, rtol=0)


@pytest.mark.parametrize("spec", BESIDE, ids=name_of)
def test_merged_and_plain_peft_say_the_same(spec, tiny_folder, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapter, model, parameters = attached(spec, tiny_folder)
    two_steps(model, parameters)
    ours, folder = logits(model), saved(adapter, model, tmp_path / "tuned")
    merge(tiny_folder, folder, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), ours, atol=1e-4, rtol=1e-4)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_folder), folder)
    torch.testing.assert_close(logits(plain), ours, atol=1e-4, rtol=1e-4)
    theirs = plain.merge_and_unload().state_dict()
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-5, rtol=1e-5)


def test_factors_of_outputs_are_merged_into_their_biases_too(tmp_path):
    from safetensors.torch import load_file, save_file

    base = tiny_model(
        tmp_path / "base", family="qwen2"
    )  # its keys and values have biases, which begin at zero
    stored = load_file(base / "model.safetensors")
    biases = [name for name in stored if name.endswith("_proj.bias")]
    assert len(biases) == 2 * 3
    for name in biases:
        stored[name] = torch.linspace(-2, 2, stored[name].numel())
    save_file(stored, base / "model.safetensors", metadata={"format": "pt"})
    adapter, model, parameters = attached(Ia3Spec(), base)
    two_steps(model, parameters)
    merge(base, saved(adapter, model, tmp_path / "tuned"), tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert [not torch.equal(merged[name], stored[name]) for name in biases] == [
        "q_proj" not in n for n in biases
    ]
    torch.testing.assert_close(logits(weights.load(tmp_path / "merged")), logits(model), atol=1e-4, rtol=1e-4)


# -- counts -----------------------------------------------------------------------------------------------------------
# tiny: V = its vocabulary, hidden 32, keys and values 16, intermediate 64, two blocks, the head tied to the embeddings.
# One block: q 32·32, k and v 16·32, o 32·32, gate, up, down 64·32, two norms 32.
BLOCK = 1024 + 2 * 512 + 1024 + 3 * 2048 + 64
LORA_4 = 4 * ((32 + 32) + 2 * (32 + 16) + (32 + 32) + 3 * (32 + 64))
MAGNITUDES = 32 + 2 * 16 + 32 + 2 * 64 + 32  # one per output


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (LoraSpec(rank=4), lambda _: 2 * LORA_4),
        (LoraSpec(rank=4, dora=True), lambda _: 2 * (LORA_4 + MAGNITUDES)),
        (LoraSpec(rank=4, last_layers=1), lambda _: LORA_4),
        (LoraSpec(rank=4, quantize="4bit"), lambda _: 2 * LORA_4),
        (LoraSpec(rank=2, targets=["q_proj"]), lambda _: 2 * 2 * 64),
        (Ia3Spec(), lambda _: 2 * (16 + 16 + 64)),  # keys, values, the feed-forward's inner activations
        (Ia3Spec(targets=["o_proj"]), lambda _: 2 * 32),
        (FullSpec(), lambda v: v * 32 + 2 * BLOCK + 32),
        (FullSpec(embeddings=False), lambda _: 2 * BLOCK + 32),
        (FullSpec(last_layers=1), lambda _: BLOCK + 32),
        (FullSpec(last_layers=1, embeddings=True), lambda v: v * 32 + BLOCK + 32),
        (HeadSpec(), lambda v: v * 32 + 32),
    ],
    ids=lambda value: name_of(value) if hasattr(value, "kind") else "",
)
def test_trained_parameters_by_hand_by_plan_and_in_truth(spec, expected, tiny_folder):
    facts = weights.describe(tiny_folder)
    _, _, parameters = attached(spec, tiny_folder)
    truth = sum(p.numel() for _, p in parameters)
    assert truth == expected(facts.vocabulary) == spec.trained_parameters(facts)


@pytest.mark.parametrize("family", ["qwen3", "phi3", "gemma3_text"])
@pytest.mark.parametrize(
    "spec", [LoraSpec(dora=True), Ia3Spec(), FullSpec(last_layers=2), HeadSpec()], ids=name_of
)
def test_the_plan_counts_other_architectures_too(family, spec, tmp_path):
    """Fused matrices, norms of queries and keys, four norms a block, a head of its own."""
    base = tiny_model(tmp_path / "base", family=family, layers=3, tied=family == "phi3")
    _, _, parameters = attached(spec, base)
    assert sum(p.numel() for _, p in parameters) == spec.trained_parameters(weights.describe(base))


def test_bytes_of_what_is_held(tiny_folder):
    facts = weights.describe(tiny_folder)
    everything = facts.vocabulary * 32 + 2 * BLOCK + 32
    assert LoraSpec().weights_bytes(facts, "bf16") == Ia3Spec().weights_bytes(facts, "bf16") == 2 * everything
    assert FullSpec().weights_bytes(facts, "fp32") == 4 * everything
    assert FullSpec().weights_bytes(facts, "bf16") == 6 * everything  # and autocast's copy
    assert FullSpec(last_layers=1).weights_bytes(facts, "bf16") == 4 * everything + 2 * (BLOCK + 32)
    head = facts.vocabulary * 32  # becomes a matrix of its own
    assert HeadSpec().weights_bytes(facts, "bf16") == 4 * (everything + head) + 2 * (head + 32)


def test_how_far_the_backward_pass_goes(tiny_folder):
    facts = weights.describe(tiny_folder)
    told = {
        spec: spec.backward_blocks(facts)
        for spec in (LoraSpec(), LoraSpec(last_layers=1), Ia3Spec(), FullSpec(last_layers=1), HeadSpec())
    }
    assert list(told.values()) == [2, 1, 2, 1, 0]
    assert FullSpec(last_layers=1, embeddings=True).backward_blocks(facts) == 2
    for spec, blocks in told.items():
        _, model, _ = attached(spec, tiny_folder)
        layers = (model.get_base_model() if spec.beside else model).model.layers
        kept = {}
        for i, layer in enumerate(layers):
            layer.register_forward_hook(lambda _m, _i, out, i=i, kept=kept: kept.update({i: out.grad_fn}))
        model.train()(input_ids=IDS, use_cache=False)
        assert [kept[i] is not None for i in (0, 1)] == [False] * (2 - blocks) + [True] * blocks, spec


# -- starts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [*LORA, *QUANTISED, FullSpec(init="random")], ids=name_of)
def test_the_start_follows_from_the_seed_alone(spec, tiny_folder):
    def start(seed, stray):
        torch.manual_seed(stray)
        return {n: p.detach().clone() for n, p in attached(spec, tiny_folder, seed)[2]}

    one, same, other = start(0, 1), start(0, 2), start(1, 1)
    assert all(torch.equal(one[n], same[n]) for n in one)
    assert any(not torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("spec", [*BESIDE, HeadSpec(), FullSpec(last_layers=1)], ids=name_of)
def test_before_the_first_step_the_model_is_its_base(spec, tiny_folder):
    _, model, _ = attached(spec, tiny_folder)
    torch.testing.assert_close(logits(model), logits(weights.load(tiny_folder)), atol=1e-5, rtol=1e-5)


def test_random_weights_owe_nothing_to_the_base(tiny_folder, tmp_path):
    other = tiny_model(tmp_path / "other", seed=7)  # the same shape, other weights
    _, one, _ = attached(FullSpec(init="random"), tiny_folder)
    _, two, _ = attached(FullSpec(init="random"), other)
    assert torch.equal(logits(one), logits(two))
    # transformers draws with the config's initializer_range, 0.02; these bases were drawn with 0.3.
    spread = one.model.layers[0].mlp.gate_proj.weight.std().item()
    assert spread == pytest.approx(0.02, rel=0.1)
    assert one.lm_head.weight is one.model.embed_tokens.weight


def test_scales_by_hand():
    assert LoraSpec(rank=64, alpha=16, rslora=True).scale == 16 / 8
    assert LoraSpec(rank=16).scale == LoraSpec(rank=16, rslora=True).scale == 2.0
    assert LoraSpec(rank=64).scale == 2.0 and LoraSpec(rank=64, rslora=True).scale == 1.0


# -- head -------------------------------------------------------------------------------------------------------------


def test_a_tied_head_gets_weights_of_its_own(tiny_folder, tmp_path):
    adapter, model, parameters = attached(HeadSpec(), tiny_folder)
    assert [n for n, _ in parameters] == ["model.norm.weight", "lm_head.weight"]
    embeddings = model.model.embed_tokens.weight.detach().clone()
    two_steps(model, parameters)
    assert torch.equal(model.model.embed_tokens.weight, embeddings)
    folder = saved(adapter, model, tmp_path / "tuned")
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False
    assert weights.describe(folder).tied is False


def test_with_a_methods_own_head_that_one_moves(tiny_folder, tmp_path):
    from luthier.models import head

    adapter = plugin.load("adapter", "head")()
    model = adapter.attach(weights.load(tiny_folder), HeadSpec(), 0)
    head.attach(model, head.Labels(("a", "b", "c")), 0)
    names = [n for n, _ in adapter.trainable(model)]
    assert (
        names
        == ["model.norm.weight", "luthier_head.score.weight"]
        == [n for n, _ in adapter.trainable(model)]
    )
    folder = tmp_path / "tuned"
    folder.mkdir()
    head.save(model, folder)
    head.take_off(model)
    adapter.save(model, folder, "tiny-llama")
    assert weights.describe(folder).tied is True
    assert head.head_of(weights.load(folder)).gives.labels == ("a", "b", "c")


# -- a quantised base -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", QUANTISED, ids=name_of)
def test_a_merge_takes_the_base_as_it_was(spec, tiny_folder, tmp_path):
    """Training saw the quantised base. What is measured, served and merged is the base as it was with the adapter beside
    it, so those three agree to rounding; they differ from training by the quantisation alone."""
    adapter, model, parameters = attached(spec, tiny_folder)
    two_steps(model, parameters)
    folder = saved(adapter, model, tmp_path / "tuned")
    assert "quant" not in (folder / "adapter_config.json").read_text()
    served = logits(weights.load(folder, base_folder=tiny_folder))
    merge(tiny_folder, folder, tmp_path / "merged")
    torch.testing.assert_close(logits(weights.load(tmp_path / "merged")), served, atol=1e-4, rtol=1e-4)
    # With the dequantised weights in the place of the base's, the adapter says what it said while training.
    dequantised = weights.load(tiny_folder)
    for name, module in model.get_base_model().named_modules():
        if hasattr(module, "bits"):
            plain = name.removesuffix(".base_layer")
            dequantised.get_submodule(plain).weight.data = module.weight
    from luthier.models.adapters import attach_saved

    torch.testing.assert_close(logits(attach_saved(dequantised, folder)), logits(model), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("spec", [*QUANTISED, LoraSpec(dora=True), Ia3Spec()], ids=name_of)
def test_what_moves_is_fp32_whatever_the_base(spec, dtype, tiny_folder):
    _, model, parameters = attached(spec, tiny_folder, dtype=dtype)
    assert {p.dtype for _, p in parameters} == {torch.float32}
    assert all(p.requires_grad and p.is_leaf for _, p in parameters)
    two_steps(model, parameters)
    from peft.helpers import disable_input_dtype_casting

    # As the training machine computes in bf16.
    with torch.autocast("cpu", torch.bfloat16), disable_input_dtype_casting(model):
        model(input_ids=IDS, use_cache=False).logits.float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for _, p in parameters)


# -- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [LoraSpec(last_layers=3), FullSpec(last_layers=3)], ids=name_of)
def test_more_blocks_than_there_are(spec, tiny_folder):
    with pytest.raises(ModelError, match=r"last_layers is 3, and the model has 2 (.|\n)*at most 2"):
        attached(spec, tiny_folder)


@pytest.mark.parametrize("spec", [FullSpec(last_layers=1), HeadSpec()], ids=name_of)
def test_weights_that_move_must_be_fp32(spec, tiny_folder):
    with pytest.raises(ModelError, match=r"loses updates(.|\n)*fp32"):
        attached(spec, tiny_folder, dtype="bf16")


def test_layers_that_the_model_does_not_have(tiny_folder):
    with pytest.raises(ModelError, match="no linear layer 'w2'"):
        attached(Ia3Spec(targets=["w2"]), tiny_folder)


@pytest.mark.parametrize(
    "written",
    [
        {"kind": "full", "init": "random", "last_layers": 1},
        {"kind": "full", "init": "random", "embeddings": False},
        {"kind": "full", "last_layers": 0},
        {"kind": "lora", "quantize": "2bit"},
        {"kind": "ia3", "targets": ["(a+)+$"]},
        {"kind": "ia3", "targets": []},
        {"kind": "head", "rank": 4},
    ],
)
def test_specs_refuse(written):
    with pytest.raises(ValidationError):
        TypeAdapter(AdapterSpec).validate_python(written)


def config_with(folder: Path, **changed):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


@pytest.mark.parametrize(
    "changed",
    [
        {"layers_to_transform": "(0|1)"},
        {"layers_to_transform": [0, -1]},
        {"layers_to_transform": []},
        {"use_dora": "yes"},
        {"lora_alpha": "16"},
        {"lora_alpha": float("1e999")},
        {"init_lora_weights": "pissa"},
        {"alora_invocation_tokens": [1, 2]},
        {"a_key_of_tomorrow": {"x": 1}},
        {"peft_type": ["LORA"]},
    ],
)
def test_features_that_training_here_cannot_give_are_refused(changed, tiny_folder, tmp_path):
    adapter, model, _ = attached(LORA[0], tiny_folder)
    folder = saved(adapter, model, tmp_path / "tuned")
    config_with(folder, **changed)
    with pytest.raises(ModelError, match=f"says {next(iter(changed))} = |not a number|Infinity"):
        weights.load(folder, base_folder=tiny_folder)


@pytest.mark.parametrize("changed", [{"feedforward_modules": "down"}, {"feedforward_modules": ["up_proj"]}])
def test_an_ia3_that_asks_for_more_is_refused(changed, tiny_folder, tmp_path):
    adapter, model, _ = attached(Ia3Spec(), tiny_folder)
    folder = saved(adapter, model, tmp_path / "tuned")
    config_with(folder, **changed)
    with pytest.raises(ModelError, match="says feedforward_modules = "):
        weights.load(folder, base_folder=tiny_folder)


@pytest.mark.parametrize("spec", [LORA[1], Ia3Spec()], ids=name_of)
def test_an_adapter_for_another_base_is_refused(spec, tiny_folder, tmp_path):
    adapter, model, _ = attached(spec, tiny_folder)
    folder = saved(adapter, model, tmp_path / "tuned")
    for other in ({"hidden": 64}, {"layers": 3}, {"layers": 1}):
        base = tiny_model(tmp_path / str(other), **other)
        with pytest.raises(ModelError, match="does not fit its base"):
            weights.load(folder, base_folder=base)
    with pytest.raises(ModelError, match="does not fit a weight"):
        merge(tmp_path / str({"hidden": 64}), folder, tmp_path / "out")
    with pytest.raises(ModelError, match="which its base does not have"):
        merge(tmp_path / str({"layers": 1}), folder, tmp_path / "out")
