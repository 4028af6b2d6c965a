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


class ServerError(CommandError):
    """The Redis server is unreachable, full, or refuses what is asked of it."""

    exit_code = exit_codes.SERVER


class BatchUnknown(CommandError):
    """The server has no such batch: a wrong id, an expired one, or a server that lost its data."""

    exit_code = exit_codes.BATCH_UNKNOWN


class OtherInput(CommandError):
    """The batch belongs to another input, so it takes none of this one."""


class BatchCancelled(CommandError):
    """The batch was cancelled, so what was asked of it can no longer come."""

    exit_code = exit_codes.BATCH_CANCELLED


class WaitTimeout(CommandError):
    """What was waited for did not come in the time that was allowed."""

    exit_code = exit_codes.WAIT_TIMEOUT
