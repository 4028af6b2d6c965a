"""Claiming shards, holding them, and giving them back."""

import pytest

from dgq.worker.ledger.keys import GROUP
from tests.worker.fresh import LEASE_S, claim, commit, silence, snapshot, submit


def indices(lease):
    return [job.index for job in lease.jobs]


def consumers(ledger, batch_id):
    stream = ledger.keys.batch(batch_id).shards
    return {one["name"] for one in ledger.redis.xinfo_consumers(stream, GROUP)}


def twice(monkeypatch):
    """Every call of a script is made a second time, as after a lost reply; the second one counts."""
    from dgq.worker.ledger.scripts import Scripts

    run = Scripts.run

    def run_twice(self, *args):
        run(self, *args)
        return run(self, *args)

    monkeypatch.setattr(Scripts, "run", run_twice)


def test_new_shards_come_in_their_order_and_once(ledger):
    batch_id = submit(ledger, [3, 2])
    first, second = claim(ledger, batch_id), claim(ledger, batch_id, "other")
    assert (indices(first), indices(second)) == ([0, 1, 2], [3, 4])
    assert first.jobs[1].line == 2 and first.jobs[1].text.startswith(b'{"id": "job-1"')
    assert (first.deaths, first.cancelled, first.batch_id) == (0, False, batch_id)
    assert claim(ledger, batch_id) is None
    assert len(consumers(ledger, batch_id)) == 2


def test_a_silent_holders_shard_comes_before_new_ones(ledger):
    batch_id = submit(ledger, [2, 2])
    lease = claim(ledger, batch_id, "dead")
    commit(ledger, lease, lease.jobs[:1])
    silence(ledger, lease)
    again = claim(ledger, batch_id)
    assert (again.entry, indices(again), again.deaths) == (lease.entry, [1], 1)
    assert consumers(ledger, batch_id) == {again.consumer.encode()}
    silence(ledger, again)
    assert claim(ledger, batch_id).deaths == 2
    assert indices(claim(ledger, batch_id)) == [2, 3]


def test_a_lease_of_a_few_milliseconds_runs_out_by_itself(ledger):
    batch_id = submit(ledger, [1])
    first = claim(ledger, batch_id)
    while (second := claim(ledger, batch_id, lease_s=0.005)) is None:
        pass
    assert (second.entry, second.deaths) == (first.entry, 1)


def test_a_lease_of_0_takes_from_the_living(ledger):
    batch_id = submit(ledger, [2])
    first = claim(ledger, batch_id)
    assert claim(ledger, batch_id) is None
    second = claim(ledger, batch_id, lease_s=0)
    assert second.entry == first.entry
    assert commit(ledger, first) == "lost"
    assert commit(ledger, second) == "written"


def test_a_claim_whose_reply_was_lost_gives_the_same_shard_once_more(ledger, monkeypatch):
    batch_id = submit(ledger, [2, 2])
    twice(monkeypatch)
    first, second = claim(ledger, batch_id), claim(ledger, batch_id)
    assert (indices(first), indices(second)) == ([0, 1], [2, 3])
    assert (first.deaths, second.deaths) == (0, 0)
    silence(ledger, first)
    assert claim(ledger, batch_id).deaths == 1


def test_a_paused_batch_gives_nothing_not_even_what_fell_silent(ledger):
    batch_id = submit(ledger, [1, 1])
    silence(ledger, claim(ledger, batch_id))
    ledger.control(batch_id, "pause")
    assert claim(ledger, batch_id) is None is claim(ledger, batch_id, lease_s=0)
    assert ledger.candidates(["default"]) == []
    ledger.control(batch_id, "resume")
    assert indices(claim(ledger, batch_id)) == [0]


def test_a_cancelled_batch_says_so(ledger):
    batch_id = submit(ledger, [1])
    ledger.control(batch_id, "cancel")
    assert claim(ledger, batch_id).cancelled


def test_claiming_from_a_batch_that_is_gone_takes_it_off_the_list(ledger):
    batch_id = submit(ledger, [1])
    keys = ledger.keys.batch(batch_id)
    ledger.redis.delete(keys.shards)  # a server that evicts may lose a single key
    assert ledger.claim(batch_id, "default", "w", LEASE_S) is None
    assert ledger.candidates(["default"]) == []
    batch_id = submit(ledger, [1])
    ledger.redis.delete(*keys.all(), *ledger.keys.batch(batch_id).all())
    assert ledger.claim(batch_id, "default", "w", LEASE_S) is None
    assert ledger.candidates(["default"]) == []
    assert ledger.claim(batch_id, "default", "w", LEASE_S) is None


def test_a_shard_that_somebody_deleted_is_in_nobodys_way(ledger):
    batch_id = submit(ledger, [1, 1, 1])
    leases = [claim(ledger, batch_id) for _ in range(2)]
    for lease in leases:
        silence(ledger, lease)
    ledger.redis.xdel(ledger.keys.batch(batch_id).shards, *(lease.entry for lease in leases))
    assert indices(claim(ledger, batch_id)) == [2]
    assert claim(ledger, batch_id, lease_s=0).deaths == 1
    assert commit(ledger, leases[0]) == "lost"
    assert len(consumers(ledger, batch_id)) == 1


def test_renewing(ledger):
    batch_id = submit(ledger, [1])
    lease = claim(ledger, batch_id)
    silence(ledger, lease)
    assert ledger.renew(lease) == "active"
    assert claim(ledger, batch_id) is None
    assert ledger.renew(lease) == "active"
    for action, state in [("pause", "paused"), ("cancel", "cancelled")]:
        ledger.control(batch_id, action)
        assert ledger.renew(lease) == state
    silence(ledger, lease)
    other = claim(ledger, batch_id)
    assert ledger.renew(lease) == "lost"
    assert ledger.renew(other) == "cancelled"
    assert other.deaths == 1  # renewals are no deliveries
    ledger.redis.flushall()
    assert ledger.renew(other) == "gone"


def test_the_same_worker_is_fenced_from_its_own_earlier_lease(ledger):
    batch_id = submit(ledger, [2])
    first = claim(ledger, batch_id, "w")
    silence(ledger, first)
    second = claim(ledger, batch_id, "w")
    before = snapshot(ledger)
    assert ledger.renew(first) == commit(ledger, first) == "lost"
    ledger.release(first)
    ledger.release(first, died=True)
    ledger.split(first)
    assert snapshot(ledger) == before
    assert commit(ledger, second) == "written"


@pytest.mark.parametrize(("died", "deaths"), [(False, 0), (True, 1)])
def test_a_released_shard_can_be_had_at_once(ledger, monkeypatch, died, deaths):
    batch_id = submit(ledger, [2, 1])
    lease = claim(ledger, batch_id)
    commit(ledger, lease, lease.jobs[:1])
    twice(monkeypatch)
    ledger.release(lease, died=died)
    assert consumers(ledger, batch_id) == {b"released"}
    assert ledger.renew(lease) == "lost" == commit(ledger, lease)
    assert ledger.num_waiting(batch_id, 10**9) == 2
    again = claim(ledger, batch_id, lease_s=10**9)
    assert (again.entry, indices(again), again.deaths) == (lease.entry, [1], deaths)


def test_several_released_shards_are_kept_apart(ledger):
    batch_id = submit(ledger, [1, 1, 1])
    leases = [claim(ledger, batch_id) for _ in range(3)]
    for lease in leases:
        ledger.release(lease)
    again = [claim(ledger, batch_id) for _ in range(3)]
    assert [lease.entry for lease in again] == [lease.entry for lease in leases]
    assert all(commit(ledger, lease) == "written" for lease in again[:2])
    assert consumers(ledger, batch_id) <= {b"released", again[2].consumer.encode()}
    assert commit(ledger, again[2]) == "written"
    assert ledger.info(batch_id).finished


def test_splitting(ledger, monkeypatch):
    batch_id = submit(ledger, [4, 1])
    lease = claim(ledger, batch_id)
    silence(ledger, lease)
    lease = claim(ledger, batch_id)
    commit(ledger, lease, lease.jobs[1:2])
    twice(monkeypatch)
    ledger.split(claim(ledger, batch_id, lease_s=0))
    assert ledger.renew(lease) == "lost"
    parts = [claim(ledger, batch_id) for _ in range(4)]
    assert [indices(part) for part in parts] == [[4], [0], [2], [3]]
    assert [part.deaths for part in parts] == [0, 2, 2, 2]
    silence(ledger, parts[1])
    assert claim(ledger, batch_id).deaths == 3
    assert claim(ledger, batch_id) is None
    assert ledger.info(batch_id).num_jobs == 5


def test_a_full_server_lets_shards_be_split_and_given_back(ledger):
    batch_id = submit(ledger, [2, 1])
    lease, other = claim(ledger, batch_id), claim(ledger, batch_id)
    ledger.redis.config_set("maxmemory", 1)
    ledger.split(lease)
    ledger.release(other)
    assert ledger.renew(other) == "lost"
    ledger.redis.config_set("maxmemory", 0)
    assert sorted(indices(claim(ledger, batch_id))[0] for _ in range(3)) == [0, 1, 2]


def test_what_waits_is_counted(ledger):
    batch_id = submit(ledger, [1, 1, 1])
    assert ledger.num_waiting(batch_id, LEASE_S) == 3
    lease = claim(ledger, batch_id)
    assert ledger.num_waiting(batch_id, LEASE_S) == 2
    silence(ledger, lease)
    assert ledger.num_waiting(batch_id, LEASE_S) == 3
    assert ledger.num_waiting("b-aaaaaaaaaaaa", LEASE_S) == 0
