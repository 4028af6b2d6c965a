"""The server that dgq brings along: started by the first who needs it, stopped by the last.

Its data stays in the folder ``server`` of the data folder, so a batch outlives it. Beside what
private_process.py keeps there:

    start.lock   locked (flock) for a moment by whoever starts or stops the server
    users.lock   locked, shared, by everyone who uses it: the last to let go stops it. The kernel
                 lets go for the killed, so nobody waits for them in vain

After kill -9 of all its users the server runs on; the next user takes it over, and ends it.
"""

import contextlib
import fcntl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import CommandError, ServerError
from .private_process import answers, ensure_up, read_url, stop, take
from .settings import Settings


@dataclass(frozen=True, slots=True)
class Server:
    """A private server that is up. url: for Settings.redis_url. folder: its data and its log."""

    url: str
    folder: Path

    def revive(self) -> None:
        """Start it again if it died; the URL stays. Raises CommandError where that fails."""
        with _locked(self.folder / "start.lock"):
            ensure_up(self.folder)


@contextlib.contextmanager
def private_server(settings: Settings, *, keep: bool = False) -> Iterator[Server]:
    """Use the private server, starting it if nobody has; at the end stop it if nobody else uses it.

    keep: leave it running at the end; ``stop_private_server`` or the next last user ends it.
    Raises CommandError where it cannot be had.
    """
    folder = _make_folder(settings)
    with (folder / "users.lock").open("a") as use:
        with _locked(folder / "start.lock"):
            fcntl.flock(use, fcntl.LOCK_SH)
            url = ensure_up(folder)
        try:
            yield Server(url, folder)
        finally:
            with _locked(folder / "start.lock"):
                try:
                    if not keep and take(use):
                        stop(folder)
                finally:
                    fcntl.flock(use, fcntl.LOCK_UN)  # for forked children, who share it, as well


@contextlib.contextmanager
def using_server(settings: Settings, *, keep: bool = False) -> Iterator[Settings]:
    """The settings as they are if they name a server; else with a private server's URL in them.

    The private server is used as ``private_server`` says, until the end of the ``with`` block.
    """
    if settings.redis_url is not None:
        yield settings
        return
    with private_server(settings, keep=keep) as server:
        yield settings.model_copy(update={"redis_url": server.url})


def with_server(settings: Settings) -> Settings:
    """The settings with the URL of the private server that is up, where they name no server.

    It starts none, and stays up for its users only. Raises ServerError where none is up.
    """
    url = settings.redis_url or running_private_server(settings)
    if url is None:
        raise ServerError(
            "no server is configured and the private one does not run: set DGQ_REDIS_URL or "
            "give --redis-url, or start one with 'dgq up'"
        )
    return settings.model_copy(update={"redis_url": url})


def running_private_server(settings: Settings) -> str | None:
    """The URL of the private server if it is up and answers. Starts nothing."""
    url = read_url(private_folder(settings))
    return url if url is not None and answers(url) else None


def stop_private_server(settings: Settings) -> bool:
    """Stop it unless somebody uses it. Returns whether it is down now."""
    folder = private_folder(settings)
    if not folder.is_dir():
        return True
    with (folder / "users.lock").open("a") as use, _locked(folder / "start.lock"):
        if not take(use):
            return False
        try:
            stop(folder)
        finally:
            fcntl.flock(use, fcntl.LOCK_UN)
        return True


def private_folder(settings: Settings) -> Path:
    """Where the private server's data and log lie, whether it was ever started or not."""
    return settings.data_folder.expanduser().resolve() / "server"


def _make_folder(settings: Settings) -> Path:
    folder = private_folder(settings)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        with (folder / "users.lock").open("a"), (folder / "start.lock").open("a"):
            pass
    except OSError as error:
        raise CommandError(
            f"the private server's data cannot be kept in {folder}: {error.strerror}; "
            "set DGQ_DATA_FOLDER to a folder of yours"
        ) from error
    return folder


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; waits for its holder, who has it for as long as a start may take."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
