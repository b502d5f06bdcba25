"""What examples/learn-again makes of Debian's index and of what happened. The circle itself is in test_circle."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from luthier.app.app import App

FOLDER = Path(__file__).parents[2] / "examples" / "learn-again"
RECORDED = FOLDER / "recorded"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"learn_again_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_nothing_is_asked_or_measured_whose_source_was_learnt_from():
    made = script("make_data")
    packages = [
        {"source": f"{section}-{n // 12}", "package": f"p{n}", "section": section, "synopsis": f"package {n}", "description": "what it does " * 30}
        for n, section in enumerate([*made.OLD, made.NEW, "libs"] * 1100)
    ]  # fmt: skip
    found = made.parts(list(made.rows(packages)))
    names = {part: {row["package"] for row in rows} for part, rows in found.items()}
    assert names["rows"] == names["shuffled"] and not names["rows"] & names["requests"]
    assert {row["section"] for row in found["rows"]} == set(made.OLD)
    assert [len(found[part]) for part in ("rows", "requests")] == [520, 600]
    before = {row["package"]: row["section"] for row in found["rows"]}
    same = sum(row["section"] == before[row["package"]] for row in found["shuffled"])
    assert 90 < same < 170, "one in four by luck"
    assert max(len(row["text"]) for row in found["requests"]) <= made.LONGEST


def test_figures_of_releases_on_the_same_rows():
    topics = ["net"] * 40 + ["fonts"] * 20
    first, second = ["net"] * 60, ["net"] * 36 + ["text"] * 4 + ["fonts"] * 20
    told = script("measured").figures(topics, {"a@1": first, "a@2": second}, "fonts")
    assert told["a@1"]["new"]["accuracy"] == 0 and "against" not in told["a@1"]["all"]
    old, new = told["a@2"]["old"], told["a@2"]["new"]
    assert old["against"]["difference"] == pytest.approx(-0.1) and old["against"]["low"] < -0.1 < 0
    assert (old["against"]["gained"], old["against"]["lost"]) == (0, 4)
    assert old["against"]["mcnemar_p"] == 0.125  # 2 / 2**4
    assert new["against"]["gained"] == 20 and new["against"]["mcnemar_p"] < 1e-5
    assert told["a@2"]["answers"]["net"] == {"net": 36, "text": 4}


@pytest.mark.parametrize("name", ["recipe.yaml", "bad.yaml"])
def test_the_recipes_are_accepted(tmp_path, name):
    assert App(tmp_path / "home", {}).recipes.read(FOLDER / name, ()).recipe.name == "learn-again"


def test_the_recorded_run_is_what_its_picture_shows():
    told = json.loads((RECORDED / "record.json").read_text(encoding="utf-8"))
    picture = (RECORDED / "timeline.svg").read_text(encoding="utf-8")
    assert script("timeline").drawing(told) == picture
    ElementTree.fromstring(picture)
    what = [step["what"] for step in told["steps"]]
    order = ["the new topic begins", "alarm", "retrain: handed over", "rollout: promoted", "planted", "rollout: rolled back"]  # fmt: skip
    places = [what.index(one) for one in order]
    assert places == sorted(places)
