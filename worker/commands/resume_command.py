"""``dgq resume``: go on with a paused batch."""

from typing import TYPE_CHECKING

import click

from .options import BATCH_JSON, batch_argument, json_option, server_command, steer

if TYPE_CHECKING:
    from ..settings import Settings


@click.command(epilog=BATCH_JSON)
@batch_argument
@json_option
@server_command
def resume(settings: "Settings", batch_name: str, as_json: bool) -> int:
    """Go on with a batch that was paused.

    BATCH is its id, the first letters of it, or last. (A submission or a file of results that was
    broken off is continued with dgq submit --resume or dgq results --resume.)
    """
    return steer("resume", batch_name, settings, as_json=as_json)
