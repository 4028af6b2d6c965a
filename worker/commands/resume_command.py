"""``dgq resume``: go on with a paused batch."""

import click

from ..guard import guarded
from .options import BATCH_JSON, batch_argument, json_option, steer


@click.command(epilog=BATCH_JSON)
@batch_argument
@json_option
@guarded
def resume(batch_name: str, as_json: bool) -> int:
    """Go on with a batch that was paused.

    BATCH is its id, the first letters of it, or last. (A submission or a file of results that was
    broken off is continued with dgq submit --resume or dgq results --resume.)
    """
    return steer("resume", batch_name, as_json=as_json)
