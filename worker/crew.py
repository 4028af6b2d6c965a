"""Several ``dgq worker`` processes, started, started anew when they die, and stopped, together."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from . import exit_codes
from .errors import CommandError
from .guard import say
from .settings import Settings, environment_with

HOPELESS = frozenset({exit_codes.CANNOT_RUN, exit_codes.USAGE})
"""What a worker ends with that it would end with again."""

MOST_DEATHS = 5
QUICK_S = 60.0
PAUSE_S = 0.5
STOP_GRACE_S = 15.0
"""Beyond what a worker takes to drain, until it is killed."""


class Crew:
    """Workers in processes of a group of their own, where no Ctrl-C reaches them.

    devices: dealt out in turn. options: of ``dgq worker``. on_failure: called, in another thread,
    when ``failure`` says why a worker is not started again.
    """

    def __init__(
        self,
        settings: Settings,
        num_workers: int,
        devices: Sequence[str],
        options: Sequence[str],
        *,
        quiet: bool,
        on_failure: Callable[[], None],
    ) -> None:
        self.failure: str | None = None
        self.stopping = threading.Event()
        self._drain_s = settings.drain_timeout_s
        self._on_failure = on_failure
        self._environment = environment_with(settings)
        folder = _log_folder(settings) if quiet else None
        self.members = [
            _Member(self, number, ["--device", devices[number % len(devices)], *options], folder)
            for number in range(num_workers)
        ]

    def start(self) -> None:
        """Start all workers."""
        for member in self.members:
            member.thread.start()

    def stop(self, *, at_once: bool = False) -> None:
        """Let them drain; at_once, or after a Ctrl-C meanwhile: have them give back what they hold."""
        self.stopping.set()
        while True:
            try:
                self._stop(at_once)
                break
            except KeyboardInterrupt:
                at_once = True
        for member in self.members:
            member.clean_up(keep_log=self.failure is not None)

    def _stop(self, at_once: bool) -> None:
        for member in self.members:
            member.signal(signal.SIGTERM)
            if at_once:
                member.signal(signal.SIGINT)  # not SIGTERM again: the kernel makes one of the two
        deadline_s = time.monotonic() + STOP_GRACE_S + (0.0 if at_once else self._drain_s)
        for member in self.members:
            member.join(deadline_s)

    def fail(self, why: str) -> None:
        """A worker is not started again."""
        if self.failure is None:
            self.failure = why
            self._on_failure()

    def spawn(self, options: Sequence[str], log: int | None) -> "subprocess.Popen[bytes]":
        """A worker that drains when this process is gone."""
        return subprocess.Popen(
            [sys.executable, "-m", "dgq.worker", "worker", "--until-stdin-ends", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=self._environment,
            process_group=0,
        )


class _Member:
    """One place in the crew, and the process that has it now."""

    def __init__(
        self, crew: Crew, number: int, options: Sequence[str], folder: Path | None
    ) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.thread = threading.Thread(target=self._run, name=f"dgq-crew-{number}", daemon=True)
        self._crew = crew
        self._options = options
        self._log = folder / f"worker-{os.getpid()}-{number}.log" if folder else None
        self._lock = threading.Lock()

    def signal(self, number: int) -> None:
        """To the process, if there is one."""
        with self._lock:
            if self.process is not None:
                self.process.send_signal(number)

    def join(self, deadline_s: float) -> None:
        """Wait until it has ended, kill it if it has not by then."""
        if self.thread.ident is None:
            return
        self.thread.join(max(0.0, deadline_s - time.monotonic()))
        if self.thread.is_alive():
            self.signal(signal.SIGKILL)
            self.thread.join()

    def clean_up(self, *, keep_log: bool) -> None:
        """Remove what it has said."""
        if self._log is not None and not keep_log:
            self._log.unlink(missing_ok=True)

    def _run(self) -> None:
        num_deaths = 0
        while (process := self._start()) is not None:
            began_s = time.monotonic()
            code = process.wait()
            if process.stdin is not None:
                process.stdin.close()
            if self._crew.stopping.is_set():
                return
            num_deaths = num_deaths + 1 if time.monotonic() - began_s < QUICK_S else 1
            if code in HOPELESS or num_deaths >= MOST_DEATHS:
                self._crew.fail(f"a worker {_how(code)}: {self._last_words()}")
                return
            say(f"a worker {_how(code)}; starting it again")
            self._crew.stopping.wait(PAUSE_S * (num_deaths - 1))

    def _start(self) -> "subprocess.Popen[bytes] | None":
        with self._lock, contextlib.ExitStack() as stack:
            if self._crew.stopping.is_set():
                return None
            log = stack.enter_context(self._log.open("ab")).fileno() if self._log else None
            self.process = self._crew.spawn(self._options, log)
            return self.process

    def _last_words(self) -> str:
        if self._log is None:
            return "see above"
        lines = self._log.read_text(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "it has said nothing")
        return f"{last.removeprefix('dgq: ')[-300:]} (see {self._log})"


def _how(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _log_folder(settings: Settings) -> Path:
    folder = settings.data_folder.expanduser() / "logs"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(
            f"what workers say cannot be kept in {folder}: {error.strerror}; "
            "set DGQ_DATA_FOLDER to a folder of yours"
        ) from error
    return folder
