"""The comparison's memory; what it finds is in the tests of the command."""

import json
import tracemalloc

from dgq.worker.client.verifying import verify

NUM_JOBS = 10_000


def test_memory_is_bounded_by_the_number_of_jobs(tmp_path):
    job = {"kind": "rewrite", "text": "x" * 1000, "instruction": "y"}
    with (tmp_path / "jobs").open("w") as jobs, (tmp_path / "out").open("w") as out:
        for number in range(NUM_JOBS):
            jobs.write(json.dumps({"id": f"job-{number}", **job}) + "\n")
            out.write(json.dumps({"id": f"job-{number}", "status": "ok", "x": "x" * 1000}) + "\n")
    tracemalloc.start()
    try:
        assert verify([str(tmp_path / "jobs")], tmp_path / "out").same
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes / NUM_JOBS < 200
