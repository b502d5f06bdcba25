"""The table that comes with the package, a user's own rows over it, and what is said about old prices."""

from datetime import date

import pytest

from luthier.core.errors import SpecError, StoreError
from luthier.core.units import Money
from luthier.cost.forecast import forecast
from luthier.cost.prices import Prices, PriceSpec, load_prices

TODAY = date(2026, 11, 24)


def row(machine="gpu", value=3.6, currency="USD", retrieved=date(2026, 11, 9), region=None):
    return PriceSpec(
        machine=machine, value=value, currency=currency, region=region, source="a page", retrieved=retrieved
    )


def test_the_shipped_table_reads_and_every_row_says_where_it_is_from():
    prices, _ = load_prices(today=TODAY)
    assert prices.look_up("azure-nc40ads-h100-v5").value == 6.98
    assert prices.look_up("aws-g6.xlarge").region == "us-east-1"
    assert all(r.source and r.unit == "hour" and r.currency == "USD" for r in prices.rows.values())


def test_the_local_price_follows_from_its_stated_assumptions():
    # 1,200 USD / 8,000 h = 0.15 USD/h; 0.1 kW × 0.30 USD/kWh = 0.03 USD/h
    local = load_prices(today=TODAY)[0].look_up("local-cpu")
    assert local.value == pytest.approx(1200 / 8000 + 0.1 * 0.30)
    for assumed in ("1,200 USD", "8,000 hours", "100 W", "0.30 USD/kWh"):
        assert assumed in local.source


def test_an_unknown_machine_is_told_with_the_nearest_name():
    prices, _ = load_prices(today=TODAY)
    with pytest.raises(SpecError, match=r"no price is known for the machine 'aws-g6\.xlarg'") as told:
        prices.look_up("aws-g6.xlarg")
    assert "did you mean 'aws-g6.xlarge'" in told.value.remedy and "prices.yaml" in told.value.remedy


OWN = """\
prices:
  - {machine: local-cpu, value: 0.5, currency: EUR, source: our accountant, retrieved: 2026-11-01}
  - {machine: rack-7, value: 2, currency: EUR, source: our accountant, retrieved: 2026-11-01}
"""


def test_own_rows_replace_and_add(tmp_path):
    (tmp_path / "prices.yaml").write_text(OWN)
    prices, warnings = load_prices(tmp_path / "prices.yaml", TODAY, "local-cpu")
    assert prices.look_up("local-cpu").currency == "EUR"
    assert prices.look_up("rack-7").value == 2
    assert prices.look_up("azure-nc40ads-h100-v5").value == 6.98
    assert warnings == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (OWN.replace("value: 2,", "valeu: 2,"), "3: prices.1.valeu: there is no key 'valeu' here; did you mean 'value'?"),
        (OWN.replace("value: 2,", "value: 0,"), "3: prices.1.value: Input should be greater than 0 (it is '0')"),
        (OWN.replace("0.5, currency: EUR", "0.5, currency: euro"), "2: prices.0.currency:"),
        (OWN.replace("rack-7", "local-cpu"), "the machine 'local-cpu' stands twice"),
        (OWN.replace("2026-11-01", "soon", 1), "2: prices.0.retrieved:"),
        ("prices:\n  - {", "2: this is not valid YAML"),
    ],
)  # fmt: skip
def test_a_fault_in_own_rows_is_told_with_its_line(tmp_path, text, said):
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    with pytest.raises(SpecError) as told:
        load_prices(path, TODAY)
    assert said in str(told.value) and str(path) in str(told.value)


def test_own_rows_that_cannot_be_read(tmp_path):
    assert load_prices(tmp_path / "none.yaml", TODAY)[0].find("local-cpu")
    (tmp_path / "latin.yaml").write_bytes(b"prices: \xe9")
    with pytest.raises(SpecError, match="not UTF-8"):
        load_prices(tmp_path / "latin.yaml", TODAY)
    with pytest.raises(StoreError, match="cannot be read"):
        load_prices(tmp_path, TODAY)


def test_a_price_is_old_after_ninety_days_and_not_before(tmp_path):
    # 2026-08-26 to 2026-11-24 is 5 + 30 + 31 + 24 = 90 days.
    path = tmp_path / "prices.yaml"
    path.write_text("prices:\n  - {machine: m, value: 1, currency: USD, source: x, retrieved: 2026-08-26}\n")
    assert load_prices(path, date(2026, 11, 24), "m")[1] == []
    (said,) = load_prices(path, date(2026, 11, 25), "m")[1]
    assert said.startswith("the price of m is older than 90 days (retrieved 2026-08-26, 91 days ago)")
    assert load_prices(path, date(2026, 11, 25), "not there")[1] == []


def test_all_old_prices_are_told_in_one_line():
    prices, warnings = load_prices(today=date(2027, 6, 1))
    assert len(warnings) == 1 and f"and of {len(prices.rows) - 1} more" in warnings[0]


def test_money_is_time_times_machines_times_price():
    # 1,800 s = 0.5 h; × 3 machines × 4 USD/h = 6 USD
    cost = forecast(1800, "gpu", 3, Prices({"gpu": row(value=4, region="eu-1")}))
    assert cost.money == Money(6.0, "USD")
    assert cost.basis == (
        "30 min 00 s of machine time",
        "3 × gpu at 4 USD per hour in eu-1 each",
        "price: a page; retrieved 2026-11-09",
    )


def test_what_is_not_known_is_said_and_never_zero():
    prices = Prices({"gpu": row()})
    unknown = forecast(1800, "gpux", 1, prices)
    assert unknown.money is None and "there is no price for the machine 'gpux'" in unknown.basis[0]
    endless = forecast(None, "gpu", 1, prices)
    assert endless.money is None and "how long it takes is not known" in endless.basis[0]
    with pytest.raises(ValueError, match="0 machines"):
        forecast(1800, "gpu", 0, prices)
