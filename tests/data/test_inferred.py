"""Schemas from examples: what they say, that order and division change nothing, and that the examples meet them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.data.inferred import MOST_KEYS, Inferred
from luthier.data.schema import checker, refuse

LEAVES = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-1, 1) | st.text("ab", max_size=2)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("xyz", max_size=1), inner),
    max_leaves=8,
)


def seen(examples):
    found = Inferred()
    for one in examples:
        found.see(one)
    return found


@given(st.lists(VALUES, max_size=8), st.randoms(), st.integers(0, 8))
def test_every_example_meets_it_and_order_and_parts_do_not_matter(examples, rng, cut):
    pytest.importorskip("jsonschema")
    schema = seen(examples).schema
    refuse(schema)
    meets = checker(schema, "a test")
    assert [meets(one) for one in examples] == [None] * len(examples)
    shuffled = rng.sample(examples, len(examples))
    assert seen(shuffled).schema == schema
    first, second = seen(shuffled[:cut]), seen(shuffled[cut:])
    first.join(second)
    assert first.schema == schema


def test_an_enum_needs_every_value_five_times():
    assert seen(["a"] * 5 + ["b"] * 5).schema == {"type": "string", "enum": ["a", "b"]}
    assert seen(["a"] * 5 + ["b"] * 4).schema == {"type": "string"}
    assert seen([f"{i % 21}" for i in range(210)]).schema == {"type": "string"}  # 21 values
    assert seen(["a", None] * 5).schema == {"type": ["string", "null"]}


def test_fields_and_data_among_keys():
    found = seen([{"a": 1, "b": "x"}, {"a": 2.5}]).schema
    assert found == {
        "type": "object",
        "properties": {"a": {"type": "number"}, "b": {"type": "string"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    words = {f"w{i}": i for i in range(MOST_KEYS + 1)}
    assert seen([words]).schema == {"type": "object", "additionalProperties": {"type": "integer"}}
    assert seen([]).schema == {}
