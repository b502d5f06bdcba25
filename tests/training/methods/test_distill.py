"""Distillation: the student draws near its teacher, token by token or by the teacher's own answers; what is written is
kept; vocabularies must agree."""

import numpy as np
import pytest
import torch

from luthier.core.errors import DataError, SpecError
from luthier.models.generate import answer
from luthier.models.template import Template
from luthier.models.testing import tiny_model
from luthier.models.weights import load, load_tokenizer
from luthier.training.methods import distill
from luthier.training.methods.distill import Distill, DistillSettings, learnt_from
from luthier.training.rows import Row, Tokens


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("teacher") / "tiny", hidden=32, heads=4, kv_heads=2, seed=7)


@pytest.fixture
def taught(new_work, make_record, teacher):
    def build(name, n=20, folder=teacher):
        rows = [make_record(i) for i in range(n)]
        work = new_work(name, train=rows[: n - 4], validation=rows[n - 4 :])
        work.others["teacher"] = folder
        return work

    return build


def row(seed, n, weight=1.0):
    rng = np.random.default_rng(seed)
    told = rng.random(n) < 0.4
    told[0], told[-1] = False, True
    return Row(f"row{seed}", weight, "", (Tokens(rng.integers(3, 300, n).astype(np.int32), told),))


def test_the_teacher_is_named_for_whoever_imports_it():
    assert DistillSettings(teacher="some/model").models() == {"teacher": "some/model"}


def test_a_step_does_not_depend_on_how_it_is_cut(base, teacher):
    method = Distill(DistillSettings(teacher="x", temperature=2.0, labels=0.25))
    model, method.teacher = load(base).requires_grad_(True), load(teacher)
    method.width = len(load_tokenizer(base))
    rows = [row(i, 4 + 3 * i, weight=1.0 + i % 2) for i in range(5)]
    told = []
    for parts in ([rows], [rows[:1], rows[1:4], rows[4:]]):
        model.zero_grad()
        batches = [method.collate(part) for part in parts]
        losses = [method.loss(model, batch) for batch in batches]
        sum(one.sum for one in losses).backward()
        weights = [w for batch in batches for w in batch.row_weights]
        by_row = [x for one in losses for x in one.by_row.tolist()]
        metrics = {name: sum(one.metrics[name] for one in losses) for name in ("kl", "nll")}
        told.append((weights, by_row, metrics, {n: p.grad.clone() for n, p in model.named_parameters()}))
    (weights, by_row, metrics, gradients), cut = told
    assert weights == cut[0] and by_row == pytest.approx(cut[1], rel=1e-4)
    assert metrics == pytest.approx(cut[2], rel=1e-4)
    assert sum(by_row) == pytest.approx(0.75 * metrics["kl"] + 0.25 * metrics["nll"], rel=1e-4)
    for name, one in gradients.items():
        assert torch.allclose(one, cut[3][name], atol=1e-4 * max(1.0, one.abs().max()), rtol=1e-4), name


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_a_run_draws_near_its_teacher(taught, direction):
    work = taught(f"near-{direction}")
    wish = {"distill": {"teacher": "x", "direction": direction}}
    work.run(method=wish, adapter={"kind": "full"}, epochs=4, learning_rate=0.01)
    told = work.told("validation")
    assert told[-1]["kl"] < 0.8 * told[0]["kl"] and told[-1]["loss"] == pytest.approx(told[-1]["kl"])


def test_a_model_is_its_own_teacher_already(taught, base):
    work = taught("self", folder=base)
    work.run(method={"distill": {"teacher": "x"}}, max_steps=1)
    assert work.told("validation")[0]["kl"] == pytest.approx(0, abs=1e-4)


def test_other_vocabularies_are_refused_token_by_token(taught, tmp_path):
    work = taught("strange", folder=tiny_model(tmp_path / "strange", vocabulary=400))
    with pytest.raises(SpecError, match=r"the teacher's vocabulary \(\d+ tokens\)") as found:
        work.run(method={"distill": {"teacher": "x"}})
    assert "level: sequence" in found.value.remedy


# -- sequence level -----------------------------------------------------------------------------------------------------


def test_the_teachers_answers_are_learnt_and_kept(taught, teacher, base, monkeypatch):
    work = taught("written", n=12)
    wish = {"distill": {"teacher": "x", "level": "sequence", "max_tokens": 8}}
    work.run(method=wish, epochs=6, learning_rate=0.01)
    told = work.told("step")
    assert told[-1]["loss"] < told[0]["loss"]
    assert {one["split"]: one["rows"] for one in work.told("teacher.answered")} == {
        "train": 8,
        "validation": 4,
    }
    import pyarrow.parquet as pq

    records = pq.read_table(work.dataset / "train.parquet").to_pylist()
    theirs, ours = (Template(load_tokenizer(folder), 512) for folder in (teacher, base))
    said = answer(load(teacher), theirs, [theirs.prompt(one["messages"][:-1]) for one in records], 8)
    kept = {}
    for path in (work.folder / "scratch").glob("teacher-*.parquet"):
        kept |= {one["id"]: one for one in pq.read_table(path).to_pylist()}
    assert len(kept) == 12
    for record, text in zip(records, said, strict=True):
        one = kept[record["id"]]
        learnt = [i for i, told in zip(one["ids"], one["supervised"], strict=True) if told]
        assert ours.decode(learnt) == text
    monkeypatch.setattr(distill, "Writer", None)  # nobody asks the teacher a second time
    work.run(method=wish, epochs=6, learning_rate=0.01)
    assert not work.told("teacher.answered")


def test_what_is_not_finished_has_no_end_to_learn(base):
    tokenizer = load_tokenizer(base)
    template = Template(tokenizer, 512)
    messages = [{"role": "user", "content": "hello"}]
    whole, ends = learnt_from(messages, "one two", True, template)
    assert ends and template.answer("one two") == [
        i for i, s in zip(whole.ids, whole.supervised, strict=True) if s
    ]
    broken, ends = learnt_from(messages, "one two", False, template)
    assert not ends and broken.ids[-1] not in template.end_ids and broken.supervised[-1]
    narrow = Template(tokenizer, len(template.prompt(messages)) + 2)
    short, ends = learnt_from(messages, "one two three four five", True, narrow)
    assert not ends and len(short.ids) == narrow.context and short.supervised[-1]


def test_plain_text_has_no_prompt_to_answer(base):
    method = Distill(DistillSettings(teacher="x", level="sequence"))
    with pytest.raises(DataError, match="`distill` learns from questions and answers"):
        method.encode({"messages": None, "text": "x"}, Template(load_tokenizer(base), 512))
