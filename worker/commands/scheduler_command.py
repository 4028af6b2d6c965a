"""``dgq scheduler``: submits what schedules say, when they say."""

from typing import TYPE_CHECKING

import click

from .options import server_command

if TYPE_CHECKING:
    from ..settings import Settings


@click.command()
@click.option("-v", "--verbose", is_flag=True, help="Say more on stderr.")
@server_command
def scheduler(*, settings: "Settings", verbose: bool) -> int:
    """Run the scheduler: at its times, each schedule's files are submitted as one batch.

    Several may run, on one machine or on many that see the same files: each firing is still made
    once, and what one leaves half done another finishes. Give all of them the same settings. The
    times are those of the server's clock. See dgq schedule add --help.

    SIGTERM or Ctrl-C ends it: submissions that have begun get drain_timeout_s, and go on at the next
    start where that was too short. While the server is away, it waits.

    \b
    Exit codes:
      0    ended by a signal
      7    the server cannot be reached at the start
    """
    from ..fleet.logs import log_to_stderr
    from ..fleet.scheduler import run_scheduler

    log_to_stderr(verbose=verbose)
    return run_scheduler(settings)
