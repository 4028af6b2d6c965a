"""The names of all keys in Redis, in one place.

``v1`` is the version of the ledger: a worker of another version sees none of these keys.
"""

from dataclasses import dataclass

VERSION = "v1"
GROUP = "workers"
"""The consumer group of every stream of shards. Its consumers are leases, not workers."""

ABANDONED_S = 30 * 24 * 3600
"""How long a batch whose input has not ended is kept after its last shard or row.

Its submitter broke off and may come back. A batch whose input is complete waits for its workers as
long as it takes, and a finished one is kept for results_ttl_s; dgq cancel ends either wait.
"""


@dataclass(frozen=True, slots=True)
class BatchKeys:
    """The keys of one batch; they expire together.

    meta: hash of state and counters. shards: stream, one entry for each shard that is not done: f, the
    first index, c, the number of jobs and bad lines from there, d, deaths of workers before the shard
    was split off, b, the blob. rows: stream, one entry for each commit: b, the blob. done: bitmap by
    job index. failed: hash from job index to the job's line, for retries.
    """

    meta: str
    shards: str
    rows: str
    done: str
    failed: str

    def all(self) -> list[str]:
        """In the order in which the scripts take them."""
        return [self.meta, self.shards, self.rows, self.done, self.failed]


@dataclass(frozen=True, slots=True)
class Keys:
    """All keys begin with ``prefix``, so that several installations can share a server."""

    prefix: str = "dgq"

    @property
    def root(self) -> str:
        """What every key of this version begins with."""
        return f"{self.prefix}:{VERSION}:"

    def batch(self, batch_id: str) -> BatchKeys:
        """The keys of one batch."""
        meta = f"{self.root}b:{batch_id}"
        return BatchKeys(meta, *(f"{meta}:{part}" for part in ("shards", "rows", "done", "failed")))

    def active(self, label: str) -> str:
        """Sorted set of the batches of a label that have work, the next to be served first."""
        return f"{self.root}active:{label}"

    def job_key(self, job_key: str) -> str:
        """String: the batch that was submitted with this key."""
        return f"{self.root}key:{job_key}"

    @property
    def batches(self) -> str:
        """Sorted set of all batches, by creation in milliseconds; some may have expired."""
        return f"{self.root}batches"

    @property
    def served(self) -> str:
        """Counter that orders the batches of one priority: the last served comes last."""
        return f"{self.root}served"

    @property
    def workers(self) -> str:
        """Sorted set of workers, by last heartbeat in milliseconds."""
        return f"{self.root}workers"

    def worker(self, worker_id: str) -> str:
        """Hash that describes a worker; expires when its heartbeats stop."""
        return f"{self.root}worker:{worker_id}"

    @property
    def labels(self) -> str:
        """Sorted set of the labels that batches ask for, by the last new batch in milliseconds."""
        return f"{self.root}labels"

    @property
    def schedules(self) -> str:
        """Hash from a schedule's name to its definition."""
        return f"{self.root}schedules"

    def lock(self, name: str) -> str:
        """String that one worker holds for a moment, to do a chore for all."""
        return f"{self.root}lock:{name}"
