"""What the exit status of a ``dgq`` command means. These numbers are stable."""

OK = 0
"""Everything was done, and every row is ok."""

CANNOT_RUN = 1
"""Something outside the command stops it: a file, the disk, the model, a missing package."""

USAGE = 2
"""The command line asks for something that makes no sense; nothing was started."""

FAILED_ROWS = 3
"""Everything was done, but some rows ended as invalid_output or error."""

INTERRUPTED = 130
"""Ctrl-C; what was finished until then is written (128 + SIGINT, as shells report it)."""
