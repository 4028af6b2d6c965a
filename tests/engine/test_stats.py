"""What the engine says of its load."""

import threading
from dataclasses import replace

from dgq.engine.engine import Engine
from dgq.engine.engine_config import EngineConfig
from dgq.engine.request import Request
from dgq.engine.stats import StepMeter

from .conftest import SAMPLING, requests


def test_before_during_and_after(calm_checkpoint):
    entered, go_on = threading.Event(), threading.Event()
    config = EngineConfig(max_canvases=8, max_rows=160)
    with Engine.load(calm_checkpoint, config=config) as engine:
        model = engine._loop._runner._model
        forward = model.read_and_denoise
        idle = engine.stats
        assert (idle.rows_in_flight, idle.canvases_in_flight, idle.requests_waiting) == (0, 0, 0)
        assert (idle.row_budget, idle.block_fill, idle.steps_total) == (160, 0.0, 0)
        assert idle.device_memory_bytes == idle.out_of_memory_total == 0

        def wait_once(*arguments):
            if not entered.is_set():
                entered.set()
                assert go_on.wait(60)
            return forward(*arguments)

        model.read_and_denoise = wait_once
        narrow = Request((5, 6), 16, seed=1, canvas_length=16, sampling=SAMPLING)
        first = engine.submit(narrow)
        assert entered.wait(60)
        others = [engine.submit(replace(narrow, seed=seed)) for seed in range(9)]
        busy = engine.stats
        assert (busy.rows_in_flight, busy.canvases_in_flight, busy.requests_waiting) == (16, 1, 9)
        go_on.set()
        num_steps = first.result(timeout=60).num_steps
        for other in others:
            other.result(timeout=60)
        assert engine.stats.steps_total >= num_steps
        assert 0 < engine.stats.block_fill < 0.7  # of 256 rows, at most 8 canvases of 16 and 9 x 2
        list(engine.generate(requests()))
        after = engine.stats
        assert idle.steps_total < busy.steps_total + num_steps <= after.steps_total
        assert (after.rows_in_flight, after.requests_waiting) == (0, 0)
    assert engine.stats == after  # also when closed


def test_fill_counts_blocks_of_the_last_steps():
    meter = StepMeter()
    meter.count(num_read_rows=0, num_canvas_rows=256)
    assert (meter.block_fill, meter.steps_total) == (1.0, 1)
    meter.count(num_read_rows=10, num_canvas_rows=54)
    assert meter.block_fill == (256 + 64) / 512
    meter.count(num_read_rows=1, num_canvas_rows=256)  # the 257th row begins a block
    assert meter.block_fill == (256 + 64 + 257) / 1024
    for _ in range(64):
        meter.count(num_read_rows=128, num_canvas_rows=0)
    assert (meter.block_fill, meter.steps_total) == (0.5, 67)
