"""The scripts as texts, and what a batch costs the server."""

import re
from importlib.resources import files

import pytest

from dgq.worker.ledger.scripts import NAMES, source
from tests.worker.fresh import claim, commit, submit

IN_REDIS_6_2 = set(
    "DEL EXISTS EXPIRE GET GETBIT GETRANGE HGET HINCRBY HMGET HSET HSETNX INCR PERSIST SET SETBIT "
    "TIME XACK XADD XCLAIM XDEL XGROUP XINFO XLEN XPENDING XRANGE XREADGROUP ZADD ZRANDMEMBER ZRANGE "
    "ZRANGEBYSCORE ZREM ZSCORE".split()
)


def test_every_script_is_known_by_name():
    folder = files("dgq.worker.ledger")
    found = {path.name for path in folder.iterdir() if path.name.endswith(".lua")}
    assert found == {f"{name}.lua" for name in (*NAMES, "common")}


@pytest.mark.parametrize("name", NAMES)
def test_scripts_use_only_what_redis_6_2_has(name):
    text = re.sub(r"--.*", "", source(name))
    commands = re.findall(r"redis\.p?call\(\s*'(\w+)'", text)
    commands += re.findall(r"each_key\([^)]*?'([A-Z]+)'", text)
    assert commands
    assert set(commands) <= IN_REDIS_6_2
    assert not re.search(r"EXPIRE[^\n]*'(NX|XX|GT|LT)'", text), "options of Redis 7"
    assert not re.search(r"redis\.(setresp|acl_check_cmd|register)", text)


def test_a_server_that_has_forgotten_the_scripts_is_given_them_again(ledger):
    batch_id = submit(ledger, [1])
    ledger.redis.script_flush()
    assert commit(ledger, claim(ledger, batch_id)) == "written"


def calls(ledger):
    """How often each command ran, those inside scripts too."""
    stats = ledger.redis.info("commandstats")
    return {name.removeprefix("cmdstat_"): one["calls"] for name, one in stats.items()}


def test_commands_for_each_job(ledger):
    """1,000 jobs in shards of 128, rows in groups of 32: the round trips that a worker makes."""
    before = calls(ledger)
    batch_id = submit(ledger, [128] * 7 + [104])
    served = 0
    while candidates := ledger.candidates(["default", "model"]):
        ((first, label),) = candidates
        lease = ledger.claim(first, label, "w", 60)
        for at in range(0, len(lease.jobs), 32):
            rows = lease.jobs[at : at + 32]
            ledger.renew(lease)
            commit(ledger, lease, rows, release=at + 32 >= len(lease.jobs))
        served += len(lease.jobs)
    assert served == 1000 and ledger.info(batch_id).finished
    after = calls(ledger)
    count = {name: after[name] - before.get(name, 0) for name in after}
    trips = count["evalsha"] + count["zrange"] + count["hgetall"]
    inside = sum(count.values()) - trips
    assert trips <= 110  # 10 to submit; 2 labels, a claim, 4 renewals and 4 commits for each shard
    assert inside <= 3 * 1000  # mostly the two bits that are read and written for each job


def test_memory_for_each_job(ledger):
    """The ledger's own bytes, beside the blobs: streams, leases, counters, the bitmap."""
    redis = ledger.redis
    batch_id = submit(ledger, [100] * 50, seal=False)
    stream = ledger.keys.batch(batch_id).shards
    blobs = sum(len(fields[b"b"]) for _, fields in redis.xrange(stream))
    own = redis.memory_usage(stream, samples=0) - blobs
    assert own / 5000 < 15
    leases = [claim(ledger, batch_id) for _ in range(50)]
    grown = redis.memory_usage(stream, samples=0) - blobs
    assert grown / 5000 < 20  # even if all shards were in hand at once
    for lease in leases:
        commit(ledger, lease)
    rows = ledger.keys.batch(batch_id).rows
    blobs = sum(len(fields[b"b"]) for _, fields in redis.xrange(rows))
    assert (redis.memory_usage(rows, samples=0) - blobs) / 5000 < 5
    assert redis.memory_usage(stream, samples=0) < 10_000  # what is done takes no room
