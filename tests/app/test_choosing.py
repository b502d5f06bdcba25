"""Advice, selection and pictures, from the command line."""

import json

import pytest

from luthier.app.techniques import Case, table

CASE = Case(
    kind="classify", train=400, validation=50, test=100, tokens=40_000, longest=200, labels={"a": 200, "b": 200},
    pairs=0.0, rated=0.0, texts=0.0, parameters=135_000_000, layers=30, memory_bytes=8 << 30, disk_bytes=1 << 40,
    device="cpu",
)  # fmt: skip


def _of(case):
    return {one.name: one for one in table(case)}


def test_a_good_plain_baseline_comes_first_and_a_bad_one_does_not():
    from dataclasses import replace

    tier, reasons = _of(CASE)["tfidf"].weighs(replace(CASE, plain=0.95, plain_se=0.01))
    assert tier == 0
    assert reasons[0] == "on held-out parts of the training rows it is right in 95.0 ±1.0 % of them"
    assert _of(CASE)["tfidf"].weighs(replace(CASE, plain=0.6))[0] > _of(CASE)["lora"].weighs(CASE)[0]


def test_what_cannot_be_says_why_with_the_number():
    from dataclasses import replace

    known = _of(CASE)
    assert "0 % of the training rows have both (map.rejected)" in known["dpo"].needs(CASE)
    assert "map.rating" in known["kto"].needs(CASE)
    assert "map.text" in known["continued"].needs(CASE)
    assert "NAME" in known["distillation"].needs(CASE)
    assert "this one is chat" in known["head"].needs(replace(CASE, kind="chat"))
    pairs = replace(CASE, kind="chat", pairs=1.0, rated=1.0, texts=0.5, teacher="big")
    for name in ("dpo", "orpo", "kto", "continued", "distillation"):
        assert _of(pairs)[name].needs(pairs) is None


def test_few_rows_put_prompting_first_and_many_a_higher_rank():
    from dataclasses import replace

    few, many = replace(CASE, train=30), replace(CASE, train=20_000)
    tiers = lambda case: {name: one.weighs(case)[0] for name, one in _of(case).items()}  # noqa: E731
    assert tiers(few)["prompting"] < tiers(few)["lora"]
    assert tiers(CASE)["lora"] < tiers(CASE)["prompting"]
    assert tiers(many)["rslora"] == tiers(many)["lora"] < tiers(CASE)["rslora"]


def test_advice_ranks_what_is_possible_and_hands_it_to_a_search(workshop):
    result = workshop.luthier("advise", workshop.folder / "recipe.yaml", "--no-probe", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    advice = {one["name"]: one for one in found["advice"]}
    assert found["case"]["train"] + found["case"]["validation"] + found["case"]["test"] == 60
    assert advice["lora"]["possible"] and advice["lora"]["peak_bytes"] > 0
    assert advice["lora"]["seconds"] is None  # nothing was tried
    assert not advice["dpo"]["possible"]
    assert [one["possible"] for one in found["advice"]] == sorted(
        (one["possible"] for one in found["advice"]), reverse=True
    )
    # the words of each make a recipe that can be planned, with the figures that were told
    words = [word for one in advice["full"]["sets"] for word in ("--set", one)]
    plan = workshop.luthier("plan", workshop.folder / "recipe.yaml", "--no-probe", "--json", *words)
    assert json.loads(plan.stdout)["forecast"]["peak_bytes"] == advice["full"]["peak_bytes"]
    text = workshop.luthier("advise", workshop.folder / "recipe.yaml", "--no-probe").stdout
    assert "not possible here" in text
    assert "--techniques" in text
    small = workshop.luthier(
        "advise", workshop.folder / "recipe.yaml", "--no-probe", "--json", "--set", "budget.memory=1 MB"
    )
    assert not any(one["possible"] and one["trains"] for one in json.loads(small.stdout)["advice"])
    refused = workshop.luthier(
        "search", workshop.folder / "recipe.yaml", "--techniques", "--set", "budget.memory=1 MB"
    )
    assert refused.exit_code == 2
    assert "fewer than two techniques are possible" in refused.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a@1", "b@1", "--set", "train.seed=1"], "none is named"),
        (["a@1", "--recipe", "r.yaml"], "not released yet"),
        (["--recipe", "r.yaml", "--name", "best"], "not released yet"),
        (["--recipe", "r.yaml", "--metric", "accuracy"], "by its own metric"),
    ],
)
def test_what_selecting_would_not_heed_is_refused(workshop, words, told):
    done = workshop.luthier("select", *words)
    assert done.exit_code == 2 and told in done.stderr


def test_models_are_chosen_by_validation_rows_alone(workshop):
    """A search makes what select reads; releases that were only measured on test rows are refused."""
    over = "search={over: {train.adapter.rank: [2, 8]}, trials: 3, prune: false, metric: log_loss}"
    found = json.loads(
        workshop.luthier("search", workshop.folder / "recipe.yaml", "--json", "--set", over).stdout
    )
    told = workshop.luthier("select", "--recipe", workshop.folder / "recipe.yaml", "--json", "--set", over)
    assert told.exit_code == 0, told.output
    chosen = json.loads(told.stdout)
    kept = next(one for one in found["trials"] if one["number"] == found["kept"])
    assert next(row for row in chosen["rows"] if row["kept"])["model"] == kept["model"]
    assert chosen["next"].startswith("luthier run ")
    models = sorted({one["model"] for one in found["trials"] if one["model"]})
    again = json.loads(workshop.luthier("select", *models, "--json").stdout)
    assert next(row for row in again["rows"] if row["kept"])["model"] == kept["model"]
    assert again["validation_rows"] == 9 or again["validation_rows"] > 0
    ran = workshop.run("--set", "train.seed=9")
    refused = workshop.luthier("select", ran["release"], models[0])
    assert refused.exit_code == 2
    assert "test figures only" in refused.stderr
    assert workshop.luthier("select", models[0]).exit_code == 2
    pytest.importorskip("resvg_py")
    pictures = json.loads(workshop.luthier("report", "router-search", "--png", "--json").stdout)["pictures"]
    assert len(pictures) >= 4
    for path in pictures:
        with open(path, "rb") as file:
            assert file.read(8) == b"\x89PNG\r\n\x1a\n"
    assert workshop.luthier("report", "nobody").exit_code == 5
