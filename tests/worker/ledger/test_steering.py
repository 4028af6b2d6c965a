"""Pause, resume, cancel, and whose turn it is."""

import threading

import pytest

from dgq.worker.client.cancelling import write_cancelled_rows
from dgq.worker.ledger.ledger import Ledger
from tests.worker.fresh import LEASE_S, all_rows, claim, commit, shard, silence, snapshot, submit


def serve(ledger, labels=("default",), lease_s=LEASE_S):
    """What a worker's slot does: a lease from the first batch that has one to give."""
    for batch_id, label in ledger.candidates(labels):
        if lease := ledger.claim(batch_id, label, "w", lease_s):
            return lease
    return None


@pytest.mark.parametrize(
    ("actions", "state"),
    [
        (["pause"], "paused"),
        (["pause", "pause"], "paused"),
        (["resume"], "active"),
        (["pause", "resume"], "active"),
        (["pause", "resume", "resume"], "active"),
        (["cancel"], "cancelled"),
        (["cancel", "cancel"], "cancelled"),
        (["pause", "cancel"], "cancelled"),
        (["cancel", "pause"], "cancelled"),
        (["pause", "cancel", "resume"], "cancelled"),
    ],
)
def test_every_change_of_state(ledger, actions, state):
    batch_id = submit(ledger, [2], priority=5)
    for action in actions:
        after = ledger.control(batch_id, action)
    info = ledger.info(batch_id)
    assert after == info.state == state
    assert info.priority == 5
    assert info.sealed
    assert bool(ledger.candidates(["default"])) == (state != "paused")
    assert ledger.backlog("default") == (0 if state == "paused" else 2)
    before = snapshot(ledger)
    ledger.control(batch_id, actions[-1])
    assert snapshot(ledger) == before  # once more changes nothing


@pytest.mark.parametrize("action", ["pause", "resume", "cancel"])
def test_a_finished_batch_stays_as_it_is(ledger, action):
    batch_id = submit(ledger, [2])
    commit(ledger, claim(ledger, batch_id))
    before = snapshot(ledger)
    assert ledger.control(batch_id, action) == "done"
    assert write_cancelled_rows(ledger, ledger.info(batch_id)) == 0
    assert snapshot(ledger) == before


def test_a_paused_batch_is_finished_by_those_who_hold_its_last_shard(ledger):
    batch_id = submit(ledger, [2])
    lease = claim(ledger, batch_id)
    ledger.control(batch_id, "pause")
    assert commit(ledger, lease) == "written"
    assert ledger.info(batch_id).state == "done"


def test_shards_that_come_while_it_is_paused_wait(ledger):
    batch_id = submit(ledger, [1], seal=False)
    ledger.control(batch_id, "pause")
    batch = ledger.info(batch_id)
    ledger.add_shard(batch, shard(1, 1, 1), batch.digest, [])
    assert (serve(ledger), ledger.candidates(["default"])) == (None, [])
    ledger.control(batch_id, "resume")
    assert [len(serve(ledger).jobs), len(serve(ledger).jobs)] == [1, 1]


def test_cancelling_before_anything_came(ledger):
    batch_id = submit(ledger, [], seal=False)
    assert ledger.control(batch_id, "cancel") == "cancelled"
    info = ledger.info(batch_id)
    assert (info.finished, info.num_jobs) == (True, 0)
    assert ledger.candidates(["default"]) == []


def test_cancelling_with_everything_done_but_the_end_of_the_input(ledger):
    batch_id = submit(ledger, [1], seal=False)
    commit(ledger, claim(ledger, batch_id))
    assert ledger.control(batch_id, "cancel") == "cancelled"
    assert ledger.info(batch_id).finished


def test_a_canceller_takes_shards_from_the_living_and_keeps_rows(ledger):
    batch_id = submit(ledger, [3, 2, 2])
    living, gone = claim(ledger, batch_id, "living"), claim(ledger, batch_id, "gone")
    commit(ledger, living, living.jobs[:1])
    ledger.release(gone)
    assert write_cancelled_rows(ledger, ledger.info(batch_id)) == 0  # it is not cancelled
    assert ledger.renew(living) == "active"
    ledger.control(batch_id, "cancel")
    assert write_cancelled_rows(ledger, ledger.info(batch_id)) == 3
    assert commit(ledger, living, living.jobs[1:], release=True) == "lost"
    info = ledger.info(batch_id)
    assert (info.state, info.finished) == ("cancelled", True)
    assert info.num_by_status == {"ok": 1, "invalid_output": 0, "error": 0, "cancelled": 6}
    assert sorted(row.index for row in all_rows(ledger, batch_id)) == list(range(7))
    assert list(ledger.failed_jobs(batch_id)) == []


def test_a_full_server_can_be_emptied_by_cancelling(ledger):
    batch_id, paused = submit(ledger, [50, 50]), submit(ledger, [1])
    claim(ledger, batch_id)
    ledger.redis.config_set("maxmemory", 1)
    assert ledger.control(paused, "pause") == "paused"
    assert ledger.control(batch_id, "cancel") == "cancelled"
    assert write_cancelled_rows(ledger, ledger.info(batch_id)) == 2
    assert ledger.info(batch_id).finished


def test_cancellers_workers_and_a_submitter_at_the_same_time(ledger, server):
    """The state is one of two for each job: a row from before, or a cancelled one."""
    sizes = [7] * 30
    batch_id = submit(ledger, sizes, seal=False)
    batch = ledger.info(batch_id)
    go, errors = threading.Barrier(6), []

    def together(work):
        def run():
            own = Ledger(server.client())
            try:
                go.wait()
                work(own)
            except Exception as error:  # noqa: BLE001 - shown by the assertion below
                errors.append(error)

        return threading.Thread(target=run)

    def work(own):
        while lease := own.claim(batch_id, "default", "w", LEASE_S):
            for job in lease.jobs:
                commit(own, lease, [job], status="cancelled" if lease.cancelled else "ok")
            commit(own, lease, [], release=True)

    def cancel(own):
        own.control(batch_id, "cancel")
        write_cancelled_rows(own, own.info(batch_id))

    def add(own):
        digest, number = batch.digest, len(sizes)
        while True:
            one = shard(number, 7 * number, 7)
            if own.add_shard(batch, one, digest, []) == "CANCELLED":
                return
            digest, number = one.digest_after(digest), number + 1

    threads = [together(what) for what in (work, work, work, cancel, cancel, add)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    info = ledger.info(batch_id)
    assert (info.state, info.finished) == ("cancelled", True)
    indices = [row.index for row in all_rows(ledger, batch_id)]
    assert sorted(indices) == list(range(info.num_jobs))
    assert info.num_by_status["ok"] + info.num_by_status["cancelled"] == info.num_jobs
    assert ledger.redis.xlen(ledger.keys.batch(batch_id).shards) == 0


def test_equal_batches_take_turns(ledger):
    ids = [submit(ledger, [1] * 4) for _ in range(3)]
    served = [serve(ledger).batch_id for _ in range(12)]
    assert [served[at : at + 3] for at in range(0, 12, 3)] == [ids] * 4


def test_a_higher_priority_goes_first_and_a_cancelled_batch_before_all(ledger):
    low = submit(ledger, [1, 1], priority=-100)
    plain = submit(ledger, [1, 1])
    high = submit(ledger, [1, 1], priority=100)
    doomed = submit(ledger, [1], priority=-100)
    ledger.control(doomed, "cancel")
    served = [serve(ledger).batch_id for _ in range(7)]
    assert served == [doomed, high, high, plain, plain, low, low]


def test_turns_and_priorities_across_labels(ledger):
    one, two = submit(ledger, [1, 1], label="a"), submit(ledger, [1, 1], label="b")
    other = submit(ledger, [1], label="c", priority=100)
    high = submit(ledger, [1], label="b", priority=1)
    served = [serve(ledger, ["a", "b"]).batch_id for _ in range(5)]
    assert served == [high, one, two, one, two]
    assert serve(ledger, ["a", "b"]) is None
    assert serve(ledger, ["c"]).batch_id == other


def test_batches_that_have_nothing_to_give_do_not_hide_others(ledger):
    taken = [submit(ledger, [1], priority=5) for _ in range(40)]
    ledger.control(submit(ledger, [1], priority=100), "pause")
    low = submit(ledger, [1])
    leases = [claim(ledger, batch_id) for batch_id in taken]
    for _ in range(1000):
        if lease := serve(ledger):
            break
    assert lease.batch_id == low
    silence(ledger, leases[30])
    for _ in range(1000):
        if lease := serve(ledger):
            break
    assert lease.batch_id == taken[30]
