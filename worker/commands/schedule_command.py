"""``dgq schedule``: what ``dgq scheduler`` submits, and when."""

import os
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from .. import exit_codes
from ..errors import CommandError, UsageFault
from ..guard import say
from .options import SEEDS, connected, json_option, print_json, print_table, server_command

if TYPE_CHECKING:
    from ..fleet.schedules import Firing, Known
    from ..settings import Settings


@click.group()
def schedule() -> None:
    """Submit files again and again, at times that a cron expression names.

    The schedules are kept on the server; dgq scheduler, which must be running, serves them.
    """


@schedule.command()
@click.argument("name")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--cron", required=True, metavar="CRON", help='When, as in "0 2 * * *".')
@click.option(
    "--timezone",
    default="UTC",
    show_default=True,
    metavar="TZ",
    help="The time zone of the cron expression, such as Europe/Berlin.",
)
@click.option(
    "--model-name",
    "label",
    default="default",
    metavar="NAME",
    help="Run only on workers that serve this model.",
)
@click.option(
    "--priority",
    type=click.IntRange(-100, 100),
    default=0,
    metavar="N",
    help="-100 to 100; higher goes first.  [default: 0]",
)
@click.option("--seed", type=SEEDS, metavar="N", help="For jobs without a seed of their own.")
@click.option(
    "--max-attempts",
    type=click.IntRange(1, 100),
    metavar="N",
    help="How often a failed check is tried again, for jobs that do not say it themselves.",
)
@click.option(
    "--catch-up-s",
    type=click.IntRange(0, 604_800),
    default=3600,
    show_default=True,
    metavar="SECONDS",
    help="How late a firing may be made for which no scheduler ran; less than a minute is not late.",
)
@server_command
def add(
    *,
    settings: "Settings",
    name: str,
    files: tuple[str, ...],
    cron: str,
    timezone: str,
    **options: Any,
) -> int:
    """Add a schedule: at its times, all FILEs are submitted as one batch.

    FILEs are paths on the machine where dgq scheduler runs; relative ones are taken from the folder
    you are in now. They are read when the schedule fires, and quoted patterns ("/data/in/*.jsonl")
    are looked up then. Collect a firing's results with dgq results and the batch that dgq schedule
    list shows.

    CRON has five fields: minute, hour, day of the month, month, day of the week (0 or 7 is Sunday;
    names such as mon and jan will do); or it is @hourly, @daily, @weekly, @monthly or @yearly. A day
    must match both the day of the month and the day of the week.
    """
    from ..client.checking import check_new
    from ..fleet.schedules import NAME, Schedule, Schedules
    from ..jobs_input import STDIN

    if not NAME.fullmatch(name):
        raise UsageFault(f"{name!r} is no name: it takes 1 to 64 letters, digits, or any of . _ -")
    if STDIN in files:
        raise UsageFault("a schedule needs files: it cannot read standard input again and again")
    paths = tuple(os.path.abspath(file) for file in files)
    if any(not _is_utf8(path) for path in paths):
        raise UsageFault("a schedule can only keep names of files that are UTF-8")
    new = Schedule(name, cron, timezone, paths, **options)
    parsed = new.parsed
    check_new(new.batch(0))
    with connected(settings) as client:
        schedules = Schedules(client.ledger)
        now_s = schedules.now_s()
        if not schedules.add(replace(new, created_s=now_s)):
            raise UsageFault(
                f"there is a schedule {name} already; remove it first: dgq schedule remove {name}"
            )
    say(f"schedule {name} fires next at {_at(parsed.next_after(now_s), parsed.zone)}")
    if parsed.names_both_days:
        say("it fires only on days that match both the day of the month and the day of the week")
    _warn_of_missing(paths)
    return exit_codes.OK


@schedule.command(name="list")
@json_option
@server_command
def list_(*, settings: "Settings", as_json: bool) -> int:
    """List the schedules: when each fires next, and what became of its last firing."""
    from ..fleet.schedules import Schedules

    with connected(settings) as client:
        snapshot = Schedules(client.ledger).read()
    for name, why in snapshot.unreadable.items():
        say(f"schedule {name} is no use here: {why}")
    if as_json:
        print_json([_fields(known, snapshot.now_s) for known in snapshot.schedules])
    elif snapshot.schedules:
        rows = [_row(known, snapshot.now_s) for known in snapshot.schedules]
        print_table(("NAME", "CRON", "NEXT FIRING", "LAST FIRING", ""), rows)
    elif not snapshot.unreadable:
        say("there are no schedules; see dgq schedule add --help")
    for known in snapshot.schedules:
        overdue_s = _overdue(known, snapshot.now_s)
        if overdue_s is not None:
            when = _at(overdue_s, known.schedule.parsed.zone)
            say(
                f"schedule {known.schedule.name} should have fired at {when}: does dgq scheduler run?"
            )
    return exit_codes.OK


@schedule.command()
@click.argument("name")
@server_command
def remove(*, settings: "Settings", name: str) -> int:
    """Remove a schedule. Batches that it has submitted go on."""
    from ..fleet.schedules import Schedules

    with connected(settings) as client:
        if not Schedules(client.ledger).remove(name):
            raise CommandError(f"there is no schedule {name}; dgq schedule list shows all")
    say(f"schedule {name} is removed")
    return exit_codes.OK


def _warn_of_missing(paths: tuple[str, ...]) -> None:
    from ..jobs_input import find_inputs

    for path in paths:
        try:
            find_inputs([path])
        except CommandError as error:
            say(f"{error} here and now; the scheduler needs it when the schedule fires")


def _overdue(known: "Known", now_s: float) -> int | None:
    """The first firing that nobody has made, if it should have been made long ago."""
    from ..fleet.schedules import ON_TIME_S

    if known.last is not None and not known.last.settled:
        return None
    first_s = known.schedule.parsed.next_after(known.since_s)
    return first_s if first_s < now_s - ON_TIME_S else None


def _row(known: "Known", now_s: float) -> tuple[str, ...]:
    item, last = known.schedule, known.last
    zone = item.parsed.zone
    return (
        item.name,
        f"{item.cron} ({item.timezone})",
        _at(item.parsed.next_after(now_s), zone),
        _at(last.due_s, zone) if last else "never",
        _words(last) if last else "",
    )


def _words(firing: "Firing") -> str:
    """What became of a firing."""
    batch = f"batch {firing.batch_id}" if firing.batch_id else ""
    if firing.state == "submitted":
        return f"{batch}, {firing.num_jobs:,} jobs"
    words = [firing.state, batch]
    return " ".join(filter(None, words)) + (f": {firing.message}" if firing.message else "")


def _fields(known: "Known", now_s: float) -> dict[str, Any]:
    from ..fleet.schedules import utc

    item, last = known.schedule, known.last
    return {
        "name": item.name,
        "cron": item.cron,
        "timezone": item.timezone,
        "files": list(item.files),
        "model_name": item.label,
        "priority": item.priority,
        "seed": item.seed,
        "max_attempts": item.max_attempts,
        "catch_up_s": item.catch_up_s,
        "next": utc(item.parsed.next_after(now_s)),
        "last": last
        and {
            "due": utc(last.due_s),
            "state": last.state,
            "batch": last.batch_id,
            "num_jobs": last.num_jobs,
            "message": last.message or None,
        },
    }


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _at(time_s: float, zone: Any) -> str:
    """A time on the schedule's clock."""
    return datetime.fromtimestamp(time_s, zone).strftime("%Y-%m-%d %H:%M %z")
