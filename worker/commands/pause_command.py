"""``dgq pause``: let a batch rest."""

from typing import TYPE_CHECKING

import click

from .options import BATCH_JSON, batch_argument, json_option, server_command, steer

if TYPE_CHECKING:
    from ..settings import Settings


@click.command(epilog=BATCH_JSON)
@batch_argument
@json_option
@server_command
def pause(settings: "Settings", batch_name: str, as_json: bool) -> int:
    """Pause a batch: no more of its jobs are begun; those that were may finish.

    BATCH is its id, the first letters of it, or last. dgq resume goes on with it.
    """
    return steer("pause", batch_name, settings, as_json=as_json)
