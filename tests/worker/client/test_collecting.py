"""Rows each once and in order, whatever the server gives twice, late, or again."""

import json
import random

import pytest

from dgq.worker.client.collecting import Collector, InputOrder, row_key
from dgq.worker.errors import CommandError
from dgq.worker.ledger.shard import Row
from dgq.worker.resume import EarlierRows


def rows(*indices, size=20):
    return [Row(index, b'{"id":"%d","x":"%s"}' % (index, b"x" * size)) for index in indices]


def indices(written):
    return [int(json.loads(text)["id"]) for text in written]


def collector(written, **more):
    return Collector(None, "b-", written.extend, **more)


def test_rows_are_written_as_they_come_and_once():
    written = []
    collecting = collector(written)
    collecting.put("1-0", rows(3, 4))
    collecting.put("2-0", rows(4, 0))
    collecting.put("3-0", rows(100_000))
    assert indices(written) == [3, 4, 0, 100_000]
    assert (collecting.num_seen, collecting.num_written, collecting.cursor) == (4, 4, "3-0")


def test_what_was_written_before_is_left_out():
    written = []
    have = EarlierRows(ids={"1"})
    have.lines[7] += 1
    collecting = collector(written, have=have)
    bad = b'{"id":null,"line":7,"status":"error"}'
    collecting.put("1-0", [*rows(0, 1), Row(2, bad), Row(3, bad), Row(4, bad)])
    assert written == [rows(0)[0].text, bad, bad]
    assert collecting.num_seen == 5


@pytest.mark.parametrize("held_bytes", [0, 500, 10**6])
@pytest.mark.parametrize("seed", range(8))
def test_order_is_restored_whatever_is_held(held_bytes, seed):
    draw = random.Random(seed)
    order = list(range(300))
    draw.shuffle(order)
    commits = {}
    while order:
        size = draw.randint(1, 9)
        commits[f"{len(commits)}-0"] = rows(*order[:size], size=draw.randint(0, 60))
        del order[:size]
    reads = []

    def rows_at(cursor):
        reads.append(cursor)
        return commits[cursor]

    collected = InputOrder(rows_at, held_bytes)
    written = []
    for cursor, commit in commits.items():
        collected.put(cursor, commit)
        for group in collected.due():
            written += group
    assert indices(written) == list(range(300))
    assert len(collected) == 0
    assert bool(reads) == (held_bytes < 10**6)


def test_rows_that_the_server_no_longer_has_are_an_error():
    collected = InputOrder(lambda cursor: [], 0)
    collected.put("1-0", rows(1))
    collected.put("2-0", rows(0))
    with pytest.raises(CommandError, match="the server has lost rows"):
        list(collected.due())


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"id":"a","line":1}', ("a", None)),
        ('{"id":"\\"\\u00e9\\\\é😀","line":1}', ('"é\\é😀', None)),
        ('{"id":null,"line":7,"status":"error"}', (None, 7)),
        ('{"id": "spaced","line":1}', ("spaced", None)),
        ('{"id":"' + "é" * 200 + '","output":"' + "😀" * 5000 + '"}', ("é" * 200, None)),
    ],
)
def test_the_key_of_a_row_is_read_from_its_beginning(text, key):
    assert row_key(text.encode()) == key
