"""A recipe's own contradictions are told by every verb that reads it; what the machine lacks only when something runs."""

from __future__ import annotations

import pytest

from luthier.app.app import App
from luthier.app.checking import check
from luthier.app.recipe import read_recipe
from luthier.core.errors import SpecError


@pytest.mark.parametrize("verb", ["plan", "run", "profile"])
def test_every_verb_refuses_before_the_home_is_touched(workshop, verb):
    recipe = workshop.folder / "recipe.yaml"
    with pytest.raises(SpecError, match="constrain: labels needs labels"):
        getattr(App.open(), verb)(recipe, ("task={kind: chat}", "postprocess.constrain=labels"))
    assert not workshop.home.exists()


@pytest.mark.parametrize("section", ["train", "evaluate"])
def test_a_device_that_is_not_there_stops_a_run_before_its_first_step(workshop, monkeypatch, section):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    app, recipe = App.open(), workshop.folder / "recipe.yaml"
    with pytest.raises(SpecError, match=rf"{section}.device is cuda, and torch sees no CUDA device"):
        app.run(recipe, (f"{section}.device=cuda",))
    assert {artifact.kind for artifact in app.store.catalog.all()} == {"source"}


def test_a_head_may_be_gated_on_what_it_gives(workshop):
    sets = (
        "train.method=classify",
        "evaluate.gate={accuracy: {at_least: 0.5}}",
        "postprocess.abstain_below=0.5",
    )
    check(read_recipe(workshop.folder / "recipe.yaml", sets).recipe)
