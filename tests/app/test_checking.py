"""A recipe's own contradictions are told by every verb that reads it; what the machine lacks only when something runs."""

from __future__ import annotations

import pytest

from luthier.app.app import App
from luthier.app.checking import check
from luthier.app.recipe import read_recipe
from luthier.core.errors import SpecError
from luthier.core.testing import FakeContext


@pytest.mark.parametrize("verb", ["plan", "run", "profile"])
def test_every_verb_refuses_before_the_home_is_touched(workshop, verb):
    recipe = workshop.folder / "recipe.yaml"
    with pytest.raises(SpecError, match="constrain: labels needs labels"):
        getattr(App.open().recipes, verb)(recipe, ("task={kind: chat}", "postprocess.constrain=labels"))
    assert not workshop.home.exists()


@pytest.mark.parametrize("section", ["train", "evaluate"])
def test_a_device_that_is_not_there_stops_a_run_before_its_first_step(workshop, monkeypatch, section):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    app, recipe = App.open(), workshop.folder / "recipe.yaml"
    with pytest.raises(SpecError, match=rf"{section}.device is cuda, and torch sees no CUDA device"):
        app.recipes.run(recipe, (f"{section}.device=cuda",))
    assert {artifact.kind for artifact in app.store.catalog.all()} == {"source"}


def test_a_head_may_be_gated_on_what_it_gives(workshop):
    sets = (
        "train.method=classify",
        "evaluate.gate={accuracy: {at_least: 0.5}}",
        "postprocess.abstain_below=0.5",
    )
    check(read_recipe(workshop.folder / "recipe.yaml", sets).recipe)


CHAT = ("task={kind: chat}", "data.sources=[{files: rows.jsonl, map: {user: text, assistant: queue}}]")


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (("data.canaries={}",), "a classify task learns its answers alone"),
        ((*CHAT, "data.canaries={}", "train.method=dpo"), "train.method dpo learns from other rows"),
        ((*CHAT, "data.canaries={}", "train.mix={weights: {rows.jsonl: 1}}"), "canaries are of none"),
        (("train.method=classify", "evaluate.memorisation={}"), "a head of its own"),
        ((*CHAT, "evaluate.gate={exposure: {at_most: 9}}"), "no secret whose exposure"),
        (("evaluate.gate={extracted: {at_most: 0}}",), "not measured of a classify task"),
        (("evaluate.metrics=[membership_auc]",), "write `memorisation: {}`, or a gate on it"),
    ],
)
def test_what_could_not_be_learnt_by_heart_or_measured_is_refused(workshop, sets, told):
    with pytest.raises(SpecError, match=told):
        check(read_recipe(workshop.folder / "recipe.yaml", sets).recipe)


def test_a_file_of_secrets_that_is_not_there_stops_a_run_before_anything_is_made(workshop):
    app = App.open()
    with pytest.raises(SpecError, match=r"evaluate\.memorisation\.canaries: mine\.txt cannot be read"):
        app.recipes.run(
            workshop.folder / "recipe.yaml", (*CHAT, "evaluate.memorisation={canaries: mine.txt}")
        )
    assert {artifact.kind for artifact in app.store.catalog.all()} == {"source"}


def test_a_fallback_on_another_machine_gets_no_private_rows_and_no_missing_key(tmp_path):
    from luthier.app.asking import check_keys

    written = """\
name: n
base: tiny
data: {sources: [{files: rows.jsonl}]}
postprocess: {fallback: {endpoint: {url: "https://llm.example/v1", model: m, allow_host: llm.example, key: "${NO_KEY}"}}}
"""
    (tmp_path / "recipe.yaml").write_text(written)
    with pytest.raises(
        SpecError, match=r"postprocess.fallback.endpoint: what people ask .* sent to llm\.example"
    ):
        check(read_recipe(tmp_path / "recipe.yaml").recipe)
    redacted = read_recipe(tmp_path / "recipe.yaml", ("data.rules={quality: [redact]}",)).recipe
    with pytest.raises(SpecError, match="out of nobody's questions"):
        check(redacted)
    allowed = read_recipe(tmp_path / "recipe.yaml", ("postprocess.fallback.endpoint.unredacted=true",)).recipe
    check(allowed)
    at = FakeContext(tmp_path, environ={})
    with pytest.raises(SpecError, match="NO_KEY is not set"):
        check_keys(allowed, at)


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        ((*CHAT, "data.rules.relevance=[{weight: {by: label, weights: {a: 2}}}]"), "weight by label needs labels, and the task chat has none"),
        (
            ("task={kind: regress}", CHAT[1], "data.rules.quantity=[{generate: {model: tiny, n: 5, way: new}}]"),
            "whether one is right for the task regress nobody looks",
        ),
    ],
)  # fmt: skip
def test_a_rule_of_another_task_is_refused(workshop, sets, told):
    with pytest.raises(SpecError, match=told):
        check(read_recipe(workshop.folder / "recipe.yaml", sets).recipe)


def test_settings_of_a_rule_that_asks_are_read_back_as_they_were():
    from luthier.evaluation.rules.generate import Generate

    for wish in (
        {"way": "new"},
        {"way": "back_translate", "pivot": "French"},
        {"way": "paraphrase", "keep": ["x"]},
    ):
        told = Generate.model_validate({"model": "m", "n": 5, **wish})
        assert Generate.model_validate(told.plain()) == told
