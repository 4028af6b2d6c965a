"""The command line: parse and delegate. Everything heavy is imported inside the command bodies."""

import os
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from . import exit_codes
from .guard import guarded, run_guarded, say

EXIT_CODES = """\b
Exit codes:
  0    everything was done, and every row is ok
  1    cannot run: a file, the disk, the model, a missing package
  2    usage: the command line makes no sense; nothing was started
  3    everything was done, but some rows are invalid_output or error
  130  interrupted; what was finished until then is written"""


def main() -> None:
    """The entry point: every way out is an exit code and at most one line on stderr."""
    if sys.stderr is None:  # closed by the caller; a file of results must not get its number
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # of a pattern in a job, say: nothing that a user can mend
    sys.exit(run_guarded(_run_cli))


def _run_cli() -> int:
    try:
        return int(cli.main(standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return exit_codes.USAGE
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "dgq"
        say(f"{error.format_message()} (see {where} --help)")
        return exit_codes.USAGE
    except click.ClickException as error:
        say(error.format_message())
        return exit_codes.CANNOT_RUN
    except click.Abort:
        return exit_codes.INTERRUPTED


@click.group(epilog=EXIT_CODES, context_settings={"max_content_width": 100})
@click.version_option(version("dgq"), prog_name="dgq")
def cli() -> None:
    """Fill templates, reformat code and rewrite texts in bulk, every output checked."""


@cli.command(epilog=EXIT_CODES)
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
@click.option("-q", "--quiet", is_flag=True, help="No progress and no summary on stderr.")
@guarded
def run(**options: Any) -> int:
    """Run a file of jobs in this process and write one result per line.

    JOBS is a file with one JSON object per line, or - for stdin. Results go to OUT as they
    finish; progress and a summary go to stderr.
    """
    from .run_command import RunOptions, run_command

    return run_command(RunOptions(**options))


if __name__ == "__main__":
    main()
