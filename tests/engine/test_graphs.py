"""When a step is captured, replayed and given up; captures themselves need a GPU."""

import logging
import weakref
from types import SimpleNamespace

import pytest
import torch

from dgq.engine import graphs
from dgq.engine.engine import Engine
from dgq.engine.engine_config import EngineConfig
from dgq.engine.graphs import CudaCapturer, StepGraphs
from dgq.engine.step_inputs import StepShape
from dgq.kernels.launch import IS_INTERPRETED

from .conftest import requests, save_checkpoint, text_of


def shape(num_rows):
    return StepShape(num_rows, num_rows, num_rows, 1, 1)


class Recorder:
    """A Capturer that notes what is launched, captured and replayed. Captures of some work fail."""

    def __init__(self, failing=None):
        self.launched, self.captured, self.replayed, self.num_cleared = [], [], [], 0
        self.failing = failing or {}
        self.graphs = StepGraphs(self)

    def launch(self, work):
        self.launched.append(work())

    def capture(self, work):
        self.captured.append(work())
        if work() in self.failing:
            raise self.failing[work()]
        return SimpleNamespace(replay=lambda: self.replayed.append(work()))

    def clear(self):
        self.num_cleared += 1

    def run_all(self, *sizes):
        for size in sizes:
            self.graphs.run(shape(size), lambda size=size: size)


def test_a_shape_is_captured_when_it_comes_again():
    recorded = Recorder()
    recorded.run_all(16, 32, 16, 16, 64, 16, 32)
    assert recorded.launched == [16, 32, 64]
    assert recorded.captured == [16, 32]
    assert recorded.replayed == [16, 16, 16, 32]


def test_the_longest_unused_goes(monkeypatch):
    monkeypatch.setattr(graphs, "MAX_GRAPHS", 2)
    recorded = Recorder()
    recorded.run_all(16, 16, 32, 32, 16, 64, 64)  # 32 goes
    recorded.run_all(16, 32)
    assert recorded.captured == [16, 32, 64, 32] and recorded.graphs.num_held == 2
    assert recorded.launched == [16, 32, 64]  # it is known, and captured again at once


@pytest.mark.parametrize(
    "fault",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nadvice"),
        RuntimeError("CUDA error: operation not permitted when stream is capturing"),
    ],
)
def test_a_capture_that_fails_is_the_last(caplog, fault):
    recorded = Recorder({32: fault})
    with caplog.at_level(logging.WARNING, "dgq.engine"):
        recorded.run_all(16, 16, 32, 32, 32, 16, 16)
    assert recorded.launched == [16, 32, 32, 32, 16, 16]
    assert recorded.replayed == [16]
    assert recorded.captured == [16, 32]
    assert (recorded.graphs.num_held, recorded.num_cleared) == (0, 1)
    (record,) = caplog.records
    assert "no CUDA graphs from here on" in record.getMessage()
    assert str(fault).partition("\n")[0] in record.getMessage()


def test_an_error_of_the_program_is_not_hidden():
    with pytest.raises(TypeError):
        Recorder({16: TypeError("wrong")}).run_all(16, 16)


def test_memory_is_let_go_once_the_error_of_a_capture_is_gone():
    """An error holds the frames that it went through, and what they had allocated."""
    held = []

    class Failing(Recorder):
        def capture(self, work):
            tensor = torch.zeros(1)
            held.append(weakref.ref(tensor))
            raise torch.OutOfMemoryError("CUDA out of memory.")

        def clear(self):
            held.append(held[0]() is not None)

    Failing().run_all(16, 16)
    assert held[1:] == [False]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_capture_that_is_broken_off_leaves_torch_as_it_was():
    """It asks for a value, which ends the capture in CUDA itself."""
    capturer, numbers = CudaCapturer(torch.device("cuda", 0)), torch.zeros(4, device="cuda:0")
    stream = torch.cuda.current_stream()
    with pytest.raises(RuntimeError):
        capturer.capture(lambda: numbers.add_(1).sum().item())
    capturer.clear()
    assert torch.cuda.current_stream() == stream
    large = torch.zeros(1 << 26, device="cuda:0")
    reserved = torch.cuda.memory_reserved()
    del large
    torch.cuda.empty_cache()  # does nothing while a capture is under way
    assert torch.cuda.memory_reserved() < reserved
    capturer.launch(lambda: numbers.add_(1))
    capturer.capture(lambda: numbers.add_(1)).replay()
    assert numbers.tolist() == [2.0] * 4


def test_what_is_cleared_is_captured_anew():
    recorded = Recorder()
    recorded.run_all(16, 16)
    recorded.graphs.clear()
    recorded.run_all(16, 16)
    assert recorded.launched == [16, 16] and recorded.captured == [16, 16]


@pytest.mark.skipif(
    IS_INTERPRETED or not torch.cuda.is_available(), reason="needs a GPU and compiled kernels"
)
def test_replayed_steps_give_what_launched_ones_give(tmp_path):
    folder = save_checkpoint(
        tmp_path, embedding_scale=1.5, branch_scale=0.2, hidden_size=64, intermediate_size=64,
        moe_intermediate_size=64, head_dim=16, global_head_dim=32,
    )  # fmt: skip
    results = []
    for cuda_graphs in (False, True):
        config = EngineConfig(max_canvases=8, max_rows=160, cuda_graphs=cuda_graphs)
        with Engine.load(folder, device="cuda", config=config) as engine:
            results.append({i: text_of(result) for i, result in engine.generate(requests())})
            captured = engine._loop._runner._path._graphs
            assert (captured is not None) == cuda_graphs
            assert captured is None or captured.num_held > 3
    assert results[0] == results[1]
