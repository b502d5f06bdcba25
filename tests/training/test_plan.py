"""Forecasts by hand, against a real run, and what is suggested when memory is short."""

import pytest

from luthier.models.weights import ModelFacts, describe
from luthier.training.method import NoSettings
from luthier.training.methods.sft import Sft
from luthier.training.plan import (
    RUNTIME_BYTES,
    Lengths,
    Probe,
    activation_bytes,
    forecast,
    largest_micro_batch,
    suggest,
    trained_parameters,
)
from luthier.training.spec import TrainSpec

SFT = Sft(NoSettings())
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
LENGTHS = Lengths(train=((100, 10),) * 40, validation=((50, 5),) * 8)
FULL = {"kind": "full"}


def spec(**given):
    return TrainSpec.model_validate(given)


def test_steps_and_tokens_by_hand():
    # 40 rows of 16: 3 steps an epoch, 6 in all; validations at 0, 1, .., 6 (3 // 4 -> every step).
    told = forecast(spec(epochs=2), FACTS, LENGTHS)
    assert (told.steps, told.tokens, told.supervised) == (6, 8000, 800)
    assert (told.validations, told.validation_tokens, told.seconds) == (7, 7 * 400, None)
    # 4 steps: one epoch of 40 rows and one step of 16 rows; validations at 0, 3, 4.
    told = forecast(spec(epochs=5, max_steps=4, validate_every=3), FACTS, LENGTHS)
    assert (told.steps, told.tokens, told.validations) == (4, 5600, 3)
    assert forecast(spec(), FACTS, Lengths(LENGTHS.train, ())).validations == 0


def test_trained_parameters_of_lora_by_hand():
    # r·(in + out): q and o 576 + 576, k and v 576 + 192, gate, up, down 576 + 1536; 16·30·(2·1152 + 2·768 + 3·2112).
    assert trained_parameters(TrainSpec(), FACTS) == 16 * 30 * (2304 + 1536 + 6336) == 4_884_480
    two = spec(adapter={"kind": "lora", "rank": 8, "targets": ["q_proj", "v_proj"]})
    assert trained_parameters(two, FACTS) == 8 * 30 * (1152 + 768)
    assert trained_parameters(spec(adapter=FULL), FACTS) == FACTS.parameters


def test_memory_by_hand():
    told = forecast(spec(dtype="bf16", batch={"micro_tokens": 1000}), FACTS, LENGTHS).peak_bytes
    # A token of a layer: norms 8·576 + 2·2·576, attention 2·(3·576 + 2·192), feed-forward 2·4·1536, LoRA 2·7·16.
    assert activation_bytes(TrainSpec(), FACTS, "bf16") == 4608 + 2304 + 4224 + 12_288 + 224
    assert told == {
        "weights": 2 * 134_515_008,
        "adapter": 4 * 4_884_480,
        "gradients": 4 * 4_884_480,
        "optimizer": 8 * 4_884_480,
        "activations": 1000 * 30 * 23_648,
        "allocator": 0,
        "logits": 100 * 49_152 * 14,  # ten rows of ten supervised tokens fill the micro-batch
        "runtime": RUNTIME_BYTES,
    }
    full = forecast(spec(adapter=FULL, dtype="bf16"), FACTS, LENGTHS).peak_bytes
    assert (
        full["weights"] == 6 * 134_515_008 and full["adapter"] == 0 and full["optimizer"] == 8 * 134_515_008
    )


def test_the_largest_micro_batch_is_bounded():
    lengths = Lengths(train=((300, 3), (100, 90), (100, 50), (40, 4)), validation=((50, 50),))
    assert largest_micro_batch(lengths, 200) == (300, 50 + 90 + 50 + 4)  # the longest row; the densest in 290
    assert largest_micro_batch(lengths, 10_000) == (590, 197)


def test_an_unsaid_number_format_is_the_larger_one_until_known():
    assert forecast(TrainSpec(), FACTS, LENGTHS).dtype == "fp32"
    assert forecast(TrainSpec(), FACTS, LENGTHS, dtype="bf16").dtype == "bf16"


def probed(peak=4_000_000_000):
    return Probe(
        seconds_per_token=0.01,
        seconds_per_validation_token=0.002,
        seconds_per_step=0.5,
        start_seconds=2.0,
        peak_bytes=peak,
        dtype="bf16",
        device="cpu",
        threads=2,
        tokens=1000,
        largest_micro_batch=2000,
    )


def test_time_and_memory_from_the_probe():
    told = forecast(spec(epochs=2), FACTS, LENGTHS, probed())
    # 2 s to start, 8000 tokens, 6 optimizer steps, 2800 validation tokens.
    assert told.seconds == pytest.approx(2 + 80 + 3 + 5.6)
    assert told.dtype == "bf16" and told.peak_total_bytes == 4_000_000_000


def test_the_least_change_that_fits():
    lengths = Lengths(train=((200, 20),) * 400, validation=())
    made = forecast(spec(dtype="fp32"), FACTS, lengths)
    assert suggest(made, made.peak_total_bytes).settings == ("train.batch.micro_tokens=1024",)
    smaller = suggest(made, 2_200_000_000)
    assert smaller.settings == ("train.batch.micro_tokens=256",) and "the same model" in smaller.effect
    half = suggest(made, 1_700_000_000)
    assert (
        half.settings == ("train.dtype=bf16", "train.batch.micro_tokens=512")
        and half.peak_bytes <= 1_700_000_000
    )
    assert suggest(made, 1_000_000_000) is None
    full = forecast(spec(dtype="fp32", adapter=FULL), FACTS, lengths)
    assert suggest(full, 2_400_000_000).settings[0] == "train.adapter.kind=lora"
    # What a probe measured corrects the formula: twice the memory needs a greater change.
    heavy = forecast(
        spec(dtype="bf16"),
        FACTS,
        lengths,
        probed(2 * forecast(spec(dtype="bf16"), FACTS, lengths).peak_total_bytes),
    )
    assert heavy.peak_total_bytes > suggest(heavy, 5_000_000_000).peak_bytes > 3_000_000_000


def test_the_forecast_is_what_a_run_then_does(work):
    from luthier.core.testing import FakeContext
    from luthier.training.train import tokenised

    given = {"epochs": 1, "dtype": "fp32", "learning_rate": 0.01, "batch": {"rows": 8, "micro_tokens": 150}}
    facts = describe(work.base)
    work.folder.mkdir()
    at = FakeContext(work.folder)
    splits, _ = tokenised(spec(**given), SFT, work.base, work.dataset, facts.context, {}, work.folder, at)
    told = forecast(spec(**given), facts, Lengths.of(splits))
    work.run()
    steps = work.history()["steps"]
    assert told.steps == len(steps)
    assert told.tokens == sum(one["tokens"] for one in steps)
    assert told.supervised == sum(one["supervised"] for one in steps)
    assert told.validations == len(work.history()["validation"])
    # The tiny model's projections do have the shapes of a Llama block, whose head size it states.
    assert told.trained_parameters == work.told("training")[0]["trained_parameters"]
    largest, supervised = largest_micro_batch(Lengths.of(splits), 150)
    assert largest >= 150 and supervised >= max(splits["train"].supervised_tokens)


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_the_probe_measures_two_real_steps(work, adapter):
    from luthier.core.testing import FakeContext
    from luthier.training.probe import probe
    from luthier.training.train import tokenised

    given = spec(dtype="fp32", adapter={"kind": adapter}, batch={"rows": 8, "micro_tokens": 150})
    work.folder.mkdir()
    at = FakeContext(work.folder)
    splits, _ = tokenised(given, SFT, work.base, work.dataset, 512, {}, work.folder, at)
    told = probe(given, work.base, splits["train"])
    assert 0 < told.seconds_per_validation_token < 1 and 0 < told.seconds_per_token < 1
    assert told.peak_bytes > 100_000_000 and told.dtype == "fp32" and told.device == "cpu"
    assert 100 < told.largest_micro_batch <= 150 and 0 < told.tokens <= told.largest_micro_batch
    assert forecast(given, describe(work.base), Lengths.of(splits), told).seconds > 0
