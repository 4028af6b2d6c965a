"""Finding what the ledger has by other names: a batch by a few letters, by its job key, or the last."""

from contextlib import suppress
from typing import Any, cast

from ..errors import BatchUnknown, UsageFault
from ..ledger.ledger import BATCH_ID, Ledger
from ..ledger.shard import Row, unpack_rows
from ..ledger.types import BatchInfo, WorkerInfo

LAST = "last"
FEWEST_LETTERS = 2


def find_batch(ledger: Ledger, name: str) -> BatchInfo:
    """A batch by its id, by enough letters of its beginning (``b-`` may be left out), or ``last``.

    Raises BatchUnknown, UsageFault where several begin so, and redis.RedisError.
    """
    if BATCH_ID.fullmatch(name):
        return ledger.info(name)
    if name == LAST:
        newest = next(ledger.batches(), None)
        if newest is None:
            raise BatchUnknown("the server has no batch")
        return newest
    letters = name.lower().removeprefix("b-")
    # A command must not mean the only batch there is because a shell variable was empty.
    if len(letters) < FEWEST_LETTERS:
        raise UsageFault(f"{name!r} is no batch: give its id, more of its letters, or {LAST}")
    found = []
    for batch_id in _batch_ids(ledger):
        if batch_id.startswith(f"b-{letters}"):
            with suppress(BatchUnknown):
                found.append(ledger.info(batch_id))
    if not found:
        raise BatchUnknown(f"the server knows no batch {name}; dgq list shows those that it knows")
    if len(found) > 1:
        some = ", ".join(info.id for info in found[:3]) + (", …" if len(found) > 3 else "")
        raise UsageFault(f"{name} is the beginning of {len(found)} batches: {some}")
    return found[0]


def find_job_key(ledger: Ledger, job_key: str) -> str | None:
    """The id of the batch that was submitted with this key; None if the server knows none."""
    found = cast("bytes | None", ledger.redis.get(ledger.keys.job_key(job_key)))
    if found is not None:
        with suppress(BatchUnknown):
            return ledger.info(found.decode()).id
    return None


def rows_at(ledger: Ledger, batch_id: str, cursor: str) -> list[Row]:
    """The rows of one commit, by the cursor that read_rows gave; none if the server has lost it."""
    stream = ledger.keys.batch(batch_id).rows
    entries = cast("Any", ledger.redis.xrange(stream, cursor, cursor))
    return [row for _, fields in entries for row in unpack_rows(fields[b"b"])]


def labels_of(worker: WorkerInfo) -> list[str]:
    """The model names that a worker serves."""
    return [label for label in worker.fields.get("labels", "").split(",") if label]


def _batch_ids(ledger: Ledger) -> list[str]:
    """The newest first; some may have expired."""
    found = cast("list[bytes]", ledger.redis.zrevrange(ledger.keys.batches, 0, -1))
    return [batch_id.decode() for batch_id in found]
