"""Forecasts by hand, against a real run, and what is suggested when memory is short."""

import time

import numpy as np
import pytest

from luthier.models.weights import ModelFacts, describe
from luthier.training.memory import Lengths, largest_micro_batch, peak_bytes_so_far
from luthier.training.methods.sft import Sft, SftSettings
from luthier.training.plan import Probe, forecast, suggest
from luthier.training.probe import choose
from luthier.training.rows import Row, Tokens
from luthier.training.spec import TrainSpec

SFT = Sft(SftSettings())
SMALL = {"dtype": "fp32", "batch": {"rows": 8, "micro_tokens": 150}}
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


def probed(peak=4_000_000_000, **other):
    figures = {
        "seconds_per_token": 0.01,
        "seconds_per_validation_token": 0.002,
        "seconds_per_read_token": 0.001,
        "seconds_per_step": 0.5,
        "seconds_per_prepared_row": 0.0,
        "start_seconds": 2.0,
        "tokens_per_token": 1.0,
        "supervised_per_supervised": 1.0,
        "validation_tokens_per_token": 1.0,
        "peak_bytes": peak,
        "dtype": "bf16",
        "device": "cpu",
        "threads": 2,
        "tokens": 1000,
        "largest_micro_batch": 2000,
    }
    return Probe(**{**figures, **other})


def test_time_and_memory_from_the_probe():
    told = forecast(spec(epochs=2), FACTS, LENGTHS, probed())
    # 2 s to start, 8000 tokens, 6 optimizer steps, 2800 validation tokens.
    assert told.seconds == pytest.approx(2 + 80 + 3 + 5.6)
    assert told.dtype == "bf16" and told.peak_total_bytes == 4_000_000_000


def test_what_a_method_prepares_counts_for_every_row():
    # 40 rows to train on and 8 to validate.
    alone, told = (forecast(spec(), FACTS, LENGTHS, probed(seconds_per_prepared_row=s)) for s in (0.0, 0.5))
    assert told.seconds - alone.seconds == pytest.approx(48 * 0.5)


ANSWERS = {"grpo": {"rewards": ["exact_match"], "generations": 4, "max_tokens": 30}}


def test_rows_that_a_method_unfolds_are_bounded_until_they_are_measured():
    # One epoch of 40 rows: four answers to each, of at most 100 + 30 tokens, 10 + 30 of them supervised; one answer to
    # each of 8 validation rows, 50 + 30 tokens.
    told = forecast(spec(method=ANSWERS, epochs=1), FACTS, LENGTHS)
    assert told.known == "bound" and (told.tokens, told.supervised) == (40 * 4 * 130, 40 * 4 * 40)
    assert told.validation_tokens == told.validations * 8 * 80
    # The probe's rows became three times as many tokens, and twice as many supervised ones.
    grew = {"tokens_per_token": 3.0, "supervised_per_supervised": 2.0, "validation_tokens_per_token": 1.5}
    seen = forecast(spec(method=ANSWERS, epochs=1), FACTS, LENGTHS, probed(**grew))
    assert seen.known == "measured" and (seen.tokens, seen.supervised) == (3 * 4000, 2 * 400)
    assert seen.validation_tokens == seen.validations * 600
    # Seconds are those of the rows as they are tokenised: what they grow by is in the probe's seconds.
    plain = forecast(spec(epochs=1), FACTS, LENGTHS, probed())
    assert seen.seconds == plain.seconds and plain.known == "counted"


def test_a_teachers_answers_are_bounded_and_its_probabilities_are_not():
    def told(**wish):
        wish = spec(method={"distill": {"teacher": "x", **wish}}, epochs=1)
        return forecast(wish, FACTS, LENGTHS, others={"teacher": FACTS})

    written = told(level="sequence", max_tokens=30)
    assert written.known == "bound" and written.tokens == 40 * 130
    assert told(level="token").known == "counted"


def test_rows_that_may_grow_beyond_the_probes_are_planned_by_the_larger_figure():
    light, heavy = probed(1_000_000), probed(10**12)
    parts = sum(forecast(spec(method=ANSWERS), FACTS, LENGTHS, light).peak_bytes.values())
    assert forecast(spec(method=ANSWERS), FACTS, LENGTHS, light).peak_total_bytes == parts > 10**8
    assert forecast(spec(method=ANSWERS), FACTS, LENGTHS, heavy).peak_total_bytes == 10**12
    assert forecast(spec(), FACTS, LENGTHS, light).peak_total_bytes == 1_000_000


def test_several_processes_each_hold_what_was_measured_of_one():
    wish = spec(parallel={"kind": "ddp", "processes": 3})
    on_processor, alone = forecast(wish, FACTS, LENGTHS, probed()), forecast(spec(), FACTS, LENGTHS, probed())
    assert on_processor.peak_total_bytes == 3 * alone.peak_total_bytes
    assert on_processor.seconds == alone.seconds  # of one process alone
    assert sum(on_processor.peak_bytes.values()) == 3 * sum(alone.peak_bytes.values())


def test_each_gpu_holds_one_process(monkeypatch):
    monkeypatch.setattr("luthier.training.launch._gpus", lambda: 3)
    wish = spec(parallel={"kind": "ddp"})
    on_gpus, alone = (forecast(one, FACTS, LENGTHS, probed(device="cuda")) for one in (wish, spec()))
    assert on_gpus.team.size == 3 and on_gpus.peak_total_bytes == alone.peak_total_bytes


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
    ("order", "epochs"),
    [("short_first", 0.5), (["b", "a"], 0.5), (["b", "a"], 1.5), ("shuffled", 0.5)],
    ids=str,
)
def test_the_forecast_of_a_part_of_an_epoch_counts_the_rows_it_takes(new_work, make_record, order, epochs):
    from luthier.core.testing import FakeContext
    from luthier.training.train import tokenised

    # Rows of b are longer than those of a, so half an epoch is nothing like half of its tokens.
    rows = [make_record(i, source="ab"[i % 2]) for i in range(48)]
    for row in rows[1::2]:
        row["messages"][1]["content"] += " and more of it" * 5
    given = {"order": order, "epochs": epochs}
    work = new_work("half", train=rows)
    work.folder.mkdir()
    facts, at = describe(work.base), FakeContext(work.folder)
    splits, _ = tokenised(spec(**given), SFT, work.base, work.dataset, facts.context, {}, work.folder, at)
    batch = {"rows": 8, "micro_tokens": 150}
    told = forecast(spec(**given, batch=batch), facts, Lengths.of(splits, spec(**given, batch=batch)))
    work.run(**given)
    steps = work.history()["steps"]
    assert (told.steps, told.tokens) == (len(steps), sum(one["tokens"] for one in steps))
    assert told.supervised == sum(one["supervised"] for one in steps)
    assert told.tokens != round(epochs * sum(splits["train"].tokens))


@pytest.mark.parametrize(
    ("adapter", "method"), [("lora", "sft"), ("full", "sft"), ("lora", "classify")], ids=lambda name: name
)
def test_the_probe_measures_real_steps(new_work, make_record, adapter, method):
    rows = [make_record(i, label=("billing", "delivery")[i % 2]) for i in range(40)]
    work = new_work("probed", train=rows[:32], validation=rows[32:])
    given = spec(**SMALL, adapter={"kind": adapter}, method=method)
    told, splits, _ = probed_for_real(work, given)
    assert 0 < told.seconds_per_read_token <= told.seconds_per_validation_token < 1
    assert 0 < told.seconds_per_token < 1 and told.seconds_per_prepared_row == 0
    assert told.tokens_per_token == told.validation_tokens_per_token == told.supervised_per_supervised == 1
    assert told.peak_bytes > 100_000_000 and told.dtype == "fp32" and told.device == "cpu"
    assert 50 < told.largest_micro_batch <= 150 and 0 < told.tokens <= told.largest_micro_batch
    assert forecast(given, describe(work.base), Lengths.of(splits, given), told).seconds > 0


def probed_for_real(work, given, method=None):
    """The probe's figures, the tokenised rows, the method."""
    from luthier.core.testing import FakeContext
    from luthier.training.probe import probe
    from luthier.training.train import tokenised

    work.folder.mkdir(exist_ok=True)
    at = FakeContext(work.folder)
    method = method or given.method.load()(given.method.settings)
    splits, template = tokenised(given, method, work.base, work.dataset, 512, {}, work.folder, at)
    folders = {"base": work.base, "dataset": work.dataset, **work.others}
    return probe(given, method, folders, splits, template, at), splits, method


class Slow(Sft):
    """Takes 0.3 s to load something, then 20 ms for each row."""

    def prepare(self, model, splits, work):
        time.sleep(0.3)
        for split, rows in splits.items():
            work.at.progress(split, 0, len(rows))
            for _ in rows:
                time.sleep(0.02)
        self.rows = sum(map(len, splits.values()))


def test_what_a_method_does_with_each_row_before_the_first_step_is_measured(work):
    method = Slow(SftSettings())
    told, splits, _ = probed_for_real(work, spec(**SMALL), method)
    assert 0.02 <= told.seconds_per_prepared_row < 0.03 and told.start_seconds > 0.3
    assert method.rows < sum(map(len, splits.values()))  # not all rows were prepared for that
    made = forecast(spec(**SMALL), FACTS, Lengths.of(splits, spec(**SMALL)), told)
    assert made.seconds > 60 * 0.02  # 48 rows to train on and 12 to validate


@pytest.fixture
def pairs(new_work, make_record):
    rows = [make_record(i) for i in range(40)]
    rows = [{**row, "rejected": row["messages"][-1]["content"] + " again"} for row in rows]
    return new_work("pairs", train=rows[:32], validation=rows[32:])


def test_the_reference_of_every_pair_is_forecast(pairs):
    told, splits, method = probed_for_real(pairs, spec(**SMALL, method="dpo"))
    assert told.seconds_per_prepared_row > 0
    assert len(method.sums) < len(splits["train"]) + len(splits["validation"])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    from luthier.models.testing import tiny_model

    return tiny_model(tmp_path_factory.mktemp("teacher") / "tiny", hidden=32, heads=4, kv_heads=2, seed=7)


def test_the_teachers_writing_is_forecast_and_its_loading_is_not_counted_for_each_row(
    work, teacher, monkeypatch
):
    from luthier.models import weights

    load = weights.load

    def slowly(folder, **given):
        if folder == teacher:
            time.sleep(1.0)
        return load(folder, **given)

    monkeypatch.setattr(weights, "load", slowly)
    work.others["teacher"] = teacher
    given = spec(**SMALL, method={"distill": {"teacher": "x", "level": "sequence", "max_tokens": 5}})
    told, splits, method = probed_for_real(work, given)
    prepared = len(method.written)
    assert 0 < told.seconds_per_prepared_row < 1.0 / prepared and told.start_seconds > 1.0
    # How long the answers really are: rows and answers as the method has them.
    grown = sum(len(one.ids) for one in method.written.values())
    asked = {name: n for rows in splits.values() for name, n in zip(rows.names, rows.tokens, strict=True)}
    assert told.tokens_per_token == pytest.approx(
        grown / sum(asked[name] for name in method.written), rel=0.2
    )


def test_validation_rows_are_answered_as_a_run_answers_them(work, monkeypatch):
    from luthier.training.methods.grpo import Grpo

    copies = []
    write = Grpo._write

    def counted(self, model, rows, n, *given):
        copies.append(n) if rows else None
        return write(self, model, rows, n, *given)

    monkeypatch.setattr(Grpo, "_write", counted)
    asked = {"rewards": [{"length": {"max": 8}}], "generations": 3, "max_tokens": 6}
    given = spec(**SMALL, method={"grpo": asked})
    told, splits, _ = probed_for_real(work, given)
    assert copies.count(1) == 2 and copies.count(3) > 2  # greedily, once; steps draw three answers
    # Three answers of 1 to 6 tokens each after the prompt, which is the row but for one token; in validation one.
    rows = splits["train"]
    assert 3 < told.tokens_per_token < 3 * (1 + 5 / rows.tokens.min())
    assert 1 <= told.validation_tokens_per_token < 1 + 5 / splits["validation"].tokens.min()
    assert told.seconds_per_read_token < told.seconds_per_validation_token  # which writes first


def test_the_peak_is_that_of_training_and_not_of_what_was_before(work):
    held = np.ones(100_000_000)  # 0.8 GB
    most = peak_bytes_so_far()
    del held
    told, _, _ = probed_for_real(work, spec(**SMALL))
    assert told.peak_bytes < most - 300_000_000


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
