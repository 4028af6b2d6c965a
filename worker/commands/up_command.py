"""``dgq up``: a private server and workers in the foreground."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import dtype_option, kernels_option, server_command

if TYPE_CHECKING:
    from ..settings import Settings


@click.command()
@click.option(
    "--workers", "num_workers", type=click.IntRange(1, 64), default=1, metavar="N",
    help="Worker processes, each with a model of its own.  [default: 1]",
)  # fmt: skip
@click.option(
    "--model",
    "model_path",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Checkpoint folder in the Hugging Face layout. [default: the shipped dgq-tiny]",
)
@click.option(
    "--devices",
    default="cpu",
    metavar="DEVICES",
    help="Where the models run, dealt out in turn: cuda:0,cuda:1.  [default: cpu]",
)
@dtype_option
@kernels_option
@server_command
def up(settings: "Settings", num_workers: int, devices: str) -> int:
    """Keep a private server and workers running until Ctrl-C.

    Other dgq commands of this user find the server by themselves. Where a server is configured,
    only the workers are started. A worker that dies is started anew.
    """
    import signal
    import threading

    from ..client.hints import command
    from ..embedded import embedded
    from ..errors import UsageFault
    from ..guard import say
    from ..ledger.connection import masked

    places = [device.strip() for device in devices.split(",") if device.strip()]
    if not places:
        raise UsageFault("--devices names no device; for example: --devices cuda:0,cuda:1")
    for number in (signal.SIGTERM, signal.SIGINT):  # the latter is ignored in a script's background
        signal.signal(number, signal.default_int_handler)
    with embedded(settings, num_workers, devices=places, quiet=False) as serving:
        workers = "1 worker" if num_workers == 1 else f"{num_workers} workers"
        say(f"{workers} on {masked(serving.redis_url or '')}; Ctrl-C ends all of it")
        submit = command(settings, "submit", "jobs.jsonl", "-o", "results.jsonl")
        say(f"in another terminal: {submit}")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            say("ending; what the workers have begun is finished first")
    return 0
