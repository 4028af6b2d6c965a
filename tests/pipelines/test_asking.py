from dataclasses import replace

from dgq.engine.request import SamplingConfig
from dgq.pipelines.asking import seed_of
from dgq.pipelines.decoding import Decoding, Decodings
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
