import pytest

from dgq.pipelines.errors import JobError
from dgq.pipelines.estimate import Estimate, estimate_tokens
from dgq.pipelines.job import FillJob, ReformatJob, RewriteJob

JOBS = [
    FillJob(id="1", template="{{a}} {{b}}", record={"a": "x", "c": "y"}),
    ReformatJob(id="2", code="import a\ndef f(): pass\nx = 1\n", language="python"),
    RewriteJob(id="3", text="One two.\n\nThree.", instruction="Go."),
]


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.kind)
def test_an_estimate_is_what_a_first_attempt_asks(run_one, source_of, job):
    def script(prompt):
        return "y" if job.kind == "fill" else source_of(prompt)

    result, engine = run_one(job.model_copy(update={"max_attempts": 1}), script)
    estimate = estimate_tokens(job, engine.tokenizer)
    assert result.status in ("ok", "invalid_output")
    assert estimate.requests == len(engine.requests) > 0
    assert estimate.prompt_tokens == sum(len(request.prompt_ids) for request in engine.requests)
    assert estimate.answer_tokens > 0


def test_estimates_add_up_and_refuse_what_cannot_run(context):
    assert Estimate(1, 2, 3) + Estimate(4, 5, 6) == Estimate(5, 7, 9)
    with pytest.raises(JobError):
        estimate_tokens(ReformatJob(id="1", code="(", language="python"), context.tokenizer)
