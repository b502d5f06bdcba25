"""Laws of budgets: amounts are whole, the sum of what was promised and used is never above the amount by a forecast, alerts are told once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.core.errors import SpecError
from luthier.cost.quota import (
    LARGEST_MICRO,
    MICRO,
    Standing,
    check_alerts,
    check_month,
    check_unit,
    crossed,
    grown,
    micro,
    month_of,
    outstanding,
    plain,
    spent,
)

AMOUNTS = st.integers(0, 10**9)


@given(st.integers(0, LARGEST_MICRO // MICRO))
def test_whole_units_are_exact(units):
    assert micro(units) == units * MICRO
    assert plain(micro(units)) == units


@pytest.mark.parametrize("wrong", ["", "x", "-1", "nan", "inf", str(10**13), "1e99999"])
def test_what_is_no_amount_is_refused(wrong):
    with pytest.raises(SpecError):
        micro(wrong)


def test_months_are_those_of_utc():
    # 2026-11-30T23:59:59Z and one second later
    assert [month_of(1_796_083_199), month_of(1_796_083_200)] == ["2026-11", "2026-12"]
    for wrong in ("2026-13", "2026-1", "26-01", ""):
        with pytest.raises(SpecError):
            check_month(wrong)


@given(AMOUNTS, st.lists(AMOUNTS, max_size=30))
def test_promises_never_exceed_the_amount(amount, wishes):
    held = 0
    for wished in wishes:
        if Standing(amount, 0, held).lets_in(wished):
            held += wished
        assert held <= amount


@given(AMOUNTS, st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 10**5)), max_size=20))
def test_a_job_within_its_promise_uses_nothing_else(amount, jobs):
    """Each job is let in with a forecast, uses it in some steps, no more than it, and is settled: what is used stays within the amount."""
    used, holds = 0, []
    for forecast, step in jobs:
        held = sum(outstanding(h, m) for h, m, _ in holds)
        if Standing(amount, used, held).lets_in(forecast):
            holds.append([forecast, 0, step])
        for one in holds:
            more = min(one[2], outstanding(one[0], one[1]))
            one[1] += more
            used += more
        assert used + sum(outstanding(h, m) for h, m, _ in holds) <= amount


@given(AMOUNTS, AMOUNTS, st.integers(1, 10**6))
def test_what_is_promised_anew_covers_what_was_used(held, metered, chunk):
    wanted = grown(held, metered, chunk)
    if wanted is None:
        assert metered < held
    else:
        assert wanted >= metered + 1


@given(
    st.lists(st.floats(0.01, 1.0), max_size=5),
    st.lists(st.integers(0, 1000), max_size=30),
    st.integers(1, 5000),
)
def test_an_alert_is_told_once_and_none_is_left_out(alerts, uses, amount):
    alerts, used, told = check_alerts(alerts), 0, []
    for use in uses:
        told += crossed(alerts, used, used + use, amount)
        used += use
    assert sorted(told) == [share for share in alerts if share * amount <= used and used > 0]


def test_units():
    assert [check_unit(one) for one in ("tokens", "gpu_hours", "money:EUR")]
    for wrong in ("money", "money:eur", "euros", "money:EURO", ""):
        with pytest.raises(SpecError):
            check_unit(wrong)
    assert spent(3600, 0, None) == {}
    assert spent(3600, 2, (1.5, "USD")) == {"gpu_hours": 2 * MICRO, "money:USD": 1_500_000}
    with pytest.raises(SpecError):
        check_alerts([0.5, 1.5])
