"""Cron expressions: which are taken, and when they fire, on walls where clocks are changed too."""

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from dgq.worker.errors import UsageFault
from dgq.worker.fleet.cron import parse_cron, parse_timezone

RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))


def firings(text, begin, count, zone="Europe/Berlin"):
    """The first firings after a time on the zone's wall, as they show there."""
    cron, place = parse_cron(text, zone), ZoneInfo(zone)
    time_s = datetime.fromisoformat(begin).replace(tzinfo=place).timestamp()
    found = []
    for _ in range(count):
        time_s = cron.next_after(time_s)
        found.append(f"{datetime.fromtimestamp(time_s, place):%m-%d %H:%M}")
    return found


def random_field(choose, lowest, highest):
    """(text, the numbers it means) of a random field."""
    kind = choose.choice(("*", "*", "one", "range", "step", "list"))
    low = choose.randint(lowest, highest)
    high = choose.randint(low, highest)
    step = choose.randint(1, 9)
    if kind == "*":
        return "*", set(range(lowest, highest + 1))
    if kind == "one":
        return str(low), {low}
    if kind == "range":
        return f"{low}-{high}", set(range(low, high + 1))
    if kind == "step":
        return f"{low}-{high}/{step}", set(range(low, high + 1, step))
    return f"{low},{high}", {low, high}


def test_fires_when_every_field_matches():
    choose = random.Random(5)
    for _ in range(60):
        fields = [random_field(choose, *bounds) for bounds in RANGES]
        text = " ".join(word for word, _ in fields)
        minutes, hours, days, months, weekdays = (numbers for _, numbers in fields)
        begin = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=choose.randrange(63_000_000))
        try:
            cron = parse_cron(text)
        except UsageFault:
            assert months == {2} and min(days) > 29
            continue
        found = datetime.fromtimestamp(cron.next_after(begin.timestamp()), UTC)
        day = begin.replace(hour=0, minute=0, second=0, microsecond=0)
        while not (
            day.day in days and day.month in months and day.isoweekday() % 7 in weekdays
        ) or not (
            times := [
                time
                for hour in sorted(hours)
                for minute in sorted(minutes)
                if (time := day.replace(hour=hour, minute=minute)) > begin
            ]
        ):
            day += timedelta(days=1)
        assert found == times[0], (text, begin)


@pytest.mark.parametrize(
    ("text", "like"),
    [
        ("@daily", "0 0 * * *"),
        ("@Hourly", "0 * * * *"),
        ("@weekly", "0 0 * * sun"),
        ("  0   2 * * *  ", "0 2 * * *"),
        ("0 2 * * 7", "0 2 * * 0"),
        ("0 2 * * mon-FRI", "0 2 * * 1-5"),
        ("0 2 * * fri-7", "0 2 * * 5,6,0"),
        ("0 2 * * 0-7", "0 2 * * *"),
        ("0 2 1 jan,December *", "0 2 1 1,12 *"),
    ],
)
def test_what_people_write(text, like):
    cron, plain = parse_cron(text), parse_cron(like)
    time_s = other_s = 1_790_000_000.0
    for _ in range(20):
        time_s, other_s = cron.next_after(time_s), plain.next_after(other_s)
        assert time_s == other_s


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("61 * * * *", "the minute makes no sense: 61 is not from 0 to 59"),
        ("* 24 * * *", "the hour makes"),
        ("* jan * * *", "the hour makes no sense: 'jan' is not a number"),
        ("* * 0 * *", "the day of the month makes"),
        ("* * * fob *", "the month makes"),
        ("* * * * monkey", "the day of the week makes"),
        ("1-5;7 * * * *", "the minute makes"),
        ("1-5/2/3 * * * *", "the minute makes"),
        ("*/0 * * * *", "the step '0'"),
        ("5/15 * * * *", "a step goes with a range or *: 5-59/15"),
        ("1,,2 * * * *", "the minute makes"),
        ("² * * * *", "the minute makes"),
        ("* * * *", "4 fields, not 5"),
        ("", "0 fields"),
        ("@reboot", "none of @yearly"),
        ("* * 30 2 *", "never occurs"),
    ],
)
def test_refuses_in_one_line_that_names_the_field(text, words):
    with pytest.raises(UsageFault) as caught:
        parse_cron(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "Europe/Berln", "/etc/passwd", "../x", "America", "x\0"])
def test_refuses_what_is_no_time_zone(name):
    with pytest.raises(UsageFault, match="is not a time zone"):
        parse_timezone(name)


def test_suggests_a_time_zone():
    with pytest.raises(UsageFault, match="did you mean Europe/Berlin"):
        parse_timezone("berlin")


def test_fires_by_the_wall_of_its_zone():
    assert firings("0 2 * * *", "2026-11-24 12:00", 1) == ["11-25 02:00"]
    assert parse_cron("0 2 * * *", "Europe/Berlin").next_after(0) % 86_400 == 3600


def test_an_hour_that_comes_twice():
    every_hour = firings("0 * * * *", "2026-10-25 00:30", 5)
    assert every_hour == ["10-25 01:00", "10-25 02:00", "10-25 02:00", "10-25 03:00", "10-25 04:00"]
    assert firings("30 2 * * *", "2026-10-25 00:00", 2) == ["10-25 02:30", "10-26 02:30"]
    assert firings("0 */2 * * *", "2026-10-25 01:00", 2) == ["10-25 02:00", "10-25 04:00"]
    quarters = firings("*/15 * * * *", "2026-10-25 02:20", 7)
    assert quarters[2:] == [
        "10-25 02:00",
        "10-25 02:15",
        "10-25 02:30",
        "10-25 02:45",
        "10-25 03:00",
    ]


def test_an_hour_that_is_left_out():
    assert firings("30 2 * * *", "2026-03-28 12:00", 2) == ["03-29 03:30", "03-30 02:30"]
    assert firings("0 2,3 * * *", "2026-03-29 00:00", 2) == ["03-29 03:00", "03-30 02:00"]
    assert firings("0 * * * *", "2026-03-29 00:30", 3) == [
        "03-29 01:00",
        "03-29 03:00",
        "03-29 04:00",
    ]
