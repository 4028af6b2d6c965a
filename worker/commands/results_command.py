"""``dgq results``: write a batch's rows into a file, while it runs or after."""

from typing import TYPE_CHECKING

import click

from .options import (
    BATCH_JSON,
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
    "-o", "--output", "out", default="-", metavar="OUT", help="File of results; - is stdout."
)
@click.option(
    "--follow", is_flag=True, help="Wait for the rows to come, until the batch is finished."
)
@ordered_option
@resume_option
@overwrite_option
@timeout_option
@json_option
@quiet_option
@server_command
def results(
    settings: "Settings",
    batch_name: str,
    out: str,
    follow: bool,
    ordered: bool,
    resume: bool,
    overwrite: bool,
    timeout_s: float | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Write the results of a batch, one JSON object per line.

    BATCH is its id, the first letters of it, or last. What has finished so far is written; with
    --follow also what comes. Of a batch that is not finished without --follow, the exit code is 0;
    else it is 3 if some rows are not ok, and 5 if the batch was cancelled.
    """
    from .resulting import ResultsOptions, results_command

    return results_command(
        ResultsOptions(
            batch_name, out, follow, ordered, resume, overwrite, timeout_s, as_json, quiet
        ),
        settings,
    )
