"""Times of cron against an oracle that tries every minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.app.jobs.cron import parse_cron
from luthier.core.errors import SpecError


def at(*given, zone=UTC):
    return datetime(*given, tzinfo=zone).timestamp()


def oracle(text, time_s, days):
    """The first minute behind `time_s` that each field allows, in UTC; the fields hold numbers alone."""
    minute, hour, day, month, weekday = (
        set(map(int, f.split(","))) if f != "*" else None for f in text.split()
    )
    now = datetime.fromtimestamp(time_s, UTC).replace(second=0, microsecond=0)
    for n in range(1, days * 1440):
        then = now + timedelta(minutes=n)
        in_month = day is None or then.day in day
        in_week = weekday is None or then.isoweekday() % 7 in {one % 7 for one in weekday}
        on = (in_month or in_week) if day is not None and weekday is not None else (in_month and in_week)
        if on and all(
            f is None or v in f for f, v in ((minute, then.minute), (hour, then.hour), (month, then.month))
        ):
            return then.timestamp()
    return None


def some(low, high):
    numbers = st.lists(st.integers(low, high), min_size=1, max_size=3, unique=True)
    return st.one_of(st.just("*"), numbers.map(lambda found: ",".join(map(str, found))))


@settings(max_examples=25)
@given(
    st.tuples(some(0, 59), some(0, 23), some(1, 28), st.just("*"), some(0, 7)),
    st.integers(0, 2_000_000_000),
)
def test_the_next_time_is_the_first_minute_that_all_fields_allow(fields, time_s):
    text = " ".join(fields)
    assert parse_cron(text).after(time_s) == oracle(text, time_s, days=35)


@pytest.mark.parametrize(
    ("text", "after", "expected"),
    [
        ("*/15 8-9 * * *", at(2026, 1, 5, 8, 50), at(2026, 1, 5, 9, 0)),
        ("0 0 1 jan *", at(2026, 1, 1), at(2027, 1, 1)),
        ("0 12 * * fri-sun", at(2026, 1, 5), at(2026, 1, 9, 12)),
        ("0 12 * * sat-sun", at(2026, 1, 5), at(2026, 1, 10, 12)),
        ("0 12 * * 7", at(2026, 1, 5), at(2026, 1, 11, 12)),
        ("5/20 * * * *", at(2026, 1, 5, 0, 6), at(2026, 1, 5, 0, 25)),
        ("0 0 29 2 *", at(2026, 1, 1), at(2028, 2, 29)),
        ("0 0 13 * fri", at(2026, 1, 1), at(2026, 1, 2)),  # either is enough
        ("@weekly", at(2026, 1, 5), at(2026, 1, 11)),
    ],
)
def test_what_people_write(text, after, expected):
    assert parse_cron(text).after(after) == expected


def test_a_skipped_time_comes_after_the_gap_and_a_repeated_one_once():
    berlin = ZoneInfo("Europe/Berlin")
    spring = parse_cron("30 2 * * *", "Europe/Berlin")  # 29 March 2026: from 2:00 to 3:00
    assert spring.after(at(2026, 3, 28, 12, zone=berlin)) == at(2026, 3, 29, 3, 0, zone=berlin)
    assert spring.after(at(2026, 3, 29, 3, 0, zone=berlin)) == at(2026, 3, 30, 2, 30, zone=berlin)
    autumn = at(2026, 10, 25, 2, 30, zone=berlin)  # the first of two
    assert spring.after(at(2026, 10, 24, 12, zone=berlin)) == autumn
    assert spring.after(autumn) == at(2026, 10, 26, 2, 30, zone=berlin)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("* * * *", "it has 4 fields, not 5"),
        ("60 * * * *", "the minute '60' is not one of 0 to 59"),
        ("* * 0 * *", "the day '0'"),
        ("*/0 * * * *", "the minute '0' is not one of 1"),
        ("5-2 * * * *", "runs backwards"),
        ("0 0 31 2 *", "never comes"),
        ("0 0 * * funday", "the weekday 'funday'"),
        ("٣ * * * *", "the minute"),
        ("* " * 200, "fields, not 5"),
    ],
)
def test_what_cannot_be_is_refused(text, says):
    with pytest.raises(SpecError, match=says):
        parse_cron(text)


def test_zones():
    assert parse_cron("0 3 * * *", "Asia/Tokyo").after(at(2026, 1, 1)) == at(2026, 1, 1, 18)
    for zone in ("Nowhere/Town", "../../etc/passwd", "", "/etc/localtime"):
        with pytest.raises(SpecError, match="there is no time zone"):
            parse_cron("* * * * *", zone)
