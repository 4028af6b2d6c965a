"""``dgq run``: a file of jobs in this process."""

from pathlib import Path
from typing import Any

import click

from ..guard import guarded
from .options import device_option, dtype_option, kernels_option, quantize_option, vram_option


@click.command()
@click.argument("jobs", metavar="JOBS")
@click.option(
    "-o", "--output", "out", default="-", metavar="OUT", help="File of results; - is stdout."
)
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
@click.option("--ordered", is_flag=True, help="Results in input order, not as they finish.")
@click.option(
    "--resume",
    is_flag=True,
    help="Keep the rows that OUT has, whatever their status, and append what it lacks.",
)
@click.option("--overwrite", is_flag=True, help="Replace the rows that OUT has.")
@click.option("--dry-run", is_flag=True, help="Check the jobs and estimate tokens; run nothing.")
@click.option(
    "--seed",
    type=int,
    metavar="N",
    help="For jobs without a seed of their own.  [default: 0]",
)
@click.option(
    "--max-attempts",
    type=click.IntRange(1, 100),
    metavar="N",
    help="How often a failed check is tried again, for jobs that do not say it themselves.  "
    "[default: as the model says, else 3]",
)
@click.option(
    "--trace",
    "trace_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write what the engine does, step by step, for chrome://tracing or ui.perfetto.dev.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress and no summary on stderr.")
@guarded
def run(**options: Any) -> int:
    """Run a file of jobs in this process and write one result per line.

    JOBS is a file with one JSON object per line, or - for stdin. Results go to OUT as they
    finish; progress and a summary go to stderr. No server and no worker is needed.
    """
    from ..run_here import RunOptions, run_command

    return run_command(RunOptions(**options))
