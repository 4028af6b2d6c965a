"""What the exit status of a ``dgq`` command means. These numbers are stable."""

OK = 0
"""Everything was done, and every row is ok."""

CANNOT_RUN = 1
"""Something outside the command stops it: a file, the disk, the model, a missing package."""

USAGE = 2
"""The command line asks for something that makes no sense; nothing was started."""

FAILED_ROWS = 3
"""Everything was done, but some rows ended as invalid_output or error."""

BATCH_UNKNOWN = 4
"""The batch is unknown, or the server lost it."""

BATCH_CANCELLED = 5
"""The batch was cancelled."""

WAIT_TIMEOUT = 6
"""What was waited for did not come within ``--timeout``; the batch goes on."""

SERVER = 7
"""The Redis server is unreachable, full, or refuses (a wrong password, missing rights)."""

DIFFERENCES = 8
"""``dgq verify`` found that the output is not what the input asks for."""

WEDGED = 70
"""A worker stood still and was ended by its watchdog; whatever supervises it starts it again."""

BROKEN_DEVICE = 71
"""A worker's device or engine is broken: another machine must do the work."""

INTERRUPTED = 130
"""Ctrl-C: what was finished until then is written, or the command has detached from its batch
(128 + SIGINT, as shells report it)."""
