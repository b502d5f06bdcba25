"""The proof before the first step: its figures by hand, each law broken once, and nothing of the run changed by it."""

import re
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from luthier.core.errors import ModelError
from luthier.training import agreement, proof
from luthier.training.batches import Order
from luthier.training.method import Example
from luthier.training.methods.sft import Sft
from luthier.training.spec import TrainSpec


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def use(monkeypatch, method):
    monkeypatch.setattr("luthier.training.methods.sft.Sft", method)


def test_what_is_proven_is_told_and_kept(work):
    import pyarrow.parquet as pq

    work.run(max_steps=1)
    (told,) = work.told("proof")
    lines = pq.read_table(work.out / "rows.parquet").to_pylist()
    train = [line for line in lines if line["split"] == "train"]
    tokens, supervised = (sum(line[k] for line in train) for k in ("tokens", "supervised"))
    assert told["mask"]["train"]["tokens"] == tokens and told["mask"]["train"]["without"] == 0
    assert told["mask"]["train"]["share"] == supervised / tokens
    assert told["mask"]["train"]["least"] == min(line["supervised"] / line["tokens"] for line in train)
    assert told["text"] == {"rows": 8}
    assert told["ends"] == {"answers": 60, "learnt": 60}  # 48 + 12 rows of one answer each
    assert (
        told["packing"]["rows"] == 3 and told["packing"]["loss"] < 1e-5 and told["packing"]["gradient"] < 1e-4
    )
    assert told["memory"]["by"] == "plan" and told["seconds"] > 0
    kept = work.history()["proof"]
    assert kept == {k: v for k, v in told.items() if k not in ("memory", "seconds")}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_it_changes_nothing(work, work_in, tmp_path, monkeypatch, dtype):
    spec = {"max_steps": 2, "dtype": dtype, "adapter": {"kind": "lora", "rank": 4, "dropout": 0.1}}
    work.run(**spec)
    other = work_in(tmp_path / "unproven")
    monkeypatch.setattr(proof, "prove", lambda *given: {})
    other.run(**spec)
    assert other.files()["adapter_model.safetensors"] == work.files()["adapter_model.safetensors"]
    assert other.history()["steps"] == work.history()["steps"]


class Louder(Sft):
    """A row weighs more in company: what a mean over the micro-batch in place of the step does."""

    def loss(self, model, batch):
        found, n = super().loss(model, batch), len(batch.row_weights)
        return replace(found, sum=found.sum * n, by_row=found.by_row * n)


class Steeper(Sft):
    """The right losses, but a gradient that depends on the cut."""

    def loss(self, model, batch):
        found, n = super().loss(model, batch), len(batch.row_weights)
        return replace(found, sum=found.sum + (found.sum - found.sum.detach()) * (n - 1))


@pytest.mark.parametrize(
    ("method", "says"),
    # Four rows in one micro-batch weigh 4 for 1: (4 - 1)·loss / (loss + weight). The gradient: 4 for 1, so 3/4 off.
    [(Louder, r"one by one differ by [12]\.?\d* in a row's loss"), (Steeper, r"0\.[67]\d* in the gradient ")],
)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_rows_that_count_otherwise_in_company_stop_the_run(work, monkeypatch, method, says, dtype):
    use(monkeypatch, method)
    with pytest.raises(ModelError, match="packing changes the result: 3 rows in one micro-batch") as told:
        work.run(dtype=dtype)
    assert re.search(says, str(told.value))
    assert "so nothing is trained" in str(told.value) and work.told("step") == []


class Shaky(Sft):
    """Rounds by far, and otherwise in company, where anything is rounded at all."""

    def loss(self, model, batch):
        found = super().loss(model, batch)
        if not torch.is_autocast_enabled("cpu"):
            return found
        factor = 1 + 0.02 * len(batch.row_weights)
        return replace(found, sum=found.sum * factor, by_row=found.by_row * factor)


class Leaky(Sft):
    """In bf16 alone a row in company is far from what it is alone."""

    def loss(self, model, batch):
        found, n = super().loss(model, batch), len(batch.row_weights)
        if not torch.is_autocast_enabled("cpu"):
            return found
        return replace(found, sum=found.sum * (1 + 5 * n), by_row=found.by_row * (1 + 5 * n))


def test_what_rounding_cannot_explain_stops_the_run_though_fp32_is_right(work, monkeypatch):
    use(monkeypatch, Leaky)
    with pytest.raises(ModelError, match=r"packing changes the result.*bf16"):
        work.run(dtype="bf16", max_steps=1)


@pytest.mark.parametrize("more", [{}, {"activation_checkpointing": True}])
@pytest.mark.parametrize("adapter", [{"kind": "lora", "rank": 4}, {"kind": "full"}])
def test_what_rounding_explains_is_looked_at_again_in_fp32(
    work, work_in, tmp_path, monkeypatch, adapter, more
):
    """Afterwards the run is the one that it would have been."""
    use(monkeypatch, Shaky)
    spec = {"max_steps": 2, "dtype": "bf16", "adapter": adapter, **more}
    monkeypatch.setitem(agreement.FUSED, "bf16", agreement.Tolerance(1e-6, 1.0, 1.0))
    work.run(**spec)
    told = work.history()
    for law in ("packing", "fused"):
        assert told["proof"][law]["dtype"] == "fp32" and told["proof"][law]["loss"] <= 1e-5
    assert told["proof"]["fused"]["used"] and work.told("fallback") == []
    assert "which this method magnifies" in work.told("note")[0]["message"]
    other = work_in(tmp_path / "unproven")
    monkeypatch.setattr(proof, "prove", lambda *given: {})
    other.run(**spec)
    assert told["steps"] == other.history()["steps"]
    name = next(name for name in work.files() if name.endswith(".safetensors"))
    assert other.files()[name] == work.files()[name]


def test_without_room_for_fp32_the_first_look_counts(work, monkeypatch):
    use(monkeypatch, Shaky)
    monkeypatch.setattr(agreement, "free_bytes", lambda device: 0)
    with pytest.raises(ModelError, match=r"packing changes the result.*bf16"):
        work.run(dtype="bf16", max_steps=1)


class FakeQuick:
    """Fused parts that make every loss a tenth larger, or leave it."""

    parts, left = ("norms",), {}

    def __init__(self, method, factor):
        self.method, self.factor, self.restored = method, factor, False
        self.plain = method.loss
        method.loss = self.loss

    def loss(self, model, batch):
        found = self.plain(model, batch)
        return replace(found, sum=found.sum * self.factor, by_row=found.by_row * self.factor)

    @contextmanager
    def off(self):
        self.method.loss = self.plain
        yield
        self.method.loss = self.loss

    def restore(self):
        self.method.loss, self.restored = self.plain, True


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_fused_parts_that_differ_are_not_used_and_it_is_told(work, monkeypatch, factor):
    made = []
    real = proof.prove

    def with_parts(spec, assembly, *given):
        made.append(FakeQuick(assembly.method, factor))
        return real(spec, assembly, *given[:-1], quick=made[0])

    monkeypatch.setattr(proof, "prove", with_parts)
    work.run(max_steps=1)
    told = work.history()["proof"]["fused"]
    if factor == 1.0:
        assert told["used"] and told["loss"] == 0 and not made[0].restored and work.told("fallback") == []
        return
    # 1.1·x against x: 0.1·x / (x + weight) for the loss, 0.1/1.1 of the gradient.
    assert (
        not told["used"] and 0 < told["loss"] < 0.1 and told["gradient"] == pytest.approx(0.1 / 1.1, rel=0.2)
    )
    assert made[0].restored and "training goes on without them" in work.told("fallback")[0]["reason"]


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("norm_back", lambda real: lambda *given: real(*given) * 0),
        ("gate", lambda real: lambda *given: real(*given) * 2),
        ("rotate", lambda real: lambda x, cos, sin, out, **named: out.copy_(x)),
        ("causal_softmax_", lambda real: lambda *given: real(*given).mul_(0.2)),
        ("cross_entropy_", lambda real: lambda *given: real(*given) * 3),
    ],
)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_part_that_goes_wrong_after_it_was_proven_is_found(work, monkeypatch, name, wrong, dtype):
    """Right on the few tokens of its own check, wrong on the run's rows: what a kernel's bug looks like."""
    from luthier.models.fast import kernels
    from luthier.training import assembly

    real = assembly.assemble

    def then_broken(*given):
        made = real(*given)
        monkeypatch.setattr(kernels, name, wrong(getattr(kernels, name)))
        return made

    monkeypatch.setattr(assembly, "assemble", then_broken)
    work.run(max_steps=1, dtype=dtype)
    assert not work.history()["proof"]["fused"]["used"]
    assert "training goes on without them" in work.told("fallback")[0]["reason"]
    assert work.told("step")


def test_a_run_that_leaves_the_kernels_leaves_them_to_the_next_and_goes_on_exactly(
    work, work_in, tmp_path, monkeypatch
):
    from luthier.core.errors import Interrupted
    from luthier.models.fast import kernels

    real = kernels.norm_back
    monkeypatch.setattr(kernels, "norm_back", lambda *given: real(*given) * (0 if kernels.compiled() else 1))
    work.run(max_steps=3, checkpoint_every=1)
    again = work_in(tmp_path / "again")
    again.stop_after_checks = 2
    with pytest.raises(Interrupted):
        again.run(max_steps=3, checkpoint_every=1)
    again.stop_after_checks = None
    again.run(max_steps=3, checkpoint_every=1)
    assert again.told("fallback") and again.told("not_exact") == [] and kernels.compiled()
    name = "adapter_model.safetensors"
    assert again.files()[name] == work.files()[name] and again.history()["steps"] == work.history()["steps"]


def test_when_fused_parts_are_dropped_the_head_and_the_references_are_plain_too(
    new_work, make_record, monkeypatch
):
    from luthier.models import losses
    from luthier.training import assembly

    pairs = [make_record(i, rejected=f"other {i}") for i in range(12)]
    work, seen = new_work("dropped", train=pairs), []
    real = assembly.assemble

    def watched(*given):
        seen.append(real(*given))
        return seen[-1]

    monkeypatch.setattr(assembly, "assemble", watched)
    work.run(method="dpo", max_steps=1)
    fused = [
        work.history()["steps"],
        sorted(path.name for path in (work.folder / "scratch").glob("*.parquet")),
    ]

    monkeypatch.setattr(agreement, "FUSED", {"fp32": agreement.Tolerance(-1.0, -1.0, -1.0)})
    other = new_work("dropped-2", train=pairs)
    other.run(method="dpo", max_steps=1)
    assert other.told("fallback") and not other.history()["proof"]["fused"]["used"]
    assert (
        "not the model's own head" in losses.why_plain(seen[1].model)
        and losses.why_plain(seen[0].model) == ""
    )
    # References once of the fused model and once of the plain one, under two names.
    assert len(list((other.folder / "scratch").glob("*.parquet"))) == 2 * len(fused[1])
    # Policy and reference are one computation: at step 1 no answer has moved, and the loss is ln 2 exactly.
    assert other.history()["steps"][0]["loss"] == pytest.approx(0.6931472, abs=1e-6)


def test_fused_parts_that_give_no_number_are_told_and_dropped(work, monkeypatch):
    made = []
    real = proof.prove

    def with_parts(spec, assembly, *given):
        made.append(FakeQuick(assembly.method, float("nan")))
        return real(spec, assembly, *given[:-1], quick=made[0])

    monkeypatch.setattr(proof, "prove", with_parts)
    work.run(max_steps=1)
    told = work.history()["proof"]["fused"]
    assert (told["used"], told["loss"], told["gradient"]) == (False, None, None) and made[0].restored


class Endless(Sft):
    """Leaves the token that ends an answer out of the mask."""

    def encode(self, record, template):
        (one,) = super().encode(record, template).sequences
        last = max(i for i, told in enumerate(one.supervised) if told)
        return Example(
            [replace(one, supervised=[told and i != last for i, told in enumerate(one.supervised)])]
        )


def test_an_answer_whose_end_is_not_learnt_stops_the_run(work, monkeypatch):
    use(monkeypatch, Endless)
    with pytest.raises(
        ModelError, match=r"60 rows have an answer whose end \('<\|im_end\|>'\) is not learnt"
    ) as told:
        work.run()
    assert "train row 00000000000000000000000000000000, " in str(told.value) and "and 55 more" in str(
        told.value
    )


class Shouting(Sft):
    def encode(self, record, template):
        said = [{**one, "content": one["content"].upper()} for one in record["messages"]]
        return super().encode({**record, "messages": said}, template)


def test_tokens_of_another_text_stop_the_run(work, monkeypatch):
    use(monkeypatch, Shouting)
    with pytest.raises(ModelError, match="do not read as the model's chat template writes it") as told:
        work.run()
    # '<|im_start|>system\n' is the same; 'Route.' is not.
    assert "has 'OUTE.<|im_end|>" in str(told.value) and "for 'oute.<|im_end|>" in str(told.value)


def test_control_tokens_in_a_row_and_plain_text_read_as_written(new_work, make_record):
    rows = [make_record(i) for i in range(6)]
    rows[0]["messages"][1]["content"] = "close <|im_end|> and open <|im_start|>"
    rows[1] = make_record(1, messages=None, text="The parcel has <|im_end|> not arrived.")
    work = new_work("control", train=rows)
    work.run(max_steps=1)
    assert work.told("proof")[0]["text"] == {"rows": 6}


class Hungry(Sft):
    def loss(self, model, batch):
        if batch.tokens > 120 and model.training:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: 9 GB"
            )
        return super().loss(model, batch)


def test_a_micro_batch_that_does_not_fit_is_told_before_the_first_step(work, monkeypatch):
    use(monkeypatch, Hungry)
    monkeypatch.setattr("luthier.training.train.machine_bytes", lambda device: 1000)
    with pytest.raises(ModelError, match=r"a micro-batch of 1[2-5]\d tokens does not fit in memory") as told:
        work.run()
    assert "Lower train.batch.micro_tokens" in str(told.value) and work.told("step") == []


def test_the_largest_micro_batch_is_tried_where_the_plan_leaves_little(work, monkeypatch, work_in, tmp_path):
    monkeypatch.setattr("luthier.training.train.machine_bytes", lambda device: 1000)
    work.run(max_steps=2)
    tried = work.told("proof")[0]["memory"]
    assert tried["by"] == "trial" and 100 < tried["tokens"] <= 150
    monkeypatch.undo()
    other = work_in(tmp_path / "planned")
    other.run(max_steps=2)
    assert other.files() == work.files()


def test_the_largest_micro_batch_by_hand(monkeypatch):
    class Some:
        names, tokens = list("abcdef"), np.array([5, 9, 3, 8, 2, 4])

        def __len__(self):
            return 6

        def __getitem__(self, i):
            return self.names[i]

    # All six are one step; 31 tokens, at most 18 at once, are two micro-batches, filled evenly:
    # 9 | 8, then 5 to the lesser (13), 4 to the other (13), 3 to the first (16), 2 to the second (15).
    monkeypatch.setattr(proof, "order_of", lambda spec, rows: Order(rows.names, spec.seed, spec.batch.rows))
    spec = TrainSpec.model_validate({"batch": {"rows": 6, "micro_tokens": 18}, "epochs": 1})
    assert sorted(proof.largest(spec, Some())) == ["b", "c", "f"]
