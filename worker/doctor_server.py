"""The server's half of ``dgq doctor``: its version, what it keeps, its limits, who serves it."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from .finding import Finding
from .ledger.connection import masked, server_error
from .ledger.keys import Keys
from .ledger.ledger import Ledger
from .settings import Settings

NUM_PINGS = 9
SLOW_PING_S = 0.02
WRONG_CLOCK_S = 2.0
SHORT_TIMEOUT_S = 60
NEARLY_FULL_PERCENT = 75.0
GIB = 2**30


def examine_server(client: Redis, settings: Settings, *, private: bool) -> Iterator[Finding]:
    """Look at a server that answers; changes nothing but one key, for a second.

    private: it is dgq's own, which cannot be set up wrongly.
    """
    view = _View(client)
    yield _version(view, settings, private=private)
    checks: list[Callable[[], Finding]] = [
        lambda: _latency(client),
        lambda: _clock(client),
        lambda: _writing(client, settings),
        lambda: _persistence(view),
        lambda: _eviction(view),
        lambda: _memory(view, settings),
        lambda: _idle_timeout(view),
        lambda: _workers(client, settings, private=private),
    ]
    for check in checks:
        try:
            yield check()
        except RedisError as error:
            yield Finding("server", "problem", str(server_error(error, settings)))
            return


class _View:
    """INFO and CONFIG, as far as the server lets this user see them.

    info: every field, empty where INFO is denied.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self.info: Mapping[str, Any] = self._ask(client.info) or {}

    def config(self, name: str) -> str | None:
        """A directive's value; None where that is denied, as managed servers do."""
        found: Any = self._ask(lambda: self._client.config_get(name))
        return str(found[name]) if found and name in found else None

    def _ask(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except RedisError:
            return None


def _version(view: _View, settings: Settings, *, private: bool) -> Finding:
    where = ", the private one" if private else f" at {masked(settings.redis_url or '')}"
    info = view.info
    if not info:
        mend = "allow INFO to this user (ACL SETUSER … +info), to see more here"
        what = f"a Redis{where}, which does not let this user see what it is (INFO)"
        return Finding("server", "unknown", what, mend)
    is_valkey = "valkey_version" in info
    number = info.get("valkey_version" if is_valkey else "redis_version", "?")
    what = f"{'Valkey' if is_valkey else 'Redis'} {number}{where}"
    if info.get("role") == "slave":
        mend = "set DGQ_REDIS_URL to the primary"
        return Finding("server", "problem", f"{what}; it is a replica and takes no writes", mend)
    return Finding("server", "ok", what)


def _latency(client: Redis) -> Finding:
    durations_s = []
    for _ in range(NUM_PINGS):
        started_s = time.perf_counter()
        client.ping()
        durations_s.append(time.perf_counter() - started_s)
    typical_s = statistics.median(durations_s)
    what = f"a call takes {typical_s * 1000:.1f} ms"
    if typical_s > SLOW_PING_S:
        return Finding("latency", "warning", what, "run workers and clients nearer to the server")
    return Finding("latency", "ok", what)


def _clock(client: Redis) -> Finding:
    before_s = time.time()
    seconds, microseconds = client.time()
    ahead_s = (before_s + time.time()) / 2 - (seconds + microseconds / 1e6)
    what = f"this machine's clock and the server's differ by {abs(ahead_s):.1f} s"
    if abs(ahead_s) > WRONG_CLOCK_S:
        mend = "let both follow a time server; leases go by the server's clock, schedules by ours"
        return Finding("clock", "warning", what, mend)
    return Finding("clock", "ok", what)


def _writing(client: Redis, settings: Settings) -> Finding:
    """Whether a script may write, as every step of the ledger does."""
    key = Keys(settings.key_prefix).lock("doctor")
    try:
        client.eval("return redis.call('SET', KEYS[1], '1', 'PX', 1000)", 1, key)
    except RedisError as error:
        return Finding("writing", "problem", str(server_error(error, settings)))
    what = f"this user may write keys that begin with {settings.key_prefix}:"
    return Finding("writing", "ok", what)


def _persistence(view: _View) -> Finding:
    name = "persistence"
    info = view.info
    if "aof_enabled" not in info:
        return Finding(name, "unknown", "the server does not say whether it keeps data on disk")
    broken = [
        kind
        for field, kind in {"aof_last_write_status": "AOF", "rdb_last_bgsave_status": "RDB"}.items()
        if info.get(field, "ok") != "ok"
    ]
    if broken:
        what = f"the server's last writing to disk failed ({' and '.join(broken)})"
        return Finding(name, "problem", what, "look at the server's disk and log")
    if not info["aof_enabled"]:
        snapshots = view.config("save")
        mend = "CONFIG SET appendonly yes, and appendonly yes in the server's configuration"
        if snapshots == "":
            what = "nothing is kept on disk: a restart of the server loses every batch"
            return Finding(name, "problem", what, mend)
        what = "the AOF is off: a crash of the server loses what came after its last snapshot"
        return Finding(name, "warning", what, mend)
    fsync = view.config("appendfsync")
    if fsync == "no":
        what = "the AOF is on, but written to disk when the system likes (appendfsync no)"
        return Finding(name, "warning", what, "CONFIG SET appendfsync everysec")
    said = f"appendfsync {fsync}" if fsync else "how often it is synced, the server does not say"
    return Finding(name, "ok", f"the AOF is on ({said})")


def _eviction(view: _View) -> Finding:
    policy = view.info.get("maxmemory_policy")
    if policy is None:
        return Finding("eviction", "unknown", "the server does not say what it evicts")
    if policy == "noeviction":
        return Finding("eviction", "ok", "a full server refuses, and drops nothing (noeviction)")
    mend = "CONFIG SET maxmemory-policy noeviction"
    if not view.info.get("maxmemory"):
        what = f"maxmemory-policy is {policy}; with a limit set, it would drop jobs and results"
        return Finding("eviction", "warning", what, mend)
    what = f"a full server drops jobs or results (maxmemory-policy {policy})"
    return Finding("eviction", "problem", what, mend)


def _memory(view: _View, settings: Settings) -> Finding:
    used, limit = view.info.get("used_memory"), view.info.get("maxmemory")
    if used is None or limit is None:
        return Finding("memory", "unknown", "the server does not say how much memory it uses")
    if not limit:
        what = f"{used / GIB:.2f} GiB used, and no limit: the system may end the server when full"
        mend = "CONFIG SET maxmemory, to 60% of its machine's, say"
        return Finding("memory", "warning", what, mend)
    percent = 100 * used / limit
    what = f"{used / GIB:.2f} of {limit / GIB:.2f} GiB used ({percent:.0f}%)"
    mend = "raise maxmemory, or collect and cancel batches"
    if percent >= settings.max_memory_percent:
        return Finding("memory", "problem", f"{what}: submitting waits", mend)
    if percent >= NEARLY_FULL_PERCENT:
        return Finding("memory", "warning", what, mend)
    return Finding("memory", "ok", what)


def _idle_timeout(view: _View) -> Finding:
    text = view.config("timeout")
    if text is None:
        what = "the server does not let this user see its configuration (CONFIG GET)"
        return Finding("timeout", "unknown", what)
    if 0 < int(text) < SHORT_TIMEOUT_S:
        what = f"the server hangs up on clients after {text} s of silence"
        return Finding("timeout", "warning", what, "CONFIG SET timeout 0")
    return Finding("timeout", "ok", "quiet clients stay connected")


def _workers(client: Redis, settings: Settings, *, private: bool) -> Finding:
    """Who is alive, and whether there is work that nobody serves."""
    ledger = Ledger(client, settings.key_prefix)
    alive = ledger.workers()
    served = {label for worker in alive for label in worker.fields.get("labels", "").split(",")}
    jobs = {label: ledger.backlog(label) for label in ledger.labels()}
    tickets = sum(_num_tickets(client, settings, label) for label in jobs)
    what = f"{len(alive)} alive, {sum(jobs.values())} jobs to do, {tickets} Celery tickets"
    stuck = sorted(label for label, count in jobs.items() if count > 0 and label not in served)
    if stuck and not private:
        what += f"; nobody serves {', '.join(stuck)}"
        mend = f"start one: dgq worker --serve {stuck[0]}"
        return Finding("workers", "warning" if alive else "problem", what, mend)
    if not alive and not private:
        return Finding("workers", "warning", what, "start one: dgq worker")
    versions = {worker.fields.get("version", "?") for worker in alive}
    if strange := sorted(versions - {version("dgq")}):
        what += f"; some are of version {', '.join(strange)}, and this is {version('dgq')}"
        return Finding("workers", "warning", what, "install one version everywhere")
    return Finding("workers", "ok", what)


def _num_tickets(client: Redis, settings: Settings, label: str) -> int:
    from .fleet.app import queue_name

    if settings.broker_url is not None:
        return 0
    waiting: Any = client.llen(f"{settings.key_prefix}:{queue_name(label)}")
    return int(waiting)


def examine_broker(settings: Settings) -> Finding:
    """Whether Celery's messages can be sent, where they go through a server of their own."""
    from .fleet.app import make_app

    where = masked(settings.broker_url or "")
    try:
        with make_app(settings).connection_for_write() as broker:
            broker.ensure_connection(max_retries=1, interval_start=0.1)
    except Exception as error:  # noqa: BLE001 - every kind of broker has kinds of its own
        what = f"Celery's broker at {where} cannot be reached: {error}"
        return Finding("broker", "problem", what, "start it, or unset DGQ_BROKER_URL")
    return Finding("broker", "ok", f"Celery's broker at {where} answers")
