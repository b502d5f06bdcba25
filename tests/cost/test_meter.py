"""Measured figures are near what is known to have been done, and events add up to what was paid for."""

import time
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.core.event import Event
from luthier.core.units import Money
from luthier.cost.meter import Meter, actual, error
from luthier.cost.prices import Prices, PriceSpec

PRICES = Prices(
    {"m": PriceSpec(machine="m", value=36, currency="USD", source="x", retrieved=date(2026, 11, 9))}
)


def test_seconds_of_waiting_and_of_working():
    with Meter() as waiting:
        time.sleep(0.12)
    assert 0.12 <= waiting.seconds < 2 and waiting.cpu_seconds < waiting.seconds
    with Meter() as working:
        until = time.process_time() + 0.1
        while time.process_time() < until:
            pass
    assert 0.1 <= working.cpu_seconds < 1
    assert set(working.figures()) == {"seconds", "cpu_seconds", "peak_bytes"}


def test_a_peak_that_is_gone_at_the_end_is_seen_also_from_outside():
    size = 150_000_000
    with Meter() as outer:
        with Meter() as inner:
            before = inner.peak_bytes
            held = bytearray(b"x") * size  # every page is written
            time.sleep(0.15)
            del held
        with Meter() as after:
            pass
    assert inner.peak_bytes >= before + 0.9 * size
    assert outer.peak_bytes >= inner.peak_bytes
    assert after.peak_bytes < inner.peak_bytes


@pytest.mark.parametrize(("rise", "counts"), [(1 << 20, False), (1 << 30, True)])
def test_an_earlier_peak_that_the_kernel_counts_late_is_not_this_blocks(monkeypatch, rise, counts):
    earlier = 1 << 44
    told = iter([earlier, earlier + rise])
    monkeypatch.setattr("luthier.cost.meter._highest_bytes", lambda: next(told))
    with Meter() as meter:
        pass
    assert (meter.peak_bytes == earlier + rise) is counts and meter.peak_bytes > 0


def test_a_meter_reports_even_when_the_work_fails():
    meter = Meter()
    with pytest.raises(KeyError), meter:
        raise KeyError("x")
    assert meter.peak_bytes > 0 and not meter._sampler.is_alive()


def finished(step, seconds, peak, at_s, run="r"):
    figures = {"seconds": seconds, "cpu_seconds": 2 * seconds, "peak_bytes": peak}
    return Event("stage.finished", run, {"step": step, "digest": "d", **figures}, at_s)


def test_events_add_up():
    events = [
        Event("stage.started", "r", {"step": "model"}, 0.0),
        Event("step", "r", {"step": 1, "tokens": 100}, 10.0),
        Event("step", "r", {"step": 2, "tokens": 150}, 20.0),
        finished("model", 60.0, 500, 60.0),
        Event("stage.started", "r", {"step": "report"}, 60.0),
        finished("report", 40.0, 700, 100.0),
    ]
    # 60 s + 40 s = 100 s; at 36 USD/h = 0.01 USD/s that is 1 USD
    took = actual(events, "m", 1, PRICES)
    assert (took.seconds, took.cpu_seconds, took.peak_bytes) == (100.0, 200.0, 700)
    assert (took.steps, took.tokens, took.lost_seconds) == (2, 250, 0.0)
    assert took.money is not None and took.money.amount == pytest.approx(1.0)
    assert actual(events, "m", 1, PRICES, {"model"}).by_step == {"model": 60.0}
    assert took.plain()["money"] == [pytest.approx(1.0), "USD"]
    assert took.plain()["training_seconds"] == 60.0


def test_an_attempt_that_was_cut_off_was_paid_for_and_its_steps_count_once():
    events = [
        Event("stage.started", "first", {"step": "model"}, 0.0),
        Event("step", "first", {"step": 1, "tokens": 100}, 10.0),
        Event("step", "first", {"step": 2, "tokens": 100}, 30.0),  # killed after this
        Event("stage.started", "second", {"step": "model"}, 500.0),
        Event(
            "step", "second", {"step": 2, "tokens": 100}, 510.0
        ),  # done again from the checkpoint of step 1
        finished("model", 20.0, 500, 520.0, "second"),
    ]
    # 30 s lost + 20 s = 50 s
    took = actual(events, "m", 1, PRICES)
    assert (took.seconds, took.lost_seconds, took.steps, took.tokens) == (50.0, 30.0, 2, 200)


def test_nothing_recorded_is_not_known_rather_than_nothing():
    took = actual([], "m", 1, PRICES)
    assert took.seconds is took.money is took.peak_bytes is took.steps is None
    assert actual([finished("model", 1.0, 1, 1.0)], "other", 1, PRICES).money is None
    assert isinstance(actual([finished("model", 1.0, 1, 1.0)], "m", 1, PRICES).money, Money)


@given(st.floats(1e-3, 1e9), st.floats(-0.9, 10))
def test_the_error_is_the_share_by_which_the_forecast_missed(amount, share):
    assert error(amount * (1 + share), amount) == pytest.approx(share, abs=1e-9)
