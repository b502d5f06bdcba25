"""held_out against a plain twin, from the rows of a whole dataset; and sides that sources bring."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import ValidationError

from luthier.data.spec import DataSpec, RulesSpec, SourceSpec

N = 6
WORDS = [f"w{k}" for k in range(400)]


def rows() -> list[dict[str, Any]]:
    """Texts of 20 words of their own; every fifth one begins with five to eight words of its neighbour."""
    told = []
    for k in range(150):
        own = [f"t{k}x{n}" for n in range(20)]
        if k % 5 == 0 and k:
            own[: 5 + k % 4] = told[-1]["text"].split()[: 5 + k % 4]
        told.append({"text": " ".join(own), "label": "ab"[k % 2]})
    return told


def grams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[k : k + N]) for k in range(len(words) - N + 1)}


def test_what_goes_is_what_the_twin_finds(prepare: Any, jsonl: Any) -> None:
    source = {"files": jsonl(rows())}
    split = {"validation": 0.2, "test": 0.2}
    task = {"kind": "classify"}
    plain = prepare({"sources": [source], "split": split}, task)
    held = {g for side in ("validation", "test") for row in plain.split(side) for g in grams(asked(row))}
    leaks = {row["id"] for row in plain.split("train") if grams(asked(row)) & held}
    assert leaks  # the rows are such that there are some
    rules = {"quantity": [{"held_out": {"ngram": N, "share": 0}}]}
    done = prepare({"sources": [source], "split": split, "rules": rules}, task)
    assert {row["id"] for row in done.split("removed")} == leaks
    assert {row["id"] for row in done.split("train")} == {row["id"] for row in plain.split("train")} - leaks
    for side in ("validation", "test"):
        assert done.split(side) == plain.split(side)
    others = {row["id"] for side in ("validation", "test") for row in done.split(side)}
    for row in done.split("removed"):
        told = re.fullmatch(
            rf"{N} words in a row of the user turn stand in row:(\w+), which is held out", row["reason"]
        )
        assert told and told[1] in others
    marked = prepare(
        {
            "sources": [source],
            "split": split,
            "rules": {"quantity": [{"held_out": {"ngram": N, "share": 0, "do": "mark"}}]},
        },
        task,
    )
    assert marked.rule("held_out")["counts"] == {"leaks": len(leaks)} and marked.split(
        "train"
    ) == plain.split("train")


def test_half_of_what_a_row_asks_must_stand_there(prepare: Any, jsonl: Any) -> None:
    """All rows end alike, in 9 words; that alone is no leak."""
    foot = [f"foot{n}" for n in range(9)]
    told = [
        {"text": " ".join([f"t{k}x{n}" for n in range(11)] + foot), "label": "ab"[k % 2]} for k in range(60)
    ]
    source = {"files": jsonl(told)}
    for share, gone in ((0, True), (0.5, False)):
        rules = {"quantity": [{"held_out": {"ngram": N, "share": share, "do": "mark"}}]}
        done = prepare({"sources": [source], "rules": rules}, {"kind": "classify"})
        # 4 of the 15 windows of 6 words of each row are in the foot
        assert done.rule("held_out")["counts"] == ({"leaks": done.facts["counts"]["train"]} if gone else {})


def asked(row: dict[str, Any]) -> str:
    return str(next(turn["content"] for turn in row["messages"] if turn["role"] == "user"))


def test_answers_count_only_where_they_are_asked_for(prepare: Any, jsonl: Any) -> None:
    usual = "thank you we will look into it and write to you as soon as we can"
    name = jsonl([{"prompt": f"q{k} r{k}", "completion": usual} for k in range(60)])
    for on, left in (("user", 60), ("all", None)):
        rules = {"quantity": ["drop_empty", {"held_out": {"on": on}}]}
        data = {"sources": [{"files": name}], "rules": rules, "split": {"validation": 0.1, "test": 0.1}}
        if left is None:
            with pytest.raises(Exception, match=r"no row in train|no row is left"):
                prepare(data)
        else:
            assert sum(prepare(data).facts["counts"].values()) == left


def test_it_is_a_rule_of_quantity() -> None:
    for section in ("quality", "relevance"):
        with pytest.raises(ValidationError, match="held_out looks at the rows of validation and test"):
            RulesSpec.model_validate({section: ["held_out"]})


# -- sides that sources bring


def test_rows_of_a_source_that_says_its_side_are_on_it(prepare: Any, jsonl: Any) -> None:
    """The test rows stay test; a training row that asks what one of them asks is set aside, and cut groups are told."""
    learn = [{"text": f"learn {k}", "label": "ab"[k % 2], "who": f"c{k}"} for k in range(40)]
    learn += [{"text": "  Test 3 ", "label": "a", "who": "c1000"}]
    test = [{"text": f"test {k}", "label": "ab"[k % 2], "who": f"c{k}"} for k in range(10)]
    mapped = {"user": "text", "label": "label", "group": "who"}
    sources = [
        {"files": jsonl(learn, "learn.jsonl"), "map": mapped, "side": "train"},
        {"files": jsonl(test, "test.jsonl"), "map": mapped, "side": "test"},
    ]
    split = {"validation": 0, "test": 0}
    done = prepare({"sources": sources, "split": split}, {"kind": "classify"})
    assert done.facts["counts"] == {"train": 40, "validation": 0, "test": 10}
    assert {row["source"] for row in done.split("test")} == {"test.jsonl"}
    [aside] = done.split("removed")
    assert aside["origin"] == "learn.jsonl:41" and aside["reason"] == "the same input is in the test split"
    [note] = done.rule("split")["notes"]  # c0 to c9 are in both files
    assert note.startswith(
        "10 groups stand on several sides, as the sources divide them; a row of one of them is row:"
    )
    drawn = prepare(
        {"sources": [sources[0] | {"side": None}, sources[1]], "split": {"validation": 0.2, "test": 0}},
        {"kind": "classify"},
    )
    assert drawn.facts["counts"]["test"] == 10 and drawn.facts["counts"]["validation"] > 0
    tested = {row["group"] for row in drawn.split("test")}
    assert tested.isdisjoint(row["group"] for side in ("train", "validation") for row in drawn.split(side))
    why = {row["origin"]: row["reason"] for row in drawn.split("removed")}
    assert (
        len(why) == 11 and why["learn.jsonl:1"] == "its group is in the test split, by a source of that side"
    )


def test_a_side_is_identity_only_where_it_is_said() -> None:
    told = SourceSpec.model_validate({"files": "a.jsonl"})
    assert "side" not in told.plain()
    assert SourceSpec.model_validate({"files": "a.jsonl", "side": "test"}).plain()["side"] == "test"
    data = DataSpec.model_validate(
        {"sources": [{"files": "a.jsonl", "side": "test"}], "split": {"test": 0, "validation": 0}}
    )
    assert data.has("test") and not data.has("validation")
    with pytest.raises(ValidationError):
        SourceSpec.model_validate({"files": "a.jsonl", "side": "dev"})
