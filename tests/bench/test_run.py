"""``dgq bench`` as a user runs it, and what its parts decide."""

import json
import subprocess
import sys
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from dgq.bench import timing
from dgq.bench.bars import bars
from dgq.bench.engines import fit, room_for
from dgq.bench.machine import describe
from dgq.bench.run import (
    BenchOptions,
    has_failed,
    machine_of,
    presets_of,
    section_text,
    settings_for,
)
from dgq.bench.section import Settings
from dgq.bench.sections import SECTIONS
from dgq.bench.tables import as_table, quantity
from dgq.engine.errors import CheckpointError
from dgq.engine.quantization import Quantization
from dgq.engine.quantized_checkpoint import quantize_checkpoint
from dgq.engine.shapes import config_of_shape
from dgq.worker import exit_codes
from dgq.worker.host import SHIPPED_MODEL_PATH

NOTHING = BenchOptions(False, None, (), None, (), None, None, None, 100.0, None)
GPU = Settings("cuda:0", "26b-a4b", "bfloat16", ("nf4",), (1, 8), 1024, 1024)


def dgq(*args):
    command = [sys.executable, "-m", "dgq.worker", "bench", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)


def test_the_roofline_from_the_command_line(tmp_path):
    output = tmp_path / "roofline.json"
    done = dgq("--roofline", "--preset", "nf4", "--canvases", "1,8", "-o", output)
    assert done.returncode == exit_codes.OK, done.stderr
    assert "H100 SXM: predicted" in done.stdout
    line = done.stdout.splitlines()[-1]
    assert output.read_text() == line + "\n"
    report = json.loads(line)
    assert report["dgq_bench"] == "roofline"
    assert {entry["canvases"] for entry in report["roofline"]["predicted"]} == {1, 8}


def test_a_run_on_this_cpu(tmp_path):
    output = tmp_path / "bench.json"
    done = dgq(
        *("--shape", "micro", "--preset", "nf4", "--canvases", "1", "--device", "cpu"),
        *("--prompt-tokens", "20", "--only", "protocol,checks", "-o", output),
    )
    assert done.returncode == exit_codes.OK, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert json.loads(output.read_text()) == report
    assert list(report["sections"]) == ["checks", "protocol"]
    assert report["failures"] == report["skipped"] == report["bars"] == []
    assert report["machine"]["device"] == "cpu"
    assert all(row["ok"] for row in report["sections"]["checks"])
    assert report["sections"]["protocol"][0]["tokens_per_s"] > 0
    assert "## Kernels against their references" in done.stdout
    assert "protocol, nf4: 2 points" in done.stderr


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("--only", "speed"), exit_codes.USAGE, "'speed' is no section; there are checks, "),
        (("--canvases", "1,x"), exit_codes.USAGE, "'1,x' is no list of numbers from 1 up; write 1"),
        (("--roofline", "--device", "cpu"), exit_codes.USAGE, "so it takes no --device"),
        (
            ("--device", "gpu"),
            exit_codes.CANNOT_RUN,
            "'gpu' is no device; write cpu, cuda or cuda:N",
        ),
        (
            ("--roofline", "--shape", "27b"),
            exit_codes.CANNOT_RUN,
            "there is no shape '27b' and no such folder; shapes are 26b-a4b, micro",
        ),
        (("--device", "cuda:9"), exit_codes.CANNOT_RUN, "there is no device cuda:9: "),
    ],
)
def test_what_makes_no_sense_is_one_line(args, code, message):
    done = dgq(*args)
    assert done.returncode == code
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_what_suits_the_device():
    on_cpu = settings_for(NOTHING, {"device": "cpu"})
    assert on_cpu.shape == str(SHIPPED_MODEL_PATH)
    assert (on_cpu.dtype, on_cpu.canvases, on_cpu.answer_tokens) == ("float32", (1, 2), 256)
    assert "fp8-experts" not in on_cpu.presets
    older = settings_for(NOTHING, {"device": "cuda:0", "gpu_capability": "8.6"})
    assert older.presets == ("nf4", "nf4-experts", "bf16")
    on_gpu = settings_for(NOTHING, {"device": "cuda:0", "gpu_capability": "9.0"})
    assert (on_gpu.shape, on_gpu.dtype) == ("26b-a4b", "bfloat16")
    assert on_gpu.canvases == (1, 2, 4, 8, 16, 32)
    assert (on_gpu.prompt_tokens, on_gpu.answer_tokens, on_gpu.num_steps) == (1024, 1024, 16)
    assert on_gpu.presets == ("nf4", "nf4-experts", "fp8-experts", "bf16")


def test_a_quantized_folder_has_one_preset(tmp_path):
    folder = tmp_path / "quantized"
    quantize_checkpoint(SHIPPED_MODEL_PATH, folder, Quantization("nf4-experts"))
    assert presets_of(str(folder), ("bf16", "nf4")) == ("nf4-experts",)
    assert presets_of(str(SHIPPED_MODEL_PATH), ("bf16",)) == ("bf16",)
    with pytest.raises(CheckpointError, match="is not a checkpoint: it has no"):
        config_of_shape(str(tmp_path))


def test_bars_take_the_best_of_what_was_measured():
    found = {
        "protocol": [
            {"canvases": 1, "tokens_per_s": 1400.0},
            {"canvases": 1, "tokens_per_s": 1600.0},
            {"canvases": 16, "error": "KernelError: no"},
        ],
        "short": [{"requests_per_s": 120.0}],
        "memory": [{"device_used_bytes": 19e9}, {"device_used_bytes": 17.5e9}],
    }
    one, sixteen, short, memory = bars(found)
    assert (one.measured, one.met) == (1600.0, True)
    assert (sixteen.measured, sixteen.met) == (None, None)
    assert sixteen.cells()[2:] == ["not measured", ""]
    assert (short.measured, short.met) == (120.0, False)
    assert (memory.measured, memory.met) == (17.5, True)
    assert all(bar.met is None for bar in bars({}))


def test_rows_without_figures_say_why():
    section = SECTIONS["short"]
    good = {
        "point": "1 at once, steps: 4",
        "group": "nf4",
        "preset": "nf4",
        "concurrency": 1,
        "steps_per_answer": 4,
        "requests_per_s": 12.5,
    }
    late = {"point": "8 at once, steps: 4", "group": "nf4", "skipped": "the time limit"}
    bad = {"point": "32 at once, steps: 4", "group": "nf4", "error": "KernelError: no"}
    text = section_text(section, GPU, [good, late, bad])
    assert "12.5" in text
    assert "nf4, 8 at once, steps: 4: not measured: the time limit" in text
    assert "nf4, 32 at once, steps: 4: not measured: FAILED: KernelError: no" in text
    assert [has_failed(row) for row in (good, late, bad, {"ok": False})] == [
        False,
        False,
        True,
        True,
    ]
    broken = section_text(section, GPU, [{"point": "?", "group": "nf4", "requests_per_s": 1.0}])
    assert "no table (KeyError" in broken
    assert "not measured: nothing of it runs on this device" in section_text(section, GPU, [])


def test_tables_line_up():
    table = as_table(["name", "figure"], [["a", "1,000"], ["longer", "not measured"]])
    assert table.splitlines() == [
        "| name   |       figure |",
        "| ------ | -----------: |",
        "| a      |        1,000 |",
        "| longer | not measured |",
    ]
    assert [quantity(x) for x in (0, 0.0123, 1.005, 45.67, 2958.2)] == [
        *("0.00", "0.012", "1.00", "45.7", "2,958")
    ]


@pytest.mark.parametrize(("total_gb", "fits"), [(80, True), (24, True), (16, False)])
def test_what_fits_is_the_planners_word(total_gb, fits):
    """Eight canvases behind short texts: 15.3 GB of weights and some."""
    properties = SimpleNamespace(total_memory=total_gb * 10**9)
    with mock.patch.object(torch.cuda, "get_device_properties", lambda device: properties):
        room, reason = fit(GPU, "nf4", room_for(8, 256, 512))
    assert (reason is None) == fits
    if fits:
        assert (room.max_canvases, room.max_rows, room.max_kv_tokens) == (8, 8 * 256, 8 * 768)
    else:
        assert reason.startswith("15.00 GB is too little: weights 15.31 GB")


def test_this_machine_is_described():
    found = machine_of("cpu")
    assert found["device"] == "cpu" and found["cores"] >= 1
    assert found["versions"]["torch"] == torch.__version__
    assert found["kernels"] == "interpreted"  # as all tests run
    assert describe("cuda:9")["error"].startswith("there is no device cuda:9: ")


class FakeEvent:
    """Ticks by one millisecond at each record."""

    clock = 0.0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        FakeEvent.clock += 1.0
        self.at = FakeEvent.clock

    def elapsed_time(self, end):
        return end.at - self.at


@pytest.mark.parametrize("can_capture", [True, False])
def test_a_gpu_is_timed_by_events_around_a_graph(can_capture):
    """With torch's CUDA replaced: which calls are made, not how fast they are."""
    calls = []

    class Graph:
        def replay(self):
            calls.append("replay")

    class Capture:
        def __init__(self, graph):
            pass

        def __enter__(self):
            calls.append("capture")

        def __exit__(self, kind, error, trace):
            if not can_capture:
                raise RuntimeError("operation not permitted when stream is capturing")

    with (
        mock.patch.object(torch.cuda, "Event", FakeEvent),
        mock.patch.object(torch.cuda, "CUDAGraph", Graph),
        mock.patch.object(torch.cuda, "graph", Capture),
        mock.patch.object(torch.cuda, "synchronize", lambda device: None),
        mock.patch.object(torch.cuda, "current_stream", lambda device: "the caller's"),
        mock.patch.object(torch.cuda, "set_stream", calls.append),
        mock.patch.object(timing, "_CACHE_BYTES", 16),
    ):
        seconds = timing._gpu_seconds(lambda: calls.append("launch"), torch.device("cpu"))
    assert seconds == pytest.approx(1e-3)
    runs = timing._GPU_RUNS
    captured = ["capture", "launch"] + ([] if can_capture else ["the caller's"])
    assert calls == captured + ["replay" if can_capture else "launch"] * runs
