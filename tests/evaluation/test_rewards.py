"""Rewards, one answer at a time: what earns what, and what cannot be asked."""

import pytest
from pydantic import ValidationError

from luthier.core import plugin
from luthier.core.errors import DataError
from luthier.training.methods.grpo import RewardSpec


def score(written, answer, expected=None):
    one = RewardSpec.model_validate(written)
    return one.load()(answer, expected, one.settings)


@pytest.mark.parametrize(
    ("written", "answer", "expected", "value"),
    [
        ("exact_match", " a  b\n", "a b", 1),
        ("exact_match", "A b", "a b", 0),
        ("label", ' "Billing".', "billing", 1),
        ("label", "billing, I think", "billing", 0),
        ({"regex": {"pattern": "^yes"}}, "yes, of course", None, 1),
        ({"regex": {"pattern": "^yes", "whole": True}}, "yes, of course", None, 0),
        ({"regex": {"pattern": "yes|no", "whole": True}}, " no ", None, 1),
        ("number", "3 + 4 = 7.0", "the answer is 7", 1),
        ("number", "8", "7", 0),
        ("number", "no idea", "7", 0),
        ({"number": {"within": 0.1}}, "107", "100", 1),
        ({"number": {"within": 0.1}}, "111", "100", 0),
        ("json_valid", '{"a": 1}', None, 1),
        ("json_valid", '{"a": 1', None, 0),
        ({"json_valid": {"keys": ["a", "b"]}}, '{"a": 1, "b": null}', None, 1),
        ({"json_valid": {"keys": ["a"]}}, '["a"]', None, 0),
        ("fields", '{"b": 2, "a": 1}', '{"a": 1, "b": 3}', 0.5),
        ("fields", "none", '{"a": 1}', 0),
        ({"length": {"max": 4}}, "four", None, 1),
        ({"length": {"max": 4}}, "sixsix", None, 0.5),  # half way between 4 and 8
        ({"length": {"max": 4}}, "longer than eight", None, 0),
    ],
)
def test_what_earns_what(written, answer, expected, value):
    assert score(written, answer, expected) == pytest.approx(value)


@pytest.mark.parametrize("name", ["exact_match", "label", "number"])
def test_some_need_an_answer_to_compare_with(name):
    with pytest.raises(DataError, match=f"the reward `{name}` compares with the row's own answer"):
        score(name, "7", None)


def test_a_number_that_is_none_is_told():
    with pytest.raises(DataError, match="the expected answer 'seven' has no number"):
        score("number", "7", "seven")


def test_what_cannot_be_asked_is_refused_with_the_recipe():
    with pytest.raises(ValidationError, match=r"'\(' is no regular expression: .*"):
        RewardSpec.model_validate({"regex": {"pattern": "("}})
    with pytest.raises(
        ValidationError, match="there is no reward called 'exact'; did you mean 'exact_match'"
    ):
        RewardSpec.model_validate("exact")


def test_every_reward_says_what_it_is():
    for name in plugin.names("reward"):
        assert plugin.load("reward", name).name == name and plugin.load("reward", name).about.endswith(".")
