from dataclasses import replace

from dgq.engine.request import Result, SamplingConfig
from dgq.pipelines.asking import ask, piece_question, seed_of
from dgq.pipelines.decoding import Decoding, Decodings
from dgq.pipelines.errors import Rejected
from dgq.pipelines.job import RewriteJob
from dgq.pipelines.run import RunOptions, run_jobs

SEED = 7702167454484527886


def test_seeds_depend_on_the_job_the_piece_and_the_attempt_only():
    def job(**fields):
        return RewriteJob(**{"id": "a", "text": "t", "instruction": "i", **fields})

    seed = seed_of(job(), "piece 1", 0)
    assert seed == seed_of(job(text="other"), "piece 1", 0) == SEED
    others = {
        seed_of(job(id="b"), "piece 1", 0),
        seed_of(job(seed=1), "piece 1", 0),
        seed_of(job(), "piece 2", 0),
        seed_of(job(), "piece 1", 1),
        seed,
    }
    assert len(others) == 5 and all(0 <= each < 2**63 for each in others)
    assert seed_of(job(seed=0), "piece 1", 0) == seed


def test_rows_are_multiples_of_16_and_capped():
    decoding = Decoding(room=1.5)
    assert [decoding.rows(tokens, 256) for tokens in (0, 8, 9, 20, 1000)] == [16, 16, 32, 48, 256]


def test_a_request_carries_the_sampling_and_the_width_of_its_kind(engine):
    sampling = SamplingConfig(max_denoising_steps=7, stop_rule="plateau")
    job = RewriteJob(id="a", text="Some words.", instruction="i")

    def request(decoding):
        fake = engine(lambda _: "Some words.")
        decodings = replace(Decodings(), rewrite=decoding)
        list(run_jobs([job], fake, options=RunOptions(decodings=decodings)))
        return fake.requests[0]

    narrow, wide = request(Decoding()), request(Decoding(full_width=True, sampling=sampling))
    assert (narrow.canvas_length, narrow.sampling) == (16, None)
    assert (wide.canvas_length, wide.sampling) == (256, sampling)
    assert wide.max_new_tokens == 256 and wide.draft_ids == narrow.draft_ids


def test_after_an_answer_that_did_not_fit_the_canvas_is_wider(context):
    """One that fitted and failed is asked again as it was; one that needed more rows, wider."""

    def refuse(answer):
        raise Rejected("finished", "no")

    job = RewriteJob(id="a", text="t", instruction="i")
    decoding = Decoding(room=0.5, draft_noise=(0.0,))
    source = " ".join(f"word{i}" for i in range(100))
    question = piece_question("1", "p", source, refuse, context, decoding, must_converge=True)
    asking = ask(job, [question], context, 5)
    (request,) = next(asking)
    widths, drafts = [request.canvas_length], [len(request.draft_ids)]
    for num_canvases in (1, 2, 2, 2):
        (request,) = asking.send([Result((), "stop", num_canvases, 5, 0, 0.0, 0.1)])
        widths.append(request.canvas_length)
        drafts.append(len(request.draft_ids))
        assert request.max_new_tokens >= request.canvas_length
    assert widths == [112, 112, 224, 256, 256]
    assert drafts == [112, 112, 199, 199, 199]
