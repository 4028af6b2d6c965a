"""``dgq worker``: one engine on one device, serving the queue until told to end."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import (
    device_option,
    dtype_option,
    kernels_option,
    quantize_option,
    server_command,
    vram_option,
)

if TYPE_CHECKING:
    from ..settings import Settings


@click.command()
@click.option(
    "--model",
    "model_path",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Checkpoint folder in the Hugging Face layout. [default: the shipped dgq-tiny]",
)
@device_option
@dtype_option
@kernels_option
@quantize_option
@vram_option
@click.option(
    "--serve",
    metavar="LABELS",
    help="Serve only batches with these labels, separated by commas.  "
    "[default: default and the model folder's name]",
)
@click.option(
    "--shards",
    "shards_per_worker",
    type=click.IntRange(min=1),
    metavar="N",
    help="Shards in hand at once.",
)
@click.option(
    "--metrics-port", type=int, metavar="PORT", help="Serve Prometheus metrics and /healthz here."
)
@click.option("--name", default="", metavar="NAME", help="Begins the worker's id.  [default: host]")
@click.option("--stub", is_flag=True, hidden=True, help="No model: digests instead of answers.")
@click.option("--stub-seconds", type=float, default=0.0, hidden=True)
@click.option("--until-stdin-ends", is_flag=True, hidden=True, help="Drain when a parent is gone.")
@click.option("-v", "--verbose", is_flag=True, help="Say more on stderr.")
@server_command
def worker(
    settings: "Settings",
    device: str,
    preset: str,
    max_memory_bytes: int | None,
    name: str,
    stub: bool,
    stub_seconds: float,
    until_stdin_ends: bool,
    verbose: bool,
) -> int:
    """Run a worker: one model on one device, taking shards from the queue.

    SIGTERM or Ctrl-C drains: what the model has begun is finished within drain_timeout_s, the rest is
    given back to the queue; a second one gives everything back at once.

    \b
    Exit codes:
      0    ended by a signal
      1    cannot run: the model, the device, a port
      7    the server cannot be reached
      70   ended by its watchdog: it stood still; start it again
      71   the device or the engine is broken; start it again, elsewhere if it recurs
    """
    from ..embedded import attached
    from ..errors import UsageFault
    from ..fleet.draining import end_on_signals, end_with_stdin
    from ..fleet.logs import log_to_stderr
    from ..fleet.process import WorkerProcess
    from ..fleet.runner import EngineRunner, Runner, StubRunner
    from ..host import EngineOptions, load_engine

    if not re.fullmatch(r"[A-Za-z0-9._-]{0,64}", name):
        raise UsageFault("--name takes up to 64 letters, digits, or any of . _ -")
    end_on_signals()
    if until_stdin_ends:
        end_with_stdin()
    log_to_stderr(verbose=verbose)
    with attached(settings) as attached_settings:
        runner: Runner
        if stub:
            runner = StubRunner(stub_seconds)
        else:
            options = EngineOptions(
                device=device,
                dtype=settings.dtype,
                kernels=settings.kernels,
                preset=preset,
                max_memory_bytes=max_memory_bytes,
            )
            runner = EngineRunner(load_engine(settings.model_path, options=options))
        try:
            return WorkerProcess(attached_settings, runner, name).run()
        finally:
            runner.close()
