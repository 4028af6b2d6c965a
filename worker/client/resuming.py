"""What ``--resume`` means for a submission: which batch to go on with, and what not to do again."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dgq.pipelines.reading import BadLine

from ..errors import BatchUnknown
from ..jobs_input import STDIN, Entry
from ..progress import count_lines
from ..resume import EarlierRows, Taker, read_earlier_rows
from .client import Client
from .lookup import find_job_key
from .sidecar import read_sidecar


@dataclass(frozen=True, slots=True)
class Plan:
    """batch_id: go on with this batch; None: a new one.

    keep_bytes: of the file of results, what stays. base_bytes: of these, what is not of this batch;
    base: its rows, whose jobs are left out of the input. have: the batch's own rows that are there.
    """

    batch_id: str | None = None
    keep_bytes: int = 0
    base_bytes: int = 0
    base: EarlierRows = field(default_factory=EarlierRows)
    have: EarlierRows = field(default_factory=EarlierRows)

    @property
    def torn_bytes(self) -> int:
        """Of a torn line after the rows, which does not stay."""
        return self.base.torn_bytes + self.have.torn_bytes


def plan_resume(client: Client, out: Path, job_key: str | None) -> Plan:
    """Decide from what ``out`` holds, the note beside it, and what the server knows.

    A batch that the server has lost, or one of another file of results, is no use: then the jobs
    that ``out`` lacks are a new batch. Raises CommandError where ``out`` holds something else, and
    redis.RedisError.
    """
    noted = read_sidecar(out)
    if noted is not None and noted.fits(out) and _is_known(client, noted.batch):
        base = read_earlier_rows(out, until_bytes=noted.base_bytes)
        have = read_earlier_rows(out, after=base)
        return Plan(noted.batch, have.keep_bytes, noted.base_bytes, base, have)
    rows = read_earlier_rows(out)
    if job_key and (found := find_job_key(client.ledger, job_key)):
        return Plan(found, rows.keep_bytes, 0, EarlierRows(), rows)
    return Plan(None, rows.keep_bytes, rows.keep_bytes, rows)


def _is_known(client: Client, batch_id: str) -> bool:
    with suppress(BatchUnknown):
        client.batch(batch_id)
        return True
    return False


def without(entries: Iterable[Entry], earlier: EarlierRows) -> Iterator[Entry]:
    """The entries that have no row among the earlier ones."""
    taker = Taker(earlier)
    for entry, text in entries:
        line = entry.line if isinstance(entry, BadLine) else None
        if not taker.take(entry.id, line):
            yield entry, text


def may_be_complete(names: Sequence[str], earlier: EarlierRows) -> bool:
    """Whether a file of results may have a row for each job: it has as many as there are lines."""
    if STDIN in names or not all(Path(name).is_file() for name in names):
        return False
    return sum(count_lines(Path(name)) for name in names) <= earlier.num_rows
