"""Parts are switched off one by one; the wrappers take away what they say and nothing else."""

from dataclasses import replace

import pytest

from benchmarks.engine_parts import PARTS, Without, cold, earlier, run_without
from benchmarks.measuring import mixed_jobs
from benchmarks.wrapped_engine import FullWidth, Waves
from dgq.engine.engine import DEFAULT_MODEL_PATH, Engine
from dgq.engine.errors import RequestError
from dgq.engine.request import Request
from dgq.engine.trace import Trace
from dgq.pipelines.decoding import load_decoding

NARROW = Request((5, 6, 7), 16, seed=0, canvas_length=16)


class PlannedCanvases(Trace):
    """Number and width of each canvas in each step."""

    def __init__(self):
        self.steps = []

    def planned(self, plan, running):
        self.steps.append([(generation.number, generation.width) for generation in plan.canvases])


def test_full_width_canvases_have_all_rows():
    trace = PlannedCanvases()
    with Engine.load(trace=trace) as engine:
        FullWidth(engine).submit(NARROW).result(timeout=60)
    assert {width for step in trace.steps for _, width in step} == {256}


def test_waves_end_before_the_next_begins():
    trace = PlannedCanvases()
    with Engine.load(trace=trace) as engine:
        waves = Waves(engine, max_canvases=3, max_rows=2048)
        futures = [waves.submit(replace(NARROW, seed=seed)) for seed in range(7)]
        refused = waves.submit(replace(NARROW, prompt_ids=(10**9,)))
        assert all(future.result(timeout=60).num_steps for future in futures)
        with pytest.raises(RequestError, match="token id"):
            refused.result(timeout=60)
    assert {number for step in trace.steps for number, _ in step} == set(range(7))
    for step in trace.steps:
        assert len({number // 3 for number, _ in step}) == 1


def test_each_part_has_a_name_and_differs_from_the_default():
    assert len({off.part for off in PARTS}) == len(PARTS)
    decodings = load_decoding(DEFAULT_MODEL_PATH)
    with Engine.load() as engine:
        assert cold(engine, decodings).rewrite.draft_noise == (1.0,)
        assert earlier(engine, decodings).rewrite.piece_tokens == 44


def test_a_part_is_measured():
    jobs = mixed_jobs(["rewrite"], 2, seed=0)
    figures = run_without(Without("anything"), jobs)
    assert figures.jobs == 2 and figures.requests >= 2 and figures.seconds > 0
