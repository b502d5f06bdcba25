from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.core.errors import DataError
from luthier.data.opened import Opened
from luthier.data.rules.weight import Weight, weight
from luthier.data.testing import batch_of, obeys, run

ROWS: list[Any] = [[("user", "u"), ("assistant", "a")], [("user", "v"), ("assistant", "b")], "text"]


def weights(**wish: Any) -> list[float]:
    rows = batch_of(*ROWS, source=["x", "y", "x"], weight=[1.0, 0.5, 2.0], rating=[1.0, 0.5, 0.25])
    done = run("weight", rows, **wish)
    assert [why is not None for why in done.changed] == [
        before != after
        for before, after in zip([1.0, 0.5, 2.0], done.batch["weight"].to_pylist(), strict=True)
    ]
    return list(done.batch["weight"].to_pylist())


def test_it_multiplies_the_weight_of_the_source() -> None:
    assert weights(by="source", weights={"x": 2, "z": 9}) == [2.0, 0.5, 4.0]
    assert weights(by="label", weights={"b": 0.5}) == [1.0, 0.25, 2.0]
    assert weights(expression="0.5 + rating") == [1.5, 0.5, 1.5]
    assert weights(expression="1") == [1.0, 0.5, 2.0]


def test_what_was_changed_and_how_many_rows_each_name_has() -> None:
    done = run("weight", batch_of(*ROWS, source=["x", "y", "x"]), by="source", weights={"x": 2, "z": 9})
    assert done.changed == ["weight 1 becomes 2", None, "weight 1 becomes 2"]
    assert done.counts == {"x": 2}


@pytest.mark.parametrize(
    ("expression", "given_weight"),
    [
        ("rating", "0"),
        ("rating - 1", "-1"),
        ("number(label)", "no number"),
        ("weight * 1e300", "1e+300"),
        ("1e-300", "1e-300"),
    ],
)
def test_a_weight_that_is_none_names_the_row(expression: str, given_weight: str) -> None:
    rows = batch_of(*ROWS, rating=[0.0, 0.0, 0.0])
    with pytest.raises(DataError) as told:
        run("weight", rows, expression=expression)
    assert str(told.value).startswith(
        f"row:{0:032x} (t:1) is given {given_weight} as its weight; a weight is above zero"
    )
    assert "{filter: {keep: 'rating > 0'}}" in str(told.value)


def test_rows_that_a_rule_before_has_removed_do_not_matter() -> None:
    import numpy as np

    rows = Opened(batch_of(*ROWS, rating=[0.0, 0.5, 0.5]))
    rows.alive = np.array([False, True, True])
    said = weight.run(rows, Weight(expression="rating"))
    assert said.columns["weight"].to_pylist()[1:] == [0.5, 0.5]


def test_weights_reach_the_dataset(prepare: Any, jsonl: Any) -> None:
    jsonl([{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(40)])
    rules = {"relevance": [{"weight": {"by": "label", "weights": {"a": 3}}}]}
    source = {"files": "rows.jsonl", "weight": 0.5}
    done = prepare({"sources": [source], "rules": rules}, {"kind": "classify"})
    assert {(row["label"], row["weight"]) for row in done.rows()} == {("a", 1.5), ("b", 0.5)}
    assert done.rule("weight")["counts"] == {"a": 20} and done.rule("weight")["changed"] == 20


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({}, "weight needs by with weights, or an expression"),
        ({"by": "source", "expression": "1"}, "weight needs by with weights, or an expression"),
        ({"by": "source"}, "by and weights belong together"),
        ({"expression": "1", "weights": {"a": 1}}, "by and weights belong together"),
        ({"by": "source", "weights": {"a": 0}}, "greater than 0"),
        ({"expression": "label"}, "'label' gives a text, and a weight is a number"),
        ({"expression": "len(label"}, "column 10: , is missing after a value for len, or \\)"),
    ],
)
def test_settings_that_cannot_be(wish: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Weight.model_validate(wish)


@given(st.lists(st.text(max_size=8), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_laws(texts: list[str]) -> None:
    rows: list[Any] = [*texts, [("user", texts[0]), ("assistant", texts[-1])]]
    obeys("weight", rows, edits_once=False, expression="1 + turns() / 2")
    obeys("weight", rows, edits_once=False, by="label", weights={texts[-1]: 2.0})
