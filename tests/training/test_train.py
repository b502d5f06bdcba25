"""The stage on a tiny model: the same bytes twice, through every interruption; and what it refuses."""

import errno
import itertools
import json
import math
from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from luthier.core.errors import Interrupted, ModelError, SpecError, StoreError
from luthier.core.testing import arm
from luthier.core.units import Money
from luthier.training.methods.sft import Sft, SftSettings

DROPOUT = {"adapter": {"kind": "lora", "rank": 4, "dropout": 0.1}}
STEPS = 6  # 48 rows, 8 a step, one epoch


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, work_in):
    """The files of a run that nothing disturbed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    work = work_in(tmp_path_factory.mktemp("whole"))
    work.run(**DROPOUT)
    torch.set_num_threads(threads)
    return work.files()


def test_what_it_leaves(work):
    import pyarrow.parquet as pq

    summary = work.run(**DROPOUT, warmup=0.34)
    names = [
        "adapter_config.json",
        "adapter_model.safetensors",
        "history.json",
        "luthier.json",
        "rows.parquet",
    ]
    assert list(work.files()) == names
    told = json.loads((work.out / "luthier.json").read_text())
    assert (
        told["role"] == "tuned"
        and told["adapter"] == "lora"
        and told["task"]["labels"] == ["billing", "delivery"]
    )
    assert len(told["base_digest"]) == 64 and told["base_digest"] != told["task"]
    history = work.history()
    assert [one["step"] for one in history["steps"]] == [1, 2, 3, 4, 5, 6]
    assert set(history["steps"][0]) == {
        "step",
        "loss",
        "learning_rate",
        "gradient_norm",
        "tokens",
        "supervised",
    }
    # ceil(0.34 · 6) = 3 steps rise to 0.01.
    assert [one["learning_rate"] for one in history["steps"][:3]] == pytest.approx([0.01 / 3, 0.02 / 3, 0.01])
    assert [one["step"] for one in history["validation"]] == [0, 1, 2, 3, 4, 5, 6]  # 6 // 4 = 1 step between
    assert history["stopped"] == "epochs"
    assert history["validation"][-1]["loss"] < history["validation"][0]["loss"]
    assert summary["steps"] == 6 and summary["tokens"] == sum(one["tokens"] for one in history["steps"])
    lines = pq.read_table(work.out / "rows.parquet").to_pylist()
    assert sum(line["tokens"] for line in lines if line["split"] == "train") == summary["tokens"]
    assert {line["seen"] for line in lines if line["split"] == "validation"} == {0}


def test_events_say_what_a_run_does(work):
    work.run(**DROPOUT)
    (start,) = work.told("training")
    assert start["steps"] == STEPS and start["device"] == "cpu" and start["threads"] == 1
    steps = work.told("step")
    assert len(steps) == STEPS and steps[0]["tokens_per_s"] > 0 and steps[0]["rss_bytes"] > 1e6
    assert [one["step"] for one in work.told("validation")] == list(range(STEPS + 1))
    assert work.told("checkpoint")[0]["step"] == 0 and work.told("not_exact") == []


def test_the_same_bytes_twice(work, uninterrupted):
    work.run(**DROPOUT)
    assert work.files() == uninterrupted


def test_another_seed_another_model(work, uninterrupted):
    work.run(**DROPOUT, seed=1)
    assert work.files()["adapter_model.safetensors"] != uninterrupted["adapter_model.safetensors"]


@pytest.mark.parametrize("checks", [2, 5, 9, 14])
def test_ctrl_c_keeps_the_state_and_going_on_ends_in_the_same_bytes(work, uninterrupted, checks):
    work.stop_after_checks = checks
    with pytest.raises(Interrupted, match=r"training stopped after step \d of 6; its state is kept") as told:
        work.run(**DROPOUT)
    assert "again to go on" in str(told.value)
    work.stop_after_checks = None
    work.run(**DROPOUT)
    assert len(work.told("resumed")) == 1
    assert work.files() == uninterrupted


@pytest.mark.parametrize("keep", ["best", "average"])
def test_a_stop_inside_a_validation_does_not_mix_up_the_best_weights(
    work, work_in, tmp_path, validation_losses, monkeypatch, keep
):
    from luthier.training.loop import Loop

    # The start is the best: whatever is kept later must be the start's weights, though the stop saved it unvalidated.
    ever_worse = [float(k) for k in range(1, 40)]
    whole = work_in(tmp_path / "whole")
    whole.run(**validation_losses(*ever_worse), keep=keep)
    measure = Loop._measure

    def stopped(loop, what):
        monkeypatch.setattr(Loop, "_measure", measure)
        raise Interrupted("stopped by the user.")

    monkeypatch.setattr(Loop, "_measure", stopped)
    with pytest.raises(Interrupted, match="after step 0 of"):
        work.run(**validation_losses(*ever_worse), keep=keep)
    work.run(**validation_losses(*ever_worse), keep=keep)
    assert work.history()["best_step"] == 0 and work.files() == whole.files()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_at_any_write_loses_nothing(work, uninterrupted, number):
    error = OSError(number, "full")
    tried = 0
    for k in itertools.chain(range(1, 10), range(10, 2000, 37)):
        with arm("checkpoint.write", error=error, at_pass=k):
            try:
                work.run(**DROPOUT)
            except StoreError as told:
                assert str(work.folder / "scratch" / "checkpoints") in str(told)
                tried += 1
                continue
        break
    assert tried >= 8
    assert work.files() == uninterrupted


def test_a_damaged_checkpoint_is_told_and_passed_over(work, uninterrupted):
    work.stop_after_checks = 12
    with pytest.raises(Interrupted):
        work.run(**DROPOUT)
    newest = sorted((work.folder / "scratch" / "checkpoints").glob("checkpoint-*"))[-1]
    data = bytearray((newest / "optimizer.safetensors").read_bytes())
    data[-3] ^= 4
    (newest / "optimizer.safetensors").write_bytes(data)
    work.stop_after_checks = None
    work.run(**DROPOUT)
    (told,) = work.told("checkpoint.damaged")
    assert told["name"] == newest.name and "SHA-256 differs" in told["reason"]
    assert work.files() == uninterrupted


def test_another_number_of_threads_is_told(work):
    work.stop_after_checks = 9
    with pytest.raises(Interrupted):
        work.run(**DROPOUT)
    work.stop_after_checks = None
    torch.set_num_threads(2)
    work.run(**DROPOUT)
    (told,) = work.told("not_exact")
    assert "threads was 1 and is 2" in told["reason"]


class Fixed(Sft):
    """Learns nothing that lasts: validation losses come from a list."""

    losses: ClassVar[list[float]] = []

    def loss(self, model, batch):
        found = super().loss(model, batch)
        if model.training:
            return found
        total = torch.tensor(self.losses.pop(0) * sum(batch.row_weights))
        return replace(found, sum=total)


@pytest.fixture
def validation_losses(monkeypatch):
    """One validation micro-batch only, so that each validation takes one loss from the list."""
    monkeypatch.setattr("luthier.training.methods.sft.Sft", Fixed)

    def give(*losses):
        Fixed.losses = list(losses)
        return {"batch": {"rows": 8, "micro_tokens": 4000}}

    return give


def test_early_stopping_and_the_best_weights(work, validation_losses, work_in, tmp_path):
    # Lows at steps 0, 1, 2; steps 3 and 4 bring none: patience 2 ends the run at 4 and step 2 is kept.
    losses = validation_losses(3.0, 2.0, 1.0, 1.5, 1.0, 0.1)
    work.run(**losses, early_stopping={"patience": 2})
    history = work.history()
    assert (history["stopped"], history["best_step"], len(history["steps"])) == ("early", 2, 4)
    # The kept weights are those of a run that ends at step 2 under the same schedule (constant: no end to see).
    first, second = (work_in(tmp_path / name) for name in ("early", "short"))
    first.run(
        **validation_losses(3.0, 2.0, 1.0, 1.5, 1.0),
        early_stopping={"patience": 2},
        schedule="constant",
        warmup=0,
    )
    second.run(**validation_losses(3.0, 2.0, 1.0), max_steps=2, schedule="constant", warmup=0)
    assert first.history()["best_step"] == 2 and second.history()["stopped"] == "max_steps"
    assert first.files()["adapter_model.safetensors"] == second.files()["adapter_model.safetensors"]


def test_another_metric_decides_what_is_best(work):
    # token_accuracy is read from the validation's own figures, and more of it is better.
    work.run(early_stopping={"metric": "token_accuracy", "patience": 100})
    history = work.history()
    right = [one["token_accuracy"] for one in history["validation"]]
    assert history["best_step"] == right.index(max(right)) and len(set(right)) > 1
    assert history["watched"] == {"metric": "token_accuracy", "mode": "max"}


def test_an_unknown_metric_is_told_at_the_first_validation(work):
    with pytest.raises(SpecError, match="measures no such figure") as told:
        work.run(early_stopping={"metric": "token_acuracy", "mode": "max"})
    assert "Choose one of: loss, token_accuracy; did you mean 'token_accuracy'?" in str(told.value)
    assert work.told("step") == []


def test_the_last_weights_are_kept_when_asked_for(work, validation_losses):
    losses = validation_losses(3.0, 2.0, 1.0, 1.5)
    summary = work.run(**losses, max_steps=3, keep="last")
    assert (summary["kept"], summary["best_step"], summary["validation_loss"]) == ("last", 2, 1.5)


def test_an_average_is_of_the_best_weights(work, work_in, tmp_path, validation_losses):
    from safetensors.torch import load_file

    # The best are steps 2 and 3; their average measures 0.9, which is better than either.
    spec = {"schedule": "constant", "warmup": 0}
    losses = (3.0, 2.0, 1.0, 1.5)
    summary = work.run(**validation_losses(*losses, 0.9), **spec, max_steps=3, keep="average", average_of=2)
    assert (summary["kept"], summary["best_step"], summary["validation_loss"]) == (
        "average",
        2,
        pytest.approx(0.9),
    )
    assert work.history()["kept"]["steps"] == [2, 3]
    (told,) = work.told("averaged")
    assert told == {"steps": [2, 3], "value": pytest.approx(0.9), "best": 1.0, "tried": 1}
    # It is the mean of what two runs that end at those steps give.
    ends = []
    for step in (2, 3):
        short = work_in(tmp_path / f"short-{step}")
        short.run(**validation_losses(*losses), **spec, max_steps=step, keep="last")
        ends.append(load_file(short.out / "adapter_model.safetensors"))
    for name, mean in load_file(work.out / "adapter_model.safetensors").items():
        assert torch.equal(mean, (ends[0][name] + ends[1][name]) / 2), name


def test_an_average_that_is_worse_is_not_taken(work, validation_losses):
    # Validations at steps 0, 1, 2, then of the average of steps 2 and 1: worse than step 2 alone.
    summary = work.run(**validation_losses(3.0, 2.0, 1.0, 1.4), max_steps=2, keep="average", average_of=2)
    assert (summary["kept"], summary["best_step"], summary["validation_loss"]) == ("best", 2, 1.0)
    assert work.history()["kept"]["why"] == "every average validated worse than the best weights alone"


def test_tokens_spent_end_the_run_after_a_last_validation(work, work_in, tmp_path):
    work.run(validate_every=100)
    tokens = [one["tokens"] for one in work.history()["steps"]]
    short = work_in(tmp_path / "short")
    short.run(validate_every=100, stop_at={"tokens": sum(tokens[:2]) + 1})  # one more than two steps have
    history = short.history()
    assert (history["stopped"], len(history["steps"])) == ("tokens", 3)
    assert [one["step"] for one in history["validation"]] == [0, 3]


def test_time_spent_counts_what_was_before_a_stop(work):
    work.stop_after_checks = 12
    with pytest.raises(Interrupted):
        work.run()
    newest = sorted((work.folder / "scratch" / "checkpoints").glob("checkpoint-*"))[-1]
    before = json.loads((newest / "state.json").read_text())["state"]
    assert before["seconds"] > 0 and before["step"] > 0
    work.stop_after_checks = None
    work.run()
    newest = sorted((work.folder / "scratch" / "checkpoints").glob("checkpoint-*"))[-1]
    assert json.loads((newest / "state.json").read_text())["state"]["seconds"] > before["seconds"]


def test_a_limit_of_time_ends_the_run(work):
    work.run(stop_at={"time": "1 ms"})
    assert "the limit of time ended training at step 0" in work.told("not_exact")[-1]["reason"]
    history = work.history()
    # Validating the start alone takes longer than that, so the start is what is kept.
    assert (history["stopped"], history["steps"], history["best_step"]) == ("time", [], 0)


def test_a_limit_of_money_ends_the_run(work):
    with pytest.raises(SpecError, match="what an hour of this run costs is not known"):
        work.run(stop_at={"money": "1 EUR"})
    work.hourly = Money(3600.0, "USD")  # a dollar a second
    with pytest.raises(SpecError, match=r"3600.00 USD: they cannot be compared"):
        work.run(stop_at={"money": "1 EUR"})
    work.run(stop_at={"money": "0.001 USD"})  # a millisecond: validating the start takes longer
    history = work.history()
    assert (history["stopped"], history["steps"], history["best_step"]) == ("money", [], 0)
    work.run(stop_at={"money": "1000000 USD"}, max_steps=1)
    assert work.history()["stopped"] == "max_steps"


class Runaway(Sft):
    """Falls for two steps, then runs away. Training losses come from a list, one for each step; the proof before
    the first step takes five micro-batches of its own."""

    losses: ClassVar[list[float]] = []
    passed = 0

    def loss(self, model, batch):
        found = super().loss(model, batch)
        type(self).passed += model.training
        if not model.training or type(self).passed <= 5:
            return found
        scale = self.losses.pop(0) * sum(batch.row_weights) / float(found.sum.detach())
        return replace(found, sum=found.sum * scale)


def test_a_loss_that_runs_away_ends_the_run_with_the_best_weights(work, monkeypatch, new_work, make_record):
    monkeypatch.setattr("luthier.training.methods.sft.Sft", Runaway)
    spec = {"batch": {"rows": 8, "micro_tokens": 4000}, "divergence": {"factor": 2, "patience": 2}}
    # Of 2, 1, 5, 6 the first two have the median 1.5; 5 and 6 are above twice that and above the start.
    Runaway.losses, Runaway.passed = [2.0, 1.0, 5.0, 6.0, 7.0, 8.0], 0
    work.run(**spec, keep="last")
    history = work.history()
    assert (history["stopped"], len(history["steps"])) == ("diverged", 4)
    assert history["kept"]["how"] == "best" and "stopped: diverged" in history["kept"]["why"]
    assert "above 2 times its running median" in work.told("diverged")[0]["reason"]
    # Without validation there is nothing good to keep.
    Runaway.losses, Runaway.passed = [2.0, 1.0, 5.0, 6.0, 7.0, 8.0], 0
    other = new_work("unvalidated", train=[make_record(i) for i in range(48)])
    with pytest.raises(ModelError, match=r"training diverged: at step 4 .* \(the last ones: 1, 5, 6\)"):
        other.run(**spec)


def test_training_that_only_makes_it_worse_gives_the_start_back(work, validation_losses):
    summary = work.run(**validation_losses(1.0, 2.0, 3.0), max_steps=2, validate_every=1)
    assert summary["best_step"] == 0 and summary["validation_loss"] == 1.0


def test_min_delta_asks_for_more_than_a_little(work, validation_losses):
    losses = validation_losses(3.0, 2.95, 2.9, 2.85)
    work.run(**losses, early_stopping={"patience": 2, "min_delta": 0.5})
    history = work.history()
    assert (history["stopped"], len(history["steps"]), history["best_step"]) == ("early", 2, 2)


def test_early_stopping_without_validation_is_refused_first(new_work, make_record):
    work = new_work("novalidation", train=[make_record(i) for i in range(8)])
    with pytest.raises(SpecError, match="early_stopping watches validation"):
        work.run(early_stopping={"patience": 1})
    assert not list((work.folder / "scratch").iterdir())
    work.run()
    assert work.history()["validation"] == [] and work.history()["best_step"] == 1


class Broken(Sft):
    """Its loss is no number from the tenth training micro-batch on; the proof before the first step takes five."""

    def loss(self, model, batch):
        found = super().loss(model, batch)
        type(self).passed += model.training
        return (
            replace(found, sum=found.sum * math.nan) if type(self).passed > 14 and model.training else found
        )

    passed = 0


@pytest.fixture
def broken(monkeypatch):
    Broken.passed = 0
    monkeypatch.setattr("luthier.training.methods.sft.Sft", Broken)


def test_a_loss_that_is_no_number_ends_the_run_with_the_best_weights(
    work, broken, monkeypatch, work_in, tmp_path
):
    steady = {"schedule": "constant", "warmup": 0}
    work.run(**steady)
    history = work.history()
    assert history["stopped"] == "not_finite" and history["kept"]["how"] == "best"
    (told,) = work.told("not_finite")
    assert "is nan, so training stopped there. The rows it came from: 0000" in told["reason"]
    assert told["best_step"] == history["best_step"] == history["kept"]["steps"][0] > 0
    # The same weights as of a run that ended there by itself.
    monkeypatch.undo()
    short = work_in(tmp_path / "short")
    short.run(**steady, max_steps=history["best_step"])
    assert short.files()["adapter_model.safetensors"] == work.files()["adapter_model.safetensors"]


def test_a_loss_that_is_no_number_with_nothing_better_than_the_start_stops_the_run(
    new_work, make_record, broken
):
    work = new_work("unvalidated", train=[make_record(i) for i in range(48)])
    with pytest.raises(
        ModelError,
        match=r"the loss at step \d is nan, so training stopped there. The rows it came from: 0000",
    ) as told:
        work.run(checkpoint_every=1)
    assert "Lower train.learning_rate (it was 0.01)" in str(told.value)
    assert sorted((work.folder / "scratch" / "checkpoints").glob("checkpoint-*"))


class Steep(Sft):
    """A finite loss whose gradient's squares are more than fp32 holds, after so many micro-batches."""

    after = passed = 0

    def loss(self, model, batch):
        found = super().loss(model, batch)
        type(self).passed += model.training
        if type(self).passed <= self.after:
            return found
        return replace(found, sum=found.sum + (found.sum - found.sum.detach()) * 1e30)


def test_a_gradient_that_is_no_number_stops_the_run(work, monkeypatch):
    monkeypatch.setattr("luthier.training.methods.sft.Sft", Steep)
    Steep.passed, Steep.after = 0, 5  # the micro-batches of the proof
    with pytest.raises(ModelError, match="the gradient norm at step 1 is inf"):
        work.run()


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_full_fine_tuning_gives_a_whole_model(work, work_in, tmp_path, dtype):
    from luthier.models.weights import load

    full = {"adapter": {"kind": "full"}, "learning_rate": 0.001, "dtype": dtype}
    work.run(**full)
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= set(work.files())
    assert work.history()["validation"][-1]["loss"] < work.history()["validation"][0]["loss"]
    load(work.out)
    again = work_in(tmp_path / "again")
    again.stop_after_checks = 8
    with pytest.raises(Interrupted):
        again.run(**full)
    again.stop_after_checks = None
    again.run(**full)
    assert again.files() == work.files()


def test_the_adapter_loads_in_plain_peft_with_the_trained_loss(work):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from luthier.core.testing import FakeContext
    from luthier.models.template import Template
    from luthier.models.weights import load, load_tokenizer
    from luthier.training.rows import read_split

    work.run()
    template = Template(load_tokenizer(work.base), 512)
    sft, at = Sft(SftSettings()), FakeContext(work.folder)
    rows = read_split(work.dataset / "validation.parquet", sft, template, {}, work.folder, at)
    batch = sft.collate(list(rows))
    told = min(one["loss"] for one in work.history()["validation"])
    ours = load(work.out, base_folder=work.base)
    with torch.no_grad():
        assert sft.loss(ours, batch).sum.item() / sum(batch.row_weights) == pytest.approx(told, rel=1e-5)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(work.base), work.out)
    ids = torch.tensor(rows[0].sequences[0].ids, dtype=torch.long)[None]
    with torch.no_grad():
        assert torch.allclose(plain(input_ids=ids).logits, ours(input_ids=ids).logits, atol=1e-5)


def test_how_a_step_is_cut_hardly_changes_the_run(work, work_in, tmp_path):
    whole = work_in(tmp_path / "whole")
    whole.run(batch={"rows": 8, "micro_tokens": 4000})
    work.run(batch={"rows": 8, "micro_tokens": 40})
    for a, b in zip(whole.history()["steps"], work.history()["steps"], strict=True):
        assert (a["tokens"], a["supervised"]) == (b["tokens"], b["supervised"])
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
    assert whole.history()["steps"][0]["loss"] == pytest.approx(work.history()["steps"][0]["loss"], rel=1e-5)
