"""``dgq list``: the batches that the server knows."""

from typing import TYPE_CHECKING

import click

from .. import exit_codes
from ..guard import say
from .options import (
    BATCH_JSON,
    batch_fields,
    connected,
    failures,
    json_option,
    local_time,
    print_json,
    print_table,
    printable,
    server_command,
    state_in_words,
)

if TYPE_CHECKING:
    from ..settings import Settings

HEADS = ("BATCH", "STATE", "DONE", "NOT OK", "MODEL NAME", "CREATED", "SOURCE")


@click.command("list", epilog=BATCH_JSON.replace("one object:", "a list of objects:"))
@json_option
@server_command
def list_batches(settings: "Settings", as_json: bool) -> int:
    """List the batches that the server knows, the newest first.

    A finished batch is known for results_ttl_s after its end, a week unless set otherwise.
    """
    with connected(settings) as client:
        batches = [*client.batches()]
    if as_json:
        print_json([batch_fields(info) for info in batches])
        return exit_codes.OK
    if not batches:
        say("the server has no batch")
        return exit_codes.OK
    rows = [
        (
            info.id,
            state_in_words(info),
            f"{info.num_done}/{info.num_jobs}",
            failures(info.num_by_status),
            info.label,
            local_time(info.created_s),
            printable(info.source, 60),
        )
        for info in batches
    ]
    print_table(HEADS, rows)
    return exit_codes.OK


list = list_batches
"""The name by which the command line finds it."""
