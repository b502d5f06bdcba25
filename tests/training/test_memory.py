"""The parts of memory by hand, what decides checkpointing, and the least change that fits."""

import numpy as np
import pytest

from luthier.models.weights import ModelFacts
from luthier.training.memory import (
    FUSED,
    PLAIN,
    Lengths,
    kept_bytes,
    largest_micro_batch,
    peak_bytes,
    running_of,
    settle,
)
from luthier.training.method import Method, NoSettings
from luthier.training.plan import forecast, suggest
from luthier.training.spec import TrainSpec

# SmolLM2-135M
FACTS = ModelFacts(
    parameters=134_515_008,
    layers=30,
    hidden=576,
    heads=9,
    kv_heads=3,
    head_size=64,
    vocabulary=49_152,
    intermediate=1536,
    context=8192,
    tied=True,
    dtype="bf16",
)
LENGTHS = Lengths([(100, 10)] * 40, [(50, 5)] * 8)
FULL = {"kind": "full"}
LORA = 4_884_480  # 16·30·(2·1152 + 2·768 + 3·2112)


def spec(**given):
    return TrainSpec.model_validate(given)


def test_parts_by_hand():
    told = peak_bytes(spec(dtype="bf16"), FACTS, (1000, 100), "bf16", running=PLAIN)
    # A token of a layer: norms 8·576 + 2·2·576, attention 2·(3·576 + 2·192), feed-forward 2·4·1536, LoRA 2·7·16.
    assert kept_bytes(TrainSpec(), FACTS, "bf16", PLAIN) == 4608 + 2304 + 4224 + 12_288 + 224 == 23_648
    assert told == {
        "weights": 2 * 134_515_008,
        "adapter": 4 * LORA,
        "gradients": 4 * LORA,
        "optimizer": 8 * LORA,
        "activations": 1000 * 30 * 23_648,
        "logits": 100 * 49_152 * 10,
        "allocator": round(0.5 * 1000 * 30 * 23_648),
        "runtime": PLAIN.runtime,
    }
    # Fused: norms' outputs and the gate's product are computed again: 4608 + 2·(2·576 + 2·192 + 2·1536) + 224.
    assert kept_bytes(TrainSpec(), FACTS, "bf16", FUSED) == 4608 + 9216 + 224


@pytest.mark.parametrize(
    ("given", "running"),
    [
        ({}, FUSED),
        ({"adapter": FULL}, FUSED),
        ({"adapter": {"kind": "lora", "dropout": 0.1}}, PLAIN),
        ({"adapter": {"kind": "lora", "dora": True}}, PLAIN),
        ({"adapter": {"kind": "lora", "quantize": "8bit"}}, PLAIN),
        ({"adapter": {"kind": "ia3"}}, PLAIN),
        ({"adapter": FULL, "parallel": {"kind": "fsdp"}}, PLAIN),
    ],
)
def test_layers_that_are_not_fused_keep_more(given, running):
    assert running_of(spec(**given)) is running


def test_parts_where_the_base_moves():
    told = peak_bytes(spec(adapter=FULL), FACTS, (1000, 100), "bf16")
    # fp32 masters, and the copies that autocast makes of them.
    assert told["weights"] == 6 * 134_515_008 and told["adapter"] == 0
    assert told["gradients"] == 4 * 134_515_008 and told["optimizer"] == 8 * 134_515_008
    # 100 rows of logits, and twice the head's own gradient in fp32 on its way to the others.
    assert told["logits"] == 100 * 49_152 * 10 + 8 * 49_152 * 576
    # Two layers move: activations of two are kept.
    top = peak_bytes(spec(adapter={"kind": "full", "last_layers": 2}), FACTS, (1000, 100), "fp32")
    assert top["activations"] == 1000 * 2 * kept_bytes(spec(adapter=FULL), FACTS, "fp32", FUSED)


def test_the_head_holds_a_slice_of_the_logits():
    # 48 MiB of bf16 logits are 48·2²⁰ / (2·49,152) = 512 rows.
    told = peak_bytes(TrainSpec(), FACTS, (2000, 1800), "bf16")
    assert told["logits"] == 512 * 49_152 * 10


def test_checkpointing_keeps_the_blocks_inputs_and_one_block():
    told = peak_bytes(spec(activation_checkpointing=True), FACTS, (1000, 100), "bf16", running=PLAIN)
    assert told["activations"] == 1000 * (30 * 4 * 576 + 23_648)


def test_a_base_in_four_bits_is_lighter():
    plain = peak_bytes(TrainSpec(), FACTS, (1000, 100), "bf16")["weights"]
    packed = peak_bytes(spec(adapter={"kind": "lora", "quantize": "4bit"}), FACTS, (1000, 100), "bf16")[
        "weights"
    ]
    # 106.2M of 134.5M weights are matrices of blocks: from 2 bytes to 36/64 of a byte each.
    matrices = 30 * (2 * 576 * 576 + 2 * 192 * 576 + 3 * 576 * 1536)
    assert plain - packed == 2 * matrices - matrices * 36 // 64


def test_a_method_says_what_it_holds(monkeypatch):
    from luthier.core import plugin
    from luthier.training.methods.sft import Sft

    class Teacher(Sft):
        through_vocabulary = False

        def holds(self, facts, others, tokens, width):
            return {"teacher": width * others["teacher"].parameters + tokens}

    assert Method.holds(Sft(NoSettings()), FACTS, {}, 1, 2) == {}
    monkeypatch.setattr(plugin, "load", lambda kind, name: Teacher)
    told = peak_bytes(TrainSpec(), FACTS, (1000, 100), "bf16", {"teacher": FACTS})
    assert told["teacher"] == 2 * FACTS.parameters + 1000 and told["logits"] == 0


def test_the_largest_micro_batch_is_bounded():
    lengths = Lengths([(300, 3), (100, 90), (100, 50), (40, 4)], [(50, 50)])
    assert largest_micro_batch(lengths, 200) == (300, 50 + 90 + 50 + 4)  # the longest row; the densest in 290
    assert largest_micro_batch(lengths, 10_000) == (590, 197)


def test_checkpointing_is_turned_on_only_where_nothing_else_fits():
    plain = settle(TrainSpec(), FACTS, LENGTHS, "bf16", 10**12)
    assert plain.activation_checkpointing is False
    total = sum(peak_bytes(plain, FACTS, largest_micro_batch(LENGTHS, 2048), "bf16").values())
    assert settle(TrainSpec(), FACTS, LENGTHS, "bf16", total).activation_checkpointing is False
    assert settle(TrainSpec(), FACTS, LENGTHS, "bf16", total - 1).activation_checkpointing is True
    written = spec(activation_checkpointing=False)
    assert settle(written, FACTS, LENGTHS, "bf16", 1) is written
    assert (
        forecast(TrainSpec(), FACTS, LENGTHS, dtype="bf16", limit_bytes=1).spec.activation_checkpointing
        is True
    )


def settings(**given):
    """The settings of the least change for each limit, from just below what is needed to a tenth of it."""
    made = forecast(spec(**given), FACTS, Lengths([(200, 20)] * 400, []))
    found = []
    for limit in np.linspace(made.peak_total_bytes - 1, made.peak_total_bytes / 10, 60):
        told = suggest(made, int(limit))
        if told is not None:
            assert told.peak_bytes <= limit
            found.append(told.settings)
    return list(dict.fromkeys(found))


def test_the_least_change_that_fits_is_tried_in_the_order_of_cost():
    found = settings(dtype="fp32")
    assert found[0] == ("train.batch.micro_tokens=1024",)
    kinds = [{one.partition("=")[0].rpartition(".")[2] for one in told} for told in found]
    assert kinds[0] == {"micro_tokens"}
    first = {name: next(i for i, kind in enumerate(kinds) if name in kind) for name in set().union(*kinds)}
    assert first["micro_tokens"] < first["dtype"] < first["activation_checkpointing"] < first["quantize"]


def test_lora_is_the_last_resort_of_full_fine_tuning():
    found = settings(dtype="bf16", adapter=FULL)
    assert found[0] == ("train.batch.micro_tokens=1024",)
    assert "train.adapter={kind: lora}" in found[-1] and "train.activation_checkpointing=true" in found[-1]
    with_lora = ["train.adapter={kind: lora}" in told for told in found]
    assert with_lora == sorted(with_lora) and found[3][0] == "train.activation_checkpointing=true"


def test_nothing_is_suggested_where_nothing_fits():
    made = forecast(TrainSpec(), FACTS, LENGTHS)
    assert suggest(made, 1_000_000) is None


@pytest.mark.parametrize("given", ["always", 2, None])
def test_checkpointing_is_on_off_or_auto(given):
    from luthier.core.errors import SpecError
    from luthier.core.spec import Tree, parse

    with pytest.raises(SpecError):
        parse(TrainSpec, Tree({"activation_checkpointing": given}))
