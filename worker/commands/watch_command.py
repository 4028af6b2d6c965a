"""``dgq watch``: wait for a batch and show how it goes."""

from typing import TYPE_CHECKING

import click

from .. import exit_codes
from ..guard import say
from .options import (
    BATCH_JSON,
    batch_argument,
    connected,
    find,
    json_option,
    quiet_option,
    server_command,
    timeout_option,
)

if TYPE_CHECKING:
    from ..settings import Settings


@click.command(epilog=BATCH_JSON)
@batch_argument
@timeout_option
@json_option
@quiet_option
@server_command
def watch(
    settings: "Settings", batch_name: str, timeout_s: float | None, as_json: bool, quiet: bool
) -> int:
    """Watch a batch until it is finished.

    BATCH is its id, the first letters of it, or last. Ctrl-C stops the watching, not the batch.
    Ends with 0 if all rows are ok, 3 if some are not, 5 if the batch was cancelled, 4 if the
    server has lost it, 6 after --timeout.
    """
    from ..client.hints import command
    from ..client.watching import BatchProgress, ServerPatience, Waiter
    from .showing import report, show

    with connected(settings) as client:
        batch = find(client, batch_name)
        growing = BatchProgress()
        patience = ServerPatience(say)
        waiter = Waiter(batch, patience, growing, say=say, timeout_s=timeout_s)
        try:
            with show(growing, growing.total, client.settings, quiet=quiet):
                info = waiter.wait()
        except KeyboardInterrupt:
            again = command(settings, "watch", batch.id)
            say(f"detached from {batch.id}, which goes on; to watch it: {again}")
            return exit_codes.INTERRUPTED
        return report(info, as_json=as_json, quiet=quiet)
