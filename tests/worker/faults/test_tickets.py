"""Promises: a ticket is no more than a hint. Doubled ones, ones for batches that are finished,
cancelled or unknown, and what is no ticket at all change nothing and end no worker; nothing is ever
unpickled."""

import base64
import json
import pickle

from dgq.worker.fleet.app import make_app, queue_name, ring
from tests.worker.faults.fleet import make_jobs, wait_for


def test_tickets_that_are_of_no_use(fleet, server, tmp_path):
    fleet = fleet(shard_jobs=10)
    worker = fleet.start()
    app = make_app(fleet.client.settings)
    jobs = make_jobs(100)
    finished = fleet.submit(jobs)
    fleet.finish(finished, jobs)
    cancelled = fleet.submit(make_jobs(1, "stub:wait 0.2"))
    cancelled.cancel()
    batch = fleet.submit(jobs)
    for batch_id in (batch.id, finished.id, cancelled.id, "b-unknown", "", "x" * 10_000):
        ring(app, "default", batch_id, 20)
    fleet.finish(batch, jobs)
    queue = f"dgq:{queue_name('default')}"
    wait_for(lambda: server.client().llen(queue) == 0)
    assert worker.process.poll() is None
    assert [cancelled.status().state, finished.status().num_done] == ["cancelled", 100]
    app.close()


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_what_is_no_ticket(fleet, server, tmp_path):
    """One after the other, each followed by work that the same worker must hear of."""
    fleet = fleet()
    app = make_app(fleet.client.settings)
    ring(app, "default", "b-unknown")
    admin = server.client()
    queue = f"dgq:{queue_name('default')}"
    good = json.loads(admin.rpop(queue))
    evil = base64.b64encode(pickle.dumps([[Touch(tmp_path / "evil")], {}, {}])).decode()
    pickled = good | {"body": evil, "content-type": "application/x-python-serialize"}
    raw = good | {"body": evil, "content-type": "application/data", "content-encoding": "binary"}
    worker = fleet.start()
    for garbage in (
        pickle.dumps(Touch(tmp_path / "evil")),
        b"\xff\x00 no JSON",
        b"",
        b"[" * 100_000,
        b"null",
        b"[]",
        b"{}",
        b'"x"',
        json.dumps({name: value for name, value in good.items() if name != "properties"}),
        json.dumps(good | {"body": "?"}),
        json.dumps(good | {"body": base64.b64encode(b"[[1, 2, 3], {}]").decode()}),
        json.dumps(good | {"headers": {}}),
        json.dumps(good | {"headers": good["headers"] | {"task": "os.system"}}),
        json.dumps(good | {"headers": good["headers"] | {"eta": "never"}}),
        json.dumps(good | {"content-encoding": "nonsense"}),
        json.dumps(pickled),
        json.dumps(raw),
    ):
        admin.lpush(queue, garbage)
        jobs = make_jobs(3)
        fleet.finish(fleet.submit(jobs), jobs)
        wait_for(lambda: admin.llen(queue) == 0)
        assert worker.process.poll() is None, garbage
    assert not (tmp_path / "evil").exists()
    assert "Traceback" not in worker.err
    app.close()
