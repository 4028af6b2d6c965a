"""``dgq status``: how a batch stands."""

from typing import TYPE_CHECKING

import click

from .. import exit_codes
from .options import (
    BATCH_JSON,
    batch_argument,
    batch_fields,
    connected,
    failures,
    find,
    json_option,
    local_time,
    print_json,
    printable,
    server_command,
    state_in_words,
)

if TYPE_CHECKING:
    from ..settings import Settings


@click.command(epilog=BATCH_JSON)
@batch_argument
@json_option
@server_command
def status(settings: "Settings", batch_name: str, as_json: bool) -> int:
    """Print how a batch stands.

    BATCH is its id, the first letters of it, or last. The exit code is 0 whatever the state, and 4
    where the server knows no such batch.
    """
    from ..client.lookup import labels_of

    with connected(settings) as client:
        info = find(client, batch_name).status()
        if as_json:
            print_json(batch_fields(info))
            return exit_codes.OK
        serving = [one for one in client.ledger.workers() if info.label in labels_of(one)]
    of_all = "" if info.sealed else " (more are being submitted)"
    lines = {
        "batch": info.id,
        "state": state_in_words(info),
        "jobs": f"{info.num_done} of {info.num_jobs} have their rows{of_all}",
        "not ok": failures(info.num_by_status),
        "model name": f"{info.label}, served by {len(serving)} worker{'s' * (len(serving) != 1)}",
        "priority": str(info.priority),
        "source": info.source,
        "job key": info.job_key or "",
        "retry of": info.retry_of or "",
        "created": local_time(info.created_s),
        "finished": local_time(info.finished_s) if info.finished_s else "",
        "tokens": str(info.num_tokens),
    }
    for name, text in lines.items():
        if text:
            click.echo(f"{name:12}{printable(text)}")
    return exit_codes.OK
