"""Connecting to the Redis server, and saying in one line why that or a later call fails.

All calls of the ledger are scripts that may be repeated, so after a lost connection a call is made
again, a few times; whoever can wait longer (a worker) repeats it himself.
"""

import re
import ssl
import time
from collections.abc import Iterator
from typing import Any

from redis import Redis
from redis.backoff import EqualJitterBackoff
from redis.exceptions import (
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from ..errors import ServerError, UsageFault
from ..private_process import read_url
from ..private_server import private_folder
from ..settings import Settings
from .address import Address, broker_url, masked, origin, server_address
from .refusals import explain_reply

__all__ = ["SOCKET_TIMEOUT_S", "broker_url", "connect", "masked", "server_error"]

SOCKET_TIMEOUT_S = 10.0
"""How long a call may take. A call that blocks at the server must block for less."""

RETRIES = 3
"""With their pauses, one to two seconds: a server may restart meanwhile."""

HEALTH_CHECK_INTERVAL_S = 30
OLDEST_VERSION = (6, 2)
"""The first Redis with XAUTOCLAIM and ZRANGE … BYSCORE. Every Valkey is newer."""


def connect(settings: Settings, *, client_name: str = "dgq") -> Redis:
    """A client of the configured server, or of the private one if that is up; it has answered.

    client_name: what CLIENT LIST shows. Raises UsageFault for a URL that makes no sense, and
    ServerError: unreachable, wrong password, TLS on one side only, no Redis, too old, a cluster.
    """
    address = server_address(settings)
    # At first nothing is tried twice or waited for long: a wrong URL shall be reported at once.
    with _client(address, settings, client_name, settings.connect_timeout_s, 0) as client:
        try:
            _check(client, settings)
        except RedisError as error:
            raise server_error(error, settings, connecting=True) from error
    return _client(address, settings, client_name, SOCKET_TIMEOUT_S, RETRIES)


def server_error(error: RedisError, settings: Settings, *, connecting: bool = False) -> ServerError:
    """One line that says what the server refused or why it cannot be asked, and what to do.

    connecting: nothing was ever heard from this server, so the URL itself may be wrong.
    """
    place = masked(settings.redis_url or "")
    where = f"the Redis server at {place}" + (origin(settings, "redis_url") if connecting else "")
    if settings.redis_url in (None, read_url(private_folder(settings))):
        where = "the private server"
    return ServerError(_explain(error, where, connecting))


def _client(
    address: Address, settings: Settings, client_name: str, timeout_s: float, retries: int
) -> Redis:
    """A client that connects when it is first used. Raises UsageFault for options it cannot take.

    RESP2, since 3 would cost each connection two more requests and asks for rights of its own.
    """
    options: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": settings.connect_timeout_s,
        "health_check_interval": HEALTH_CHECK_INTERVAL_S,
        "client_name": client_name,
        "protocol": 2,
        "retry": Retry(EqualJitterBackoff(cap=1.0, base=0.2), retries),
    }
    if address.scheme != "unix":
        options["socket_keepalive"] = True
    try:
        client: Redis = Redis.from_url(address.for_redis, **options)
        client.connection_pool.connection_class(**client.connection_pool.connection_kwargs)
    except (TypeError, ValueError, RedisError) as error:
        shown = masked(settings.redis_url or "")
        raise UsageFault(f"an option in the server's URL {shown} makes no sense: {error}") from None
    return client


def _check(client: Redis, settings: Settings) -> None:
    """Wait while the server loads its data, then look at what it is."""
    deadline = time.monotonic() + settings.connect_timeout_s
    while True:
        try:
            client.ping()
            break
        except BusyLoadingError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    try:
        info: dict[str, Any] = client.info("server")
    except NoPermissionError:
        return  # an ACL user may live without INFO; what is wrong will show
    where = masked(settings.redis_url or "")
    mode = info.get("server_mode") or info.get("redis_mode")
    if mode == "cluster":
        raise ServerError(
            f"the Redis server at {where} is part of a cluster, which dgq does not use: "
            "set DGQ_REDIS_URL to a server of its own"
        )
    if mode == "sentinel":
        raise ServerError(
            f"{where} is a Sentinel, which keeps no data: set DGQ_REDIS_URL to what it watches"
        )
    version = str(info.get("redis_version", ""))
    if not new_enough(version):
        raise ServerError(
            f"the Redis server at {where} is version {version}, and dgq needs 6.2 or newer (or "
            "any Valkey): update it"
        )


def new_enough(version: str) -> bool:
    """Whether a server of this version will do; one that hides its version gets the benefit."""
    numbers = version.split(".")[:2]
    if len(numbers) < 2 or not all(number.isdigit() for number in numbers):
        return True
    return tuple(map(int, numbers)) >= OLDEST_VERSION


def _explain(error: RedisError, where: str, connecting: bool) -> str:
    causes = list(_causes(error))
    if isinstance(error, InvalidResponse):
        return f"what listens at {where.removeprefix('the Redis server at ')} is no Redis server"
    fault = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
    if fault is not None:
        return f"no TLS connection to {where}: {_explain_tls(fault)}"
    reply = explain_reply(error)
    if reply is not None:
        return f"{where} {reply}"
    if isinstance(error, RedisTimeoutError):
        tls = connecting and re.search("(rediss|valkeys)://", where)
        tls_too = ", and does it speak TLS (else use redis://)" if tls else ""
        return f"{where} does not answer in time: is it up and within reach{tls_too}?"
    if isinstance(error, RedisConnectionError):
        cause = next((cause for cause in causes if isinstance(cause, OSError)), None)
        hung_up = cause is None or isinstance(cause, ConnectionResetError | BrokenPipeError)
        if hung_up and connecting:
            return f"{where} hangs up at once: it may want TLS (rediss://), or be no Redis server"
        why = str(cause.strerror or cause) if cause is not None else str(error).rstrip(".")
        hint = "start it, or set DGQ_REDIS_URL" if connecting else "is it still running?"
        return f"cannot reach {where}: {why}; {hint}"
    return f"{where} refuses: {error}"


def _explain_tls(error: ssl.SSLError) -> str:
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        why = getattr(error, "verify_message", "") or "certificate verify failed"
        return f"its certificate is not trusted ({why}); name its CA with DGQ_TLS_CA_FILE"
    if isinstance(error, ssl.SSLEOFError) or "CERTIFICATE_REQUIRED" in text:
        return (
            "it hangs up; if it wants a certificate from us, add ?ssl_certfile=FILE&"
            "ssl_keyfile=FILE to its URL, or set tls-auth-clients to no on the server"
        )
    why = error.reason or text
    return f"it seems to speak none ({why}); use redis:// in place of rediss://"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
