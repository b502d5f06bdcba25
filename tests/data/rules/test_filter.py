from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.errors import SpecError
from luthier.core.spec import parse, read_yaml
from luthier.data.spec import RulesSpec
from luthier.data.testing import HOSTILE, batch_of, obeys, run

ROWS: list[Any] = [
    [("user", "a long question"), ("assistant", "yes")],
    [("user", "short"), ("assistant", "no"), ("rejected", "yes")],
    "plain text",
]


@pytest.mark.parametrize(
    ("keep", "want"),
    [
        ("len(user) > 5", [True, False, False]),
        ("len(user) > 5 or given(text)", [True, False, True]),
        ('label == "no" and given(rejected)', [False, True, False]),
        ("not given(rejected)", [True, False, True]),
        ("true", [True, True, True]),
    ],
)
def test_filter(keep: str, want: list[bool]) -> None:
    done = run("filter", batch_of(*ROWS), keep=keep)
    assert [why is None for why in done.removed] == want
    assert {why for why in done.removed if why} <= {f"not {keep}"}


def test_the_short_form() -> None:
    rules = RulesSpec.model_validate({"relevance": [{"filter": "len(user) > 1"}]})
    assert rules.plain()["relevance"] == [{"filter": {"keep": "len(user) > 1"}}]


def test_a_mistake_is_told_with_its_line_and_column() -> None:
    recipe = "relevance:\n  - filter:\n      keep: len(user) > 'a'\n"
    with pytest.raises(SpecError) as told:
        parse(RulesSpec, read_yaml(recipe))
    assert "recipe:3" in str(told.value) and "column 11: > compares a number with a text" in str(told.value)
    with pytest.raises(SpecError, match="'len\\(user\\)' gives a number, and a filter needs true or false"):
        parse(RulesSpec, read_yaml("relevance: [{filter: {keep: len(user)}}]"))


def test_rows_from_a_file(prepare: Any, jsonl: Any) -> None:
    jsonl([{"prompt": f"p{i}", "completion": str(i)} for i in range(40)])
    rules = {"relevance": [{"filter": {"keep": "number(assistant) >= 10 and assistant not in ['20', '30']"}}]}
    done = prepare({"sources": [{"files": "rows.jsonl"}], "rules": rules})
    assert len(done.rows()) == 28 and done.rule("filter")["removed"] == 12


@given(
    st.lists(st.text(max_size=20), min_size=1, max_size=4),
    st.sampled_from(["len(text) > 3", "user != label", "turns() > 1"]),
)
@settings(max_examples=50, deadline=None)
def test_laws(texts: list[str], keep: str) -> None:
    obeys("filter", [*texts, [("user", texts[0]), ("assistant", texts[-1])]], keep=keep)


def test_hostile_texts() -> None:
    obeys("filter", HOSTILE, keep="matches(lower(text), 'a+b') or words(text) > 2")
