"""Jobs into the ledger: broken off anywhere and gone on with, refused, waiting for room."""

import pytest

from dgq.pipelines.job import RewriteJob
from dgq.pipelines.reading import BadLine, read_job_lines
from dgq.worker.client import memory
from dgq.worker.client.submission import Bounds, cut, submit_entries
from dgq.worker.errors import BatchCancelled, BatchUnknown, CommandError, ServerError
from dgq.worker.ledger.types import NewBatch
from tests.worker.fresh import all_rows, claim, line

BOUNDS = Bounds(shard_jobs=4, shard_bytes=10_000, max_jobs=1000, max_memory_percent=90)
LINES = [line(number) if number % 5 else b"no job" for number in range(22)]


class Broken(Exception):
    pass


def entries(lines=LINES):
    return list(read_job_lines(lines))


def breaking(lines, after):
    """An input that breaks off."""
    yield from entries(lines)[:after]
    raise Broken


def hand_over(ledger, batch, given, bounds=BOUNDS, **more):
    more = {"ring": lambda: None} | more
    return submit_entries(ledger, batch, given, bounds, **more)


def new(ledger, **fields):
    return ledger.info(ledger.create(NewBatch(**fields))[0])


def content(ledger, batch):
    """All that the ledger has of a batch, ids and times apart."""
    info = ledger.info(batch.id)
    stream = ledger.redis.xrange(ledger.keys.batch(batch.id).shards)
    shards = [fields for _, fields in stream]
    counters = (info.num_jobs, info.num_done, info.num_shards, info.digest, info.num_by_status)
    return counters, info.sealed, shards, all_rows(ledger, batch.id)


@pytest.mark.parametrize("after", [0, 1, 3, 4, 5, 8, 9, 12, 20, 21, 22])
def test_going_on_after_a_break_equals_one_undisturbed_submission(ledger, after):
    whole = new(ledger)
    total = hand_over(ledger, whole, entries())
    assert (total.num_jobs, total.num_bad, total.num_new_shards) == (17, 5, 6)
    batch = new(ledger)
    with pytest.raises(Broken):
        hand_over(ledger, batch, breaking(LINES, after))
    assert not ledger.info(batch.id).sealed
    rest = hand_over(ledger, batch, entries())
    assert (rest.num_jobs, rest.num_bad) == (17, 5)
    assert rest.num_new_shards == 6 - after // 4 + (after % 4 == 0 and after > 0)
    assert content(ledger, batch) == content(ledger, whole)
    assert hand_over(ledger, batch, entries()).num_new_shards == 0  # and once more
    assert content(ledger, batch) == content(ledger, whole)


OTHERS = {
    "nothing": [],
    "shard less": LINES[:8],
    "shifted": [b"", *LINES],
    "first": [line(50), *LINES[1:]],
    "twelfth": [*LINES[:11], line(50), *LINES[12:]],
}
OTHER_ENDS = {
    "one less": LINES[:21],
    "last": [*LINES[:21], line(50)],
    "one more": [*LINES, line(99)],
    "bad one more": [*LINES, b"no job"],
}


def refused(ledger, batch, other):
    before = content(ledger, batch)
    with pytest.raises(CommandError, match=r"job key 'night'.*belongs to another input"):
        hand_over(ledger, batch, entries(other))
    assert content(ledger, batch) == before


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_another_input_is_refused_half_way(ledger, other):
    batch = new(ledger, job_key="night")
    with pytest.raises(Broken):
        hand_over(ledger, batch, breaking(LINES, 14))
    assert ledger.info(batch.id).num_jobs == 12
    refused(ledger, batch, other)


@pytest.mark.parametrize("other", (OTHERS | OTHER_ENDS).values(), ids=OTHERS | OTHER_ENDS)
def test_another_input_is_refused_at_the_end(ledger, other):
    batch = new(ledger, job_key="night")
    hand_over(ledger, batch, entries())
    refused(ledger, batch, other)


def test_a_batch_that_was_cancelled_or_lost(ledger):
    batch = new(ledger)
    ledger.control(batch.id, "cancel")
    with pytest.raises(BatchCancelled, match=f"{batch.id} was cancelled"):
        hand_over(ledger, batch, entries())
    batch = new(ledger)

    def lost():
        yield from entries()[:10]
        ledger.redis.flushall()
        yield from entries()[10:]

    with pytest.raises(BatchUnknown, match=f"lost batch {batch.id}"):
        hand_over(ledger, batch, lost())


def test_a_server_that_has_lost_its_last_moments(ledger):
    batch = new(ledger)

    def set_back():
        yield from entries()[:5]
        saved = {key: ledger.redis.dump(key) for key in ledger.redis.keys("*")}
        yield from entries()[5:18]
        for key, value in saved.items():
            ledger.redis.restore(key, 0, value, replace=True)
        yield from entries()[18:]

    with pytest.raises(ServerError, match="lost the last moments"):
        hand_over(ledger, batch, set_back())
    hand_over(ledger, batch, entries())
    assert ledger.info(batch.id).num_jobs == 22


def test_input_is_pulled_a_shard_at_a_time(ledger):
    batch = new(ledger)
    pulled = 0
    seen = []

    def counted():
        nonlocal pulled
        for entry in entries():
            pulled += 1
            yield entry

    hand_over(ledger, batch, counted(), on_progress=lambda now: seen.append((pulled, now.num_jobs)))
    assert [at for at, _ in seen] == [5, 9, 13, 17, 21, 22]
    assert seen[-1][1] == 17


def test_bells_ring_at_first_only_and_only_for_jobs(ledger, monkeypatch):
    monkeypatch.setattr("dgq.worker.client.submission.FIRST_TICKETS", 3)
    rings = []
    hand_over(ledger, new(ledger), entries([b"bad"] * 8 + LINES), ring=lambda: rings.append(1))
    assert len(rings) == 1  # the first two shards have no job, and ringing stops with the third
    batch = new(ledger)
    hand_over(ledger, batch, entries(), ring=lambda: rings.append(1))
    assert len(rings) == 4
    hand_over(ledger, batch, entries(), ring=lambda: rings.append(1))
    assert len(rings) == 4  # nothing new


def test_too_many_jobs(ledger):
    batch = new(ledger)
    bounds = Bounds(4, 10_000, 10, 90)
    hand_over(ledger, batch, entries(LINES[:10]), bounds)
    with pytest.raises(CommandError, match="more than 10 jobs; split it, or raise max_batch_jobs"):
        hand_over(ledger, new(ledger), entries(LINES[:11]), bounds)


def test_shards_are_cut_by_number_and_by_bytes():
    texts = [b"x" * size for size in (10, 10, 10, 95, 5, 200, 1, 1, 1, 1, 1)]
    job = RewriteJob(id="1", text="x", instruction="x")
    given = [(job, text) for text in texts]
    given.insert(2, (BadLine(3, "x"), b""))
    shards = list(cut(given, Bounds(4, 100, 1000, 90)))
    assert [[len(one.text) for one in shard.jobs] for shard in shards] == [
        [10, 10, 10],
        [95, 5],
        [200],
        [1, 1, 1, 1],
        [1],
    ]
    assert [shard.first for shard in shards] == [0, 4, 6, 7, 11]
    assert [shard.number for shard in shards] == [0, 1, 2, 3, 4]
    assert shards[0].bad[0][0] == 2
    assert [one.line for one in shards[1].jobs] == [5, 6]  # jobs that know no line get their place
    assert list(cut([], BOUNDS)) == []


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(memory, "PATIENCE_S", 0.05)
    monkeypatch.setattr(memory, "PAUSE_S", 0.01)


def fill(ledger, percent):
    used = ledger.redis.info("memory")["used_memory"]
    ledger.redis.config_set("maxmemory", int(used * 100 / percent))


def test_no_submission_to_a_server_that_is_nearly_full(ledger, impatient):
    batch = new(ledger)
    fill(ledger, 95)
    said = []
    with pytest.raises(ServerError, match=r"9\d % full; collect results, raise maxmemory"):
        hand_over(ledger, batch, entries(), on_wait=said.append)
    assert len(said) == 1 and "waiting for room" in said[0]
    assert ledger.info(batch.id).num_jobs == 0


def test_a_submission_waits_for_room_and_goes_on(ledger, monkeypatch):
    monkeypatch.setattr(memory, "PAUSE_S", 0.01)
    monkeypatch.setattr(memory, "CHECK_BYTES", 1)  # looks before each shard
    batch = new(ledger)
    said = []

    def on_wait(why):
        said.append(why)
        ledger.redis.config_set("maxmemory", 0)

    def filling():
        for number, entry in enumerate(entries()):
            if number % 8 == 6:
                fill(ledger, 95)
            yield entry

    hand_over(ledger, batch, filling(), on_wait=on_wait)
    assert len(said) == 2
    assert ledger.info(batch.id).sealed


def test_a_server_that_fills_up_between_two_looks(ledger, impatient):
    batch = new(ledger)

    def filling():
        yield from entries()[:10]
        ledger.redis.config_set("maxmemory", 1)
        yield from entries()[10:]

    with pytest.raises(
        ServerError, match=r"% full; collect results, raise maxmemory, or submit less$"
    ):
        hand_over(ledger, batch, filling())
    ledger.redis.config_set("maxmemory", 0)
    assert ledger.info(batch.id).num_jobs == 8
    hand_over(ledger, batch, entries())
    assert ledger.info(batch.id).num_jobs == 22


def test_the_lines_of_the_jobs_are_those_of_the_input(ledger):
    batch = new(ledger)
    hand_over(ledger, batch, entries([b"\xef\xbb\xbf" + line(0), b" \r\n", line(1) + b"\r\n"]))
    assert [(job.index, job.line, job.text) for job in claim(ledger, batch.id).jobs] == [
        (0, 1, line(0)),
        (1, 3, line(1)),
    ]
