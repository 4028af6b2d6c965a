"""What is done on a GPU only, with torch's CUDA replaced: rows and tables are made of what it says.

The kernels run in the interpreter, on a CPU's tensors that pass for a GPU's; no figure means anything.
"""

from types import SimpleNamespace

import pytest
import torch

from dgq.bench import kernel_speed, memory_bar
from dgq.bench.beside_transformers import TransformersSection
from dgq.bench.kernel_speed import KernelsSection
from dgq.bench.machine import describe
from dgq.bench.memory_bar import MemorySection
from dgq.bench.memory_use import peak
from dgq.bench.presets import PresetsSection
from dgq.bench.protocol import ProtocolSection
from dgq.bench.run import introduction, section_text
from dgq.bench.section import Settings
from dgq.kernels.launch import HAS_TRITON
from tests.bench.test_run import NOTHING

pytestmark = pytest.mark.skipif(not HAS_TRITON, reason="no kernels without Triton")


class PassesForGpu(Settings):
    """A CPU."""

    on_gpu = True


GPU = PassesForGpu("cpu", "micro", "float32", ("nf4",), (1, 2), 40, 64)


@pytest.fixture(autouse=True)
def cuda(monkeypatch):
    """An H100 as torch would tell of it."""
    properties = SimpleNamespace(total_memory=85 * 10**9, name="NVIDIA H100 80GB HBM3")
    for name, result in {
        "get_device_name": properties.name,
        "get_device_properties": properties,
        "synchronize": None,
        "current_stream": None,
        "set_stream": None,
        "reset_peak_memory_stats": None,
        "max_memory_allocated": 15 * 10**9,
        "max_memory_reserved": 16 * 10**9,
        "mem_get_info": (68 * 10**9, 85 * 10**9),
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *args, result=result: result)


def measured(section, group, points, settings=GPU):
    """Rows and the section's text."""
    with section.open(settings, group) as measure:
        rows = [{"point": point, "group": group, **measure(point)} for point in points]
    return rows, section_text(section, settings, rows)


def test_speeds_stand_beside_the_bound():
    point = "router, 256 rows"
    (row,), text = measured(KernelsSection(), "speeds", [point])
    assert row["bytes_per_s"] > 0
    assert row["bound_s"] == pytest.approx((256 * 8 * 4 + 256 * 2 * 12) / 3.35e12)
    assert "of the bound" in text and "TFLOP/s" in text


def test_the_crossover_is_swept():
    (row,), text = measured(KernelsSection(), "crossover", ["linear, 16 rows"])
    assert set(row["seconds"]) == {"in the loop", "before", "16-bit weight"}
    assert row["failed"] == {} and row["ok"]
    assert row["best"] in row["seconds"]
    assert "CROSSOVER_ROWS is 64" in text


def test_tile_heights_are_swept_and_one_that_fails_is_told(monkeypatch):
    monkeypatch.setattr(kernel_speed, "_TILE_HEIGHTS", (16, 17))  # 17 is no power of two
    (row,), text = measured(KernelsSection(), "tile heights", ["experts, 16 rows"])
    assert list(row["seconds"]) == ["16"] and row["best"] == row["chosen"] == "16"
    assert list(row["failed"]) == ["17"] and row["ok"] is False
    assert "failed" in text


def test_the_protocol_stands_beside_the_bound():
    rows, text = measured(ProtocolSection(), "nf4", ["1 canvas", "2 canvases, by component"])
    assert rows[0]["bound_tokens_per_s"] > rows[0]["tokens_per_s"]
    assert rows[0]["peak_held_bytes"] == 16 * 10**9
    assert rows[1]["bound_by_component"]["experts"] > 0
    assert "bound, tokens/s" in text and "16.00" in text


def test_memory_is_what_the_device_says(monkeypatch):
    monkeypatch.setattr(memory_bar, "_GPU_CONTEXT_TOKENS", 300)
    (row,), text = measured(MemorySection(), "nf4", [MemorySection().groups(GPU)[0].points[0]])
    assert peak(GPU) == {
        "peak_tensor_bytes": 15 * 10**9,
        "peak_held_bytes": 16 * 10**9,
        "device_used_bytes": 17 * 10**9,
    }
    assert row["context_tokens"] == 300
    assert "of the device, GB" in text


def test_transformers_does_not_fit_a_small_device(monkeypatch):
    pytest.importorskip("transformers")
    small = SimpleNamespace(total_memory=24 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: small)
    real = PassesForGpu("cpu", "26b-a4b", "bfloat16", ("nf4",), (1,), 1024, 1024)
    (row,), text = measured(TransformersSection(), "bfloat16", ["batch of 1"], real)
    assert row["skipped"] == "its weights take 50.5 GB, the device has 24.0 GB"
    assert "not measured: its weights take 50.5 GB" in text


def test_the_device_is_introduced():
    machine = {
        "gpu": "NVIDIA H100 80GB HBM3",
        "gpu_capability": "9.0",
        "gpu_memory_bytes": 85e9,
        "gpu_free_bytes": 84e9,
        "cpu": "a CPU",
        "cores": 16,
        "threads": 16,
        "versions": {"torch": "2.13.0", "transformers": None},
        "kernels": "compiled",
    }
    text = introduction(machine, GPU, NOTHING)
    assert text.startswith("NVIDIA H100 80GB HBM3 (sm 9.0, 85.0 GB, 84.0 GB free); a CPU, 16 cores")
    assert "transformers not installed" in text


def test_formats_that_the_device_cannot_multiply_are_left_out(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    ampere = PassesForGpu("cuda:0", "26b-a4b", "bfloat16", ("fp8-experts",), (1,), 64, 64)
    for section, point in (
        (ProtocolSection(), "1 canvas"),
        (MemorySection(), "8 canvases behind 4,096 tokens"),
        (PresetsSection(), "72 texts"),
    ):
        (row,), text = measured(section, "fp8-experts", [point], ampere)
        assert "of compute capability 8.9 or later" in row["skipped"]
        assert "not measured: fp8-experts needs a GPU" in text


def test_the_interpreter_is_not_measured_on_a_gpu():
    assert describe("cuda:0")["error"].startswith("TRITON_INTERPRET is set")
