"""Rankings become pairs, and judgements on a scale or in words become good and bad."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest

from luthier.data.connectors.protocol import Block
from luthier.data.grouped import blocks_of
from luthier.data.mapping import Layout, to_records
from luthier.data.maps import MapSpec

from .conftest import Prepare

Jsonl = Callable[..., str]


class Rows:
    """A connector of one block."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def read(self, part: Any, columns: list[str]) -> Any:
        cells = {name: [row.get(name) for row in self._rows] for name in columns}
        yield Block(cells, "t.jsonl", range(1, len(self._rows) + 1))


def read(rows: list[dict[str, Any]], **wish: Any) -> tuple[list[dict[str, Any]], dict[str, str]]:
    layout = Layout(MapSpec.model_validate(wish), ("role", "content"), False, "t", 1.0)
    [block] = blocks_of(Rows(rows), None, layout)  # type: ignore[arg-type]
    batch, bad = to_records(block, layout)
    return batch.to_pylist(), dict(zip(bad.origins, bad.reasons, strict=True))


def pairs(rows: list[dict[str, Any]], **wish: Any) -> list[tuple[str, str]]:
    found, bad = read(rows, user="q", **wish)
    assert bad == {}
    return [(row["messages"][-1]["content"], row["rejected"]) for row in found]


def test_a_ranking_becomes_pairs_of_neighbours_or_all_pairs() -> None:
    row = {"q": "?", "a": ["best", "good", "bad"]}
    assert pairs([row], ranking="a") == [("best", "good"), ("good", "bad")]
    assert pairs([row], ranking={"answers": "a", "pairs": "all"}) == list(combinations(row["a"], 2))
    assert pairs([{**row, "a": json.dumps(row["a"])}], ranking="a") == [("best", "good"), ("good", "bad")]


def test_scores_give_the_order_and_equal_ones_make_no_pair() -> None:
    told = [{"text": t, "score": {"overall": s}} for t, s in (("c", 1), ("a", 5), ("b1", 3), ("b2", 3))]
    wish = {"answers": "a", "text": "text", "score": "score.overall"}
    assert pairs([{"q": "?", "a": told}], ranking={**wish, "pairs": "all"}) == [
        ("a", "b1"), ("a", "b2"), ("a", "c"), ("b1", "c"), ("b2", "c")
    ]  # fmt: skip
    assert pairs([{"q": "?", "a": told}], ranking=wish) == [("a", "b1"), ("b2", "c")]


def test_a_prompt_may_be_messages_and_places_and_ids_are_the_rows() -> None:
    prompt = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    found, bad = read([{"p": prompt, "a": ["x", "y", "z"]}], messages="p", ranking="a")
    assert bad == {} and {row["origin"] for row in found} == {"t.jsonl:1"}
    assert [[turn["content"] for turn in row["messages"]] for row in found] == [
        ["s", "q", "x"],
        ["s", "q", "y"],
    ]
    by_hand, _ = read([{"u": "q", "c": "x", "r": "y"}], user="u", chosen="c", rejected="r")
    alone, _ = read([{"u": "q", "a": ["x", "y"]}], user="u", ranking="a")
    assert alone[0]["id"] == by_hand[0]["id"]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (None, "'a' is empty"),
        ("text", "it is not valid JSON"),
        ({"x": 1}, "holds no list of answers"),
        (["one"], "holds no two answers of which one is better"),
        (["same", "same"], "holds no two answers of which one is better"),
        (["x", None], "has no text in answer 2"),
        ([{"text": "x"}, "y"], "has no text in answer 1; `text` says where it stands"),
    ],
)
def test_a_ranking_that_ranks_nothing_is_told(cell: Any, reason: str) -> None:
    found, bad = read([{"q": "1", "a": ["x", "y"]}, {"q": "2", "a": cell}], user="q", ranking="a")
    assert len(found) == 1
    assert reason in bad["t.jsonl:2"]


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"ranking": "a"}, "ranking has no question"),
        ({"ranking": "a", "user": "q", "assistant": "b"}, "ranking and assistant both judge"),
        ({"ranking": "a", "user": "q", "id": "i"}, "leave id out"),
        ({"user": "q", "assistant": "a", "rating": {"column": "r"}}, "nothing says what is good"),
        ({"user": "q", "assistant": "a", "rating": {"column": "r", "good": 4}}, "belong together"),
        (
            {"user": "q", "assistant": "a", "rating": {"column": "r", "good": 2, "bad": 3}},
            "bad must be lower",
        ),
    ],
)
def test_maps_that_judge_nothing_are_refused(wish: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        MapSpec.model_validate(wish)


def test_scales_and_words_become_good_and_bad() -> None:
    wish = {
        "user": "q",
        "assistant": "a",
        "rating": {"column": "r", "good": 4, "bad": 2, "words": {"up": 1, "Down": 0}},
    }
    values = [5, "4", 2.0, "1", "UP", " down ", 3, "meh", None]
    found, bad = read([{"q": f"{n}", "a": "x", "r": value} for n, value in enumerate(values)], **wish)
    assert [row["rating"] for row in found] == [1.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    assert list(bad.values()) == [
        "'r' holds '3', which is neither good nor bad",
        "'r' holds 'meh', which is neither good nor bad",
        "the rating is missing ('r' is empty)",
    ]


def test_a_dataset_of_rankings_keeps_one_question_on_one_side(prepare: Prepare, jsonl: Jsonl) -> None:
    rows = [{"q": f"question {n}", "a": [f"{n} {k}" for k in range(4)]} for n in range(40)]
    wish = {"user": "q", "ranking": {"answers": "a", "pairs": "all"}}
    found = prepare({"sources": [{"files": jsonl(rows), "map": wish}]}).rows()
    assert len(found) == 40 * 6
    sides: dict[str, set[str]] = {}
    for row in found:
        sides.setdefault(row["messages"][0]["content"], set()).add(row["split"])
    assert all(len(side) == 1 for side in sides.values())


def test_each_with_each_of_too_many_answers_is_told() -> None:
    rows = [{"q": "1", "a": [str(n) for n in range(501)]}, {"q": "2", "a": ["x", "y", "z"]}]
    found, bad = read(rows, user="q", ranking={"answers": "a", "pairs": "all"})
    assert len(found) == 3
    assert "holds 501 answers" in bad["t.jsonl:1"] and "pairs: adjacent" in bad["t.jsonl:1"]
    assert len(read(rows, user="q", ranking={"answers": "a", "pairs": "adjacent"})[0]) == 502
