"""Promises: a job that ends its worker each time ends no more than ``max_deaths`` of them; it becomes
an ``error`` row, and the jobs beside it are done. A worker that hangs ends itself with 70, one whose
device is broken with 71, and gives back its shards at once."""

import json

import pytest

from tests.worker.faults.fleet import make_jobs, wait_for

POISONS = {
    "kill": (-9, {}),
    "hang": (70, {"stall_timeout_s": 3}),
    "break": (71, {"lease_s": 600}),
}


@pytest.mark.parametrize("poison", POISONS)
def test_one_job_of_many(fleet, poison):
    code, settings = POISONS[poison]
    fleet = fleet(shard_jobs=20, **settings)
    jobs = make_jobs(60)
    jobs[33]["text"] = f"Please, stub:{poison}."
    workers = fleet.start(4)
    batch = fleet.submit(jobs)
    rows = fleet.finish(batch, jobs, failed={"job-33": "error"})
    row = next(json.loads(row) for row in rows if "job-33" in row)
    assert row["error"]["type"] == "WorkerDied"
    assert row["error"]["message"].startswith("3 workers ended")
    ended = [worker for worker in workers if worker.process.poll() is not None]
    assert [worker.wait() for worker in ended] == [code] * 3
    assert all("Traceback" not in worker.err for worker in workers)


def test_it_can_be_tried_again(fleet):
    """A parked job is a failed one: retry knows it."""
    fleet = fleet(max_deaths=1)
    jobs = make_jobs(10)
    jobs[3]["text"] = "stub:kill"
    batch = fleet.submit(jobs)
    fleet.start(3, wait=False)
    fleet.finish(batch, jobs, failed={"job-3": "error"})
    assert [json.loads(job.text)["id"] for job in fleet.ledger.failed_jobs(batch.id)] == ["job-3"]
    survivors = [worker for worker in fleet.workers if worker.process.poll() is None]
    assert len(survivors) == 1
    wait_for(lambda: survivors[0].ready)
