"""A batch's rows into a file or a pipe: as they were committed or in the input's order, each once."""

from collections.abc import Callable, Iterator, Sequence
from json import JSONDecodeError, loads
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import cast

from ..errors import CommandError
from ..ledger.ledger import START, Ledger
from ..ledger.shard import Row
from ..ledger.types import BatchInfo
from ..resume import ROW_START, EarlierRows, Taker
from .lookup import rows_at
from .watching import Waiter

COMMITS_AT_ONCE = 32
WAIT_S = 1.0
"""Of one blocking read: short, so that the end of a batch, a time-out and Ctrl-C are noticed."""

LONGEST_ID_BYTES = 2500
"""An id has up to 200 characters, each written as up to 12 bytes."""

COMMITS_AGAIN = 64
"""Commits that are kept when they were read again: neighbours may be spread over several."""

HELD_BYTES = 64 * 2**20
"""Texts of rows that wait for an earlier row; beyond that only where they are is kept."""


class Collector:
    """Writes each row of a batch once, also where the server gives it twice.

    write: gets the rows of some commits, in order. have: the rows of this batch that were written
    before; they are left out. ordered: by the jobs' order in the input.
    """

    def __init__(
        self,
        ledger: Ledger,
        batch_id: str,
        write: Callable[[Sequence[bytes]], None],
        *,
        have: EarlierRows | None = None,
        ordered: bool = False,
        held_bytes: int = HELD_BYTES,
    ) -> None:
        self.cursor = START
        self.num_seen = 0
        self.num_written = 0
        self._write = write
        self._seen = bytearray()
        self._have = Taker(have or EarlierRows())
        self._order = InputOrder(lambda at: rows_at(ledger, batch_id, at), held_bytes)
        self._ordered = ordered

    @property
    def num_waiting(self) -> int:
        """Rows that wait for an earlier job's row."""
        return len(self._order)

    def put(self, cursor: str, rows: Sequence[Row]) -> None:
        """Take in the rows of one commit; cursor: where they stand."""
        new = [row for row in rows if self._is_new(row.index)]
        if self._ordered:
            self._order.put(cursor, new)
            for texts in self._order.due():
                self._hand_on(texts)
        else:
            self._hand_on([row.text for row in new])
        self.cursor = cursor

    def _hand_on(self, texts: list[bytes]) -> None:
        if self._have.any:
            texts = [text for text in texts if not self._have.take(*row_key(text))]
        if texts:
            self._write(texts)
            self.num_written += len(texts)

    def _is_new(self, index: int) -> bool:
        byte, bit = divmod(index, 8)
        if byte >= len(self._seen):
            self._seen.extend(bytes(max(byte + 1 - len(self._seen), len(self._seen), 1024)))
        if self._seen[byte] >> bit & 1:
            return False
        self._seen[byte] |= 1 << bit
        self.num_seen += 1
        return True


class InputOrder:
    """Puts rows back into the order of their jobs. What waits is kept as text while that is little,
    else as the cursor of its commit, which is read again when its turn has come."""

    def __init__(self, rows_at: Callable[[str], list[Row]], held_bytes: int) -> None:
        self._rows_at = rows_at
        self._room = held_bytes
        self._waiting: dict[int, bytes | str] = {}
        self._due = 0
        self._again: dict[str, dict[int, bytes]] = {}

    def __len__(self) -> int:
        """How many rows wait."""
        return len(self._waiting)

    def put(self, cursor: str, rows: Sequence[Row]) -> None:
        """Take in the rows of one commit."""
        for row in rows:
            held = len(row.text) <= self._room or row.index == self._due
            self._waiting[row.index] = row.text if held else cursor
            if held:
                self._room -= len(row.text)

    def due(self) -> Iterator[list[bytes]]:
        """The rows whose turn has come, in groups."""
        group: list[bytes] = []
        while (place := self._waiting.get(self._due)) is not None:
            group.append(self._text(place))
            del self._waiting[self._due]
            self._due += 1
            if len(group) == 256:
                yield group
                group = []
        yield group

    def _text(self, place: bytes | str) -> bytes:
        if isinstance(place, bytes):
            self._room += len(place)
            return place
        if place not in self._again:
            self._again[place] = {row.index: row.text for row in self._rows_at(place)}
            if len(self._again) > COMMITS_AGAIN:
                del self._again[next(iter(self._again))]
        try:
            return self._again[place].pop(self._due)
        except KeyError:
            raise CommandError(
                "the server has lost rows that it had; collect again with --resume"
            ) from None


def row_key(text: bytes) -> tuple[str | None, int | None]:
    """(id, None) of a row, or (None, line) of a bad line's row, which has no id."""
    start = len(ROW_START)
    if text.startswith(ROW_START) and text[start : start + 1] == b'"':
        # Rows may be long, and there may be millions: only their beginning is read.
        try:
            begin = text[: start + LONGEST_ID_BYTES].decode(errors="replace")
            return cast("str", scanstring(begin, start + 1)[0]), None
        except JSONDecodeError:
            pass
    row = loads(text)
    return row["id"], row["line"] if row["id"] is None else None


def collect(waiter: Waiter, collector: Collector, *, follow: bool = True) -> BatchInfo:
    """Collect until the batch is finished, or, without ``follow``, what is there now.

    Raises what Waiter.look raises, and what writing raises.
    """
    ledger, batch_id = waiter.batch.client.ledger, waiter.batch.id
    while True:
        # Looked at before the read: rows of a batch that is finished now are all there to be read.
        info = waiter.look()
        wait_s = WAIT_S if follow and not info.finished else 0.0
        commits = waiter.patience.call(
            lambda wait_s=wait_s: list(  # type: ignore[misc]
                ledger.read_rows(batch_id, collector.cursor, at_most=COMMITS_AT_ONCE, wait_s=wait_s)
            )
        )
        for cursor, rows in commits:
            collector.put(cursor, rows)
        if not commits and not wait_s:
            break
    if info.finished and collector.num_seen < info.num_done:
        raise CommandError(
            f"the server gave only {collector.num_seen} of the {info.num_done} rows of {batch_id}; "
            "submit the same input again with --resume: only what is missing is computed"
        )
    return info
