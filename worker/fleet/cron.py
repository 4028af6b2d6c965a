"""Cron expressions: read with care, computed by Celery's crontab, right where clocks are put back.

Celery's parser passes over much that it does not know (``1-5;7`` means ``1-5`` to it, and ``jan`` is
an hour); so each field is looked at here first. Beyond what Celery knows, 7 is Sunday, and @daily
and its like are short for what they are in crontab(5). Unlike there, a day must match both the day
of the month and the day of the week.
"""

import difflib
import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import Any, cast
from zoneinfo import ZoneInfo, available_timezones

from celery.schedules import ParseException, crontab

from ..errors import UsageFault

SHORT = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
MONTHS = "january february march april may june july august september october november december"
DAYS = "sunday monday tuesday wednesday thursday friday saturday"
_PART = re.compile(r"(?:\*|(?P<begin>\w+)(?:-(?P<end>\w+))?)(?:/(?P<step>\w+))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Field:
    """One of the five. names: words for its numbers, the first for ``lowest``."""

    name: str
    lowest: int
    highest: int
    names: tuple[str, ...] = ()

    def clean(self, text: str) -> str:
        """The field as Celery's parser takes it. Raises ValueError."""
        return ",".join(self._clean_part(part) for part in text.split(","))

    def _clean_part(self, part: str) -> str:
        found = _PART.fullmatch(part)
        if found is None:
            raise ValueError(f"{part!r} is no number, range (1-5), list (1,3) or step (*/2)")
        begin, end, step = found["begin"], found["end"], found["step"]
        if step is not None and not (step.isdigit() and int(step) > 0):
            raise ValueError(f"the step {step!r} is not a number above 0")
        suffix = "" if step is None else f"/{int(step)}"
        if begin is None:
            return f"*{suffix}"
        first = self._number(begin)
        if end is None:
            if step is not None:
                raise ValueError(f"a step goes with a range or *: {begin}-{self.highest}{suffix}")
            return str(first % 7 if self.name == "day of the week" else first)
        last = self._number(end)
        if self.name == "day of the week":
            first, last = (first, 6) if last - first == 7 else (first % 7, last % 7)
        return f"{first}-{last}{suffix}"

    def _number(self, word: str) -> int:
        lowered = word.lower()
        for number, name in enumerate(self.names, self.lowest):
            if lowered in (name, name[:3]):
                return number
        if not word.isdigit():
            kind = f"a number or a name such as {self.names[1][:3]}" if self.names else "a number"
            raise ValueError(f"{word!r} is not {kind}")
        if not self.lowest <= int(word) <= self.highest:
            raise ValueError(f"{word} is not from {self.lowest} to {self.highest}")
        return int(word)


FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, tuple(MONTHS.split())),
    _Field("day of the week", 0, 7, tuple(DAYS.split())),
)


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression in a time zone. fields: the five, without names."""

    fields: tuple[str, ...]
    zone: tzinfo
    _crontab: Any

    @property
    def names_both_days(self) -> bool:
        """Whether both the day of the month and that of the week are restricted."""
        return self.fields[2] != "*" and self.fields[4] != "*"

    def next_after(self, time_s: float) -> int:
        """The first firing after a time; both in seconds since 1970.

        An hour that comes twice fires once, unless the hour is ``*``; a time that is skipped when
        clocks are put forward fires that much later.
        """
        after = datetime.fromtimestamp(time_s, self.zone)
        found = self._next_on_the_wall(after, self.zone)
        while found.timestamp() <= time_s:  # it came before, in the first of two equal hours
            found = self._next_on_the_wall(found, self.zone)
        if self.fields[1].startswith("*"):
            unchanged = timezone(after.utcoffset() or timedelta())
            sooner = self._next_on_the_wall(after.astimezone(unchanged), unchanged)
            if sooner.timestamp() < found.timestamp() and self._matches(sooner):
                found = sooner
        return int(found.timestamp())

    def _next_on_the_wall(self, after: datetime, zone: tzinfo) -> datetime:
        # Celery 5.6 needs a "now" on the same day. Others may be asking the original: hence a copy.
        asked = object.__new__(crontab)
        asked.__dict__.update(self._crontab.__dict__, nowfun=lambda: after)
        begin, delta, _ = asked.remaining_delta(after, tz=zone)
        return cast("datetime", begin + delta)

    def _matches(self, time: datetime) -> bool:
        wall, cron = time.astimezone(self.zone), self._crontab
        return (
            wall.minute in cron.minute
            and wall.hour in cron.hour
            and wall.day in cron.day_of_month
            and wall.month in cron.month_of_year
            and wall.isoweekday() % 7 in cron.day_of_week
        )


@lru_cache(maxsize=1024)
def parse_cron(text: str, timezone_name: str = "UTC") -> Cron:
    """Read a cron expression. Raises UsageFault, naming the field that makes no sense."""
    zone = parse_timezone(timezone_name)
    words = SHORT.get(text.strip().lower(), text).split()
    if text.strip().startswith("@") and len(words) != len(FIELDS):
        raise UsageFault(f"--cron {text!r} is none of {', '.join(SHORT)}")
    if len(words) != len(FIELDS):
        raise UsageFault(
            f"--cron {text!r} has {len(words)} fields, not 5: minute, hour, day of the month, "
            "month, day of the week"
        )
    cleaned = []
    for field, word in zip(FIELDS, words, strict=True):
        try:
            cleaned.append(field.clean(word))
        except ValueError as error:
            raise UsageFault(f"--cron {text!r}: the {field.name} makes no sense: {error}") from None
    minute, hour, day, month, weekday = cleaned
    try:
        computed = crontab(minute, hour, weekday, day, month)
        computed.tz = zone  # else it would ask an app of Celery's
        cron = Cron(tuple(cleaned), zone, computed)
        cron.next_after(0.0)
    except (ParseException, ValueError, RuntimeError):
        # All else was looked at above.
        raise UsageFault(f"--cron {text!r} makes no sense: that day never occurs") from None
    return cron


def parse_timezone(name: str) -> ZoneInfo:
    """A time zone by its name in the tz database. Raises UsageFault."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        known = {zone.lower(): zone for zone in available_timezones()}
        near = difflib.get_close_matches(name.lower().replace(" ", "_"), known, n=1)
        hint = f"did you mean {known[near[0]]}?" if near else "write one such as Europe/Berlin"
        raise UsageFault(f"{name!r} is not a time zone; {hint}") from None
