"""``dgq submit``: hand a batch of jobs to the workers, and watch or collect it."""

from typing import TYPE_CHECKING, Any

import click

from .options import (
    BATCH_JSON,
    SEEDS,
    json_option,
    ordered_option,
    overwrite_option,
    quiet_option,
    resume_option,
    server_command,
    timeout_option,
)

if TYPE_CHECKING:
    from ..settings import Settings


@click.command(epilog=BATCH_JSON)
@click.argument("inputs", metavar="FILE...", nargs=-1, required=True)
@click.option(
    "-o", "--output", "out", metavar="OUT", help="Wait, and collect into this file; - is stdout."
)
@click.option("--watch", is_flag=True, help="Wait until the batch is finished.")
@click.option("--detach", is_flag=True, help="Return once all jobs are handed over (the default).")
@ordered_option
@resume_option
@overwrite_option
@click.option(
    "--priority",
    type=click.IntRange(-100, 100),
    default=0,
    metavar="N",
    help="-100 to 100; higher goes first.  [default: 0]",
)
@click.option(
    "--job-key",
    metavar="KEY",
    help="The same key gives the same batch: run the command again, and nothing is done twice.",
)
@click.option(
    "--model-name",
    "label",
    default="default",
    metavar="LABEL",
    help="Only workers that serve this name run the jobs.  [default: default, which all serve]",
)
@click.option(
    "--seed", type=SEEDS, metavar="N", help="For jobs without a seed of their own.  [default: 0]"
)
@click.option(
    "--max-attempts",
    type=click.IntRange(1, 100),
    metavar="N",
    help="How often a failed check is tried again, for jobs that do not say it themselves.  "
    "[default: as the model says, else 3]",
)
@timeout_option
@click.option(
    "--workers",
    "num_workers",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Worker processes to start where no server is configured.  [default: 1]",
)
@json_option
@quiet_option
@server_command
def submit(settings: "Settings", **options: Any) -> int:
    """Submit jobs as one batch.

    FILE is a file with one JSON object per line, a quoted glob pattern, or - for stdin. Several
    are one batch, in the order of their names. Bad lines are told with their numbers, and each
    becomes an error row.

    With a server (DGQ_REDIS_URL, --redis-url, or dgq up) the batch's id is printed once all jobs are handed
    over, and the batch goes on by itself; --watch waits for its end, -o OUT collects its results.
    Without one, a private server and worker processes are started, the results go to OUT or
    stdout, and both are stopped.

    OUT.dgq, beside OUT, notes which batch is being collected, until all of it is there.
    """
    from .submitting import SubmitOptions, submit_command
    from .wanted import Wanted

    wanted = {name: options.pop(name) for name in Wanted.__dataclass_fields__}
    return submit_command(SubmitOptions(**options), Wanted(**wanted), settings)
