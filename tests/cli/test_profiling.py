"""`luthier profile` on a tiny model: every figure with --json, in words without, and a picture that stands alone."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from luthier.cli.main import main
from luthier.training.split_time import KINDS

RECIPE = """\
name: router
base: tiny
task: {kind: classify, instruction: "Route the message."}
data:
  sources: [{files: rows.jsonl, map: {user: text, label: queue}}]
  split: {validation: 0.15, test: 0.25}
train: {dtype: fp32, batch: {rows: 8, micro_tokens: 512}, adapter: {kind: lora, rank: 4}}
"""


@pytest.fixture
def shop(tmp_path, monkeypatch):
    from luthier.models.testing import tiny_model

    tiny_model(tmp_path / "tiny")
    queues = {"billing": "the invoice", "delivery": "the parcel"}
    rows = [{"text": f"{i} {text}", "queue": queue} for i in range(20) for queue, text in queues.items()]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("luthier.training.flops.SQUARE", 128)
    monkeypatch.setattr("luthier.training.flops.SECONDS_EACH", 0.01)
    return tmp_path


def profile(*words):
    return CliRunner().invoke(main, ["profile", "recipe.yaml", *words])


def test_a_profile_in_json_and_in_words(shop):
    result = profile("--steps", "2", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["name"] == "router" and told["steps"] == 2 and told["device"] == "cpu"
    assert set(told["shares"]) == set(KINDS) and sum(told["shares"].values()) == pytest.approx(1)
    assert told["tokens_per_s"] > 0 and told["achieved"] > 0 and told["peak"]["square"]["fp32"] > 0
    assert told["flops_per_step"]["total"] > 0 and 0 < told["peak_bytes"] < told["machine_bytes"]
    assert told["bottleneck"]["kind"] in ("compute", "memory", "input", "communication", "overhead")
    assert told["bottleneck"]["remedy"]

    picture = ElementTree.parse(told["picture"]).getroot()
    said = " ".join(picture.itertext())
    assert picture.tag == "{http://www.w3.org/2000/svg}svg" and "matrix products" in said
    assert told["bottleneck"]["reason"] in said and "tokens/s" in said

    words = profile("--steps", "1")
    assert words.exit_code == 0, words.output
    assert "where a step's time goes" in words.stdout and "bottleneck" in words.stdout


def test_nothing_of_a_profile_is_kept_but_the_rows_and_the_base(shop):
    profile("--steps", "1")
    kinds = [
        json.loads(CliRunner().invoke(main, ["list", kind, "--json"]).stdout) for kind in ("dataset", "model")
    ]
    assert len(kinds[0]) == 1 and [one["summary"].get("steps") for one in kinds[1]] == [None]


@pytest.mark.parametrize("steps", ["0", "1001", "few"])
def test_a_number_of_steps_that_makes_no_sense_is_refused(shop, steps):
    result = profile("--steps", steps)
    assert result.exit_code == 2 and "--steps" in result.output


def test_the_door_refuses_it_too(shop):
    from luthier.app.app import App
    from luthier.core.errors import SpecError

    with pytest.raises(SpecError, match=r"0 steps cannot be profiled.\n  → Give a number from 1 to 1,000"):
        App.open().recipes.profile(shop / "recipe.yaml", steps=0)


def test_a_bad_recipe_is_told_as_everywhere(shop):
    result = profile("--set", "train.epoch=3")
    assert result.exit_code == 2 and "did you mean" in result.output
