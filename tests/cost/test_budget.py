"""Limits against forecasts: what breaks, what cannot be checked, and the remedy that is passed on."""

import pytest

from luthier.core.errors import SpecError
from luthier.core.spec import parse, read_yaml
from luthier.core.units import Money
from luthier.cost.budget import check
from luthier.cost.spec import BudgetSpec

BUDGET = BudgetSpec(money="5 USD", time="1 h", memory="4 GB")


def test_a_budget_as_written():
    spec = parse(BudgetSpec, read_yaml("money: 5 USD\ntime: 1 h\nmemory: 4 GB\n"))
    assert (spec.money, spec.time, spec.memory, spec.machine, spec.machines) == (
        Money(5, "USD"), 3600, 4_000_000_000, "local-cpu", 1,
    )  # fmt: skip
    with pytest.raises(SpecError, match="'5 dollars' is not an amount of money"):
        parse(BudgetSpec, read_yaml("money: 5 dollars"))
    with pytest.raises(SpecError, match="did you mean 'money'"):
        parse(BudgetSpec, read_yaml("mony: 5 USD"))


def test_what_fits_says_nothing():
    assert check(BUDGET, 3600, 4_000_000_000, Money(5, "USD")) == []
    assert check(BudgetSpec(), None, None, None) == []


def test_each_broken_limit_is_told_with_its_factor():
    # 5,400 s / 3,600 s = 1.5; 10 GB / 4 GB = 2.5; 6.25 / 5 = 1.25
    assert check(BUDGET, 5400, 10_000_000_000, Money(6.25, "USD")) == [
        "time: forecast 1 h 30 min, budget 1 h 00 min (1.5 times as much)",
        "memory: forecast 10.0 GB, budget 4.0 GB (2.5 times as much)",
        "money: forecast 6.25 USD, budget 5.00 USD (1.25 times as much)",
    ]


def test_a_remedy_goes_with_what_it_remedies():
    told = check(
        BUDGET, 5400, 10_000_000_000, Money(1, "USD"), {"memory": "--set train.batch.micro_tokens=512"}
    )
    assert told[0].endswith("(1.5 times as much)")
    assert told[1].endswith("; the cheapest change that would fit: --set train.batch.micro_tokens=512")
    assert all(
        "would fit: fewer rows" in line for line in check(BUDGET, 5400, 10**10, Money(9, "USD"), "fewer rows")
    )


def test_a_limit_that_cannot_be_checked_is_told():
    assert check(BUDGET, None, None, None) == [
        "time: the budget is 1 h 00 min and the forecast is not known, so it cannot be promised",
        "memory: the budget is 4.0 GB and the forecast is not known, so it cannot be promised",
        "money: the budget is 5.00 USD and the forecast is not known, so it cannot be promised",
    ]
    (told,) = check(BudgetSpec(money="5 EUR"), 1, 1, Money(1, "USD"))
    assert "cannot be compared" in told and "write the budget in USD" in told


def test_a_budget_of_nothing_is_broken_by_anything():
    assert check(BudgetSpec(money="0 USD"), 1, 1, Money(0.5, "USD")) == [
        "money: forecast 0.50 USD, budget 0.00 USD"
    ]
