"""Advice rests on numbers that a plain count gives, and its lines are lines of a recipe."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from luthier.app.data.advise import _window
from luthier.cli.main import main
from luthier.core.artifact import Artifact
from luthier.data.spec import RulesSpec
from luthier.evaluation.learning_curve import curve

RARE = "a label: with 'quotes' #1"


def uneven(n: int = 90) -> list[dict[str, Any]]:
    """Nine rows in ten are of one label; some say the same in other letters, some contradict others."""
    rows = [
        {
            "text": f"Message number {i} about the bill",
            "queue": "billing" if i % 10 else RARE,
            "customer": f"c{i}",
        }
        for i in range(n)
    ]
    rows += [{**rows[i], "text": rows[i]["text"].upper(), "customer": f"c{i}"} for i in range(1, 6)]
    return rows + [{**rows[i], "queue": RARE, "customer": f"c{i}"} for i in range(11, 14)]


def of(found: dict[str, Any], about: str) -> dict[str, Any]:
    return next(one for one in found["advice"] if one["about"] == about)


def test_every_sentence_has_its_number_and_lines_that_a_recipe_takes(shop: Any) -> None:
    shop.rows(uneven())
    dataset = shop.prepare("data.rules.quality=[normalize]")
    found = shop.app.data.advise(dataset.digest)
    train = Counter(row["label"] for row in shop.table(dataset, "train"))
    assert of(found, "labels")["numbers"] == {"labels": {RARE: train[RARE]}} and train[RARE] < 20
    assert f"({train[RARE]})" in of(found, "labels")["says"]
    assert of(found, "balance")["numbers"]["ratio"] == round(train["billing"] / train[RARE], 2)
    assert of(found, "duplicates")["numbers"]["folded"] == 5
    assert of(found, "disagreement")["numbers"] == {"inputs": 3, "rows": 6}
    assert of(found, "rows")["numbers"]["train"] == sum(train.values())
    for one in found["advice"]:
        RulesSpec.model_validate(one["recipe"])
        assert one["recipe"] or not one["helps"] or one["about"] == "curve"
        for number in (n for n in one["numbers"].values() if isinstance(n, int)):
            assert one["about"] == "curve" or f"{number:,}" in one["says"]


def test_what_the_recipe_does_already_is_not_advised(shop: Any) -> None:
    shop.rows(uneven())
    dataset = shop.prepare("data.rules.quality=[normalize, deduplicate, {agree: {how: majority}}]")
    told = json.dumps([one["recipe"] for one in shop.app.data.advise(dataset.digest)["advice"]])
    assert "deduplicate" not in told and "agree" not in told


def test_the_command_prints_lines_that_read_back(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.core.spec import read_yaml

    shop.rows(uneven())
    monkeypatch.setenv("LUTHIER_HOME", str(shop.app.home))
    result = CliRunner().invoke(main, ["data", "advise", str(shop.folder / "recipe.yaml")])
    assert result.exit_code == 0, result.output
    lines = [line.strip() for line in result.output.splitlines() if line.startswith("      ")]
    assert any(RARE in line for line in lines)
    for line in lines:
        RulesSpec.model_validate(read_yaml(line).value)
    as_json = CliRunner().invoke(main, ["data", "advise", str(shop.folder / "recipe.yaml"), "--json"])
    assert {one["about"] for one in json.loads(as_json.stdout)["advice"]} >= {"labels", "balance", "curve"}


def test_a_recipe_whose_rows_a_model_would_write_is_not_paid_for(shop: Any) -> None:
    from luthier.core.errors import SpecError

    wish = "[{generate: {n: 3, endpoint: {url: 'http://127.0.0.1:1/v1', model: m}}}]"
    shop.write(shop.write().read_text().replace("rules: {quality", f"rules: {{quantity: {wish}, quality"))
    with pytest.raises(SpecError, match=r"at most 3 requests.*Nothing was asked"):
        shop.app.data.advise(shop.folder / "recipe.yaml")


def labelled(texts: list[tuple[str, str]], **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{n:032x}", "label": label, "group": None, "made_from": None,
            "messages": [{"role": "user", "content": text}, {"role": "assistant", "content": label}], **more,
        }
        for n, (text, label) in enumerate(texts)
    ]  # fmt: skip


def test_a_curve_that_rises_promises_more_and_one_of_chance_does_not() -> None:
    """Of 240 words each belongs to one label: a word helps once it was seen, so every row of more adds some."""
    rising = labelled([(f"w{(7 * n) % 240} the a of", "abcd"[(7 * n) % 240 % 4]) for n in range(400)])
    found = curve(rising, list("abcd"))
    assert found is not None and found.asked == 400
    assert found.accuracy[0] < found.accuracy[1] < found.accuracy[2] < found.twice <= 1
    assert found.gain > found.gain_se and found.rows[2] == 320
    chance = curve(
        labelled([(f"the same words {n % 3}", "ab"[(n * 7919 >> 3) % 2]) for n in range(400)]), list("ab")
    )
    assert chance is not None and chance.twice - chance.accuracy[-1] < 0.05
    assert curve(rising[::-1], list("abcd")) == found
    assert curve(rising[:30], list("abcd")) is None
    assert curve(labelled([("one", "a")] * 100), ["a"]) is None


def test_made_rows_are_learnt_and_never_asked() -> None:
    own = labelled([(f"w{n} the", "ab"[n % 2]) for n in range(60)])
    made = [{**row, "id": f"{n + 100:032x}", "made_from": row["id"]} for n, row in enumerate(own)]
    with_made = curve([*own, *made], list("ab"))
    assert with_made is not None and with_made.asked == 60
    # a copy of a row that is asked would give its label away: every word is of one row alone, so nothing can be known
    assert with_made.accuracy[-1] < 0.8


def test_what_was_measured_here_is_told(shop: Any) -> None:
    plain = shop.prepare()
    grown = shop.prepare("data.rules.quantity=[{augment: {copies: 1}}]")
    other = shop.prepare("data.split.seed=3")
    store = shop.app.store

    def measured(dataset: Artifact, accuracy: float) -> None:
        parents = {"dataset": dataset.digest}
        model = store.catalog.record(Artifact("model", dataset.digest, {"epochs": 1}, 1, parents, ()))
        key = f"{len(store.catalog.all('report')):064x}"
        with store.working(key) as (out, _):
            told = {"rows": 200, "systems": {"tuned": {"metrics": {"accuracy": accuracy}}}}
            (out / "report.json").write_text(json.dumps(told))
            inputs = {"model": model.digest, "dataset": dataset.digest}
            store.commit("report", key, {"metrics": ["accuracy"]}, 1, inputs, out, {})

    measured(plain, 0.6)
    assert not [one for one in shop.app.data.advise(plain.digest)["advice"] if one["about"] == "measured"]
    measured(grown, 0.8)
    measured(other, 0.99)
    told = of(shop.app.data.advise(plain.digest), "measured")
    assert told["helps"] and told["recipe"] == {"quantity": grown.spec["data"]["rules"]["quantity"]}
    # 1.96 * sqrt(2 * 0.7 * 0.3 / 200) = 0.0898
    assert (
        told["numbers"]["noise"] == 0.0898
        and "0.800, without 0.600, on 200 test rows: more than chance" in told["says"]
    )
    assert (
        len([one for one in shop.app.data.advise(plain.digest)["advice"] if one["about"] == "measured"]) == 1
    )


def test_rows_beyond_the_window_are_told_with_both_numbers() -> None:
    model = SimpleNamespace(spec={"base": "small"}, digest="d" * 64, summary={"context": 100})
    store = SimpleNamespace(catalog=SimpleNamespace(all=lambda kind: [model]))
    # of the train rows two lie in the bins above 100 tokens: those from 120 and from 200 on
    tokens = {
        "unit": "tokens", "by": "small", "edges": [10, 80, 120, 200, 250],
        "sides": {"train": {"max": 240}}, "counts": {"train": [5, 3, 1, 1]},
    }  # fmt: skip
    found = {"lengths": {"tokens": tokens, "characters": {"sides": {"train": {"max": 1200}}}}}
    [one] = _window(store, found)  # type: ignore[arg-type]
    assert one.numbers == {"longest": 240, "context": 100, "over": 2}
    assert one.recipe == {"quality": [{"length": {"max": 500, "on": "all"}}]}  # 1200 characters * 100 / 240
    tokens["sides"] = {"train": {"max": 100}}
    assert not list(_window(store, found))  # type: ignore[arg-type]


def test_a_window_that_no_counted_row_fills_may_be_filled_by_others() -> None:
    model = SimpleNamespace(spec={"base": "small"}, digest="d" * 64, summary={"context": 100})
    store = SimpleNamespace(catalog=SimpleNamespace(all=lambda kind: [model]))
    tokens = {
        "unit": "tokens", "by": "small", "sampled": 10, "edges": [10, 80, 120],
        "sides": {"train": {"rows": 10, "mean": 20.0, "max": 90}}, "counts": {"train": [5, 5]},
    }  # fmt: skip
    characters = {"sides": {"train": {"rows": 1_000, "mean": 80.0, "max": 40_000}}}
    [one] = _window(store, {"lengths": {"tokens": tokens, "characters": characters}})  # type: ignore[arg-type]
    assert one.numbers == {"longest": 10_000, "context": 100, "over": 0, "sampled": 10}
    assert (
        one.recipe == {"quality": [{"length": {"max": 400, "on": "all"}}]}
        and "of 10 rows that were counted" in one.says
    )
    characters["sides"]["train"]["max"] = 300
    assert not list(_window(store, {"lengths": {"tokens": tokens, "characters": characters}}))  # type: ignore[arg-type]
