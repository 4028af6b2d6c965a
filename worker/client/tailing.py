"""Rows of a batch in the order of their commits, from any cursor on, while it runs or after."""

import re
import time
from collections.abc import Iterator
from typing import Self

from dgq.pipelines.result import JobResult

from ..errors import UsageFault, WaitTimeout
from ..ledger.ledger import START, Ledger
from ..ledger.shard import Row

WAIT_S = 1.0
"""Of one blocking read: short, so that a finished batch and a time-out are noticed."""

CURSOR = re.compile(r"(\d{1,20}-\d{1,20})(?:\+(\d{1,9}))?")


def tail(
    ledger: Ledger,
    batch_id: str,
    after: str = START,
    *,
    follow: bool = True,
    timeout_s: float | None = None,
) -> Iterator[tuple[str, list[Row]]]:
    """(cursor, rows) after a cursor; follow: until the batch is finished, else what is there now.

    The cursor is where to go on after a break. timeout_s: the longest wait for the next rows.
    Raises BatchUnknown, WaitTimeout and redis.RedisError.
    """
    at, last_s = after, time.monotonic()
    while True:
        # Asked before the read: rows of a batch that is finished now are all there to be read.
        waited = ledger.info(batch_id).finished or not follow
        left_s = None if timeout_s is None else last_s + timeout_s - time.monotonic()
        wait_s = WAIT_S if left_s is None else min(WAIT_S, max(0.0, left_s))
        empty = True
        for cursor, rows in ledger.read_rows(batch_id, at, wait_s=0 if waited else wait_s):
            empty, at = False, cursor
            yield cursor, rows
            last_s = time.monotonic()
        if empty and waited:
            return
        if empty and left_s is not None and left_s <= wait_s:
            raise WaitTimeout(f"no rows of {batch_id} for {timeout_s:g} s; it goes on")


class Results(Iterator[JobResult]):
    """The results of a batch as they finish.

    ``cursor``: where this has got to; given as ``after`` to a new one, it goes on with the result
    after the last that was given out here.
    """

    def __init__(
        self, ledger: Ledger, batch_id: str, after: str, *, follow: bool, timeout_s: float | None
    ) -> None:
        """As tail. Raises UsageFault for a cursor that is none."""
        found = CURSOR.fullmatch(after)
        if not found:
            raise UsageFault(f"{after!r} is no cursor; take one from the cursor of earlier results")
        self.cursor = after
        before, num_given = found[1], int(found[2] or 0)
        commits = tail(ledger, batch_id, before, follow=follow, timeout_s=timeout_s)
        self._results = self._read(commits, before, num_given)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> JobResult:
        return next(self._results)

    def _read(
        self, commits: Iterator[tuple[str, list[Row]]], before: str, num_given: int
    ) -> Iterator[JobResult]:
        """num_given: of the rows of the first commit."""
        for cursor, rows in commits:
            for number, row in enumerate(rows[num_given:], num_given + 1):
                self.cursor = cursor if number == len(rows) else f"{before}+{number}"
                yield JobResult.model_validate_json(row.text)
            before, num_given = cursor, 0
