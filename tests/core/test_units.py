import pytest

from luthier.core.units import Money, money, seconds, share, size_bytes


@pytest.mark.parametrize("bad", ["soon", "5 parsecs", "-3 s", True, None, float("inf"), -1])
def test_a_duration_that_is_none_is_refused(bad):
    with pytest.raises(ValueError):
        seconds(bad)


@pytest.mark.parametrize("bad", ["10", "11 %%", 1.5, -0.1, "120%", True])
def test_a_share_is_between_nought_and_one(bad):
    with pytest.raises(ValueError):
        share(bad)


@pytest.mark.parametrize("bad", ["5", "5 usd", "USD 5", 5, "-5 USD"])
def test_money_needs_its_currency(bad):
    with pytest.raises(ValueError):
        money(bad)


def test_money_and_sizes():
    assert money("0.5 EUR") == Money(0.5, "EUR")
    assert str(Money(0.00021, "USD")) == "0.00021 USD"
    assert size_bytes("1.5 GiB") == 1610612736
