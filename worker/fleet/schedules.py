"""Schedules and the firings that were made of them: plain data in one hash in Redis.

The field ``NAME`` holds a schedule's definition, ``NAME:last`` what became of its last firing, both
as JSON. A firing is written only by whoever holds the schedule's claim (a lock that expires), and
only as long as the definition is still the one that it belongs to.
"""

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, cast

from pydantic import TypeAdapter, ValidationError

from ..errors import UsageFault
from ..ledger.ledger import Ledger
from ..ledger.types import JobOptions, NewBatch
from .cron import Cron, parse_cron

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
ON_TIME_S = 60
"""What comes later than planned by less than this is not late."""

LAST = ":last"


@dataclass(frozen=True, slots=True)
class Schedule:
    """What to submit, and when. Times in seconds since 1970, by the server's clock.

    files: absolute paths, or glob patterns, on the scheduler's machine. catch_up_s: how late a
    firing may be made that was missed. The rest is as in NewBatch.
    """

    name: str
    cron: str
    timezone: str
    files: tuple[str, ...]
    label: str = "default"
    priority: int = 0
    seed: int | None = None
    max_attempts: int | None = None
    catch_up_s: int = 3600
    created_s: float = 0.0

    @property
    def parsed(self) -> Cron:
        """Raises UsageFault."""
        return parse_cron(self.cron, self.timezone)

    @property
    def late_s(self) -> int:
        """How late a firing may be begun."""
        return max(self.catch_up_s, ON_TIME_S)

    def batch(self, due_s: int, source: str = "") -> NewBatch:
        """The batch of a firing. By its job key, two who make the firing make the same batch."""
        return NewBatch(
            label=self.label,
            priority=self.priority,
            source=source,
            job_key=f"schedule:{self.name}@{utc(due_s)}",
            options=JobOptions(self.seed, self.max_attempts),
        )


@dataclass(frozen=True, slots=True)
class Firing:
    """A firing of a schedule: when it was due, when it was begun, what became of it.

    submitting: begun, and to be finished by whoever finds it unclaimed. waiting: the same, after
    something that may pass; message says what. submitted, failed: settled.
    """

    due_s: int
    state: Literal["submitting", "waiting", "submitted", "failed"]
    begun_s: float
    batch_id: str | None = None
    num_jobs: int = 0
    message: str = ""

    @property
    def settled(self) -> bool:
        """Whether nothing more will be done about it."""
        return self.state in ("submitted", "failed")


@dataclass(frozen=True, slots=True)
class Known:
    """A schedule as it stands in Redis, with the bytes it was read from."""

    schedule: Schedule
    definition: bytes
    last: Firing | None = None
    last_bytes: bytes = b""

    @property
    def since_s(self) -> float:
        """Firings up to this time are of no concern any more."""
        return max(self.schedule.created_s, self.last.due_s if self.last else 0)

    def due(self, now_s: float) -> int | None:
        """The firing to make now: one that was begun, else the last that is not too late."""
        if self.last is not None and not self.last.settled:
            return self.last.due_s
        found = None
        parsed = self.schedule.parsed
        time_s = parsed.next_after(max(self.since_s, now_s - self.schedule.late_s))
        while time_s <= now_s:
            found, time_s = time_s, parsed.next_after(time_s)
        return found

    def missed(self, now_s: float) -> int | None:
        """The first firing that nobody has made and that is too late now."""
        time_s = self.schedule.parsed.next_after(self.since_s)
        return time_s if time_s <= now_s - self.schedule.late_s else None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All schedules at one moment. now_s: the server's time. unreadable: name and why."""

    now_s: float
    schedules: tuple[Known, ...] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to make a firing, until it expires. now_s: the server's time when it was taken."""

    known: Known
    due_s: int
    now_s: float
    token: str = field(default_factory=lambda: uuid.uuid4().hex)


# KEYS: schedules, lock. ARGV: name, its definition, field of its last firing, that firing as it was
# ('' for none), token, milliseconds, the firing to write. Returns whether the claim is the caller's.
_CLAIM = """
if redis.call('GET', KEYS[2]) == ARGV[5] then return 1 end
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
if (redis.call('HGET', KEYS[1], ARGV[3]) or '') ~= ARGV[4] then return 0 end
if not redis.call('SET', KEYS[2], ARGV[5], 'NX', 'PX', ARGV[6]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[3], ARGV[7])
return 1
"""

# KEYS and ARGV as above, the firing to write being '' for none; 0 milliseconds end the claim.
_HOLD = """
if redis.call('GET', KEYS[2]) ~= ARGV[5] then return 0 end
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  redis.call('DEL', KEYS[2])
  return 0
end
if ARGV[7] ~= '' then redis.call('HSET', KEYS[1], ARGV[3], ARGV[7]) end
if ARGV[6] == '0' then redis.call('DEL', KEYS[2]) else redis.call('PEXPIRE', KEYS[2], ARGV[6]) end
return 1
"""

_SCHEDULE = TypeAdapter(Schedule)
_FIRING = TypeAdapter(Firing)


class Schedules:
    """The hash of schedules. Methods raise redis.RedisError where the server cannot be asked."""

    def __init__(self, ledger: Ledger) -> None:
        self._redis = ledger.redis
        self._keys = ledger.keys
        self._claim = ledger.redis.register_script(_CLAIM)
        self._hold = ledger.redis.register_script(_HOLD)

    def now_s(self) -> float:
        """The server's time."""
        seconds, micro = self._redis.time()
        return seconds + micro / 1e6

    def add(self, schedule: Schedule) -> bool:
        """Keep a schedule, unless there is one of that name."""
        text = _SCHEDULE.dump_json(schedule)
        return bool(self._redis.hsetnx(self._keys.schedules, schedule.name, cast("Any", text)))

    def remove(self, name: str) -> bool:
        """Forget a schedule; whether there was one. A submission that was begun goes on."""
        return self._redis.hdel(self._keys.schedules, name, name + LAST) > 0

    def read(self) -> Snapshot:
        """All schedules, by name."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.hgetall(self._keys.schedules)
            (seconds, micro), fields = cast("Any", pipe.execute())
        known, unreadable = [], {}
        for name in sorted(name.decode(errors="replace") for name in fields):
            if name.endswith(LAST):
                continue
            try:
                known.append(_known(fields[name.encode()], fields.get((name + LAST).encode())))
            except (KeyError, ValueError, UsageFault) as error:
                unreadable[name] = _why(error)
        return Snapshot(seconds + micro / 1e6, tuple(known), unreadable)

    def claim(self, known: Known, due_s: int, now_s: float, for_s: float) -> Claim | None:
        """The right to make a firing; None where somebody has it, or has changed something."""
        claim = Claim(known, due_s, now_s)
        earlier = known.last if known.last and known.last.due_s == due_s else None
        begun = Firing(due_s, "submitting", now_s, earlier.batch_id if earlier else None)
        taken = self._run(self._claim, claim, for_s, _FIRING.dump_json(begun), known.last_bytes)
        return claim if taken else None

    def hold(self, claim: Claim, for_s: float, firing: Firing | None = None) -> bool:
        """Keep a claim for a while longer (0: end it), writing what has become of the firing.

        Returns False, and writes nothing, where the claim has expired or the schedule is gone.
        """
        text = b"" if firing is None else _FIRING.dump_json(firing)
        return self._run(self._hold, claim, for_s, text)

    def _run(
        self, script: Any, claim: Claim, for_s: float, firing: bytes, expected: bytes = b""
    ) -> bool:
        name = claim.known.schedule.name
        keys = [self._keys.schedules, self._keys.lock(f"schedule:{name}")]
        args = [
            name,
            claim.known.definition,
            name + LAST,
            expected,
            claim.token,
            round(for_s * 1000),
            firing,
        ]
        return bool(script(keys=keys, args=args))


def utc(time_s: float) -> str:
    """A time as people and job keys write it, to the second."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _known(definition: bytes, last: bytes | None) -> Known:
    """Raises ValueError or UsageFault for what cannot be read here."""
    schedule = _SCHEDULE.validate_json(definition)
    parse_cron(schedule.cron, schedule.timezone)
    return Known(schedule, definition, _FIRING.validate_json(last) if last else None, last or b"")


def _why(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}"
    return str(error)
