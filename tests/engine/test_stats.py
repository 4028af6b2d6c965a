"""What the engine says of its load."""

import threading
from dataclasses import replace

from dgq.engine.engine import Engine
from dgq.engine.request import Request

from .conftest import SAMPLING, requests


def test_before_during_and_after(calm_checkpoint):
    entered, go_on = threading.Event(), threading.Event()
    with Engine.load(calm_checkpoint, max_canvases=8, max_rows=160) as engine:
        model, denoise = engine._loop._runner._model, engine._loop._runner._model.denoise
        idle = engine.stats
        assert (idle.rows_in_flight, idle.canvases_in_flight, idle.requests_waiting) == (0, 0, 0)
        assert (idle.row_budget, idle.block_fill, idle.steps_total) == (160, 0.0, 0)
        assert idle.device_memory_bytes == idle.out_of_memory_total == 0

        def wait_once(*arguments):
            if not entered.is_set():
                entered.set()
                assert go_on.wait(60)
            return denoise(*arguments)

        model.denoise = wait_once
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
        assert engine.stats.steps_total > num_steps and engine.stats.block_fill == 1.0
        engine.submit(replace(narrow, canvas_length=32, max_new_tokens=32)).result(timeout=60)
        list(engine.generate(requests()))
        after = engine.stats
        assert 0.5 < after.block_fill < 1.0  # 16 rows beside 32 are padded
        assert (after.rows_in_flight, after.requests_waiting) == (0, 0)
    assert engine.stats == after  # also when closed
