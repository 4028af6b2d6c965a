"""Workers of one's own: processes that live as long as a ``with`` block, with a server if need be.

    with embedded(settings) as settings:    # now with the server's URL
        ...

The workers hang on a pipe from this process: where it is killed they drain and end by themselves, and
the last of them stops the private server.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from .crew import Crew
from .errors import CommandError
from .guard import say
from .host import check_model_path
from .ledger.connection import connect
from .private_process import read_url
from .private_server import Server, private_folder, private_server, with_server
from .settings import Settings

REVIVE_INTERVAL_S = 1.0


@contextmanager
def embedded(
    settings: Settings,
    num_workers: int = 1,
    *,
    devices: Sequence[str] = ("cpu",),
    options: Sequence[str] = (),
    quiet: bool = True,
) -> Iterator[Settings]:
    """Run workers, and a private server where the settings name none; stop them all at the end.
    Raises ServerError where the server that they name cannot be used.

    devices: dealt out to the workers in turn. options: further ones for ``dgq worker``. quiet: what
    workers say goes to files in the data folder, else to stderr.
    Workers that die are started anew. Where that is no use CommandError is raised: in the main
    thread wherever it is, in another one at the end of the block.
    """
    check_model_path(settings.model_path)
    with ExitStack() as stack:
        if settings.redis_url is None:
            server = stack.enter_context(private_server(settings))
            settings = settings.model_copy(update={"redis_url": server.url})
            stack.enter_context(_kept_up(server))
        else:
            connect(settings).close()
        alarm = _Alarm()
        crew = Crew(settings, num_workers, devices, options, quiet=quiet, on_failure=alarm.ring)
        stack.enter_context(alarm)
        at_once = True
        try:
            crew.start()
            yield settings
            at_once = False
        finally:
            alarm.silence()
            crew.stop(at_once=at_once)
            if crew.failure is not None:
                raise CommandError(crew.failure) from None


@contextmanager
def attached(settings: Settings) -> Iterator[Settings]:
    """The settings with the URL of the server that is up, for one who serves it.

    A private server stays up for as long as the block; none is started. Raises ServerError.
    """
    settings = with_server(settings)
    if settings.redis_url != read_url(private_folder(settings)):
        yield settings
        return
    with private_server(settings):
        yield settings


@contextmanager
def _kept_up(server: Server) -> Iterator[None]:
    """Start a server anew if it dies."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(REVIVE_INTERVAL_S):
            try:
                server.revive()
            except CommandError as error:
                say(str(error))

    thread = threading.Thread(target=watch, name="dgq-reviver", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class _Alarm:
    """Interrupts the main thread as Ctrl-C would, even where Ctrl-C itself is ignored."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_main = threading.current_thread() is threading.main_thread()
        self._rung = False
        self._restore = contextlib.ExitStack()

    def __enter__(self) -> None:
        if self._in_main and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._on_signal)
            self._restore.callback(signal.signal, signal.SIGINT, signal.SIG_IGN)

    def __exit__(self, *_: object) -> None:
        self._restore.close()

    def ring(self) -> None:
        """Called in another thread."""
        with self._lock:
            if self._in_main:
                self._rung = True
                main = threading.main_thread().ident
                assert main is not None
                signal.pthread_kill(main, signal.SIGINT)

    def silence(self) -> None:
        """From now on there is nobody to be interrupted."""
        with self._lock:
            self._in_main = False

    def _on_signal(self, *_: object) -> None:
        if self._rung:
            self._rung = False
            raise KeyboardInterrupt
