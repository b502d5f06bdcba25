"""When training ends and what counts as better, by hand and by laws."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.core.errors import SpecError
from luthier.training.keeping import greedy
from luthier.training.spec import DivergenceSpec, EarlyStoppingSpec, StopAtSpec, TrainSpec
from luthier.training.state import Good, State
from luthier.training.stopping import Watch, diverged, refuse_without_validation, spent, stale, watch_of

LOSS, RIGHT = Watch("loss", "min"), Watch("accuracy", "max")
values = st.lists(st.floats(-100, 100), max_size=30)


@pytest.mark.parametrize(
    ("metric", "mode", "own", "found"),
    [
        (None, "auto", ("loss", "min"), LOSS),
        (None, "auto", ("accuracy", "max"), RIGHT),
        (None, "max", ("gap", "min"), Watch("gap", "max")),
        ("gap", "auto", ("gap", "min"), Watch("gap", "min")),  # the method knows its own figure
        ("token_accuracy", "auto", ("loss", "min"), Watch("token_accuracy", "max")),
        ("absolute_error", "auto", ("loss", "min"), Watch("absolute_error", "min")),
        ("reward_margin", "auto", ("loss", "min"), Watch("reward_margin", "max")),
        ("odd", "min", ("loss", "min"), Watch("odd", "min")),
    ],
)
def test_what_is_watched(metric, mode, own, found):
    assert watch_of(EarlyStoppingSpec(metric=metric, mode=mode), own) == found


def test_without_early_stopping_the_method_decides():
    assert watch_of(None, ("accuracy", "max")) == RIGHT


def test_a_name_that_says_nothing_needs_a_mode():
    with pytest.raises(SpecError, match="its name does not say whether less or more is better") as told:
        watch_of(EarlyStoppingSpec(metric="odd"), ("loss", "min"))
    assert "Set train.early_stopping.mode: min or max." in str(told.value)


@given(values)
def test_more_of_a_figure_is_less_of_its_negative(found):
    assert stale(found, LOSS, 0.5) == stale([-x for x in found], RIGHT, 0.5)


@given(values, st.floats(0, 10))
def test_asking_for_more_never_makes_it_less_stale(found, by):
    assert stale(found, LOSS, by) >= stale(found, LOSS, 0.0)


@given(values)
def test_the_ranking_is_the_best_of_all_earlier_ones_first(found):
    state = State()
    for step, value in enumerate(found):
        state.rank(Good(step, value, value, ""), LOSS, 3)
    assert [(one.value, one.step) for one in state.ranking] == sorted(
        zip(found, range(len(found)), strict=True)
    )[:3]


def test_running_away_by_hand():
    rule = DivergenceSpec(factor=2, patience=2, window=3)
    # median(1, 1.2, 1.1) = 1.1: more than 2.2 twice, and more than the start median(2, 1) = 1.5.
    assert diverged([2, 1, 1.2, 1.1, 2.3, 2.21], rule)
    assert not diverged([2, 1, 1.2, 1.1, 2.3, 2.19], rule)
    assert not diverged([3, 2, 1.2, 1.1, 2.3, 2.4], rule)  # never above where it began, 2.5
    assert not diverged([2, 9, 9], rule)  # too short to tell
    assert not diverged([0.0, 0.0, 0.0, 0.0, 5.0, 5.0], rule)  # no ratio to a median of zero
    assert not diverged([2, 1, 1.2, 1.1, 99, 99], None)


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=60))
def test_a_falling_loss_never_runs_away(found):
    assert not diverged(sorted(found, reverse=True), DivergenceSpec(factor=1.01, patience=1, window=2))


def test_what_is_spent_by_hand():
    both = StopAtSpec.model_validate({"time": "2 min", "tokens": "2k"})
    assert [spent(both, *at) for at in ((119.9, 1999), (120, 0), (0, 2000), (120, 2000))] == [
        None,
        "time",
        "tokens",
        "time",
    ]


def test_early_stopping_needs_validation():
    stopping = TrainSpec.model_validate({"early_stopping": {"patience": 2}})
    with pytest.raises(SpecError, match=r"early_stopping .* the validation split has no rows"):
        refuse_without_validation(stopping, 0)
    refuse_without_validation(stopping, 1)


def test_an_average_needs_validation():
    spec = TrainSpec(keep="average")
    with pytest.raises(
        SpecError, match="takes the weights that validate best, and the validation split has no rows"
    ):
        refuse_without_validation(spec, 0)
    refuse_without_validation(spec, 1)
    refuse_without_validation(TrainSpec(keep="last"), 0)


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=6), st.randoms())
def test_a_greedy_average_is_never_worse_than_the_best(found, random):
    ranking = [Good(step, value, value, "") for step, value in enumerate(sorted(found))]
    measured = {}

    def measure(some):
        measured[len(measured)] = random.uniform(-9, 9)
        return measured[len(measured) - 1]

    chosen, value = greedy(ranking, LOSS, measure)
    assert chosen[0] == ranking[0] and value <= ranking[0].value and len(measured) == len(ranking) - 1
