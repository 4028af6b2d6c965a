"""``dgq retry``: run a batch's failed jobs again, as a batch of their own."""

from typing import TYPE_CHECKING, Any

import click

from .options import (
    BATCH_JSON,
    SEEDS,
    batch_argument,
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
@batch_argument
@click.option(
    "-o", "--output", "out", metavar="OUT", help="Wait, and collect into this file; - is stdout."
)
@click.option("--watch", is_flag=True, help="Wait until the new batch is finished.")
@ordered_option
@resume_option
@overwrite_option
@click.option(
    "--seed",
    type=SEEDS,
    metavar="N",
    help="For jobs without a seed of their own.  [default: the batch's seed plus 1]",
)
@timeout_option
@json_option
@quiet_option
@server_command
def retry(settings: "Settings", **options: Any) -> int:
    """Submit the jobs of BATCH whose rows are invalid_output or error as a new batch.

    BATCH is its id, the first letters of it, or last. The seed is another one, since the same job
    with the same seed gives the same output; a job with a seed of its own keeps it. Bad lines of
    the input are no jobs and are left out. The results are those of the new batch alone.
    """
    from .retrying import retry_command
    from .wanted import Wanted

    wanted = {name: options.pop(name) for name in Wanted.__dataclass_fields__}
    return retry_command(options["batch_name"], options["seed"], Wanted(**wanted), settings)
