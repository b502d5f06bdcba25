"""Forecasts by hand, against a real run, and what is suggested when memory is short."""

import numpy as np
import pytest

from luthier.models.weights import ModelFacts, describe
from luthier.training.memory import Lengths, largest_micro_batch
from luthier.training.method import NoSettings
from luthier.training.methods.sft import Sft
from luthier.training.plan import Probe, forecast, suggest
from luthier.training.probe import choose
from luthier.training.rows import Row, Tokens
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
LENGTHS = Lengths([(100, 10)] * 40, [(50, 5)] * 8)


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
    assert forecast(spec(), FACTS, Lengths(LENGTHS.train, [])).validations == 0


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


def test_a_measured_peak_corrects_what_is_suggested():
    lengths = Lengths([(200, 20)] * 400, [])
    plain = forecast(spec(dtype="bf16"), FACTS, lengths)
    heavy = forecast(spec(dtype="bf16"), FACTS, lengths, probed(2 * plain.peak_total_bytes))
    limit = plain.peak_total_bytes - 1
    assert suggest(plain, limit).settings == ("train.batch.micro_tokens=1024",)
    # Twice the memory needs a greater change.
    assert suggest(heavy, limit).settings != suggest(plain, limit).settings
    assert suggest(heavy, limit).peak_bytes > limit / 2


def test_the_forecast_is_what_a_run_then_does(work):
    from luthier.core.testing import FakeContext
    from luthier.training.train import tokenised

    given = {"epochs": 1, "dtype": "fp32", "learning_rate": 0.01, "batch": {"rows": 8, "micro_tokens": 150}}
    facts = describe(work.base)
    work.folder.mkdir()
    at = FakeContext(work.folder)
    splits, _ = tokenised(spec(**given), SFT, work.base, work.dataset, facts.context, {}, work.folder, at)
    told = forecast(spec(**given), facts, Lengths.of(splits, spec(**given)))
    work.run()
    steps = work.history()["steps"]
    assert told.steps == len(steps)
    assert told.tokens == sum(one["tokens"] for one in steps)
    assert told.supervised == sum(one["supervised"] for one in steps)
    assert told.validations == len(work.history()["validation"])
    # The tiny model's projections do have the shapes of a Llama block, whose head size it states.
    assert told.trained_parameters == work.told("training")[0]["trained_parameters"]
    largest, supervised = largest_micro_batch(Lengths.of(splits, spec()), 150)
    assert largest >= 150 and supervised >= max(splits["train"].supervised_tokens)


def test_the_forecast_counts_what_a_mix_draws(new_work, make_record):
    from luthier.core.testing import FakeContext
    from luthier.training.train import tokenised

    # 36 and 12 draws an epoch: after two epochs each row of a was seen three times, each of b once.
    given = {"mix": {"weights": {"a": 3, "b": 1}}, "epochs": 2}
    work = new_work("mixed", train=[make_record(i, source="ab"[i % 2]) for i in range(48)])
    work.folder.mkdir()
    facts, at = describe(work.base), FakeContext(work.folder)
    splits, _ = tokenised(spec(**given), SFT, work.base, work.dataset, facts.context, {}, work.folder, at)
    told = forecast(spec(**given), facts, Lengths.of(splits, spec(**given)))
    work.run(**given)
    assert told.tokens == sum(one["tokens"] for one in work.history()["steps"])
    assert told.tokens != 2 * sum(splits["train"].tokens)


@pytest.mark.parametrize(
    ("adapter", "method"), [("lora", "sft"), ("full", "sft"), ("lora", "classify")], ids=lambda name: name
)
def test_the_probe_measures_real_steps(new_work, make_record, adapter, method):
    from luthier.core.testing import FakeContext
    from luthier.training.probe import probe
    from luthier.training.train import tokenised

    given = spec(
        dtype="fp32", adapter={"kind": adapter}, method=method, batch={"rows": 8, "micro_tokens": 150}
    )
    rows = [make_record(i, label=("billing", "delivery")[i % 2]) for i in range(40)]
    work = new_work("probed", train=rows[:32], validation=rows[32:])
    work.folder.mkdir()
    at = FakeContext(work.folder)
    loss = given.method.load()(given.method.settings)
    splits, template = tokenised(given, loss, work.base, work.dataset, 512, {}, work.folder, at)
    folders = {"base": work.base, "dataset": work.dataset}
    told = probe(given, loss, folders, splits, template, at)
    assert 0 < told.seconds_per_validation_token < 1 and 0 < told.seconds_per_token < 1
    assert told.peak_bytes > 100_000_000 and told.dtype == "fp32" and told.device == "cpu"
    assert 50 < told.largest_micro_batch <= 150 and 0 < told.tokens <= told.largest_micro_batch
    assert forecast(given, describe(work.base), Lengths.of(splits, given), told).seconds > 0


def rows_of(*ids):
    """Rows whose last two tokens are learnt."""
    return {
        i: Row(str(i), 1.0, "", (Tokens(np.array(one), np.arange(len(one)) >= len(one) - 2),))
        for i, one in enumerate(ids)
    }


def test_the_probe_picks_micro_batches_as_the_loop_cuts_them():
    rows = rows_of(*([i] * n for i, n in enumerate([10, 20, 30, 40, 50, 90])))
    told = choose([[0, 1, 2], [3, 4], [5]], rows, 60)
    # One part of 10 + 20 + 30 tokens, one each of 40, 50 and 90; by size 90, 60, 50, 40.
    assert (told.largest, told.ordinary, told.others) == ([5], [4], [[0, 1, 2], [3]])
    assert told.rows == [0, 1, 2, 3, 4, 5]


def test_what_rows_share_counts_once_when_the_probe_picks():
    # Four rows of 60 tokens that begin with the same 40: alone 60 each; together 40 + 4·20, of budget 120.
    alike = rows_of(*([*range(40), *([100 + i] * 20)] for i in range(4)), [7] * 100)
    assert len(choose([[0, 1, 2, 3], [4]], alike, 120).largest) == 2
    assert choose([[0, 1, 2, 3], [4]], alike, 120, share=True).largest == [0, 1, 2, 3]
