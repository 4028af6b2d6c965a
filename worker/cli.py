"""The command line: parse and delegate. Everything heavy is imported inside the command bodies."""

import os
import sys
import warnings
from importlib import import_module
from importlib.metadata import version

import click

from . import exit_codes
from .guard import one_line, run_guarded, say

EXIT_CODES = """\b
Exit codes:
  0    everything was done, and every row is ok
  1    cannot run: a file, the disk, the model, a missing package
  2    usage: the command line makes no sense; nothing was started
  3    everything was done, but some rows are invalid_output or error
  4    the server knows no such batch, or has lost it
  5    the batch was cancelled
  6    timed out waiting; the batch goes on
  7    the server is unreachable, full, or refuses
  8    dgq verify found differences
  70   a worker stood still and was ended by its watchdog; start it again
  71   a worker's device or engine is broken
  130  interrupted; what was finished until then is written, and a batch goes on"""

COMMANDS = (
    "run",
    "submit",
    "watch",
    "results",
    "status",
    "list",
    "workers",
    "cancel",
    "pause",
    "resume",
    "retry",
    "verify",
    "worker",
    "up",
    "quantize",
    "bench",
    "schedule",
    "scheduler",
    "doctor",
    "chaos",
    "config",
    "completion",
)
"""In the order in which --help lists them; each is the object NAME in commands/NAME_command.py."""


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
        say(f"{one_line(error.format_message())} (see {where} --help)")
        return exit_codes.USAGE
    except click.ClickException as error:
        say(error.format_message())
        return exit_codes.CANNOT_RUN
    except click.Abort:
        return exit_codes.INTERRUPTED


class LazyGroup(click.Group):
    """Imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in their order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f".commands.{cmd_name}_command", __package__)
        command: click.Command = getattr(module, cmd_name)
        return command


@click.group(cls=LazyGroup, epilog=EXIT_CODES, context_settings={"max_content_width": 100})
@click.version_option(version("dgq"), prog_name="dgq")
def cli() -> None:
    """Fill templates, reformat code and rewrite texts in bulk, every output checked."""


if __name__ == "__main__":
    main()
