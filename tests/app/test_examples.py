"""The recipes of examples/techniques cannot rot: every one is read and checked as a run would, its rows are prepared, and
its method takes them. What a whole run of each gives is benchmarks/techniques.py's matter."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

from luthier.app.app import App
from luthier.core.testing import FakeContext

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "techniques"
RECIPES = sorted(path.name for path in EXAMPLES.glob("*.yaml"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The recipes with the rows and models that make_data.py writes."""
    made = tmp_path_factory.mktemp("techniques")
    spec = importlib.util.spec_from_file_location("make_techniques", EXAMPLES / "make_data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["make_data.py", "--out", str(made)])
        module.main()
    for name in RECIPES:
        shutil.copyfile(EXAMPLES / name, made / name)
    return made


@pytest.fixture(scope="module")
def template(folder):
    from luthier.models.template import Template
    from luthier.models.weights import describe, load_tokenizer

    return Template(load_tokenizer(folder / "student"), describe(folder / "student").context)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_accepted_and_its_rows_are_learnt_from(folder, template, tmp_path, name):
    import pyarrow.parquet as pq

    from luthier.data.prepare import STAGE, PrepareSpec
    from luthier.evaluation.questions import read
    from luthier.models.known import KNOWN
    from luthier.training.rows import encoded

    recipe = App(tmp_path / "home", {}).recipes.read(folder / name, ()).recipe
    assert recipe.name == f"technique-{name.removesuffix('.yaml')}"
    for base in (recipe.base, *recipe.train.other_models.values()):
        assert base in KNOWN or (folder / base / "config.json").is_file()
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    out.mkdir()
    scratch.mkdir()
    at = FakeContext(tmp_path, root=folder)
    counts = STAGE.function(PrepareSpec(task=recipe.task, data=recipe.data), {}, out, scratch, at).summary
    assert counts["removed"] == 0 and min(counts[split] for split in ("train", "validation", "test")) > 0
    assert read(out / "test.parquet")
    method = recipe.train.method.load()(recipe.train.method.settings)
    for record in pq.read_table(out / "train.parquet").to_pylist():
        assert encoded(record, method, template).supervised_tokens > 0


@pytest.mark.parametrize("page", ["examples/techniques/README.md", "docs/techniques.md"])
def test_every_recipe_is_listed(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [name for name in RECIPES if f"{name}`" not in text] == []


@pytest.mark.parametrize("name", ["licence-notices", "support-answers", "mail-headers", "learn-again"])
def test_the_larger_examples_are_accepted_too(tmp_path, name):
    assert (
        App(tmp_path / "home", {}).recipes.read(EXAMPLES.parent / name / "recipe.yaml", ()).recipe.name
        == name
    )
