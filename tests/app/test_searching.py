"""Searches and comparisons, from the command line: what is tried, kept, resumed, refused."""

import json
import shlex
from pathlib import Path

import pytest

from luthier.app.trying import Trying

OVER = "search.over={train.learning_rate: {low: 1.0e-4, high: 0.1, log: true}, train.adapter.rank: [2, 4]}"


def _search(shop, *words):
    result = shop.luthier("search", shop.folder / "recipe.yaml", "--json", "--set", OVER, *words)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_search_tries_keeps_and_says_how_to_run_what_it_kept(workshop):
    found = _search(workshop, "--set", "search.trials=4")
    assert [one["state"] for one in found["trials"]].count("done") >= 1
    assert len(found["trials"]) == 4
    assert found["trials"][0]["setting"] == {}
    settings = [json.dumps(one["setting"]) for one in found["trials"]]
    assert len(set(settings)) == 4
    done = [one for one in found["trials"] if one["state"] == "done"]
    best = max(done, key=lambda one: one["value"])
    assert next(one for one in done if one["number"] == found["best"])["value"] == best["value"]
    from luthier.models.weights import describe

    history = json.loads(workshop.luthier("show", best["model"], "--json").stdout)
    steps = json.loads((Path(history["folder"]) / "history.json").read_text())["steps"]
    tokens = sum(step["tokens"] for step in steps)
    assert best["work"] == tokens * describe(workshop.folder / "tiny").parameters
    page = (workshop.home / "reports" / "router-search.html").read_text()
    assert "test rows that no trial has seen" in page
    # The line of what was kept finds its model there.
    words = [word for one in found["sets"] for word in ("--set", one)]
    kept = next(one for one in found["trials"] if one["number"] == found["kept"])
    ran = workshop.run(*words)
    assert ran["digests"]["model"] == kept["model"]
    assert "model" not in ran["made"]


def test_a_search_again_trains_nothing_and_more_trials_go_on(workshop):
    first = _search(workshop, "--set", "search.trials=3")
    again = _search(workshop, "--set", "search.trials=3")
    assert [t["setting"] for t in again["trials"]] == [t["setting"] for t in first["trials"]]
    assert [t["value"] for t in again["trials"]] == [t["value"] for t in first["trials"]]
    more = _search(workshop, "--set", "search.trials=4")
    assert [t["setting"] for t in more["trials"]][:3] == [t["setting"] for t in first["trials"]]
    assert len(more["trials"]) == 4


def test_run_searches_first_and_measures_the_kept_one_on_the_test_rows(workshop):
    ran = workshop.run("--set", "search={over: {train.adapter.rank: [2, 4]}, trials: 3, prune: false}")
    assert ran["release"] == "router@1"
    assert {"model", "report", "release"} & set(ran["made"]) >= {"report", "release"}
    # three settings: as written (rank 4), 2 and 4, of which two are the same model
    models = json.loads(workshop.luthier("list", "model", "--json").stdout)
    assert len(models) == 1 + 2  # the base, rank 4 and rank 2


def test_a_whole_grid_ends_the_search(workshop):
    result = workshop.luthier(
        "search", workshop.folder / "recipe.yaml", "--json", "--set", "search={over: {train.adapter.rank: [2, 4]}, trials: 50}"
    )  # fmt: skip
    found = json.loads(result.stdout)
    assert found["stopped"] == "all 2 settings were tried"
    assert len(found["trials"]) == 3


def test_no_trial_is_begun_when_the_time_is_used_up(workshop):
    found = _search(workshop, "--set", "search.trials=9", "--set", "search.time=1 ms")
    assert len(found["trials"]) == 1
    assert "the time is used up" in found["stopped"]


def test_a_trial_that_fails_is_told_and_the_search_goes_on(workshop, monkeypatch):
    from luthier.app import trying
    from luthier.core.errors import ModelError

    real = trying.trained

    def breaks(wish, make, so_far):
        if wish.recipe.train.adapter.rank == 2:
            raise ModelError("a loss is no number", remedy="Lower the learning rate.")
        return real(wish, make, so_far)

    monkeypatch.setattr(trying, "trained", breaks)
    result = workshop.luthier(
        "search", workshop.folder / "recipe.yaml", "--json", "--set", "search={over: {train.adapter.rank: [2, 8]}, trials: 3}"
    )  # fmt: skip
    states = {json.dumps(t["setting"]): (t["state"], t["why"]) for t in json.loads(result.stdout)["trials"]}
    assert states['{"train.adapter.rank": 2}'] == ("failed", "a loss is no number")
    assert states['{"train.adapter.rank": 8}'][0] == "done"


def test_a_trial_whose_process_died_is_taken_up_with_the_settings_it_had(workshop, monkeypatch):
    from luthier.app.study import Study

    real, seen = Study.tell, []

    def dies(study, asked, found):
        if not found.setting:
            return real(study, asked, found)
        seen.append(found.setting)
        raise KeyboardInterrupt

    monkeypatch.setattr(Study, "tell", dies)
    words = ("--set", OVER, "--set", "search.trials=3")
    workshop.luthier("search", workshop.folder / "recipe.yaml", *words)
    assert len(seen) == 1
    monkeypatch.setattr(Study, "tell", real)
    found = _search(workshop, "--set", "search.trials=3")
    assert found["trials"][1]["setting"] == seen[0]
    assert found["trials"][1]["state"] == "done"
    assert len(found["trials"]) == 3


def test_a_trial_far_behind_is_given_up(workshop):
    class Asked:
        reported = ()
        kept = ()

        def set_user_attr(self, name, value):
            self.kept = (name, list(value))

        def report(self, value, step):
            self.reported += ((value, step),)

        def should_prune(self):
            return len(self.reported) == 2

    from luthier.app.app import App
    from luthier.app.trying import Pruned
    from luthier.training.stopping import Watch

    at = App.open().recipes.context(App.open().recipes.read(workshop.folder / "recipe.yaml", ()), None)
    asked = Asked()
    trying = Trying(**vars(at), trial=asked, figure=Watch("loss", "min"), higher=True)
    trying.emit("step", loss=9.0)
    trying.emit("validation", loss=2.0)
    with pytest.raises(Pruned, match="given up at its validation 2"):
        trying.emit("validation", loss=3.0)
    # the study looks for more, the loss for less
    assert asked.reported == ((-2.0, 1), (-3.0, 2))
    assert asked.kept == ("validated", [1, 2])
    # after a stop the validations before it keep their places
    again = Trying(**vars(at), trial=Asked(), figure=Watch("loss", "min"), higher=True, seen=[1, 2])
    again.emit("validation", loss=2.5, step=2)
    assert again.trial.reported == ((-2.5, 2),)
    # the recipe as written is what all are compared with
    written = Trying(**vars(at), trial=Asked(), figure=Watch("loss", "min"), higher=True, prunes=False)
    for _ in range(3):
        written.emit("validation", loss=9.0)
    assert len(written.trial.reported) == 3


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ("{over: {train.learning_rat: [1.0e-3, 1.0e-2]}}", "learning_rate"),
        ("{over: {train.epochs: [1, many]}}", "train.epochs=\"many\""),
        ("{over: {data.split.seed: [1, 2]}}", "cannot be searched"),
        ("{over: {train.epochs: [1]}}", "at least two"),
        ("{over: {}}", "at least 1"),
        ("{over: {train.learning_rate: {low: 1, high: 0.1}}}", "is not below high"),
        ("{over: {train.learning_rate: {low: 0, high: 0.1, log: true}}}", "no logarithm"),
        ("{over: {train.epochs: [1, 2]}, metric: bleu}", "no metric of a classify task"),
        ("{over: {train.epochs: [1, 2]}, trials: 1}", "greater than or equal to 2"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused_before_anything_is_spent(workshop, wish, told):
    result = workshop.luthier("search", workshop.folder / "recipe.yaml", "--set", f"search={wish}")
    assert result.exit_code == 2, result.output
    assert told in result.stderr
    assert json.loads(workshop.luthier("list", "dataset", "--json").stdout) == []


def test_a_recipe_without_a_search_says_how_to_write_one(workshop):
    result = workshop.luthier("search", workshop.folder / "recipe.yaml")
    assert result.exit_code == 2
    assert "search: {over:" in result.stderr
    result = workshop.luthier(
        "search", workshop.folder / "recipe.yaml", "--set", OVER, "--set", "data.split.validation=0"
    )
    assert "data.split.validation is 0" in result.stderr


def test_people_read_a_table(workshop):
    result = workshop.luthier(
        "search", workshop.folder / "recipe.yaml", "--set", OVER, "--set", "search.trials=2"
    )
    assert result.exit_code == 0, result.output
    assert "as written" in result.stdout
    line = next(one for one in result.stdout.splitlines() if one.startswith("next:"))
    words = shlex.split(line.removeprefix("next:"))
    assert words[:2] == ["luthier", "run"]
    assert "search=null" in words


def test_two_releases_are_compared_on_the_rows_that_both_were_asked(ran):
    ran.run("--set", "train.seed=5", "--set", "train.learning_rate=0.00001")
    found = json.loads(ran.luthier("compare", "router@1", "router@2", "--json").stdout)
    metrics = {one["metric"]: one for one in found["metrics"]}
    one = metrics["accuracy"]
    assert one["difference"] == pytest.approx(one["one"] - one["other"])
    assert one["low"] <= one["difference"] <= one["high"]
    assert len(found["gained"]) - len(found["lost"]) == round(one["difference"] * found["rows"])
    assert found["left_out"] == 0
    text = ran.luthier("compare", "router@2", "router@1").stdout
    assert "router@2 against router@1" in text
    refused = ran.luthier("compare", "router@1", "tiny")
    assert refused.exit_code != 0
    ran.run("--set", "data.split.seed=9")
    other = json.loads(ran.luthier("compare", "router@1", "router@3", "--json").stdout)
    assert other["left_out"] > 0


def test_a_plan_says_how_often_it_trains(workshop):
    words = ("--set", OVER, "--set", "search.trials=5", "--set", "search.time=2 h")
    told = json.loads(workshop.luthier("plan", workshop.folder / "recipe.yaml", "--json", *words).stdout)
    assert any("trains up to 5 times, until 2 h" in note for note in told["notes"])
