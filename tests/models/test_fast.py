"""The fast form of every family equals the plain one, gradients included, and leaves no trace."""

import copy

import pytest
import torch

from luthier.models import attention, losses, weights
from luthier.models.adapters import Full, Lora
from luthier.models.families import FAMILIES
from luthier.models.fast import kernels, quicken
from luthier.models.spec import FullSpec, LoraSpec
from luthier.models.testing import TOLERANCES, compare, tiny_model

# What makes a family differ from Llama; a small window makes sliding layers matter.
SETTINGS = {
    "mistral": {"sliding_window": 8},
    "qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "gemma3_text": {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "granite": {"logits_scaling": 3.0, "residual_multiplier": 0.3, "embedding_multiplier": 2.0},
    "phi3": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    },
}
ALL = ("gated", "head", "norms", "projections", "rotary")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def folder(family):
        if family not in made:
            path = tmp_path_factory.mktemp(family)
            made[family] = tiny_model(path, family=family, **SETTINGS.get(family, {}))
        return made[family]

    return folder


def stirred(model, seed=3):
    """LoRA starts with B = 0, where half of its gradients vanish: give it something to do."""
    draw = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data.normal_(0, 0.1, generator=draw)
    return model


def lora(folder, dtype="fp32", **spec):
    return stirred(Lora().attach(weights.load(folder, dtype=dtype), LoraSpec(rank=4, **spec), 0)).train()


def full(folder, dtype="fp32"):
    return Full().attach(weights.load(folder), FullSpec(), 0).train()


def loss_of(model, dtype="fp32"):
    """Three documents in one line, about half of the tokens supervised with unequal weights."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 500, (1, 36), generator=draw)
    keep = torch.randperm(36, generator=draw)[:20].sort().values
    targets, amounts = torch.randint(3, 500, (20,), generator=draw), torch.rand(20, generator=draw)
    inputs = {"input_ids": ids, **attention.packed([3, 21, 12])}

    def loss():
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            return losses.weighted_nll(model, inputs, keep, targets, amounts).sum / 7

    return loss


def gradients(model, loss):
    loss().backward()
    told = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return told


@pytest.mark.parametrize("attach", [lora, full])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_equals_its_plain_form(folders, family, attach):
    model = attach(folders(family))
    quick = quicken(model)
    assert quick.parts == ALL and set(quick.left) <= {"kernels"}
    loss = loss_of(model)
    fast = gradients(model, loss)
    with quick.off():
        plain = gradients(model, loss)
        plain_loss = loss()
    assert fast.keys() == plain.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    torch.testing.assert_close(loss(), plain_loss, rtol=1e-5, atol=0)
    for name, theirs in plain.items():
        assert fast[name].dtype == theirs.dtype
        assert (fast[name] - theirs).norm() <= 2e-5 * theirs.norm(), name


@pytest.mark.parametrize("attach", [lora, full])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text", "olmo2"])
def test_bf16_stays_within_its_tolerance(folders, family, attach):
    model = attach(folders(family), "bf16")
    quick = quicken(model)
    found = compare(loss_of(model, "bf16"), model.parameters(), quick, TOLERANCES["bf16"])
    assert found.ok, found
    assert all(p.grad is None for p in model.parameters())


def test_bf16_is_as_near_to_fp32_as_the_plain_form_is(folders):
    truth = gradients(exact := lora(folders("llama")), loss_of(exact))
    model = lora(folders("llama"), "bf16")
    quick = quicken(model)

    def error():
        told = gradients(model, loss_of(model, "bf16"))
        apart = sum(float((told[n] - g).square().sum()) for n, g in truth.items())
        return (apart / sum(float(g.square().sum()) for g in truth.values())) ** 0.5

    fast = error()
    with quick.off():
        plain = error()
    assert fast < 1.5 * plain


def test_without_autocast_lora_computes_in_the_base_format(folders):
    model = lora(folders("llama"), "bf16")
    quicken(model)
    grads = gradients(model, loss_of(model))
    assert {g.dtype for g in grads.values()} == {torch.float32}


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_plain_formulas_equal_the_compiled_ones(folders, family):
    model = full(folders(family))
    quicken(model)
    if not kernels.compiled():
        pytest.skip("no C compiler here, so there are only the plain formulas")
    compiled = gradients(model, loss_of(model))
    with kernels.plainly():
        formulas = gradients(model, loss_of(model))
    for name, one in formulas.items():
        assert (compiled[name] - one).norm() <= 2e-5 * one.norm(), name


def test_what_is_not_understood_is_left_and_named(folders):
    model = lora(folders("llama"), dropout=0.5)
    quick = quicken(model)
    assert "projections" not in quick.parts
    assert set(quick.parts) == {"gated", "head", "norms"}
    assert quick.left["model.layers.*.self_attn"] == "q/k/v: its adapter drops inputs at random"
    found = compare(loss_of(model), model.parameters(), quick, TOLERANCES["fp32"])
    assert found.ok, found


@pytest.mark.parametrize("within", [False, True])
def test_a_layer_that_somebody_watches_is_left(folders, within):
    model = lora(folders("llama"))
    layer = model.base_model.model.model.layers[1].self_attn.k_proj
    seen = []
    (layer.lora_A["default"] if within else layer).register_forward_hook(lambda *_: seen.append(1))
    quick = quicken(model)
    seen.clear()
    loss_of(model)()
    assert seen and "hooked" in quick.left["model.layers.*.self_attn"]
    assert "projections" in quick.parts  # of the other layer


def test_a_model_that_cannot_be_called_is_left_as_it_is(folders):
    model = weights.load(folders("llama"))

    plain = model.model.forward

    def refuse(*given, layout=None, **named):
        if layout is not None:
            raise TypeError("an unexpected keyword argument")
        return plain(*given, **named)

    model.model.forward = refuse
    quick = quicken(model)
    assert (
        quick.left["layers"] == "the model cannot be called on a few tokens: an unexpected keyword argument"
    )
    assert quick.parts == ("head",)


def test_norms_with_large_weights_count_from_where_they_count(folders):
    """Weights of gemma count from one. At 60 to 100 the other beginning is a hundredth off, which bf16's tolerance allows."""
    model = weights.load(folders("gemma3_text"), dtype="bf16")
    attention_ = model.model.layers[0].self_attn
    with torch.no_grad():
        model.model.norm.weight.fill_(100.0)
        attention_.q_norm.weight.fill_(60.0)
        attention_.k_norm.weight.fill_(60.0)
    quick = quicken(model)
    parts = {id(part.module): part for part in quick._parts}
    assert parts[id(model.model.norm)].offset == 1.0
    assert [norm.offset for norm in parts[id(attention_)].norms] == [1.0, 1.0]


def test_what_a_part_no_longer_calls_must_not_be_watched(folders):
    model = weights.load(folders("qwen3"))
    model.model.layers[0].self_attn.q_norm.register_forward_hook(lambda *_: None)
    model.model.layers[0].mlp.act_fn.register_forward_hook(lambda *_: None)
    left = quicken(model).left
    assert "hooked a norm" in left["model.layers.*.self_attn"] and "hooked" in left["model.layers.*.mlp"]


def test_dora_is_left_to_peft(folders):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], use_dora=True)
    model = stirred(get_peft_model(weights.load(folders("llama")), config))
    quick = quicken(model)
    assert "more than a low-rank product" in quick.left["model.layers.*.mlp"]
    found = compare(loss_of(model), model.parameters(), quick, TOLERANCES["fp32"])
    assert found.ok, found


def test_another_activation_is_left(tmp_path):
    model = weights.load(tiny_model(tmp_path / "m", hidden_act="relu")).requires_grad_(True)
    quick = quicken(model)
    assert "gated" not in quick.parts
    assert "neither SiLU nor" in quick.left["model.layers.*.mlp"]
    assert compare(loss_of(model), model.parameters(), quick, TOLERANCES["fp32"]).ok


def test_a_module_that_does_more_than_its_like_is_left(folders):
    model = weights.load(folders("llama")).requires_grad_(True)
    norm = model.model.layers[1].input_layernorm
    plain = norm.forward
    norm.forward = lambda x: plain(x) * 3  # as a family of its own might
    quick = quicken(model)
    assert quick.left["model.layers.*.input_layernorm"] == "it computes something else than its like"


def test_a_module_that_is_built_otherwise_is_left(folders):
    model = weights.load(folders("llama"))
    for layer in model.model.layers:
        del layer.mlp.act_fn
        layer.mlp.forward = lambda x, mlp=layer.mlp: mlp.down_proj(mlp.gate_proj(x) * mlp.up_proj(x))
    quick = quicken(model)
    assert "gated" not in quick.parts and "model.layers.*.mlp" in quick.left


def test_a_forward_that_somebody_else_wrapped_comes_back(folders):
    model = weights.load(folders("llama"))
    norm, calls = model.model.norm, []
    plain = norm.forward
    norm.forward = wrapped = lambda x: calls.append(1) or plain(x)
    quick = quicken(model)
    assert norm.forward is not wrapped
    with quick.off():
        assert norm.forward is wrapped
    quick.restore()
    assert norm.forward is wrapped and model.model.layers[0].mlp.__dict__.get("forward") is None


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["up_proj", "k_proj"], ["o_proj"]])
def test_an_adapter_on_some_layers_of_a_group(folders, targets):
    model = lora(folders("qwen2"), targets=targets)
    quick = quicken(model)
    assert quick.parts == ALL
    found = compare(loss_of(model), model.parameters(), quick, TOLERANCES["fp32"])
    assert found.ok and found.gradient_rel < 1e-5


def test_an_adapter_switched_off_counts_for_nothing(folders):
    model = lora(folders("llama"))
    quicken(model)
    with model.disable_adapter(), torch.no_grad():
        without = loss_of(model)()
    base = weights.load(folders("llama"))
    with torch.no_grad():
        torch.testing.assert_close(without, loss_of(base)(), rtol=1e-6, atol=0)
        assert abs(loss_of(model)() - without) > 1e-3


def test_only_trained_layers_and_those_above_compute_gradients(folders):
    model = full(folders("llama"))
    model.requires_grad_(False)
    for p in model.model.layers[1].mlp.parameters():
        p.requires_grad_(True)
    quick = quicken(model)
    seen = []
    model.model.layers[0].register_forward_hook(lambda _, __, out: seen.append(out.requires_grad))
    grads = gradients(model, loss_of(model))
    assert seen == [False] and len(grads) == 3
    assert compare(loss_of(model), model.parameters(), quick, TOLERANCES["fp32"]).gradient_rel < 1e-5


def test_names_objects_and_storage_survive(folders):
    model = lora(folders("llama"))
    before = {name: (id(p), p.detach().clone()) for name, p in model.named_parameters()}
    q = model.base_model.model.model.layers[0].self_attn.q_proj.base_layer.weight
    quick = quicken(model)
    # q 32 x 32, k and v 16 x 32 each: one storage of 64 · 32 numbers of four bytes.
    assert q.untyped_storage().nbytes() == 64 * 32 * 4
    after = dict(model.named_parameters())
    assert after.keys() == before.keys()
    for name, (identity, values) in before.items():
        assert id(after[name]) == identity and torch.equal(after[name], values)
    quick.restore()
    assert q.untyped_storage().nbytes() == 32 * 32 * 4
    assert not any("forward" in module.__dict__ for module in model.modules())
    quick.restore()


def test_a_saved_adapter_has_the_same_bytes(folders, tmp_path):
    model = lora(folders("llama"))
    for name in ("plain", "fast"):
        (tmp_path / name).mkdir()
    Lora().save(model, tmp_path / "plain", "base")
    quicken(model)
    Lora().save(model, tmp_path / "fast", "base")
    for file in (tmp_path / "plain").iterdir():
        assert (tmp_path / "fast" / file.name).read_bytes() == file.read_bytes()


def test_a_whole_model_saves_and_loads_while_fast(folders, tmp_path):
    model = full(folders("llama"))
    quicken(model)
    with torch.no_grad():
        model.model.layers[0].self_attn.k_proj.weight.add_(0.1)
        here = loss_of(model)()
    Full().save(model, tmp_path, "base")
    again = weights.load(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(loss_of(again)(), here, rtol=1e-6, atol=0)


def test_an_optimizers_step_is_seen_and_merging_works_after_restore(folders):
    model = lora(folders("llama"))
    quick = quicken(model)
    loss = loss_of(model)
    before = loss()
    before.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2).step()
    after = loss().detach()
    assert after < before
    quick.restore()
    merged = model.merge_and_unload()
    with torch.no_grad():
        torch.testing.assert_close(loss_of(merged)(), after, rtol=1e-5, atol=0)


def test_a_weight_that_was_moved_is_read_where_it_is_now(folders):
    model = full(folders("llama"))
    quick = quicken(model)
    v = model.model.layers[0].self_attn.v_proj.weight
    v.data = v.data.clone() * 2
    assert compare(loss_of(model), model.parameters(), quick, TOLERANCES["fp32"]).ok


def test_a_copy_of_a_fast_model_stands_on_its_own(folders):
    model = full(folders("llama"))
    quicken(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        here = loss_of(model)()
        for p in model.parameters():
            p.zero_()
        torch.testing.assert_close(loss_of(other)(), here)


def test_activation_checkpointing_gives_the_same_gradients(folders):
    model = lora(folders("llama"))
    quicken(model)
    plain = gradients(model, loss_of(model))
    model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    kept = gradients(model, loss_of(model))
    for name, one in plain.items():
        torch.testing.assert_close(kept[name], one, rtol=1e-6, atol=1e-8)


def test_answers_are_the_same_while_fast(folders):
    from luthier.models.generate import answer
    from luthier.models.template import Template

    model = weights.load(folders("qwen3"))
    template = Template(weights.load_tokenizer(folders("qwen3")), 512)
    prompts = [template.prompt([{"role": "user", "content": "refund " * n}]) for n in (1, 4)]
    plain = answer(model, template, prompts, 8)
    quicken(model)
    assert answer(model, template, prompts, 8) == plain


def test_a_difference_is_found(folders):
    model = lora(folders("llama"))
    quick = quicken(model)
    state = torch.random.get_rng_state()
    part = next(part for part in quick._parts if "gated" in part.names)
    part.act = "gelu_tanh"  # a kernel that is silently wrong
    found = compare(loss_of(model), model.parameters(), quick, TOLERANCES["fp32"])
    assert not found.ok and found.gradient_rel > 1e-3
    assert torch.equal(torch.random.get_rng_state(), state)
