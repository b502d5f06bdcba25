"""One row's story, from its line to the weights, for datasets of today and of earlier versions."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from luthier.core.errors import NotFound


def only(found):
    (one,) = found["found"]
    return one


def test_a_row_in_use_is_told_by_its_place_and_by_its_id(shop, some):
    rows = some()
    rows[3]["text"] = "  Message  3: please help with billing, thank you."
    shop.rows(rows)
    dataset = shop.prepare()
    one = only(shop.app.data.explain("rows.jsonl:4"))
    assert one["dataset"] == dataset.digest and one["origin"] == "rows.jsonl:4" and one["removed"] is None
    assert one["mapped"]["map"] == {"user": "text", "label": "queue", "group": "customer"}
    (step,) = one["steps"]
    assert (step["step"], step["rule"], step["what"]) == (1, "normalize", "changed") and step["why"]
    assert "  Message  3" in step["before"] and "Message 3: please" in step["after"]
    assert one["side"] in ("train", "validation", "test") and one["recorded"] and one["models"] == []
    assert one["content"]["messages"][1]["content"].startswith("Message 3:")
    assert shop.app.data.explain(one["id"]) == {**shop.app.data.explain("rows.jsonl:4"), "row": one["id"]}
    assert shop.app.data.explain(f"row:{one['id']}", dataset=dataset.digest[:9])["found"] == [one]


def test_a_row_that_is_unchanged_has_no_steps(shop):
    shop.prepare()
    assert only(shop.app.data.explain("rows.jsonl:9"))["steps"] == []


def test_a_removed_row_says_why_and_what_was_done_before(shop, some):
    """Lines 6 and 61 say the same; the second is numbered, and what was done before that stands under the bare id."""
    rows = some()
    rows[5]["text"] = "Message 5:  please help."
    shop.rows([*rows, rows[5]])
    shop.prepare()
    told = [only(shop.app.data.explain(f"rows.jsonl:{n}")) for n in (6, 61)]
    (gone,) = [one for one in told if one["removed"]]
    (stays,) = [one for one in told if not one["removed"]]
    assert gone["removed"]["rule"] == "deduplicate" and gone["id"] == f"{stays['id']}-2"
    assert gone["side"] == "removed" and "Message 5" in gone["preview"] and gone["models"] == []
    assert [s["rule"] for s in gone["steps"]] == [s["rule"] for s in stays["steps"]] == ["normalize"]


def test_a_row_that_could_not_be_read_says_why(shop, some):
    rows = some()
    rows[4]["text"] = None
    shop.rows(rows)
    shop.prepare("data.sources.0.map.on_bad_row=set_aside")
    one = only(shop.app.data.explain("rows.jsonl:5"))
    assert one["removed"]["rule"] == "read" and "missing" in one["removed"]["reason"]


def test_how_a_layout_was_recognised_is_on_record(shop):
    shop.rows({"prompt": f"Question {n}", "completion": f"Answer {n}"} for n in range(40))
    shop.write(
        "name: qa\nbase: tiny\ndata: {sources: [{files: rows.jsonl}], rules: {quality: [normalize]}}\n"
    )
    shop.prepare()
    mapped = only(shop.app.data.explain("rows.jsonl:2"))["mapped"]
    assert mapped["map"]["user"] == "prompt" and mapped["map"]["assistant"] == "completion"
    assert mapped["layout"] != "map" and mapped["reason"]


def test_an_older_dataset_says_that_changes_are_not_on_record(shop, some):
    rows = some()
    rows[3]["text"] = "Message 3:  please help with billing."
    shop.rows(rows)
    old = shop.aged(shop.prepare())
    one = only(shop.app.data.explain("rows.jsonl:4", dataset=old.digest))
    assert not one["recorded"] and [s["rule"] for s in one["steps"]] == [
        "normalize"
    ]  # an example of rules.json
    assert only(shop.app.data.explain("rows.jsonl:9", dataset=old.digest))["steps"] == []


def test_a_dataset_of_settings_that_are_refused_today_is_told_all_the_same(shop, monkeypatch):
    dataset = shop.prepare("data.rules.quantity=[augment]")
    spec = json.loads(json.dumps(dataset.spec))
    spec["data"]["rules"]["quantity"] *= 2
    monkeypatch.setattr(shop.app.store.catalog, "all", lambda _: [replace(dataset, spec=spec)])
    found = shop.app.data.explain("rows.jsonl:9", recipe=shop.folder / "recipe.yaml")["found"]
    assert len(found) == 2  # the row, and what was made of it
    assert all(one["read_again"].startswith("no: its settings are refused here and now") for one in found)


def test_every_dataset_that_read_the_row_answers_newest_first(shop):
    first = shop.prepare()
    second = shop.prepare("data.split.seed=5")
    found = shop.app.data.explain("rows.jsonl:1")["found"]
    assert {one["dataset"] for one in found} == {first.digest, second.digest}
    assert len({one["id"] for one in found}) == 1


def test_a_forgotten_row_says_who_and_when(shop):
    shop.prepare()
    shop.app.data.forget(["origin=rows.jsonl:8"], reason="a letter", really=True)
    told = shop.app.data.explain("rows.jsonl:8")
    (stone,) = told["forgotten"]
    assert stone["reason"] == "a letter" and stone["by"] and len(told["found"]) == 1
    again = shop.prepare()
    assert shop.app.data.explain("rows.jsonl:8", dataset=again.digest) == {**told, "found": []}


@pytest.mark.parametrize("row", ["rows.jsonl:999", "0" * 32, "nonsense"])
def test_a_row_that_is_nowhere_is_told(shop, row):
    shop.prepare()
    with pytest.raises(NotFound, match="no row"):
        shop.app.data.explain(row)


def test_what_is_private_is_not_shown(shop, some):
    rows = some()
    rows[0]["text"] = "Write to jane@example.com about billing."
    shop.rows(rows)
    shop.prepare("data.rules.quality=[normalize, {redact: {what: [email]}}]")
    one = only(shop.app.data.explain("rows.jsonl:1"))
    assert [s["rule"] for s in one["steps"]] == ["redact"] and "jane@" not in str(one)


def test_with_the_sources_at_hand_every_change_shows_before_and_after(shop, some):
    """Of 60 changed rows five are examples; read again, any of them shows what it was."""
    rows = [{**row, "text": row["text"].replace(" ", "  ")} for row in some()]
    shop.rows(rows)
    recipe = shop.folder / "recipe.yaml"
    shop.prepare("data.rules.quality=[normalize, drop_empty, deduplicate, {length: {min: 3}}, normalize]")
    for n in (1, 20, 60):
        one = only(shop.app.data.explain(f"rows.jsonl:{n}", recipe=recipe))
        (step,) = one["steps"]
        assert step["before"].startswith(f"Message  {n - 1}:") and step["after"].startswith(
            f"Message {n - 1}:"
        )
        bare = only(shop.app.data.explain(f"rows.jsonl:{n}"))["steps"]
        told = [{k: v for k, v in s.items() if k not in ("before", "after")} for s in (*bare, step)]
        assert told[0] == told[1]
    shop.rows(rows[1:])  # the source is no longer what it was
    bare, asked = (only(shop.app.data.explain("rows.jsonl:20", **more)) for more in ({}, {"recipe": recipe}))
    assert asked == {**bare, "read_again": "no: the sources are not what they were when the dataset was made"}


def test_what_is_private_is_not_shown_when_it_is_read_again(shop, some):
    rows = some()
    rows[30]["text"] = "Write  to jane@example.com about billing."
    shop.rows(rows)
    shop.prepare("data.rules.quality=[normalize, {redact: {what: [email]}}, normalize]")
    one = only(shop.app.data.explain("rows.jsonl:31", recipe=shop.folder / "recipe.yaml"))
    assert [s["rule"] for s in one["steps"]] == ["normalize", "redact"] and "jane@" not in str(one)


def test_what_befell_another_row_of_the_same_text_is_not_told(shop, some):
    """Lines 6 and 61 say the same: one of them goes, and only the other one is redacted after that."""
    rows = some()
    rows[5]["text"] = "Write  to jane@example.com about billing."
    shop.rows([*rows, rows[5]])
    shop.prepare("data.rules.quality=[normalize, deduplicate, {redact: {what: [email]}}]")
    recipe = shop.folder / "recipe.yaml"
    for more in ({}, {"recipe": recipe}):
        told = [only(shop.app.data.explain(f"rows.jsonl:{n}", **more)) for n in (6, 61)]
        (gone,) = [one for one in told if one["removed"]]
        (stays,) = [one for one in told if not one["removed"]]
        assert [step["rule"] for step in gone["steps"]] == ["normalize"]
        assert [step["rule"] for step in stays["steps"]] == ["normalize", "redact"]


def test_rules_of_quantity_befall_rows_of_train_alone(shop):
    dataset = shop.prepare("data.rules.quantity=[{weight: {expression: '2'}}]")
    recipe = shop.folder / "recipe.yaml"
    for row in shop.every_row(dataset):
        one = only(shop.app.data.explain(row["origin"], recipe=recipe))
        assert one["read_again"] == "yes"
        assert [step["rule"] for step in one["steps"]] == (["weight"] if row["side"] == "train" else [])


def test_a_row_is_read_again_beside_files_that_rules_read_and_from_its_own_source(shop, some):
    rows = some()
    for name, place in (("x", rows[:30]), ("y", rows[30:])):
        (shop.folder / name).mkdir()
        shop.rows([{**row, "text": row["text"].replace(" ", "  ")} for row in place], f"{name}/rows.jsonl")
    (shop.folder / "bench.jsonl").write_text('{"q": "what is nowhere in any of these rows"}\n')
    one = "{files: x/rows.jsonl, map: {user: text, label: queue}}"
    dataset = shop.prepare(
        f"data.sources=[{one}, {one.replace('x/', 'y/')}]",
        "data.rules.quality=[normalize, {decontaminate: {against: bench.jsonl}}]",
    )
    recipe = shop.folder / "recipe.yaml"
    for row in [row for row in shop.every_row(dataset) if row["origin"] == "rows.jsonl:8"]:
        found = only(shop.app.data.explain(row["id"], recipe=recipe))
        (step,) = found["steps"]
        number = 7 if row["source"] == "rows.jsonl" else 37
        assert found["read_again"] == "yes" and step["before"].startswith(f"Message  {number}:")


def test_a_row_that_was_made_says_of_which_and_that_one_says_so_too(shop):
    dataset = shop.prepare("data.rules.quantity=[augment]")
    made = next(row for row in shop.table(dataset, "train") if row["made_from"])
    one = only(shop.app.data.explain(made["id"], recipe=shop.folder / "recipe.yaml"))
    assert (one["made_from"], one["made_by"]) == (made["made_from"], "augment")
    assert one["read_again"].startswith("no: a rule made this row")
    parent = only(shop.app.data.explain(made["made_from"]))
    assert parent["made_of_it"] == [{"id": made["id"], "made_by": "augment"}] and parent["made_from"] is None
