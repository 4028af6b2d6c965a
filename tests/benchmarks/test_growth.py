"""Growth is measured in processes of their own, and read from the trace."""

import json

import pytest

from benchmarks.growth import Point, Times, in_a_process, write_jobs


def test_times_are_read_from_a_broken_off_trace(tmp_path):
    def slices(start):
        args = {"block_fill": 0.5, "canvases": 3}
        yield {"name": "step", "ph": "X", "ts": start, "dur": 100, "args": args}
        yield {"name": "plan", "ph": "X", "ts": start, "dur": 20}
        yield {"name": "model", "ph": "X", "ts": start + 20, "dur": 70}
        yield {"name": "judge", "ph": "X", "ts": start + 90, "dur": 10}

    events = [{"name": "rows", "ph": "C", "ts": 0}, *slices(1000), *slices(1200)]
    trace = tmp_path / "trace.json"
    trace.write_text("[\n" + ",\n".join(map(json.dumps, events)))
    times = Times.of(trace)
    assert (times.steps, times.fill, times.canvases) == (2, 0.5, 3)
    assert times.seconds == pytest.approx(300e-6)
    assert times.model == pytest.approx(140 / 300)
    assert times.between == pytest.approx(1 / 3)
    assert times.plan + times.judge == pytest.approx(60 / 300)


def test_points_run_in_processes_of_their_own(tmp_path):
    write_jobs(tmp_path / "jobs.jsonl", 2)
    jobs = in_a_process(Point(jobs_path=str(tmp_path / "jobs.jsonl"), num_blocks=1))
    assert jobs["count"] == 2 and jobs["steps"] > 0 and jobs["peak_bytes"] > 50e6
    prompts = in_a_process(Point(prompt_tokens=64, shared=True))
    assert prompts["count"] == 48 and prompts["steps"] >= 2 * 8  # 32 canvases at a time
    assert 0 < prompts["model"] < 1


def test_more_blocks_take_more_of_everything():
    wide = Point(num_blocks=64)
    assert wide.config.max_rows == 16384 and wide.config.max_canvases == 512
    assert wide.options.enough_requests > 512
    assert Point(num_blocks=1).config.max_canvases == 8
