"""The same request gives the same tokens, steps and entropy, to the bit, in any company.

The shipped dgq-tiny answers the requests that the pipelines made of 200 jobs. Each grouping runs in
an engine of its own, so that nothing that one has read can help another.
"""

import random
from dataclasses import replace

import pytest
import torch

from dgq.engine.engine import Engine
from dgq.engine.engine_config import EngineConfig
from dgq.engine.request import SamplingConfig
from dgq.pipelines.reading import read_jobs
from dgq.pipelines.run import run_jobs
from training.evaluate import as_lines, held_out_jobs

from .conftest import text_of

NUM_JOBS = {"fill": 25, "json": 175}  # the other families take long to make
NUM_ALONE = 20


class Recorder:
    """An engine that remembers what it was asked, and answered."""

    def __init__(self, engine):
        self._engine = engine
        self.asked = []

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def submit(self, request):
        future = self._engine.submit(request)
        self.asked.append((request, future))
        return future


def in_other_ways(request):
    """What the pipelines may ask beside: a form of pinned tokens with its scores, a long text in
    narrow canvases, one that is not done in time, and a wide canvas.
    """
    plain = replace(request, canvas_length=32, draft_ids=(), draft_noise=0.0)
    pins = tuple((row, request.prompt_ids[row]) for row in range(0, 32, 3))
    scored = ((1, (5, 6, 7)), (30, (8,)))
    yield replace(plain, max_new_tokens=32, pins=pins, scored=scored, num_candidates=3)
    yield replace(plain, max_new_tokens=96, canvas_length=16)
    impatient = SamplingConfig(
        max_denoising_steps=2, stability_threshold=3, max_rerolls=2, reroll_entropy_nats=1e-12
    )
    yield replace(plain, max_new_tokens=16, sampling=impatient)
    yield replace(plain, max_new_tokens=240, canvas_length=240, sampling=impatient)


@pytest.fixture(scope="module")
def recorded():
    """Requests and their results, as they came about with up to 32 canvases at once."""
    with Engine.load() as engine:
        recorder = Recorder(engine)
        lines = [
            line
            for family, count in NUM_JOBS.items()
            for line in as_lines(held_out_jobs(family, count, seed=8), family)
        ]
        random.Random(0).shuffle(lines)
        results = list(run_jobs(read_jobs(lines), recorder))
        assert len(results) == len(lines) == 200
        for request, _ in recorder.asked[:8]:
            for other in in_other_ways(request):
                recorder.submit(other)
        return [(request, text_of(future.result())) for request, future in recorder.asked]


def run_all(recorded, order, **config):
    """The answers, by their places in the record, to requests given in another order."""
    with Engine.load(config=EngineConfig(**config)) as engine:
        answers = dict(engine.generate(recorded[i][0] for i in order))
        engine._loop.check()
    return {order[place]: text_of(result) for place, result in answers.items()}


def assert_equal(recorded, answers):
    wrong = [i for i, answer in answers.items() if answer != recorded[i][1]]
    assert not wrong, (
        f"{len(wrong)} of {len(answers)} differ; the first, request {wrong[0]}: "
        f"{answers[wrong[0]]} and not {recorded[wrong[0]][1]}"
    )


def test_the_record_holds_all_that_a_batch_may_mix(recorded):
    requests = [request for request, _ in recorded]
    assert len({request.canvas_length for request in requests}) >= 4
    assert any(request.draft_ids for request in requests)
    assert any(result.scores and result.candidates for _, result in recorded)
    assert any(result.num_canvases > 1 for _, result in recorded)
    assert any(result.num_rerolls > 0 for _, result in recorded)


def test_shuffled_and_without_sharing(recorded):
    order = random.Random(1).sample(range(len(recorded)), len(recorded))
    assert_equal(recorded, run_all(recorded, order, share_prefixes=False))


def test_split_into_small_batches(recorded):
    order = list(reversed(range(len(recorded))))
    assert_equal(recorded, run_all(recorded, order, max_canvases=3, max_rows=320))


def test_alone(recorded):
    rng = random.Random(2)
    with Engine.load(config=EngineConfig(max_canvases=1)) as engine:
        for i in rng.sample(range(len(recorded)), NUM_ALONE):
            assert_equal(recorded, {i: text_of(engine.submit(recorded[i][0]).result())})


def test_after_memory_ran_out(recorded):
    order = random.Random(3).sample(range(len(recorded)), 100)
    with Engine.load() as engine:
        path, calls = engine._loop._runner._path, 0
        original = path.denoise

        def fail_now_and_then(*arguments):
            nonlocal calls
            calls += 1
            step = original(*arguments)
            if calls % 3 == 0 and engine.stats.canvases_in_flight > 1:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return step

        path.denoise = fail_now_and_then
        answers = dict(engine.generate(recorded[i][0] for i in order))
        assert engine.stats.out_of_memory_total >= 2
    assert_equal(recorded, {order[place]: text_of(result) for place, result in answers.items()})
