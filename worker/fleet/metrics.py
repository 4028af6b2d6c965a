"""What Prometheus may know of a worker and of the queue.

Counters are kept as plain numbers and made into Prometheus's form when somebody looks, so that
counting a row costs next to nothing. Only this module and metrics_server.py import
prometheus_client.
"""

import logging
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from ..ledger.ledger import Ledger
from ..ledger.types import STATUSES, Done
from .metrics_server import serving

logger = logging.getLogger("dgq.worker")

COUNTERS = {
    "dgq_shards_claimed": "Shards that this worker has leased.",
    "dgq_shards_released": "Shards that it gave back with jobs left in them.",
    "dgq_leases_lost": "Shards that another worker took over while this one still ran them.",
    "dgq_tokens": "Answer tokens of the committed jobs, failed attempts included.",
    "dgq_retries": "Rounds of asking beyond a job's first: an answer had failed its checks.",
}

ENGINE = {
    "rows_in_flight": ("dgq_rows_in_flight", "Rows of the step now running."),
    "canvases_in_flight": ("dgq_canvases_in_flight", "Canvases of the step now running."),
    "requests_waiting": ("dgq_requests_waiting", "Requests that the engine has not begun."),
    "row_budget": ("dgq_row_budget", "Most rows of one step; out of memory lowers it."),
    "block_fill": (
        "dgq_block_fill_ratio",
        "Of the rows computed lately, the share that is no padding.",
    ),
    "device_memory_bytes": (
        "dgq_device_memory_bytes",
        "What this process holds of the GPU's memory.",
    ),
    "steps_total": ("dgq_engine_steps", "Denoising steps, each over all canvases in flight."),
    "out_of_memory_total": ("dgq_out_of_memory", "Steps given up for want of GPU memory."),
}
"""Name and meaning, by attribute of the engine's stats; those that end in _total only grow."""

STEP_BUCKETS = (2, 4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64)


class WorkerMetrics(Collector):
    """The figures of one worker process. Thread-safe.

    alive: whether the process is of use; asked at each look at ``/healthz``.
    """

    def __init__(self, alive: Callable[[], bool]) -> None:
        self._alive = alive
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(COUNTERS, 0)
        self._jobs = dict.fromkeys(STATUSES, 0)
        self._canvases = [0] * (len(STEP_BUCKETS) + 1)
        self._steps = 0
        self._backlog: dict[str, int] = {}
        self._shards_held = 0
        self._reachable = True
        self._engine: dict[str, float] = {}

    def serve(self, port: int) -> AbstractContextManager[int]:
        """Answer on a port (0: a free one), which is what the context gives. Raises CommandError."""
        return serving(self, self._alive, port)

    def shard_claimed(self) -> None:
        """A shard was leased."""
        self._count("dgq_shards_claimed")

    def shard_released(self) -> None:
        """A shard was given back unfinished."""
        self._count("dgq_shards_released")

    def lease_lost(self) -> None:
        """A shard turned out to be another worker's by now."""
        self._count("dgq_leases_lost")

    def rows_committed(self, rows: Iterable[Done]) -> None:
        """The ledger has these rows."""
        with self._lock:
            for row in rows:
                self._jobs[row.status] += 1
                self._counts["dgq_tokens"] += row.tokens
                self._counts["dgq_retries"] += max(0, row.attempts - 1)
                if row.canvases:
                    bucket = bisect_left(STEP_BUCKETS, row.steps / row.canvases)
                    self._canvases[bucket] += row.canvases
                    self._steps += row.steps

    def set_backlog(self, label: str, jobs: int) -> None:
        """Jobs of a label that have no row yet."""
        with self._lock:
            self._backlog[label] = jobs

    def set_shards_held(self, count: int) -> None:
        """Shards in hand."""
        self._shards_held = count

    def engine(self, stats: object) -> None:
        """The engine's own figures: whatever attributes of ENGINE it has; None has none."""
        self._engine = {name: getattr(stats, name) for name in ENGINE if hasattr(stats, name)}

    def server_reachable(self, reachable: bool) -> None:
        """Whether the Redis server has answered the last call."""
        self._reachable = reachable

    def collect(self) -> Iterator[Metric]:
        """All figures, for Prometheus."""
        with self._lock:
            counts, jobs, backlog = dict(self._counts), dict(self._jobs), dict(self._backlog)
            canvases, steps = list(self._canvases), self._steps
        for name, text in COUNTERS.items():
            yield CounterMetricFamily(name, text, counts[name])
        family = CounterMetricFamily(
            "dgq_jobs_committed", "Jobs whose row is in the ledger.", labels=["status"]
        )
        for status, count in jobs.items():
            family.add_metric([status], count)
        yield family
        bounds = [*map(str, map(float, STEP_BUCKETS)), "+Inf"]
        yield HistogramMetricFamily(
            "dgq_steps_per_canvas",
            "Denoising steps that a canvas took, as the mean of its job.",
            buckets=list(zip(bounds, accumulate(canvases), strict=True)),
            sum_value=steps,
        )
        yield _backlog_family(backlog)
        yield GaugeMetricFamily(
            "dgq_shards_held", "Shards in this worker's hands.", self._shards_held
        )
        yield _reachable_family(self._reachable)
        for attribute, value in self._engine.items():
            name, text = ENGINE[attribute]
            grows = attribute.endswith("_total")
            yield (CounterMetricFamily if grows else GaugeMetricFamily)(name, text, value)

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1


class QueueMetrics(Collector):
    """The figures of the queue, asked of the ledger at each look.

    For a process that lives while no worker does: what scales workers up from none reads it there.
    alive: whether that process is of use; asked at each look at ``/healthz``.
    """

    def __init__(self, ledger: Ledger, alive: Callable[[], bool]) -> None:
        self._ledger = ledger
        self._alive = alive

    def serve(self, port: int) -> AbstractContextManager[int]:
        """Answer on a port (0: a free one), which is what the context gives. Raises CommandError."""
        return serving(self, self._alive, port)

    def collect(self) -> Iterator[Metric]:
        """All figures, for Prometheus; without a server only that there is none."""
        try:
            found = list(self._ask())
        except RedisError as error:
            logger.debug("no figures of the queue: %s", error)
            found = []
        yield from found
        yield _reachable_family(bool(found))

    def _ask(self) -> Iterator[Metric]:
        ledger = self._ledger
        workers = [worker.fields.get("labels", "").split(",") for worker in ledger.workers()]
        labels = {"default", *ledger.labels(), *(label for served in workers for label in served)}
        labels.discard("")
        yield _backlog_family({label: ledger.backlog(label) for label in sorted(labels)})
        family = GaugeMetricFamily(
            "dgq_workers", "Living workers that serve a label.", labels=["label"]
        )
        for label in sorted(labels):
            family.add_metric([label], sum(label in served for served in workers))
        yield family
        yield GaugeMetricFamily(
            "dgq_server_memory_ratio",
            "The share of the server's maxmemory that is used; 0 where no limit is known.",
            ledger.memory_percent() / 100,
        )


def _backlog_family(jobs: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(
        "dgq_backlog_jobs",
        "Accepted jobs of a label that have no row yet; those of paused batches do not count.",
        labels=["label"],
    )
    for label, count in jobs.items():
        family.add_metric([label], count)
    return family


def _reachable_family(reachable: bool) -> Metric:
    return GaugeMetricFamily(
        "dgq_server_reachable", "1 while the Redis server answers, else 0.", int(reachable)
    )
