"""The errors of the command line: each carries its one-line message and its exit code."""

from dgq.engine.errors import DgqError

from . import exit_codes


class CommandError(DgqError):
    """The command cannot go on; the text says what is wrong and what to do."""

    exit_code = exit_codes.CANNOT_RUN


class UsageFault(CommandError):
    """The options or their combination make no sense."""

    exit_code = exit_codes.USAGE


class OutputError(CommandError):
    """The results cannot be written where they should go."""


class OutputClosed(CommandError):
    """The reader of standard output went away; there is nobody left to tell."""
