from dgq.pipelines.asking import seed_of
from dgq.pipelines.decoding import Decoding
from dgq.pipelines.job import RewriteJob

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
