"""``dgq cancel``: stop a batch."""

from typing import TYPE_CHECKING

import click

from .. import exit_codes
from ..guard import say
from .options import (
    BATCH_JSON,
    batch_argument,
    batch_fields,
    connected,
    find,
    json_option,
    print_json,
    server_command,
)

if TYPE_CHECKING:
    from ..settings import Settings


@click.command(epilog=BATCH_JSON)
@batch_argument
@json_option
@server_command
def cancel(settings: "Settings", batch_name: str, as_json: bool) -> int:
    """Cancel a batch: jobs that have no row yet get one with the status cancelled.

    BATCH is its id, the first letters of it, or last. Rows that are there stay, and dgq results
    writes them. To cancel a batch that is finished changes nothing.
    """
    with connected(settings) as client:
        batch = find(client, batch_name)
        before = batch.status()
        info = before if before.finished else batch.cancel()
    if as_json:
        print_json(batch_fields(info))
    if before.finished:
        say(f"{info.id} is finished already; nothing was changed")
    else:
        num_cancelled = info.num_by_status["cancelled"]
        say(
            f"{info.id} is cancelled: {info.num_jobs - num_cancelled} of {info.num_jobs} jobs "
            f"have their results, {num_cancelled} were cancelled"
        )
    return exit_codes.OK
