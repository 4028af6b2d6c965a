"""The HTTP server of a process that others watch: ``/metrics`` for Prometheus, ``/healthz`` for
whoever restarts it (200 while the process is of use, 503 when it is not)."""

import errno
import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from ..errors import CommandError

logger = logging.getLogger("dgq.worker")


@contextmanager
def serving(collector: Collector, alive: Callable[[], bool], port: int) -> Iterator[int]:
    """Answer on a port, which is what the context gives, in a thread of its own.

    port: 0 takes a free one. alive: asked at each look at ``/healthz``. Raises CommandError where
    the port cannot be had.
    """
    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)
    server = _bind(port, registry, alive)
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="dgq-metrics", daemon=True
    )
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    """Asks no name server, prints nothing, and ends without waiting for its clients."""

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        family: socket.AddressFamily,
        place: tuple[str, int],
        registry: CollectorRegistry,
        alive: Callable[[], bool],
    ) -> None:
        self.address_family = family
        self.registry = registry
        self.alive = alive
        super().__init__(place, _Handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        TCPServer.server_bind(self)

    def handle_error(self, request: object, client_address: object) -> None:
        logger.debug("a look at the metrics failed: %r", sys.exc_info()[1])


def _bind(port: int, registry: CollectorRegistry, alive: Callable[[], bool]) -> _Server:
    """Listen on all addresses: IPv6 and IPv4, or the latter alone where the machine has no other."""
    try:
        try:
            return _Server(socket.AF_INET6, ("::", port), registry, alive)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise
            return _Server(socket.AF_INET, ("0.0.0.0", port), registry, alive)
    except OSError as error:
        raise CommandError(
            f"metrics cannot be served on port {port}: {error.strerror}; choose another with "
            "--metrics-port or DGQ_METRICS_PORT"
        ) from None


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 10.0

    def do_GET(self) -> None:
        match self.path.partition("?")[0]:
            case "/metrics":
                encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                self._answer(200, encode(self.server.registry), content_type)
            case "/healthz" if self.server.alive():
                self._answer(200, b"alive\n")
            case "/healthz":
                self._answer(503, b"not alive\n")
            case _:
                self._answer(404, b"here are /metrics and /healthz\n")

    def _answer(self, status: int, body: bytes, content_type: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
