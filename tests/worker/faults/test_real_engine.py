"""Promise: with a real model too, a worker that is killed in the middle of a canvas changes nothing:
the rows are those of ``dgq run`` on the same jobs, but for the time that they took."""

import json

from dgq.worker.local import run
from tests.worker.faults.fleet import make_jobs


def timeless(row):
    """A row without its seconds."""
    row["stats"].pop("seconds")
    return row


def test_killed_in_the_middle_of_a_canvas(fleet):
    fleet = fleet(shard_jobs=6)
    victim = fleet.start(stub=False)
    jobs = make_jobs(24, "The color of house {} is grey. Its owner is not here.")
    batch = fleet.submit(jobs, seed=7)
    before = fleet.wait_for_rows(batch, 1)
    victim.kill()
    before = fleet.rows(batch)
    assert len(before) < len(jobs)
    fleet.start(stub=False)
    fleet.wait_for_rows(batch, len(jobs))
    rows = fleet.rows(batch)
    assert rows[: len(before)] == before
    alone = {result.id: result.model_dump(mode="json") for result in run(jobs, seed=7)}
    found = [timeless(json.loads(row) | {"line": None}) for row in rows]
    assert sorted(row["id"] for row in found) == sorted(alone)
    assert {row["id"]: row for row in found} == {i: timeless(row) for i, row in alone.items()}
