"""Rows that are made: of what, by what, for whom; and what must never happen to the others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.errors import LuthierError
from luthier.data.augment import edits
from luthier.data.digests import fold
from luthier.data.draws import Draw

SENTENCES = [
    f"please send the {word} back to number {i}"
    for i, word in enumerate(["bill", "note", "card", "form"] * 10)
]
CLASSIFY = {"kind": "classify"}


def data(jsonl: Any, **wish: Any) -> dict[str, Any]:
    jsonl([{"text": text, "label": "few" if i % 8 == 0 else "many"} for i, text in enumerate(SENTENCES)])
    return {"sources": [{"files": "rows.jsonl", "weight": 2.0}], "rules": {"quantity": [{"augment": wish}]}}


def test_made_rows_stand_in_train_alone_and_say_what_they_are(prepare: Any, jsonl: Any) -> None:
    plain = prepare({**data(jsonl), "rules": {}}, CLASSIFY)
    done = prepare(data(jsonl, copies=2, weight=0.5), CLASSIFY)
    for side in ("validation", "test"):
        assert done.split(side) == plain.split(side)
    old = {row["id"]: row for row in plain.split("train")}
    made = [row for row in done.split("train") if row["made_from"]]
    assert {row["id"]: row for row in done.split("train") if not row["made_from"]} == old
    assert len(made) == 2 * len(old) and len({row["id"] for row in made} | set(old)) == 3 * len(old)
    for row in made:
        parent = old[row["made_from"]]
        assert (row["made_by"], row["weight"], row["label"]) == ("augment", 1.0, parent["label"])
        assert (row["origin"], row["source"]) == (parent["origin"], parent["source"])
        said, other = ([turn["content"] for turn in one["messages"]] for one in (row, parent))
        assert said[0] == other[0] and said[-1] == other[-1]  # the instruction and the answer
        assert fold(said[1]) != fold(other[1])
    account = done.rule("augment")
    assert (account["rows_in"], account["added"], account["removed"]) == (len(old), len(made), 0)
    assert account["rows_out"] == done.facts["counts"]["train"] == 3 * len(old)
    assert account["examples"][0]["reason"] == "made of another row"


def test_only_some_labels(prepare: Any, jsonl: Any) -> None:
    done = prepare(data(jsonl, copies=3, labels=["few"]), CLASSIFY)
    assert {row["label"] for row in done.split("train") if row["made_from"]} == {"few"}


def test_the_same_rows_again_and_others_with_another_seed(prepare: Any, jsonl: Any) -> None:
    one, two = (prepare(data(jsonl), CLASSIFY).bytes() for _ in range(2))
    assert one == two
    assert prepare(data(jsonl, seed=1), CLASSIFY).bytes()["train.parquet"] != one["train.parquet"]


def test_rules_after_it_see_the_made_rows(prepare: Any, jsonl: Any) -> None:
    wish = data(jsonl, ways=["template"], templates=["x " * 40 + "{text}"])
    wish["rules"]["quantity"].append({"length": {"max": 60}})
    done = prepare(wish, CLASSIFY)
    assert done.rule("augment")["added"] > 0 and not any(row["made_from"] for row in done.split("train"))
    assert done.rule("length")["removed"] == done.rule("augment")["added"]


def test_what_cannot_be_said_otherwise_is_not_made(prepare: Any, jsonl: Any) -> None:
    jsonl([{"text": str(i), "label": "ab"[i % 2]} for i in range(40)])
    done = prepare({"sources": [{"files": "rows.jsonl"}], "rules": {"quantity": ["augment"]}}, CLASSIFY)
    assert done.rule("augment")["added"] == 0


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        ({"ways": ["template"]}, "template has nothing to work with"),
        ({"templates": ["Hello {text}"]}, "template is not among ways"),
        ({"ways": ["template"], "templates": ["Hello"]}, "must hold {text} once"),
        ({"ways": ["counterpart"], "counterparts": [["he", " "]]}, "are not two words"),
        ({"ways": []}, "at least 1"),
        ({"ways": ["shuffle"]}, "shuffle"),
    ],
)
def test_settings_that_make_no_sense(prepare: Any, jsonl: Any, wish: Any, why: str) -> None:
    with pytest.raises((LuthierError, ValueError), match=why):
        prepare(data(jsonl, **wish), CLASSIFY)


def test_it_belongs_to_quantity(prepare: Any, jsonl: Any) -> None:
    with pytest.raises((LuthierError, ValueError), match="augment makes rows, which train alone may have"):
        prepare({**data(jsonl), "rules": {"quality": ["augment"]}}, CLASSIFY)


# -- the edits themselves -----------------------------------------------------------------------------------------------

WAYS = {"swap": edits.swap, "delete": edits.delete, "typo": edits.typo, "case": edits.case}


@given(st.text(max_size=60), st.sampled_from(sorted(WAYS)), st.floats(0.01, 1), st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_any_text_is_edited_or_left_and_the_same_way_twice(text: str, way: str, share: float, n: int) -> None:
    one, two = (WAYS[way](text, Draw(n), share) for _ in range(2))
    assert one == two
    if one is None:
        return
    words, told = text.split(), one.split()
    if way == "swap":
        assert sorted(words) == sorted(told) or min(text) >= "\x1c"
    if way == "delete":
        assert 0 < len(one) <= len(text)
    if way == "case":
        assert one != text


def test_edits_by_hand() -> None:
    assert edits.delete("a b c d", Draw("x"), 1.0) in {"a", "b", "c", "d"}  # never all of them
    assert edits.counterpart("HIS and hers, this", [("his", "her")]) == "HER and hers, this"
    assert edits.synonym("cheap CHEAP Cheap", Draw("x"), 1.0, {"cheap": ["fair"]}) == "fair FAIR Fair"
    assert (
        edits.swap("a  b\n c", Draw("x"), 1.0).replace("a", "?").replace("b", "?").replace("c", "?")
        == "?  ?\n ?"
    )


def test_draws_are_even() -> None:
    draw = Draw("even")
    found = [draw.below(10) for _ in range(20_000)]
    # 2,000 each; the standard deviation is sqrt(20000·0.1·0.9) = 42.
    assert all(abs(found.count(k) - 2000) < 5 * 42 for k in range(10))
    # SplitMix64 from state 0 gives e220a8397b1dcdaf first (Steele, Lea and Flood; Vigna's splitmix64.c).
    begun = Draw("x")
    begun._state = 0
    assert begun.bits() == 0xE220A8397B1DCDAF


def test_two_such_rules_make_rows_of_their_own(prepare: Any, jsonl: Any) -> None:
    wish = data(jsonl)
    wish["rules"]["quantity"] = [
        {"augment": {"ways": ["swap"]}},
        {"augment": {"ways": ["typo"]}},
        "deduplicate",
    ]
    done = prepare(wish, CLASSIFY)
    ids = [row["id"] for row in done.split("train")]
    assert len(set(ids)) == len(ids) > 2 * done.rule("augment")["rows_in"]


def test_every_way_is_taken_though_there_is_one_copy(prepare: Any, jsonl: Any) -> None:
    wish = data(jsonl, ways=["swap", "template"], templates=["Please help: {text}"])
    made = [row for row in prepare(wish, CLASSIFY).split("train") if row["made_from"]]
    said = {row["messages"][1]["content"].startswith("Please help: ") for row in made}
    assert said == {True, False}
