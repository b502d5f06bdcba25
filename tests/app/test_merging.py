"""`luthier merge`: from two releases to a model that is measured, compared, packed and traced."""

import json

import pytest


@pytest.fixture
def two(workshop):
    """router@1 and router@2, of one base."""
    workshop.run()
    workshop.run("--set", "train.learning_rate=0.03")
    return workshop


def merged(workshop, text, *words):
    path = workshop.write("merge.yaml", text)
    done = workshop.luthier("merge", path, "--json", *words)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_merge_is_measured_compared_exported_and_traced(two):
    text = "models: [router@1, {model: router@2, weight: 3}]\nmethod: {kind: linear}\nmeasure: router@2\n"
    done = merged(two, text)
    assert merged(two, text)["model"] == done["model"]  # found, not made again
    assert "tuned" in done["metrics"]
    compared = two.luthier("compare", done["report"], "router@1", "--json")
    assert compared.exit_code == 0, compared.output
    told = two.luthier("lineage", done["model"][:12]).stdout
    assert told.count("model") >= 3
    out = two.folder / "out"
    assert two.luthier("export", done["model"], out, "--form", "merged").exit_code == 0
    assert (out / "model.safetensors").is_file()
    said = two.luthier("merge", two.folder / "merge.yaml").stdout
    assert "linear of router@1, router@2" in said and "next: luthier compare" in said


def test_a_merge_that_cannot_be_is_told(workshop):
    workshop.run()
    for text, told in (
        ("models: []\n", "models"),
        ("models: [router@9]\n", "router@9"),
        ("models: [router@1]\nmethod: {kind: slerp}\n", "slerp goes from one model to one other"),
        (
            "models: [router@1, {model: router@1, weight: 2}]\nmethod: {kind: slerp}\n",
            "weights are not used",
        ),
        ("models: [{model: router@1, weight: -1}]\n", "to take a task out use task_arithmetic"),
        ("models: [router@1]\nmethod: {kind: tie}\n", "tie"),
        ("models: [router@1]\nmeasured: router@1\n", "did you mean"),
    ):
        done = workshop.luthier("merge", workshop.write("merge.yaml", text))
        assert done.exit_code in (2, 5) and told in done.stderr and "Traceback" not in done.stderr


def test_models_of_two_bases_are_refused_by_name(workshop, tmp_path):
    from luthier.models.testing import tiny_model

    workshop.run()
    tiny_model(workshop.folder / "other", seed=5)
    workshop.run("--set", "base=other", "--set", "name=second")
    done = workshop.luthier("merge", workshop.write("m.yaml", "models: [router@1, second@1]\n"))
    assert done.exit_code == 4 and "Only models of one base can be merged" in done.stderr


def test_measuring_a_merge_asks_no_server():
    from luthier.app.merging import without_servers
    from luthier.evaluation.suite import MeasureSpec

    judge = {"model": "smollm2-135m-instruct", "human": "people.jsonl"}
    against = [
        "base",
        {"release": "router@1", "name": "old"},
        {"endpoint": "http://127.0.0.1:9/v1", "model": "m", "name": "large"},
    ]
    fallback = {"endpoint": {"url": "http://127.0.0.1:9/v1", "model": "m"}}
    spec = MeasureSpec.model_validate(
        {"against": against, "judge": judge, "answering": {"constrain": None, "fallback": fallback}}
    ).plain()
    wish, sent = without_servers(spec)
    assert sent == ["large", "the fallback"]
    found = MeasureSpec.model_validate(wish)
    assert list(found.named) == ["old"] and found.judge.human is None and found.answering.fallback is None
    assert without_servers(MeasureSpec().plain()) == (MeasureSpec().plain(), [])
