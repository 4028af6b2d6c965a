"""``dgq pause``: let a batch rest."""

import click

from ..guard import guarded
from .options import BATCH_JSON, batch_argument, json_option, steer


@click.command(epilog=BATCH_JSON)
@batch_argument
@json_option
@guarded
def pause(batch_name: str, as_json: bool) -> int:
    """Pause a batch: no more of its jobs are begun; those that were may finish.

    BATCH is its id, the first letters of it, or last. dgq resume goes on with it.
    """
    return steer("pause", batch_name, as_json=as_json)
