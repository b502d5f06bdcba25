"""The parts of memory by hand, what decides checkpointing, and the least change that fits."""

import resource
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from luthier.models.weights import ModelFacts
from luthier.training import memory
from luthier.training.memory import (
    FUSED,
    PLAIN,
    Lengths,
    Team,
    forget_peak,
    kept_bytes,
    largest_micro_batch,
    peak_bytes,
    peak_bytes_so_far,
    running_of,
    settle,
    team_of,
)
from luthier.training.method import Method
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
    from luthier.training.methods.sft import Sft, SftSettings

    class Teacher(Sft):
        through_vocabulary = False

        def holds(self, facts, others, tokens, width):
            return {"teacher": width * others["teacher"].parameters + tokens}

    assert Method.holds(Sft(SftSettings()), FACTS, {}, 1, 2) == {}
    monkeypatch.setattr(plugin, "load", lambda kind, name: Teacher)
    told = peak_bytes(TrainSpec(), FACTS, (1000, 100), "bf16", {"teacher": FACTS})
    assert told["teacher"] == 2 * FACTS.parameters + 1000 and told["logits"] == 0


def test_the_largest_micro_batch_is_bounded():
    lengths = Lengths([(300, 3), (100, 90), (100, 50), (40, 4)], [(50, 50)])
    assert largest_micro_batch(lengths, 200) == (300, 50 + 90 + 50 + 4)  # the longest row; the densest in 290
    assert largest_micro_batch(lengths, 10_000) == (590, 197)


GRPO = {"grpo": {"rewards": ["exact_match"], "generations": 4, "max_tokens": 8000}}


def test_a_row_with_its_answer_goes_alone():
    # 100 + 8,000 tokens of one answer are more than a micro-batch of 2,048; the context of 8,192 has room for them.
    grown = LENGTHS.grown(spec(method=GRPO), FACTS.context)
    assert grown.copies == 4 and largest_micro_batch(grown, 2048) == (8100, 8010)
    # 8,160 + 8,000 do not fit: no row is longer than the context, nor than train.longest.
    long = Lengths([(8160, 1)], [])
    assert largest_micro_batch(long.grown(spec(method=GRPO), FACTS.context), 2048) == (8192, 8001)
    assert long.grown(spec(method=GRPO, longest=8170), FACTS.context).train[0, 0] == 8170
    assert LENGTHS.grown(TrainSpec(), FACTS.context) is LENGTHS


def test_answers_to_one_row_come_together():
    # Rows of 10 + 30 and 20 + 30 tokens, each three times; 200 hold three of the denser kind and one of the other.
    wish = {"grpo": {"rewards": ["exact_match"], "generations": 3, "max_tokens": 30}}
    grown = Lengths([(10, 1), (20, 1)], []).grown(spec(method=wish), FACTS.context)
    assert largest_micro_batch(grown, 200) == (200, 3 * 31 + 31)
    assert largest_micro_batch(grown, 10_000) == (3 * 40 + 3 * 50, 6 * 31)


def test_the_plan_of_a_run_and_its_proof_count_the_answers():
    small = spec(method={"grpo": {"rewards": ["exact_match"], "max_tokens": 64}})
    planned = [forecast(one, FACTS, LENGTHS, dtype="bf16") for one in (spec(method=GRPO), small)]
    assert planned[0].peak_bytes["activations"] > 3 * planned[1].peak_bytes["activations"]
    # What decides on checkpointing counts them too: here there is room for the rows as they are tokenised.
    without = spec(method=GRPO, activation_checkpointing=False)
    limit = sum(peak_bytes(without, FACTS, largest_micro_batch(LENGTHS, 2048), "bf16").values())
    assert settle(spec(method=GRPO), FACTS, LENGTHS, "bf16", limit).activation_checkpointing is True
    assert settle(spec(method=GRPO), FACTS, LENGTHS, "bf16", 3 * limit).activation_checkpointing is False


def parallel(kind, n=4, **given):
    return spec(parallel={"kind": kind, "processes": n}, adapter=FULL, **given)


def test_every_process_of_ddp_holds_the_whole_model():
    alone = peak_bytes(spec(adapter=FULL), FACTS, (1000, 100), "fp32")
    wish = parallel("ddp")
    told = peak_bytes(wish, FACTS, (1000, 100), "fp32", team=team_of(wish, "cpu"))
    assert {name: size for name, size in told.items() if name != "exchange"} == {
        name: 4 * size for name, size in alone.items()
    }
    # Gradients are copied when activations are gone: here they take less than those did.
    assert told["exchange"] == 0
    thin = peak_bytes(wish, FACTS, (10, 1), "fp32", team=Team(4, one_memory=False))
    passing = thin["activations"] + thin["allocator"] + thin["logits"]
    assert thin["exchange"] == thin["gradients"] - passing > 0


def test_fsdp_cuts_weights_gradients_and_moments():
    wish = parallel("fsdp")
    told = peak_bytes(wish, FACTS, (1000, 100), "fp32", team=Team(4, one_memory=False))
    P = 134_515_008
    assert (told["weights"], told["gradients"], told["optimizer"]) == (P, P, 2 * P)
    # Whole, with their gradients: the embeddings, the last norm, and two of thirty blocks of 3,540,096 weights.
    assert told["gathered"] == 8 * (49_152 * 576 + 576 + 2 * 3_540_096)
    alone = peak_bytes(spec(adapter=FULL), FACTS, (1000, 100), "fp32", running=PLAIN)
    assert told["activations"] == alone["activations"] and told["runtime"] == alone["runtime"]
    assert told["loading or saving"] == 0
    # A deeper model, few tokens: each GPU needs most before the model is cut, when it holds all of it.
    deep = replace(FACTS, layers=300, parameters=P + 270 * 3_540_096)
    thin = peak_bytes(parallel("fsdp", 64), deep, (10, 1), "fp32", team=Team(64, one_memory=False))
    assert sum(thin.values()) == 4 * deep.parameters + PLAIN.runtime and thin["loading or saving"] > 0
    # In one memory the four parts add up again. A checkpoint is put together whole beside them, by when gradients are gone.
    shared = peak_bytes(wish, deep, (10, 1), "fp32", team=Team(4))
    assert (shared["weights"], shared["optimizer"]) == (4 * deep.parameters, 8 * deep.parameters)
    assert sum(shared.values()) == (4 + 8 + 12) * deep.parameters + 4 * PLAIN.runtime
    # bf16: the copies that autocast makes are whole.
    bf16 = peak_bytes(wish, FACTS, (1000, 100), "bf16", team=Team(4, one_memory=False))
    assert bf16["weights"] == P + 2 * P


def test_processes_are_found_in_the_spec():
    assert team_of(TrainSpec(), "cpu").sharing == 1
    assert team_of(parallel("ddp"), "cpu") == Team(4) and Team(4).sharing == 4
    assert settle(parallel("ddp", 1), FACTS, LENGTHS, "fp32", 8 * 10**9).activation_checkpointing is False
    assert settle(parallel("ddp", 4), FACTS, LENGTHS, "fp32", 8 * 10**9).activation_checkpointing is True


def test_no_adapter_is_suggested_to_fsdp():
    made = forecast(parallel("fsdp"), FACTS, Lengths([(200, 20)] * 400, []))
    for limit in np.linspace(made.peak_total_bytes - 1, made.peak_total_bytes / 3, 20):
        told = suggest(made, int(limit))
        assert told is None or not any("adapter" in one for one in told.settings)
    assert suggest(made, made.peak_total_bytes - 1) is not None


# -- the machine --------------------------------------------------------------------------------------------------------


A_LITTLE = 10_000_000  # Linux counts each thread's pages a little late


def test_the_high_water_is_forgotten():
    held = np.ones(50_000_000)  # 0.4 GB
    most = peak_bytes_so_far()
    del held
    assert peak_bytes_so_far() > most - A_LITTLE
    forget_peak()
    assert peak_bytes_so_far() < most - 300_000_000


def test_where_the_system_cannot_forget_the_whole_process_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CLEAR_REFS", tmp_path)  # a folder: nobody can write to it
    held = np.ones(50_000_000)
    most = peak_bytes_so_far()
    del held
    forget_peak()
    assert peak_bytes_so_far() > most - A_LITTLE
    monkeypatch.setattr(memory, "STATUS", tmp_path / "not-linux")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert peak_bytes_so_far() >= 1024 * most > 0


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


PROBED = """
import sys
from pathlib import Path
from luthier.core.testing import FakeContext
from luthier.models.weights import describe
from luthier.training import probe
from luthier.training.memory import Lengths
from luthier.training.plan import forecast
from luthier.training.spec import TrainSpec
from luthier.training.train import tokenised

base, dataset, folder, adapter, dtype = *map(Path, sys.argv[1:4]), *sys.argv[4:]
probe.PATIENCE_S = 0.0
given = TrainSpec.model_validate(
    {"adapter": {"kind": adapter}, "dtype": dtype, "batch": {"rows": 24, "micro_tokens": 1024}}
)
method, at = given.method.load()(given.method.settings), FakeContext(folder)
splits, template = tokenised(given, method, base, dataset, 8192, {}, folder, at)
planned = forecast(given, describe(base), Lengths.of(splits, given), dtype=dtype)
measured = probe.probe(given, method, {"base": base, "dataset": dataset}, splits, template, at)
print(measured.peak_bytes / planned.peak_total_bytes)
"""


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize(("adapter", "dtype"), [("lora", "fp32"), ("full", "fp32")])
def test_the_parts_add_up_to_what_a_real_process_holds(tmp_path, new_work, make_record, adapter, dtype):
    """In a process of its own: this one holds what other tests have left."""
    from luthier.models.testing import real_model

    rows = [make_record(i) for i in range(24)]
    for row in rows:
        row["messages"][1]["content"] *= 4
    work, base = new_work("real", train=rows), real_model(tmp_path / "base")
    work.folder.mkdir()
    told = subprocess.run(
        [sys.executable, "-c", PROBED, str(base), str(work.dataset), str(work.folder), adapter, dtype],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert told.returncode == 0, told.stderr[-2000:]
    assert 0.8 < float(told.stdout.splitlines()[-1]) < 1.1
