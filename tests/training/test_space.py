"""What may differ between trials: conditions, techniques, what is refused before anything is spent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.training.search import SearchSpec
from luthier.training.space import RangeSpec, TechniqueSpec, bounds, grid, in_order, meets, suggest


class Asked:
    """A trial that draws the first choice and the least value, or what it is told to."""

    def __init__(self, **fixed):
        self.fixed, self.names = fixed, []

    def suggest_categorical(self, name, choices):
        self.names.append(name)
        return self.fixed.get(name, choices[0])

    def suggest_float(self, name, low, high, log=False):
        self.names.append(name)
        return self.fixed.get(name, low)

    suggest_int = suggest_float


def _spec(**search):
    return SearchSpec.model_validate(search)


def test_a_condition_decides_whether_a_field_is_there():
    over = {
        "train.adapter.rank": {"choices": [4, 64], "when": {"train.adapter.rslora": True}},
        "train.adapter.rslora": [False, True],
    }
    spec = _spec(over=over)
    assert suggest(Asked(), spec.over, {})[0] == {"train.adapter.rslora": False}
    with_it = suggest(Asked(**{"train.adapter.rslora": 1, "train.adapter.rank": 1}), spec.over, {})[0]
    assert with_it == {"train.adapter.rslora": True, "train.adapter.rank": 64}
    # early checks see the field only together with what it needs
    assert {"train.adapter.rslora": True, "train.adapter.rank": 64} in list(bounds(spec.over, {}))
    assert not any(
        "train.adapter.rank" in one and not one.get("train.adapter.rslora") for one in bounds(spec.over, {})
    )


def test_a_technique_sets_fields_and_has_ranges_of_its_own():
    techniques = {
        "head": {"set": {"train.method": "classify", "train.adapter": {"kind": "head"}}},
        "lora": {"set": {"train.adapter": {"kind": "lora"}}, "over": {"train.adapter.rank": [2, 4]}},
    }
    spec = _spec(
        techniques=techniques, over={"train.epochs": {"low": 1, "high": 2, "when": {"technique": "lora"}}}
    )
    setting, technique = suggest(Asked(), spec.over, spec.techniques)
    assert (technique, setting) == ("head", {"train.method": "classify", "train.adapter": {"kind": "head"}})
    asked = Asked(technique="lora", **{"lora: train.adapter.rank": 1})
    setting, technique = suggest(asked, spec.over, spec.techniques)
    assert setting == {"train.adapter": {"kind": "lora"}, "train.epochs": 1, "train.adapter.rank": 4}
    assert next(iter(setting)) == "train.adapter"  # a part of a section is set after the section
    assert "lora: train.adapter.rank" in asked.names
    assert spec.pruner is None
    assert spec.incomparable is not None


@pytest.mark.parametrize(
    ("search", "told"),
    [
        ({"over": {"train.epochs": {"low": 1, "high": 2, "when": {"train.seed": 1}}}}, "which is not searched"),
        ({"over": {"train.epochs": {"low": 1, "high": 2, "when": {"train.epochs": 1}}}}, "the field itself"),
        ({"over": {"train.epochs": {"choices": [1, 2], "when": {"train.seed": 5}}, "train.seed": [1, 2]}}, "none of its values (1, 2)"),
        ({"over": {"train.a": {"low": 1, "high": 2, "when": {"train.b": 1}}, "train.b": {"low": 1, "high": 2, "when": {"train.a": 1}}}}, "wait for each other"),
        ({"over": {"train.epochs": {"low": 1, "high": 2, "when": {"technique": "x"}}}}, "no section techniques"),
        ({"over": {"task.kind": ["chat", "classify"]}}, "cannot be searched"),
        ({"over": {"data.sources.0.files": ["a", "b"]}}, "cannot be searched"),
        ({}, "nothing differs"),
        ({"techniques": {"a": {"set": {"train.epochs": 1}}}}, "one technique"),
        ({"techniques": {"a": {"set": {"name": "x"}}, "b": {}}}, "name cannot be searched"),
        ({"over": {"base": ["a", "b"]}, "prune": "hyperband"}, "prune: hyperband cannot be"),
        ({"over": {"train.epochs": [1, 2]}, "objectives": ["cost"]}, "[quality, cost]"),
        ({"over": {"train.epochs": [1, 2]}, "study": "x"}, "write storage"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told(search, told):
    with pytest.raises(ValueError) as error:
        _spec(**search)
    assert told in str(error.value)


def test_pruning_is_on_only_where_trials_can_be_compared():
    over = {"train.epochs": [1, 2]}
    assert _spec(over=over).pruner == "asha"
    assert _spec(over=over, prune="hyperband").pruner == "hyperband"
    assert _spec(over=over, prune=False).pruner is None
    for more in ({"folds": 2}, {"objectives": ["quality", "cost"]}):
        assert _spec(over=over, **more).pruner is None
    assert _spec(over={"data.rules.quality": [[], ["normalize"]]}).pruner is None
    assert _spec(over={"data.rules.quantity": [[], ["held_out"]]}).pruner == "asha"
    assert _spec(over={"data.sources.0.weight": [0.5, 1.0], "train.mix.temperature": [1, 2]}).pruner == "asha"


def test_a_grid_is_counted_where_it_can_be():
    techniques = {
        "a": TechniqueSpec(over={"train.epochs": [1, 2, 3]}),
        "b": TechniqueSpec(set={"train.seed": 1}),
    }
    # 2 seeds × 3 epochs of a, and 2 of b
    assert grid({"train.batch.rows": [8, 16]}, techniques) == 2 * 3 + 2
    assert grid({"train.epochs": RangeSpec(low=1, high=2)}, {}) is None


@given(st.permutations(["train.a", "train.b", "train.c", "train.d"]))
def test_fields_are_drawn_after_those_they_depend_on_in_whatever_order_they_are_written(order):
    chain = {"train.b": "train.a", "train.c": "train.b", "train.d": "train.c"}
    wishes = {
        path: RangeSpec(low=0, high=1, when={chain[path]: 1}) if path in chain else RangeSpec(low=0, high=1)
        for path in order
    }
    assert in_order(wishes) == ["train.a", "train.b", "train.c", "train.d"]


def test_several_values_may_meet_a_condition():
    wish = RangeSpec(low=0, high=1, when={"base": ["a", "b"]})
    assert meets(wish, {"base": "b"})
    assert not meets(wish, {"base": "c"})
    assert not meets(wish, {})


@pytest.mark.parametrize("path", ["postprocess", "postprocess.export", "postprocess.abstain_below"])
def test_what_no_trial_is_judged_by_is_not_drawn(path):
    with pytest.raises(ValueError, match="does not change what trials are judged by"):
        _spec(over={path: [1, 2]})
    # a technique may need it beside what it trains
    both = {"a": {"set": {path: None}}, "b": {"set": {"train.epochs": 1}}}
    assert _spec(techniques=both).techniques["a"].set == {path: None}
    assert _spec(over={"postprocess.constrain": ["labels", None]}).grid == 2
