"""Times of cron: five fields, as crontab(5) has them, in a time zone.

    minute hour day month weekday        `*`, 5, 1-5, */10, 8-18/2, lists of these; jan..dec, sun..sat (0 and 7 are Sunday)
    @hourly @daily @weekly @monthly @yearly

Where day and weekday are both restricted, either is enough, as everywhere. A time that the clocks skip in spring is the first moment after;
one that they pass twice in autumn counts once, the first time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from luthier.core.errors import SpecError

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day", 1, 31, {}),
    ("month", 1, 12, {name: n for n, name in enumerate(_MONTHS, 1)}),
    ("weekday", 0, 7, {name: n for n, name in enumerate(_DAYS)}),
)
_NAMED = {
    "@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *",
}  # fmt: skip
LONGEST = 100
YEARS = 9
"""A 29 February comes within eight years, also around 1900 and 2100."""


@dataclass(frozen=True)
class Cron:
    """
    >>> cron = parse_cron("30 8 * * mon-fri")
    >>> datetime.fromtimestamp(cron.after(0.0), UTC).isoformat()      # 1 January 1970 was a Thursday
    '1970-01-01T08:30:00+00:00'
    """

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either: bool
    zone: ZoneInfo

    def after(self, time_s: float) -> float | None:
        """The first time behind `time_s` (seconds of Unix time); None where there is none."""
        for found in self._times(datetime.fromtimestamp(time_s, self.zone).date() - timedelta(days=1)):
            if found > time_s:
                return found
        return None

    def _times(self, day: date) -> Iterator[float]:
        for _ in range(366 * YEARS):
            if self._on(day):
                yield from sorted(
                    {self._at(day, hour, minute) for hour in self.hours for minute in self.minutes}
                )
            day += timedelta(days=1)

    def _on(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        in_month, in_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return in_month or in_week if self.either else in_month and in_week

    def _at(self, day: date, hour: int, minute: int) -> float:
        local = datetime(day.year, day.month, day.day, hour, minute, tzinfo=self.zone)
        there = local.astimezone(UTC)
        if there.astimezone(self.zone).replace(tzinfo=None) == local.replace(tzinfo=None):
            return there.timestamp()
        return _first_after_gap(there, self.zone)


def parse_cron(text: str, zone: str = "UTC") -> Cron:
    """Raises SpecError."""
    words = _NAMED.get(text.strip().lower(), text).split()
    if len(text) > LONGEST or len(words) != len(_FIELDS):
        raise SpecError(
            f"{text[:LONGEST]!r} is not a time of cron: it has {len(words)} fields, not 5.",
            remedy="Write for example '0 3 * * mon-fri' (minute hour day month weekday), or @daily.",
        )
    sets = [_field(word, *field) for word, field in zip(words, _FIELDS, strict=True)]
    try:
        known = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise SpecError(
            f"there is no time zone {zone[:64]!r}.", remedy="Write for example UTC or Europe/Berlin."
        ) from None
    cron = Cron(
        tuple(sorted(sets[0])), tuple(sorted(sets[1])), frozenset(sets[2]), frozenset(sets[3]), frozenset(n % 7 for n in sets[4]),
        not words[2].startswith("*") and not words[4].startswith("*"), known,
    )  # fmt: skip
    if cron.after(0.0) is None:
        raise SpecError(f"{text!r} never comes.", remedy="No month of those has such a day.")
    return cron


def _field(word: str, name: str, low: int, high: int, names: dict[str, int]) -> set[int]:
    found: set[int] = set()
    for part in word.lower().split(","):
        span, stepped, step_text = part.partition("/")
        step = _number(step_text, name, 1, high) if stepped else 1
        if span == "*":
            first, last = low, high if name != "weekday" else 6
        else:
            begin, ranged, end = span.partition("-")
            first = _number(begin, name, low, high, names)
            last = _number(end, name, low, high, names) if ranged else (high if stepped else first)
            if last < first and name == "weekday" and last == 0:
                last = 7  # sat-sun
        if last < first:
            raise SpecError(
                f"the {name} {part!r} runs backwards.", remedy="Write two ranges, for example 22-23,0-5."
            )
        found.update(range(first, last + 1, step))
    return found


def _number(text: str, name: str, low: int, high: int, names: dict[str, int] | None = None) -> int:
    if names and text in names:
        return names[text]
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and low <= int(text) <= high):
        raise SpecError(f"the {name} {text[:20]!r} is not one of {low} to {high}.", remedy="See crontab(5).")
    return int(text)


def _first_after_gap(there: datetime, zone: ZoneInfo) -> float:
    """`there`: a skipped local time, read with the offset from before the gap, so it lies behind it; the gap's end is searched for."""
    low, high = int(there.timestamp()) - 86_400, int(there.timestamp())
    offset = datetime.fromtimestamp(high, zone).utcoffset()
    while high - low > 1:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, zone).utcoffset() == offset:
            high = middle
        else:
            low = middle
    return float(high)
