"""What a recipe's training cannot be is refused from the recipe alone, and a method's figures are those it gives."""

from __future__ import annotations

import subprocess
import sys

import pytest

from luthier.core.errors import ModelError, SpecError
from luthier.training import launch
from luthier.training.launch import processes_of
from luthier.training.refusals import refuse
from luthier.training.spec import TrainSpec

GRPO = {"rewards": ["exact_match"], "max_tokens": 4, "generations": 2}


def refused(task="chat", sources=("tickets",), validated=True, **train) -> SpecError:
    with pytest.raises(SpecError) as told:
        refuse(TrainSpec.model_validate(train), task, sources, validated=validated)
    return told.value


@pytest.mark.parametrize(
    ("wish", "says", "remedy"),
    [
        ({"method": "regress"}, "regress, which learns a regress task, and task.kind is chat", "Set task.kind: regress"),
        ({"method": "classify"}, "classify, which learns a classify task, and task.kind is chat", "task.kind: classify"),
        ({"method": "regress", "task": "classify"}, "task.kind is classify", "another method"),
        ({"method": {"grpo": {**GRPO, "kl": 0.1}}, "adapter": {"kind": "full"}}, "grpo with kl compares", "set kl: 0"),
        ({"method": {"grpo": {**GRPO, "kl": 0.1}}, "adapter": {"kind": "head"}}, "train.adapter.kind: head", "kind: lora"),
        ({"early_stopping": {"metric": "token_acuracy"}}, "'token_acuracy'", "did you mean 'token_accuracy'?"),
        ({"early_stopping": {"metric": "kl"}, "method": {"distill": {"teacher": "t", "level": "sequence"}}}, "'kl'", "loss"),
        ({"early_stopping": {"metric": "answer_tokens"}, "method": {"grpo": GRPO}}, "whether less or more", "mode: min or max"),
        ({"early_stopping": {}, "validated": False}, "the validation split has no rows", "data.split.validation"),
        ({"keep": "average", "validated": False}, "the validation split has no rows", "data.split.validation"),
        ({"mix": {"weights": {"ticket": 1}}}, "names the source 'ticket'", "did you mean 'tickets'?"),
        ({"order": ["tickets"], "sources": ("tickets", "faq")}, "says nothing of the source 'faq'", "Add it"),
        ({"parallel": {"kind": "fsdp", "processes": 2}}, "shards a whole fp32 model", "ddp"),
    ],
)  # fmt: skip
def test_what_cannot_be(wish, says, remedy):
    told = refused(**wish)
    assert says in told.message and remedy in told.remedy


@pytest.mark.parametrize(
    "train",
    [
        {},
        {"method": {"grpo": {**GRPO, "kl": 0.1}}},
        {"method": {"grpo": GRPO}, "adapter": {"kind": "full"}, "early_stopping": {"metric": "reward"}},
        {"method": {"distill": {"teacher": "t"}}, "early_stopping": {"metric": "kl"}},
        {"mix": {"weights": {"tickets": 1, "faq": 0}}, "order": ["faq", "tickets"]},
        {"parallel": {"kind": "ddp", "processes": 2}, "device": "cpu"},
    ],
)
def test_what_can_be(train):
    refuse(TrainSpec.model_validate(train), "chat", ("tickets", "faq"), validated=True)


def test_a_number_of_processes_is_given_or_counted(monkeypatch):
    def spec(**parallel):
        return TrainSpec.model_validate({"parallel": parallel, "device": "auto"})

    monkeypatch.setattr(launch, "_gpus", lambda: 0)
    with pytest.raises(SpecError, match=r"ddp without a number of processes, .* training has no GPU") as told:
        processes_of(spec(kind="ddp"))
    assert "train.parallel.processes: 2" in told.value.remedy
    assert processes_of(spec(kind="ddp", processes=5)) == 5 and processes_of(TrainSpec()) == 1
    monkeypatch.setattr(launch, "_gpus", lambda: 2)
    assert processes_of(spec(kind="ddp")) == processes_of(spec(kind="ddp", processes=2)) == 2
    with pytest.raises(SpecError, match=r"processes is 3, .* this machine has 2"):
        processes_of(spec(kind="ddp", processes=3))
    on_cpu = {"parallel": {"kind": "ddp", "processes": 3}, "device": "cpu"}
    assert processes_of(TrainSpec.model_validate(on_cpu)) == 3


@pytest.mark.parametrize(
    ("adapter", "says"),
    [
        ({"kind": "lora", "targets": ["q_pro"]}, "no linear layer 'q_pro'"),
        ({"kind": "ia3", "targets": ["lm_head"]}, "no linear layer 'lm_head'"),
        ({"kind": "lora", "last_layers": 99}, "last_layers is 99, and the model has 2 transformer blocks"),
        ({"kind": "full", "last_layers": 3}, "last_layers is 3, and the model has 2 transformer blocks"),
    ],
)
def test_layers_that_the_base_lacks_are_told_before_a_row_is_tokenised(work, adapter, says):
    with pytest.raises(ModelError, match=says):
        work.run(adapter=adapter)
    assert not list(work.folder.rglob("*.arrow"))


def test_a_plan_knows_the_layers_that_the_adapter_will_find(base):
    from luthier.models.adapters import linear_layers
    from luthier.models.shapes import matrices
    from luthier.models.weights import describe, load

    assert sorted(matrices(describe(base))) == linear_layers(load(base))


PAIRS = {"rejected": "other"}
EVERY = [
    ("sft", {}),
    ("classify", {"label": "billing"}),
    ("regress", {"answer": "3"}),
    *[(name, PAIRS) for name in ("dpo", "ipo", "orpo", "simpo")],
    ("kto", {"rating": 1.0}),
    ({"grpo": {**GRPO, "kl": 0.1}}, {}),
    ({"distill": {"teacher": "t"}}, {}),
    ({"distill": {"teacher": "t", "level": "sequence", "max_tokens": 4}}, {}),
]


@pytest.mark.parametrize(("method", "row"), EVERY, ids=str)
def test_the_figures_that_may_be_watched_are_those_that_validation_gives(new_work, make_record, method, row):
    rows = [make_record(i) for i in range(12)]
    for i, one in enumerate(rows):
        if answer := row.get("answer"):
            one["messages"][-1]["content"] = answer if i else "4"
        one |= {key: value for key, value in row.items() if key != "answer"}
    work = new_work("figures", train=rows[:8], validation=rows[8:])
    work.others = {"teacher": work.base} if "distill" in method else {}
    work.run(method=method, max_steps=1)
    given = work.history()["validation"][0].keys() - {"step", "groups"}
    spec = TrainSpec.model_validate({"method": method})
    assert given == set(spec.method.load()(spec.method.settings).figures)


def test_refusing_loads_no_torch():
    code = (
        "import sys; from luthier.training.refusals import refuse; from luthier.training.spec import TrainSpec;"
        "refuse(TrainSpec(), 'chat', ['a'], validated=True);"
        "print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
