"""Promise: with a real model too, a worker that is killed in the middle of a canvas changes nothing:
the rows are those of ``dgq run`` on the same jobs, but for the time that they took."""

import json

import pytest

from dgq.worker.local import run
from tests.worker.faults.fleet import make_jobs


def assert_same(row, alone):
    """But for the seconds, and the last digits of a sum that a row's neighbours can change."""
    expected = dict(alone["stats"])
    expected["seconds"] = row["stats"]["seconds"]
    expected["mean_entropy"] = pytest.approx(expected["mean_entropy"], abs=1e-4)
    assert row["stats"] == expected
    assert row | {"stats": None, "line": None} == alone | {"stats": None, "line": None}


def test_killed_in_the_middle_of_a_canvas(fleet):
    fleet = fleet(shard_jobs=4)
    victim = fleet.start(stub=False)
    jobs = make_jobs(12, "The color of house {} is grey. Its owner is not here.")
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
    found = [json.loads(row) for row in rows]
    assert sorted(row["id"] for row in found) == sorted(alone)
    for row in found:
        assert_same(row, alone[row["id"]])
