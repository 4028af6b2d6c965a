"""The trace in the Chrome format: valid, nested, and counting what the results count."""

import json
import logging
import os
import resource
import subprocess
import sys
from collections import Counter

import pytest
import torch

from dgq.engine.engine import Engine
from dgq.engine.engine_config import EngineConfig
from dgq.engine.errors import EngineError
from dgq.engine.request import Request
from dgq.engine.trace import BEGINNING, TraceRecorder

from .conftest import SAMPLING, requests

CONFIG = EngineConfig(max_canvases=6, max_rows=128)
STEPS_LANE = 0


def traced(checkpoint, path, wanted, config=CONFIG):
    with (
        TraceRecorder(path) as trace,
        Engine.load(checkpoint, config=config, trace=trace) as engine,
    ):
        return dict(engine.generate(wanted))


def spans(events):
    """Closed slices of each lane, outer before inner, as (lane, name, depth, start, end, args)."""
    closed, open_slices = [], {}
    for event in events:
        stack = open_slices.setdefault(event["tid"], [])
        args = event.get("args", {})
        if event["ph"] == "B":
            assert not stack or event["ts"] >= stack[-1][3]
            stack.append((event["tid"], event["name"], len(stack), event["ts"], args))
        elif event["ph"] == "E":
            lane, name, depth, start, begin_args = stack.pop()
            assert name == event["name"] and event["ts"] >= start
            closed.append((lane, name, depth, start, event["ts"], begin_args | args))
    assert not any(open_slices.values()), "a slice was left open"
    return closed


def test_it_counts_what_the_results_count(calm_checkpoint, tmp_path):
    wanted = requests()
    results = traced(calm_checkpoint, tmp_path / "trace.json", wanted)
    events = json.loads((tmp_path / "trace.json").read_text())
    closed = spans(events)
    canvases = [span for span in closed if span[1].startswith("canvas")]
    whole = [span for span in closed if span[1].startswith("request")]
    assert Counter(span[5]["request"] for span in whole) == Counter(range(len(wanted)))
    for span in whole:
        number = span[5]["request"]
        result, own = results[number], [c for c in canvases if c[5]["request"] == number]
        verdicts = Counter(canvas[5]["verdict"] for canvas in own)
        assert sum(canvas[5]["steps"] for canvas in own) == result.num_steps == span[5]["steps"]
        assert verdicts["re-rolled"] == result.num_rerolls
        assert verdicts["committed"] == result.num_canvases - 1 and verdicts["finished"] == 1
        assert span[5]["prompt_tokens"] == len(wanted[number].prompt_ids)
        assert span[5]["finish_reason"] == result.finish_reason
        for lane, _, depth, start, end, _ in own:
            assert (lane, depth) == (span[0], 1) and span[3] <= start <= end <= span[4]
    assert len({span[0] for span in canvases}) <= CONFIG.max_canvases


def test_a_step_is_split_and_its_rows_are_those_of_the_canvases(calm_checkpoint, tmp_path):
    wanted = requests()
    results = traced(calm_checkpoint, tmp_path / "trace.json", wanted)
    events = json.loads((tmp_path / "trace.json").read_text())
    slices = [e for e in events if e["ph"] == "X"]
    assert {e["tid"] for e in slices} == {STEPS_LANE}
    for step, *parts in zip(*[iter(slices)] * 4, strict=True):
        assert [step["name"], *(p["name"] for p in parts)] == ["step", "plan", "model", "judge"]
        assert sum(part["dur"] for part in parts) == step["dur"]
        assert parts[0]["ts"] == step["ts"]
    steps = [e["args"] for e in slices if e["name"] == "step"]
    assert [step["step"] for step in steps] == list(range(len(steps)))
    canvases = [span for span in spans(events) if span[1].startswith("canvas")]
    denoised = sum(span[5]["width"] * span[5]["steps"] for span in canvases)
    assert sum(step["rows_denoised"] for step in steps) == denoised
    assert all(0 < step["block_fill"] <= 1 for step in steps)
    shared = sum(span[5].get("prompt_tokens_shared", 0) for span in spans(events))
    committed = sum(s[5]["width"] for s in canvases if s[5]["verdict"] == "committed")
    prompts = sum(len(request.prompt_ids) for request in wanted)
    assert sum(step["rows_read"] for step in steps) == prompts - shared + committed
    counters = [e["args"] for e in events if e["ph"] == "C" and e["name"] == "rows"]
    assert [c["denoised"] for c in counters] == [step["rows_denoised"] for step in steps]
    assert sum(result.num_steps for result in results.values()) == sum(
        step["canvases"] for step in steps
    )


def test_a_shared_prefix_and_a_long_reading_show(calm_checkpoint, tmp_path):
    prompt = tuple(range(3, 180)) * 2
    same = [Request(prompt, 16, seed=seed, canvas_length=16, sampling=SAMPLING) for seed in (0, 1)]
    traced(calm_checkpoint, tmp_path / "trace.json", same, EngineConfig(max_rows=48))
    closed = spans(json.loads((tmp_path / "trace.json").read_text()))
    first, second = (s for s in closed if s[1].startswith("request"))
    assert first[5]["prompt_tokens_shared"] == 0
    assert second[5]["prompt_tokens_shared"] == len(prompt) // 16 * 16
    reading = [span for span in closed if span[1] == "reading"]
    assert any(span[4] > span[3] for span in reading)


def test_memory_that_runs_out_shows_and_lanes_stay_nested(calm_checkpoint, tmp_path):
    path = tmp_path / "trace.json"
    with (
        TraceRecorder(path) as trace,
        Engine.load(calm_checkpoint, config=CONFIG, trace=trace) as engine,
    ):
        runner, calls = engine._loop._runner, 0
        launch = runner.launch

        def fail_now_and_then(prepared):
            nonlocal calls
            calls += 1
            if calls % 5 == 0 and engine.stats.canvases_in_flight > 1:
                raise torch.OutOfMemoryError("out of memory")
            return launch(prepared)

        runner.launch = fail_now_and_then
        results = dict(engine.generate(requests()))
        failures = engine.stats.out_of_memory_total
    events = json.loads(path.read_text())
    closed = spans(events)
    assert failures == sum(e["name"] == "out of memory" for e in events) >= 1
    finished = [s for s in closed if s[1].startswith("request") and "finish_reason" in s[5]]
    assert len(finished) == len(results)
    assert any(span[5].get("verdict") == "given up" for span in closed)


KILLED = """
import os, signal, sys
from pathlib import Path
from dgq.engine.engine import Engine
from dgq.engine.request import Request
from dgq.engine.trace import TraceRecorder

engine = Engine.load(Path(sys.argv[1]), trace=TraceRecorder(Path(sys.argv[2])))
for _, result in engine.generate(Request((5, 6, n), 64, seed=n) for n in range(3, 50)):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_leaves_whole_events(calm_checkpoint, tmp_path):
    path = tmp_path / "trace.json"
    subprocess.run([sys.executable, "-c", KILLED, calm_checkpoint, path], check=False, timeout=120)
    text = path.read_text()
    assert not text.rstrip().endswith("]")
    events = json.loads(text + "]")
    assert sum(event["name"] == "step" for event in events) >= 1


def test_a_full_disk_ends_the_trace_and_not_the_run(calm_checkpoint, tmp_path, caplog):
    undisturbed = dict(enumerate_results(calm_checkpoint))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with caplog.at_level(logging.WARNING):
            results = traced(calm_checkpoint, tmp_path / "trace.json", requests())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {i: result.token_ids for i, result in results.items()} == undisturbed
    assert [record.getMessage() for record in caplog.records] == [
        f"the trace {tmp_path / 'trace.json'} ends here: File too large"
    ]


def enumerate_results(checkpoint):
    with Engine.load(checkpoint, config=CONFIG) as engine:
        for i, result in engine.generate(requests()):
            yield i, result.token_ids


def test_a_file_that_cannot_be_written_is_one_clear_error(tmp_path):
    with pytest.raises(EngineError, match=r"cannot write the trace .*: No such file or directory"):
        TraceRecorder(tmp_path / "missing" / "trace.json")


def test_it_begins_as_it_says_and_is_complete_when_empty(tmp_path):
    with TraceRecorder(tmp_path / "trace.json") as trace:
        trace.close()
    data = (tmp_path / "trace.json").read_bytes()
    assert data.startswith(BEGINNING) and len(json.loads(data)) == 2
    assert os.stat(tmp_path / "trace.json").st_size == len(data)
