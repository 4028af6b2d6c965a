"""The drill on a real server with real processes, and that it would notice what it looks for."""

import json
import os
import subprocess
import sys

import pytest

from dgq.worker import chaos
from dgq.worker.chaos import Drill
from dgq.worker.errors import CommandError
from dgq.worker.ledger.ledger import Ledger
from dgq.worker.ledger.shard import Row
from dgq.worker.settings import Settings
from tests.worker.servers import RealServer

DGQ = [sys.executable, "-m", "dgq.worker"]


def test_a_short_drill_keeps_its_promises_and_leaves_nothing(tmp_path):
    with RealServer(tmp_path / "server") as server:
        done = subprocess.run(
            [*DGQ, "chaos", "--jobs", "150", "--workers", "2", "--timeout", "120", "--json"],
            env=os.environ | {"DGQ_REDIS_URL": server.url, "DGQ_LEASE_S": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        report = json.loads(done.stdout)
        assert report["num_rows"] == report["num_jobs"] == 150
        assert set(report["promises"].values()) == {True}
        assert sum(report["faults"].values()) >= 1
        client = server.client()
        left = {key.decode() for key in client.keys("*") if client.ttl(key) == -1}
        assert not [key for key in left if ":b:" in key or "chaos-" in key], left


def test_it_says_so_if_no_worker_comes_up(tmp_path, monkeypatch):
    monkeypatch.setattr(chaos, "START_S", 0.2)
    monkeypatch.setattr(chaos, "WORKER", [sys.executable, "-c", "exit(1)"])
    with RealServer(tmp_path / "server") as server:
        settings = Settings(redis_url=server.url)
        with pytest.raises(CommandError, match="no worker of the drill has come up"):
            chaos.run_drill(settings, num_workers=2, num_jobs=1, timeout_s=1, on_event=print)
        assert not list(Ledger(server.client()).batches())


class Rows:
    """A batch with these rows."""

    def __init__(self, *rows):
        self._rows = [Row(index, text) for index, text in rows]

    def rows(self, *, follow):
        yield "1-0", self._rows


def judged(*rows, early=None):
    jobs = [chaos._job(number) for number in range(2)]
    drill = Drill(num_jobs=2)
    chaos._judge(Rows(*rows), jobs, early or {}, drill)
    return drill


def test_it_notices_what_is_lost_doubled_different_and_changed():
    right = chaos._undisturbed([chaos._job(number) for number in range(2)])
    good = judged(*right.items(), early=right)
    assert set(good.promises().values()) == {True}
    assert judged((0, right[0])).num_lost == 1
    assert judged(*right.items(), (1, right[1])).num_doubled == 1
    assert judged((0, right[0]), (1, b"{}")).num_different == 1
    assert judged(*right.items(), early={0: b"{}"}).num_changed == 1
    for drill in (judged((0, right[0])), judged(*right.items(), (1, right[1]))):
        assert False in drill.promises().values()
