"""One row's story, from its line to the weights, for datasets of today and of earlier versions."""

from __future__ import annotations

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
    bare = shop.app.data.explain("rows.jsonl:20")
    assert shop.app.data.explain("rows.jsonl:20", recipe=recipe) == bare


def test_what_is_private_is_not_shown_when_it_is_read_again(shop, some):
    rows = some()
    rows[30]["text"] = "Write  to jane@example.com about billing."
    shop.rows(rows)
    shop.prepare("data.rules.quality=[normalize, {redact: {what: [email]}}, normalize]")
    one = only(shop.app.data.explain("rows.jsonl:31", recipe=shop.folder / "recipe.yaml"))
    assert [s["rule"] for s in one["steps"]] == ["normalize", "redact"] and "jane@" not in str(one)
