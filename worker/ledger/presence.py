"""Who is there to work, and whose turn a chore is."""

from collections.abc import Mapping
from typing import Any, cast

from redis import Redis

from .keys import Keys
from .types import WorkerInfo


class Presence:
    """The part of the ledger that knows the workers. Nothing here matters to the truth about jobs."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        self.redis = redis
        self.keys = Keys(prefix)

    def heartbeat(
        self, worker_id: str, fields: Mapping[str, str | int | float], ttl_s: float
    ) -> None:
        """Say that a worker is alive, and what it is."""
        now_s, micro = self.redis.time()
        key = self.keys.worker(worker_id)
        with self.redis.pipeline(transaction=True) as pipe:  # a description must not outlive us
            pipe.hset(key, mapping=cast("Any", fields))
            pipe.pexpire(key, max(1, round(ttl_s * 1000)))
            pipe.zadd(self.keys.workers, {worker_id: now_s * 1000 + micro // 1000})
            pipe.execute()

    def forget_worker(self, worker_id: str) -> None:
        """A worker that ends in order says so."""
        self.redis.delete(self.keys.worker(worker_id))
        self.redis.zrem(self.keys.workers, worker_id)

    def workers(self) -> list[WorkerInfo]:
        """The workers whose description has not expired."""
        now_s, micro = self.redis.time()
        now_ms = now_s * 1000 + micro / 1000
        found = []
        entries = cast("Any", self.redis.zrange(self.keys.workers, 0, -1, withscores=True))
        for worker_id, heartbeat_ms in entries:
            fields = cast("Any", self.redis.hgetall(self.keys.worker(worker_id.decode())))
            if fields:
                text = {name.decode(): value.decode() for name, value in fields.items()}
                age_s = max(0.0, (now_ms - heartbeat_ms) / 1000)
                found.append(WorkerInfo(worker_id.decode(), age_s, text))
            else:
                self.redis.zrem(self.keys.workers, worker_id)
        return found

    def take_turn(self, name: str, holder: str, for_s: float) -> bool:
        """Whether this holder does a chore that one worker does for all, for the next seconds."""
        key = self.keys.lock(name)
        return bool(self.redis.set(key, holder, nx=True, px=max(1, round(for_s * 1000))))
