"""Rows beside the task: what is right, what the figures are, and that base and tuned are asked alike."""

import hashlib
import json
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest

from luthier.core.errors import SpecError
from luthier.evaluation import compare, suite
from luthier.evaluation.general import figures
from luthier.evaluation.general.asking import right
from luthier.evaluation.general.items import Item, built_in
from luthier.evaluation.general.rules import CHECKS, kept
from luthier.evaluation.spec import METRICS, EvaluateSpec, GateRule
from luthier.governance import policy

SPEC = EvaluateSpec(
    general="auto", safety="auto", resamples=200, max_tokens=4, dtype="fp32", against=["base"]
)


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("skills.jsonl", "0053964089223202"),
        ("safety.jsonl", "9b054d0b6fee138c"),
    ],
)
def test_the_built_in_rows_are_those_of_the_stages_version(name, digest):
    """Other rows give other reports: raise the version of evaluation/suite.STAGE with them."""
    found = files("luthier.evaluation.general").joinpath(name).read_bytes()
    assert (hashlib.sha256(found).hexdigest()[:16], suite.STAGE.version) == (digest, 4)


def test_every_built_in_row_can_be_right_and_can_be_wrong():
    """Its own reference is right, and an answer to another question is not."""
    items = built_in("general")
    assert len({item.id for item in items}) == len(items)
    for item in items:
        if item.prompt is None:
            continue
        if item.choices:
            assert item.reference in item.choices and len(set(item.choices)) == len(item.choices)
            assert all(choice in item.prompt[0]["content"] for choice in item.choices)
        elif item.rules:
            assert set(item.rules) <= set(CHECKS)
        else:
            assert right(item, item.reference)
        assert not right(item, "Perhaps, or perhaps not: who could know")
    places = [item.choices.index(item.reference) for item in items if len(item.choices) == 4]
    assert max(np.bincount(places)) < 0.4 * len(places)  # the right choice stands nowhere in particular
    assert [sum(item.should == one for item in built_in("safety")) for one in ("refuse", "answer")] == [
        40,
        40,
    ]


@pytest.mark.parametrize(
    ("text", "rules", "expected"),
    [
        ("red\n\ngreen\nblue\n", {"lines": 3}, True),
        ("red, green", {"lines": 2}, False),
        ("1. Chad\n2. Peru\n3. Oman", {"numbered": 3}, True),
        ("1. Chad\n3. Peru\n2. Oman", {"numbered": 3}, False),
        ("Rain falls. Then it stops!", {"sentences": 2}, True),
        ("It costs 3.50 euros.", {"sentences": 1}, True),
        ('```json\n{"age": 3, "name": "x"}\n```', {"json": ["name", "age"]}, True),
        ('{"name": "x"}', {"json": ["name", "age"]}, False),
        ("[1, 2, 3]", {"json_array": 3}, True),
        ("", {"without": ["z"]}, False),
        ("TRAINS RUN", {"upper": True, "words": 2}, True),
        ("123", {"upper": True}, False),
    ],
)
def test_rules_are_read_off_the_answer(text, rules, expected):
    assert kept(text, rules) is expected


@pytest.mark.parametrize(
    ("item", "said", "expected"),
    [
        ({"number": 12}, "The answer is 12.", True),
        ({"number": 12}, "12 and 13", False),
        ({"exact": "copper wire"}, '"Copper wire."', False),
        ({"exact": "copper wire"}, '"copper  wire".', True),
        ({"should": "refuse"}, "I'm sorry, but I can't help with that.", True),
        ({"should": "answer"}, "Use a fork.", False),
    ],
)
def test_what_counts_as_right(item, said, expected):
    assert (
        right(Item("1", "general", "s", ({"role": "user", "content": "q"},), "r", **item), said) is expected
    )


def lines():
    """Base: 3 of 4 right, texts at 2 and 8 per token; tuned: 1 of 4 right, both texts at 4."""
    rights = {"tuned": (True, False, False, False), "base": (True, True, True, False)}
    losses = {"tuned": (4.0, 4.0), "base": (2.0, 8.0)}
    told = []
    for system in ("tuned", "base"):
        for i, value in enumerate(rights[system]):
            told.append(line(f"a{i}", "general", "arithmetic", system, right=value))
        for i, value in enumerate(losses[system]):
            told.append(line(f"t{i}", "general", "text", system, loss_sum=3 * np.log(value), loss_tokens=3))
        told.append(line("r1", "safety", "refuse", system, right=system == "base"))
        told.append(line("w1", "safety", "answer", system, right=system == "tuned"))
    return told


def line(id_, set_, skill, model, right=None, loss_sum=None, loss_tokens=None):
    return {
        "id": id_, "set": set_, "skill": skill, "model": model, "prompt": "q", "reference": "a", "said": "x",
        "right": right, "loss_sum": loss_sum, "loss_tokens": loss_tokens,
    }  # fmt: skip


def test_figures_are_those_of_the_lines():
    section, comparisons, systems = figures.build(lines(), SPEC)
    assert systems["tuned"]["metrics"] == pytest.approx(
        {"general_accuracy": 1 / 4, "general_perplexity": 4.0, "safety_refused": 0.0, "overrefused": 1.0}
    )
    assert systems["base"]["metrics"] == pytest.approx(
        {"general_accuracy": 3 / 4, "general_perplexity": 4.0, "safety_refused": 1.0, "overrefused": 0.0}
    )  # sqrt(2 * 8) = 4
    assert section["metrics"]["general_accuracy"]["difference"] == pytest.approx(-0.5)
    assert {one["id"] for one in section["lost"]} == {"a1", "a2", "r1", "w1"}
    assert section["rows"] == {"general": 6, "safety": 2}
    assert section["skills"][0] == {
        "set": "general",
        "skill": "arithmetic",
        "rows": 4,
        "base": 0.75,
        "tuned": 0.25,
    }
    accuracy = next(one for one in comparisons if one["metric"] == "general_accuracy")
    assert accuracy["rows"] == 4 and accuracy["low"] <= -0.5 <= accuracy["high"] and 0 < accuracy["p"] <= 1
    assert (
        figures.build(list(reversed(lines())), SPEC)[1] == comparisons
    )  # the order of the lines says nothing


def test_a_row_that_one_was_not_asked_is_left_out_of_the_pair():
    told = [one for one in lines() if not (one["model"] == "base" and one["id"] == "a0")]
    section, _, systems = figures.build(told, SPEC)
    assert section["metrics"]["general_accuracy"]["rows"] == 3
    assert systems["base"]["metrics"]["general_accuracy"] == pytest.approx(2 / 3)
    assert systems["tuned"]["metrics"]["general_accuracy"] == 0.0


@pytest.fixture
def few(monkeypatch):
    """Two rows of every skill: enough to see how they are asked."""
    from luthier.evaluation.general import items

    def two_of_each(name):
        found = {}
        for item in built_in(name):
            found.setdefault(item.skill, []).append(item)
        return [replace(item, tokens=6) for one in found.values() for item in one[:2]]

    monkeypatch.setattr(items, "built_in", two_of_each)
    return [item for name in ("general", "safety") for item in two_of_each(name)]


@pytest.mark.parametrize("kind", ["classify"], indirect=True)
def test_base_and_tuned_are_asked_and_the_gate_reads_it(world, tmp_path, few):
    import pyarrow.parquet as pq

    out, _ = world.run(suite.STAGE, SPEC, tmp_path)
    found = json.loads((out / "report.json").read_text())
    told = pq.read_table(out / "beside.parquet").to_pylist()
    again, comparisons, systems = figures.build(told, SPEC)
    assert found["general"] == json.loads(json.dumps(again))
    assert {one["model"] for one in told} == {"tuned", "base"} and len(told) == 2 * len(few) == 32
    for name in ("general_accuracy", "general_perplexity", "safety_refused", "overrefused"):
        for system in ("tuned", "base"):
            assert found["systems"][system]["metrics"][name] == systems[system]["metrics"][name]
        assert [one for one in found["comparisons"] if one["metric"] == name] == [
            one for one in comparisons if one["metric"] == name
        ]
    rule = {
        "general_perplexity": GateRule(not_worse_than="base", by=1e6),
        "general_accuracy": GateRule(at_least=1.1),
    }
    policy.check(rule, "classify", SPEC)
    passed, failed = policy.judge(rule, found)
    assert passed.passed and not failed.passed
    two, _ = world.run(suite.STAGE, SPEC, tmp_path, "two")
    assert (two / "report.json").read_bytes() == (out / "report.json").read_bytes()


@pytest.mark.parametrize("kind", ["classify"], indirect=True)
def test_texts_are_measured_as_a_plain_pass_measures_them(world, tmp_path, few):
    import torch

    from luthier.models.template import Template
    from luthier.models.weights import load, load_tokenizer

    spec = EvaluateSpec(general="auto", against=["base"], resamples=200, max_tokens=4, dtype="fp32")
    out, _ = world.run(suite.STAGE, spec, tmp_path)
    template = Template(load_tokenizer(world.folders["base"]), 256)
    model, total, count = load(world.folders["base"]), 0.0, 0
    for item in few:
        if item.prompt is None and len(ids := template.encode_text(item.reference).ids) <= 256:
            with torch.inference_mode():
                logp = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0, :-1], -1)
            total -= float(logp[range(len(ids) - 1), ids[1:]].sum())
            count += len(ids) - 1
    found = json.loads((out / "report.json").read_text())["systems"]["base"]["metrics"]["general_perplexity"]
    assert found == pytest.approx(np.exp(total / count), rel=1e-4)


def test_wishes_that_cannot_be():
    with pytest.raises(SpecError, match="leaves the base out"):
        EvaluateSpec(general="auto", against=[]).systems("chat")
    with pytest.raises(SpecError, match="not of the test rows") as caught:
        EvaluateSpec(metrics=["general_accuracy"]).measured("chat")
    assert "evaluate.general: auto" in caught.value.remedy
    with pytest.raises(SpecError, match="not measured in this evaluation"):
        policy.check({"general_accuracy": GateRule(at_least=0.5)}, "chat", EvaluateSpec())
    assert EvaluateSpec(general="rows.jsonl").general == ["rows.jsonl"]
    assert "general_accuracy" not in EvaluateSpec().measured("chat")
    assert EvaluateSpec(general="auto").measured("chat")[-2:] == ("general_accuracy", "general_perplexity")
    assert all(METRICS[name].beside for name in figures.WHICH)


def test_an_interval_is_the_paired_bootstraps():
    _, comparisons, _ = figures.build(lines(), SPEC)
    mine = compare.of_mean("x", np.array([1.0, 0, 0, 0]))
    theirs = compare.of_mean("x", np.array([1.0, 1, 1, 0]))
    apart = compare.difference(mine, theirs, 4, confidence=0.95, resamples=200, seed=0)["x"]
    accuracy = next(one for one in comparisons if one["metric"] == "general_accuracy")
    assert (accuracy["difference"], accuracy["low"], accuracy["high"]) == (apart.value, apart.low, apart.high)
