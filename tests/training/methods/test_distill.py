"""Distillation: the student draws near its teacher, token by token or by the teacher's own answers; what is written is
kept; vocabularies must agree."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from luthier.core.errors import DataError, ModelError, SpecError
from luthier.models import sample as sampling
from luthier.models import weights
from luthier.models.generate import answer
from luthier.models.template import Template
from luthier.models.testing import CHAT_TEMPLATE, tiny_model
from luthier.models.weights import load, load_tokenizer
from luthier.training.methods import distill
from luthier.training.methods import kept as kept_parts
from luthier.training.methods.distill import Distill, DistillSettings, learnt_from
from luthier.training.rows import Row, Tokens
from luthier.training.spec import MethodSpec


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


@pytest.mark.parametrize(
    ("level", "key"),
    [("token", "max_tokens"), ("sequence", "temperature"), ("sequence", "direction"), ("sequence", "labels")],
)
def test_a_setting_of_the_other_level_is_refused(level, key):
    default = DistillSettings.model_fields[key].default
    other = {"token": "sequence", "sequence": "token"}[level]
    with pytest.raises(
        ValidationError, match=f"`{key}` is read at level: {other} alone; remove it, or set level: {other}"
    ):
        DistillSettings.model_validate({"teacher": "x", "level": level, key: default})
    DistillSettings.model_validate({"teacher": "x", "level": other, key: default})


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_what_was_read_can_be_read_back(level):
    spec = MethodSpec.model_validate({"distill": {"teacher": "x", "level": level}})
    assert MethodSpec.model_validate(spec.plain()) == spec


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


def small(folder, context):
    """A teacher of the base's vocabulary that reads few tokens."""
    return tiny_model(folder, hidden=16, heads=2, kv_heads=1, context=context)


def test_rows_that_the_teacher_cannot_read_are_refused_by_name(taught, tmp_path, monkeypatch):
    work = taught("short", folder=small(tmp_path / "small", 40))
    template = Template(load_tokenizer(work.base), 512)
    lengths = {one["origin"]: len(template.encode(one["messages"]).ids) for one in records(work)}
    long = {name: n for name, n in lengths.items() if n > 40}
    assert 0 < len(long) < 10
    wish = {"method": {"distill": {"teacher": "x"}}, "max_steps": 1}
    monkeypatch.setattr(distill, "called_in", None)  # nothing is loaded before
    with pytest.raises(
        DataError, match=f"the teacher's context is 40 tokens, and {len(long)} of 20 rows have more"
    ) as found:
        work.run(**wish)
    first = next(iter(long))
    assert f"{first} ({long[first]} tokens)" in found.value.message
    assert "train.longest: 40 and train.too_long: skip" in found.value.remedy
    monkeypatch.undo()
    work.run(**wish, longest=40, too_long="skip")  # the remedy works
    assert work.told("rows.skipped")[0]["rows"] == len(long)


def records(work):
    import pyarrow.parquet as pq

    splits = [
        pq.read_table(work.dataset / f"{split}.parquet").to_pylist() for split in ("train", "validation")
    ]
    return [one for split in splits for one in split]


def test_a_teacher_that_does_not_fit_is_told(taught, monkeypatch):
    real = weights.load

    def load_small(folder, **how):
        if "teacher" in str(folder):
            raise MemoryError
        return real(folder, **how)

    monkeypatch.setattr(weights, "load", load_small)
    with pytest.raises(ModelError, match="the teacher does not fit in memory: out of memory") as told:
        taught("large").run(method={"distill": {"teacher": "x"}})
    assert "smaller teacher" in told.value.remedy


def test_the_teacher_is_not_called_in_again_for_a_student_without_fused_parts(taught, monkeypatch):
    from luthier.training import agreement

    called = []
    real = distill.called_in
    monkeypatch.setattr(distill, "called_in", lambda work: called.append(work) or real(work))
    monkeypatch.setattr(agreement, "FUSED", {"fp32": agreement.Tolerance(-1.0, -1.0, -1.0)})
    for level in ("token", "sequence"):
        called.clear()
        work = taught(f"again-{level}", n=12)
        work.run(method={"distill": {"teacher": "x", "level": level}}, max_steps=1)
        assert work.told("fallback") and len(called) == 1


# -- sequence level -----------------------------------------------------------------------------------------------------


def test_the_teachers_answers_are_learnt_and_kept(taught, teacher, base, monkeypatch):
    monkeypatch.setattr(kept_parts, "PART_ROWS", 4)
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
    monkeypatch.setattr(distill.Writer, "write", None)  # nobody asks the teacher a second time
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
    with pytest.raises(DataError, match="`distill` learns from a question and its answer"):
        method.encode({"messages": None, "text": "x"}, Template(load_tokenizer(base), 512))


SHORT = {"method": {"distill": {"teacher": "x", "level": "sequence", "max_tokens": 4}}, "max_steps": 1}


def test_questions_that_the_teacher_has_no_room_for_are_refused_by_name(taught, tmp_path, monkeypatch):
    work = taught("narrow", folder=small(tmp_path / "small", 37))
    monkeypatch.setattr(distill, "called_in", None)  # nobody is asked before
    template = Template(load_tokenizer(work.base), 512)
    # A question and one token of answer.
    asked = {one["origin"]: len(template.prompt(one["messages"][:-1])) + 1 for one in records(work)}
    long = {name: n for name, n in asked.items() if n > 37}
    assert 0 < len(long) <= 5
    with pytest.raises(
        DataError, match=f"the teacher's context is 37 tokens, and {len(long)} of 20 rows have more"
    ) as found:
        work.run(**SHORT)
    assert all(f"{name} ({n} tokens)" in found.value.message for name, n in long.items())
    assert "`length`" in found.value.remedy
    assert not list((work.folder / "scratch").glob("teacher-*"))


def test_of_a_row_the_question_alone_is_known(new_work, make_record, teacher):
    """A data's answer that is longer than the context is never learnt, so it is no reason to refuse the row."""
    import pyarrow.parquet as pq

    rows = [make_record(i) for i in range(12)]
    rows[0]["messages"][-1]["content"] = "error " * 600
    work = new_work("question", train=rows[:8], validation=rows[8:])
    work.others["teacher"] = teacher
    work.run(**SHORT)
    template = Template(load_tokenizer(work.base), 512)
    lines = {line["id"]: line for line in pq.read_table(work.out / "rows.parquet").to_pylist()}
    for one in rows:
        asked = len(template.prompt(one["messages"][:-1]))
        told = lines[one["id"]]
        assert (told["tokens"], told["supervised"], told["skipped"]) == (asked + 1, 1, None)
    (step,) = work.told("step")
    assert (
        8 < step["supervised"] <= 8 * 5
    )  # what was learnt are the teacher's tokens, four and an end at most


def test_a_question_that_the_teachers_template_refuses_names_its_row(taught, tmp_path):
    template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
        + CHAT_TEMPLATE
    )
    work = taught("strict", folder=tiny_model(tmp_path / "strict", chat_template=template))
    with pytest.raises(ModelError, match=r"tickets\.jsonl:\d+, for the teacher: the chat template refuses"):
        work.run(**SHORT)


def test_answers_that_do_not_fit_in_memory_are_told(taught, monkeypatch):
    def large(*_, **__):
        raise torch.OutOfMemoryError("tried to allocate much")

    monkeypatch.setattr(sampling, "sample", large)
    with pytest.raises(
        ModelError, match=r"a batch of 16 answers \([\d,]+ tokens with their questions"
    ) as told:
        taught("many").run(**SHORT)
    assert "Lower max_tokens of train.method distill" in told.value.remedy
