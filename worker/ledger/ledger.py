"""The ledger: batches, leases of shards, and rows, in Redis. Celery carries no truth, this does.

Shards are entries of a stream, one for each batch, read by a consumer group: the server then keeps who
holds a shard, for how long it was silent, and how often it was given away. Every change of state is
one Lua script, safe to repeat, on the server's clock. The first row of a job wins for ever; a commit
by a worker whose lease went to another is refused.

Methods raise redis.RedisError where the server cannot be asked; connection.server_error makes one line
of it. BatchUnknown where the server knows no such batch.
"""

import base64
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, Literal, cast

from redis import Redis
from redis.exceptions import NoPermissionError

from ..errors import BatchUnknown
from .presence import Presence
from .scripts import Scripts
from .shard import JobLine, Row, Shard, is_done, pack_jobs, pack_rows, unpack_jobs, unpack_rows
from .types import BatchInfo, Done, JobOptions, Lease, NewBatch, State

Added = Literal["ADDED", "HAVE", "DIFFERENT", "BEHIND", "CANCELLED", "UNKNOWN", "SEALED"]
START = "0-0"
"""The cursor before the first row."""

FAILED_AT_ONCE = 32
"""Of jobs that may be megabytes each."""

BATCH_ID = re.compile(r"b-[a-z2-7]{12}")


class Ledger(Presence):
    """The ledger of one server. Thread-safe, as the Redis client is."""

    def __init__(self, redis: Redis, prefix: str = "dgq", *, results_ttl_s: int = 604_800) -> None:
        """results_ttl_s: how long a finished batch is kept."""
        super().__init__(redis, prefix)
        self.results_ttl_s = results_ttl_s
        self._scripts = Scripts(redis)

    # Submitting

    def create(self, new: NewBatch) -> tuple[str, bool]:
        """The id of a new batch, and True; or of the one with the same job key, and False."""
        batch_id = "b-" + base64.b32encode(os.urandom(8)).decode().lower()[:12]
        fields: dict[str, Any] = {
            "priority": new.priority,
            "source": new.source,
            "retry_of": new.retry_of or "",
            "options": json.dumps(asdict(new.options)),
            "shard_jobs": new.shard_jobs,
            "shard_bytes": new.shard_bytes,
        }
        keys = [*self.keys.batch(batch_id).all(), self.keys.batches, self.keys.labels]
        if new.job_key:
            keys.append(self.keys.job_key(new.job_key))
        args = [self.keys.root, batch_id, new.label, new.job_key or ""]
        args += [part for pair in fields.items() for part in pair]
        found, created = cast("tuple[bytes, int]", self._scripts.run("create", keys, args))
        return found.decode(), bool(created)

    def add_shard(self, batch: BatchInfo, shard: Shard, before: str, rows: Sequence[Row]) -> Added:
        """Accept a shard. before: the digest up to it. rows: of its bad lines, in their order.

        ADDED; HAVE: a shard of this number is there already; DIFFERENT: the batch's input was another
        one so far; BEHIND: the server has lost earlier shards; CANCELLED; UNKNOWN.
        """
        keys = [*self._keys_of(batch.id, batch.label), self.keys.served]
        args = [
            shard.number,
            before,
            shard.digest_after(before),
            shard.first,
            shard.count,
            pack_jobs(shard.jobs),
            pack_rows(rows) if rows else b"",
            self.keys.root,
            len(rows),
        ]
        args += [part for row in rows for part in (row.index, "error")]
        return cast("Added", self._scripts.run("add_shard", keys, args).decode())

    def seal(self, batch: BatchInfo, digest: str, num_shards: int) -> Added:
        """Say that the input has ended, after so many shards. SEALED, or as add_shard."""
        keys = self._keys_of(batch.id, batch.label)
        args = [digest, self.results_ttl_s, self.keys.root, num_shards]
        return cast("Added", self._scripts.run("seal", keys, args).decode())

    # Working

    def candidates(self, labels: Iterable[str], at_most: int = 16) -> list[tuple[str, str]]:
        """(batch, label) of batches that may have work, the next to be served first.

        Where a label has more, as many others follow, drawn by lot: batches of high priority whose
        shards are all taken may fill the front, and must not hide the rest.
        """
        first: list[tuple[float, str, str]] = []
        others: list[tuple[str, str]] = []
        for label in labels:
            key = self.keys.active(label)
            found = cast("Any", self.redis.zrange(key, 0, at_most - 1, withscores=True))
            first += [(score, batch.decode(), label) for batch, score in found]
            if len(found) == at_most:
                lot = cast("list[bytes]", self.redis.zrandmember(key, at_most))
                others += [(batch.decode(), label) for batch in lot]
        return list(dict.fromkeys([(batch, label) for _, batch, label in sorted(first)] + others))

    def claim(self, batch_id: str, label: str, worker: str, lease_s: float) -> Lease | None:
        """Lease a shard of a batch, None if it has none to give.

        A shard whose holder was silent for lease_s comes before new ones; lease_s 0 takes from
        living holders too, which is for cancelled batches.
        """
        keys = [*self._keys_of(batch_id, label), self.keys.served]
        consumer = f"{worker}:{os.urandom(6).hex()}"  # tells a repeated call from a second one
        reply = self._scripts.run("claim", keys, [consumer, round(lease_s * 1000), batch_id])
        if reply[0] != b"SHARD":
            return None
        _, entry, deaths, first, blob, done, state, options = reply
        jobs = unpack_jobs(blob)
        if done.strip(b"\0"):
            jobs = [job for job in jobs if not is_done(job.index, done, first)]
        return Lease(
            batch_id=batch_id,
            label=label,
            entry=entry,
            consumer=consumer,
            deaths=deaths,
            jobs=tuple(jobs),
            cancelled=state == b"cancelled",
            options=JobOptions(**json.loads(options)),
        )

    def renew(self, lease: Lease) -> State | Literal["lost", "gone"]:
        """Hold a shard for another lease; the state of its batch, or why it is held no more."""
        args = [lease.entry, lease.consumer]
        return cast("State", self._run("renew", lease, args).decode())

    def commit(
        self, lease: Lease, rows: Sequence[Done], *, release: bool
    ) -> Literal["written", "lost", "gone"]:
        """Write rows; release: the shard is done. Rows that a job has already are left out.

        lost: the shard is somebody else's, or ended: by this very commit, if its first answer was
        cut off on the way.
        """
        while True:
            failed = [done.failed_line for done in rows if done.failed_line is not None]
            args: list[Any] = [
                lease.entry,
                lease.consumer,
                int(release),
                self.results_ttl_s,
                self.keys.root,
                pack_rows(Row(done.index, done.text) for done in rows),
                sum(done.tokens for done in rows),
                sum(done.canvases for done in rows),
                sum(done.steps for done in rows),
                len(rows),
                len(failed),
            ]
            for done in rows:
                args += (done.index, done.status)
            for job in failed:
                args += (job.index, pack_jobs([job]))
            reply = self._run("commit", lease, args)
            if reply[0] != b"DONE":
                return cast("Literal['written', 'lost', 'gone']", reply[0].decode().lower())
            # An earlier holder's rows, or our own whose acknowledgement was cut off on its way.
            have = {int(index) for index in reply[1]}
            rows = [done for done in rows if done.index not in have]

    def release(self, lease: Lease, *, died: bool = False) -> None:
        """Give a shard back at once. died: count it as a death, as if the worker had been killed."""
        self._run("release", lease, [lease.entry, lease.consumer, int(died)])

    def split(self, lease: Lease) -> None:
        """Put each job that is left into a shard of its own."""
        args: list[Any] = [lease.entry, lease.consumer, lease.deaths]
        for job in lease.jobs:
            args += (job.index, 1, pack_jobs([job]))
        self._run("split", lease, args)

    # Watching and steering

    def info(self, batch_id: str) -> BatchInfo:
        """A batch as it stands. Raises BatchUnknown."""
        fields: dict[bytes, bytes] = {}
        if BATCH_ID.fullmatch(batch_id):
            fields = cast("Any", self.redis.hgetall(self.keys.batch(batch_id).meta))
        if b"state" not in fields:
            raise BatchUnknown(
                f"the server knows no batch {batch_id}; dgq list shows those that it knows"
            )
        return BatchInfo.of({name.decode(): value.decode() for name, value in fields.items()})

    def batches(self) -> Iterator[BatchInfo]:
        """All batches, the newest first. Those that have expired are forgotten on the way."""
        for batch_id in cast("list[bytes]", self.redis.zrevrange(self.keys.batches, 0, -1)):
            try:
                yield self.info(batch_id.decode())
            except BatchUnknown:
                self.redis.zrem(self.keys.batches, batch_id)

    def control(self, batch_id: str, action: Literal["pause", "resume", "cancel"]) -> State:
        """Do it, and return the state after it. Raises BatchUnknown."""
        keys = [*self._keys_of(batch_id, self.info(batch_id).label), self.keys.served]
        args = [action, self.results_ttl_s, self.keys.root]
        state = self._scripts.run("control", keys, args).decode()
        if not state:
            raise BatchUnknown(f"the server knows no batch {batch_id}")
        return cast("State", state)

    def read_rows(
        self, batch_id: str, after: str = START, *, at_most: int = 64, wait_s: float = 0
    ) -> Iterator[tuple[str, list[Row]]]:
        """(cursor, rows) of up to ``at_most`` commits after a cursor, waiting if there are none."""
        stream = self.keys.batch(batch_id).rows
        block = round(wait_s * 1000) or None
        reply = cast("Any", self.redis.xread({stream: after}, count=at_most, block=block))
        if not reply:
            return
        entries = next(iter(reply.values()))[0] if isinstance(reply, dict) else reply[0][1]
        for cursor, fields in entries:
            yield cursor.decode(), list(unpack_rows(fields[b"b"]))

    def failed_jobs(self, batch_id: str) -> Iterator[JobLine]:
        """The jobs that a retry may help, in the order of the input."""
        failed = self.keys.batch(batch_id).failed
        indices = sorted(cast("list[bytes]", self.redis.hkeys(failed)), key=int)
        for begin in range(0, len(indices), FAILED_AT_ONCE):
            group = indices[begin : begin + FAILED_AT_ONCE]
            for blob in cast("list[bytes | None]", self.redis.hmget(failed, cast("Any", group))):
                if blob is not None:
                    yield from unpack_jobs(blob)

    def backlog(self, label: str) -> int:
        """Accepted jobs of a label that have no row yet; those of paused batches do not count."""
        keys = [self.keys.active(label)]
        return cast("int", self._scripts.run("backlog", keys, [self.keys.root]))

    def num_waiting(self, batch_id: str, lease_s: float) -> int:
        """Shards of a batch that could be claimed now; 0 where there is no such batch."""
        keys = self.keys.batch(batch_id).all()
        return cast("int", self._scripts.run("waiting", keys, [round(lease_s * 1000)]))

    def memory_percent(self) -> float:
        """The share of the server's maxmemory that is used; 0 where no limit is known."""
        try:
            memory = self.redis.info("memory")
        except NoPermissionError:
            return 0.0
        limit = memory.get("maxmemory", 0)
        return 100 * memory["used_memory"] / limit if limit else 0.0

    def labels(self) -> list[str]:
        """All labels that batches ask for, or have asked for lately."""
        names = cast("list[bytes]", self.redis.zrange(self.keys.labels, 0, -1))
        return sorted(name.decode() for name in names)

    def _keys_of(self, batch_id: str, label: str) -> list[str]:
        return [*self.keys.batch(batch_id).all(), self.keys.active(label)]

    def _run(self, script: str, lease: Lease, args: Sequence[Any]) -> Any:
        return self._scripts.run(script, self._keys_of(lease.batch_id, lease.label), args)
