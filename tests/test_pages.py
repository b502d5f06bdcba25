"""What pages claim: every test that a page names is there, every link leads
somewhere, and the techniques' table says what the code does."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"`(tests/[\w/]+\.py)?(?:::(\w+))?`")


@pytest.mark.parametrize("page", ["docs/pains.md", "ARCHITECTURE.md", "docs/techniques.md", "docs/spark.md"])
def test_every_named_test_is_there(page):
    missing, found = [], 0
    for row in (ROOT / page).read_text().splitlines():
        file = None
        for path, name in NAMED.findall(row):
            file = path or file
            if path and not (ROOT / path).is_file():
                missing.append(path)
            elif name and (not file or f"def {name}(" not in (ROOT / file).read_text()):
                missing.append(f"{file}::{name}")
            found += bool(path)
    assert not missing and found


def adapters():
    """adapter as written -> the cells beside it."""
    page = (ROOT / "docs/techniques.md").read_text()
    rows = page.partition("## What serves which adapter")[2].partition("## ")[0].splitlines()
    found = {}
    for row in rows:
        written, *cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        if written.startswith("`{kind"):
            found[written.strip("` ")] = cells
    return found


def test_the_table_of_adapters_has_rows():
    assert len(adapters()) >= 10


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    from luthier.models.testing import tiny_model

    return tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.mark.parametrize("written", adapters())
def test_the_table_of_adapters_is_true(base, written):
    from luthier.core import plugin
    from luthier.core.errors import SpecError
    from luthier.models import weights
    from luthier.models.fast import quicken
    from luthier.models.line import steady
    from luthier.training.launch import refuse_unshardable
    from luthier.training.spec import TrainSpec

    fused, shared, _, sharded = adapters()[written]
    given = YAML(typ="safe").load(written)
    spec = TrainSpec.model_validate({"adapter": given, "parallel": {"kind": "fsdp", "processes": 2}})
    model = plugin.load("adapter", spec.adapter.kind)().attach(weights.load(base), spec.adapter, 0)
    named = fused.partition(";")[0]
    every = ("gated", "head", "norms", "projections", "rotary")
    assert quicken(model).parts == (every if named == "all" else tuple(named.split(", ")))
    assert steady(model) == (shared == "yes")
    if sharded == "yes":
        refuse_unshardable(spec)
    else:
        with pytest.raises(SpecError):
            refuse_unshardable(spec)


@pytest.mark.parametrize(
    "page",
    ["README.md", "ARCHITECTURE.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))],
)
def test_every_link_leads_somewhere(page):
    told = re.findall(r"\]\((?!http)([^)#\s]+)", (ROOT / page).read_text())
    assert [link for link in told if not ((ROOT / page).parent / link).exists()] == []


def test_the_first_page_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
