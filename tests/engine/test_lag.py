"""A loop that reads a step while the next one is in flight, as on a GPU: nothing else changes."""

import json
import threading
from dataclasses import replace

import pytest

from dgq.engine.engine import Engine
from dgq.engine.engine_config import EngineConfig
from dgq.engine.errors import DeviceError, EngineError
from dgq.engine.request import Request
from dgq.engine.runner import Runner
from dgq.engine.step_in_flight import StepInFlight
from dgq.engine.trace import TraceRecorder

from .conftest import CANVAS_LENGTH, SAMPLING, requests, text_of

NEVER = replace(SAMPLING, confidence_threshold=1e-30, max_denoising_steps=5)


def mixed():
    """Answers of one to three canvases, drafts, pins, scores, candidates, re-rolls, all stop rules."""
    made = []
    for i, request in enumerate(requests(30)):
        sampling = replace(
            request.sampling,
            stop_rule=("stable_and_confident", "mean_entropy", "plateau")[i % 3],
            stop_to_end=i % 2 == 0,
        )
        if i % 5 == 1:  # starts anew twice
            sampling = replace(NEVER, max_rerolls=2, reroll_entropy_nats=1e-30)
        request = replace(request, sampling=sampling)
        if i % 5 == 2:
            request = replace(
                request,
                max_new_tokens=16,
                pins=tuple((row, 3 + row) for row in range(0, 16, 3)),
                scored=((1, (5, 6, 7)), (15, (8,))),
                num_candidates=2,
            )
        if i % 5 == 3:
            request = replace(
                request, draft_ids=tuple(range(20, 30)), draft_noise=0.5, draft_renoise=0.5
            )
        made.append(request)
    return made


@pytest.fixture(scope="module")
def wanted(calm_checkpoint):
    with Engine.load(calm_checkpoint, config=EngineConfig(max_canvases=8, max_rows=160)) as engine:
        assert engine._loop._lag == 0
        return {i: text_of(result) for i, result in engine.generate(mixed())}


@pytest.fixture(autouse=True)
def asynchronous(monkeypatch):
    monkeypatch.setattr(Runner, "is_asynchronous", True)


def load(checkpoint, max_canvases=8, max_rows=160, max_kv_tokens=32768):
    return Engine.load(checkpoint, config=EngineConfig(max_canvases, max_rows, max_kv_tokens))


def test_the_requests_hold_all_that_a_step_may_mix(wanted):
    assert {result.num_canvases for result in wanted.values()} >= {1, 3}
    assert any(result.num_rerolls == 2 for result in wanted.values())
    assert any(result.scores and result.candidates for result in wanted.values())


@pytest.mark.parametrize(
    ("max_canvases", "max_rows", "max_kv_tokens"), [(8, 160, 32768), (1, 32, 256), (3, 64, 400)]
)
def test_the_same_results(calm_checkpoint, wanted, max_canvases, max_rows, max_kv_tokens):
    """With little room, a slot and pages are taken again by the next step after a stale one."""
    with load(calm_checkpoint, max_canvases, max_rows, max_kv_tokens) as engine:
        results = {i: text_of(result) for i, result in engine.generate(mixed())}
        engine._loop.check()
        assert engine._loop.is_idle and engine._loop._runner.num_held == 0
        assert not engine._loop._in_flight
    assert results == wanted


def count_canvases(engine):
    """How often a canvas was denoised, from the launches."""
    counted, launch = [], engine._loop._runner.launch

    def count(prepared):
        counted.append(len(prepared.canvases))
        return launch(prepared)

    engine._loop._runner.launch = count
    return counted


def test_a_canvas_that_converged_is_denoised_once_more(calm_checkpoint):
    request = replace(requests()[0], sampling=replace(SAMPLING, max_denoising_steps=48))
    with load(calm_checkpoint) as engine:
        counted = count_canvases(engine)
        result = engine.submit(request).result()
        assert result.num_canvases == 1 and result.num_steps < 48
        assert sum(counted) == result.num_steps + 1


def test_a_canvas_that_has_used_its_steps_is_not(calm_checkpoint):
    """Nor is it where it starts anew, or another canvas follows."""
    sampling = replace(NEVER, max_rerolls=1, reroll_entropy_nats=1e-30)
    several = [Request((5, 6, 7), 16, seed, sampling=sampling) for seed in range(4)]
    several.append(Request((8, 9), 3 * CANVAS_LENGTH, 9, sampling=NEVER))
    with load(calm_checkpoint) as engine:
        counted = count_canvases(engine)
        results = [result for _, result in engine.generate(several)]
        assert sum(counted) == sum(result.num_steps for result in results)


def test_the_next_step_is_launched_before_one_is_read(calm_checkpoint, monkeypatch):
    order, read = [], StepInFlight.outcomes
    with load(calm_checkpoint) as engine:
        launch = engine._loop._runner.launch

        def note_launch(prepared):
            order.append("launch")
            return launch(prepared)

        def note_read(step):
            order.append("read")
            return read(step)

        engine._loop._runner.launch = note_launch
        monkeypatch.setattr(StepInFlight, "outcomes", note_read)
        num_steps = engine.submit(Request((5,), 16, seed=0, sampling=NEVER)).result().num_steps
    assert num_steps == 5
    assert order == ["launch", *["launch", "read"] * 4, "read"]


def test_the_trace_stays_nested_and_counts(calm_checkpoint, wanted, tmp_path):
    path = tmp_path / "trace.json"
    config = EngineConfig(max_canvases=6, max_rows=128)
    with (
        TraceRecorder(path) as trace,
        Engine.load(calm_checkpoint, config=config, trace=trace) as engine,
    ):
        results = {i: text_of(result) for i, result in engine.generate(mixed())}
    assert results == wanted
    open_slices, steps = {}, 0
    for event in json.loads(path.read_text()):
        stack = open_slices.setdefault(event["tid"], [])
        if event["ph"] == "B":
            stack.append(event["name"])
        elif event["ph"] == "E":
            assert stack.pop() == event["name"]
            steps += event["args"].get("steps", 0) if event["name"].startswith("canvas") else 0
    assert not any(open_slices.values())
    assert steps == sum(result.num_steps for result in results.values())


def test_an_engine_that_is_closed_leaves_no_future_open(calm_checkpoint):
    entered, go_on = threading.Event(), threading.Event()
    engine = load(calm_checkpoint)
    launch, calls = engine._loop._runner.launch, 0

    def wait_at_the_third(prepared):
        nonlocal calls
        calls += 1
        if calls == 3:
            entered.set()
            assert go_on.wait(60)
        return launch(prepared)

    engine._loop._runner.launch = wait_at_the_third
    futures = [engine.submit(Request((5,), 16, seed, sampling=NEVER)) for seed in range(12)]
    assert entered.wait(60)
    assert len(engine._loop._in_flight) == 1
    closing = threading.Thread(target=engine.close)
    closing.start()
    while engine._stopped is None:
        entered.wait(0.001)
    go_on.set()
    closing.join(60)
    for future in futures:
        with pytest.raises(EngineError, match="the engine is closed"):
            future.result(timeout=60)


def test_a_device_that_broke_a_step_ago_ends_the_engine(calm_checkpoint, monkeypatch):
    def broken(step):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(StepInFlight, "outcomes", broken)
    engine = load(calm_checkpoint)
    with pytest.raises(DeviceError, match="illegal memory access"):
        engine.submit(requests()[0]).result(timeout=60)
    with pytest.raises(DeviceError):
        engine.submit(requests()[0])
    engine.close()
