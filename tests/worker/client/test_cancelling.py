"""The rows of a cancelled batch; who takes shards from whom is in ledger/test_steering.py."""

from dgq.pipelines.reading import read_job_lines
from dgq.pipelines.result import JobResult
from dgq.worker.client.cancelling import write_cancelled_rows
from dgq.worker.client.submission import Bounds, submit_entries
from dgq.worker.ledger.types import NewBatch
from tests.worker.fresh import all_rows, claim, line, submit


def test_rows_say_whose_they_are(ledger):
    batch = ledger.info(ledger.create(NewBatch())[0])
    entries = read_job_lines([line(0), b"", b"no job", line(1)])
    submit_entries(ledger, batch, entries, Bounds(2, 10_000, 100, 90), ring=lambda: None)
    ledger.control(batch.id, "cancel")
    assert write_cancelled_rows(ledger, ledger.info(batch.id)) == 2
    results = [JobResult.model_validate_json(row.text) for row in all_rows(ledger, batch.id)]
    rows = {row.line: (row.id, row.kind, row.status) for row in results}
    assert rows == {
        1: ("job-0", "rewrite", "cancelled"),
        3: (None, None, "error"),
        4: ("job-1", "rewrite", "cancelled"),
    }


def test_nothing_is_taken_from_a_batch_that_goes_on(ledger):
    batch_id = submit(ledger, [2])
    lease = claim(ledger, batch_id)
    assert write_cancelled_rows(ledger, ledger.info(batch_id)) == 0
    assert ledger.renew(lease) == "active"


def test_a_canceller_that_was_killed_is_finished_by_the_next(ledger):
    batch_id = submit(ledger, [2, 2])
    ledger.control(batch_id, "cancel")
    claim(ledger, batch_id, "killed", lease_s=0)
    assert write_cancelled_rows(ledger, ledger.info(batch_id)) == 2
    assert ledger.info(batch_id).finished
