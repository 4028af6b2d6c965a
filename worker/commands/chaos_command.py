"""``dgq chaos``: disturb a batch on one's own set-up, and see that nothing is lost."""

from typing import TYPE_CHECKING

import click

from .. import exit_codes
from .options import json_option, server_command

if TYPE_CHECKING:
    from ..settings import Settings


@click.command()
@click.option(
    "--workers", "num_workers", type=click.IntRange(2, 64), default=3, metavar="N",
    help="Stub workers that the drill starts and disturbs.  [default: 3]",
)  # fmt: skip
@click.option(
    "--jobs", "num_jobs", type=click.IntRange(1, 1_000_000), default=2_000, metavar="N",
    help="Jobs of the batch.  [default: 2000]",
)  # fmt: skip
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=1), default=300.0, metavar="S",
    help="Give up after so many seconds.  [default: 300]",
)  # fmt: skip
@json_option
@server_command
def chaos(
    settings: "Settings", num_workers: int, num_jobs: int, timeout_s: float, as_json: bool
) -> int:
    """Drill the queue: kill, freeze and cut off workers while a batch runs, then check the promises.

    The workers are the drill's own and have no model; real batches and workers are left alone. Uses the
    configured server, else a private one. --json prints one object: promises (each true or false),
    faults, num_jobs, num_rows, num_lost, num_doubled, num_different, num_changed, longest_pause_s,
    seconds.

    Exit code 0: every promise was kept; 1: one was broken.
    """
    from ..chaos import run_drill
    from ..guard import say
    from ..private_server import using_server

    with using_server(settings) as given:
        drill = run_drill(
            given,
            num_workers=num_workers,
            num_jobs=num_jobs,
            timeout_s=timeout_s,
            on_event=say,
        )
    promises = drill.promises()
    if as_json:
        import json
        from dataclasses import asdict

        click.echo(json.dumps({"promises": promises} | asdict(drill)))
    else:
        for promise, kept in promises.items():
            click.echo(f"{'kept  ' if kept else 'BROKEN'}  {promise}")
        faults = ", ".join(f"{count} x {name}" for name, count in sorted(drill.faults.items()))
        click.echo(
            f"{drill.num_rows} rows for {drill.num_jobs} jobs in {drill.seconds:.1f} s; "
            f"longest pause {drill.longest_pause_s:.1f} s; {faults or 'no faults'}"
        )
    return exit_codes.OK if all(promises.values()) else exit_codes.CANNOT_RUN
