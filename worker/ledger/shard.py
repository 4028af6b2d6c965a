"""Shards: consecutive jobs as one compressed blob, and rows likewise.

A blob of jobs holds a line for each: index in the batch, line number in the input, the job's own line
of JSON, separated by tabs. A blob of rows: index, tab, the row's JSON. Compression is zlib's fastest:
the input is text, and the two ends are busier than the wire.
"""

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from dgq.pipelines.reading import BadLine

ZLIB_LEVEL = 1


@dataclass(frozen=True, slots=True)
class JobLine:
    """A job as it was submitted. index: in the batch, from 0. line: in the input, from 1."""

    index: int
    line: int
    text: bytes


@dataclass(frozen=True, slots=True)
class Row:
    """A finished row. text: one line of JSON, without a line end."""

    index: int
    text: bytes


@dataclass(slots=True)
class Shard:
    """What add_shard takes. count covers bad lines too; first is the index of the first of all."""

    number: int
    first: int
    jobs: list[JobLine] = field(default_factory=list)
    bad: list[tuple[int, BadLine]] = field(default_factory=list)
    num_bytes: int = 0

    @property
    def count(self) -> int:
        """Jobs and bad lines together."""
        return len(self.jobs) + len(self.bad)

    def digest_after(self, before: str) -> str:
        """Digest of the input up to and with this shard, given the digest up to it."""
        digest = hashlib.blake2b(before.encode(), digest_size=16)
        for job in self.jobs:
            digest.update(b"%d\t%s\n" % (job.line, job.text))
        for index, bad in self.bad:
            digest.update(b"%d\t%d\n" % (index, bad.line))
        return digest.hexdigest()


def pack_jobs(jobs: Sequence[JobLine]) -> bytes:
    """The blob of some jobs; empty for none."""
    if not jobs:
        return b""
    # A job from Python may be laid out over several lines; in JSON a line end is but a blank.
    lines = (b"%d\t%d\t%s\n" % (job.index, job.line, job.text.replace(b"\n", b" ")) for job in jobs)
    return zlib.compress(b"".join(lines), ZLIB_LEVEL)


def unpack_jobs(blob: bytes) -> list[JobLine]:
    """The jobs of a blob."""
    jobs = []
    for line in zlib.decompress(blob).split(b"\n")[:-1]:
        index, number, text = line.split(b"\t", 2)
        jobs.append(JobLine(int(index), int(number), text))
    return jobs


def pack_rows(rows: Iterable[Row]) -> bytes:
    """The blob of some rows."""
    return zlib.compress(b"".join(b"%d\t%s\n" % (row.index, row.text) for row in rows), ZLIB_LEVEL)


def unpack_rows(blob: bytes) -> Iterator[Row]:
    """The rows of a blob."""
    for line in zlib.decompress(blob).split(b"\n")[:-1]:
        index, text = line.split(b"\t", 1)
        yield Row(int(index), text)


def is_done(index: int, done: bytes, first: int) -> bool:
    """Whether a job has its row. done: bytes of the bitmap from the one that holds ``first`` on."""
    at, bit = divmod(index, 8)
    at -= first // 8
    return at < len(done) and bool(done[at] >> (7 - bit) & 1)
