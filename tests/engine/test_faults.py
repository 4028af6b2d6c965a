"""A device out of memory, and a broken one: simulated by a model that raises, on a real engine."""

import logging
import threading
from functools import reduce

import pytest
import torch
from triton.runtime.errors import OutOfResources

from dgq.engine.engine import Engine
from dgq.engine.engine_config import EngineConfig
from dgq.engine.errors import DeviceError, EngineError, RequestError, RequestTooLarge
from dgq.engine.faults import error_for, is_out_of_memory
from dgq.engine.request import Request
from dgq.engine.runner import Runner
from dgq.engine.step_in_flight import StepInFlight
from dgq.kernels.errors import KernelError
from dgq.kernels.page import PAGE_TOKENS

from .conftest import SAMPLING, requests, text_of

MAX_ROWS = 160


@pytest.fixture(params=[0, 1], ids=["lag0", "lag1"], autouse=True)
def lag(request, monkeypatch):
    """Steps in flight while one is read: as on a CPU, and as on a GPU."""
    monkeypatch.setattr(Runner, "is_asynchronous", request.param == 1)
    return request.param


OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB."


@pytest.fixture(scope="module")
def undisturbed(calm_checkpoint):
    with load(calm_checkpoint) as engine:
        results = {i: text_of(result) for i, result in engine.generate(requests())}
        assert engine.stats.out_of_memory_total == 0
    return results


def load(checkpoint):
    return Engine.load(checkpoint, config=EngineConfig(max_canvases=8, max_rows=MAX_ROWS))


def shrink(engine, *, max_rows=10**9, max_text=10**9):
    """Let forwards of more rows, and the reading of longer texts, run out of memory.

    Any number of rows of a text up to max_text is read where it is alone.
    """
    model = engine._loop._runner._model
    forward = model.read_and_denoise

    def small_forward(read_ids, canvas_ids, soft_embeddings, positions, attends):
        stats = engine.stats
        assert len(read_ids) < stats.row_budget + PAGE_TOKENS
        most = max_rows if stats.canvases_in_flight > 1 else 10**9
        if len(canvas_ids) > max_rows or len(read_ids) > most:
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)
        if len(read_ids) and positions[len(canvas_ids) :].max() >= max_text:
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)
        return forward(read_ids, canvas_ids, soft_embeddings, positions, attends)

    model.read_and_denoise = small_forward


def assert_nothing_held(engine):
    engine._loop._scheduler.check()
    assert engine._loop.is_idle and engine._futures == {}
    assert engine._loop._runner.num_held == 0
    pages = engine._loop._scheduler._pages
    for pool in (pages.full, pages.sliding):
        assert pool.num_available == pool.num_pages - 1


@pytest.mark.parametrize("max_rows", [100, 48, 32])
def test_a_smaller_device_gives_the_same_results(calm_checkpoint, undisturbed, caplog, max_rows):
    caplog.set_level(logging.WARNING, "dgq.engine")
    with load(calm_checkpoint) as engine:
        shrink(engine, max_rows=max_rows)
        results = {i: text_of(result) for i, result in engine.generate(requests())}
        stats = engine.stats
        assert_nothing_held(engine)
    assert results == undisturbed
    assert 16 <= stats.row_budget < MAX_ROWS
    assert stats.out_of_memory_total == len(caplog.records) >= 1
    first = caplog.records[0].getMessage()
    assert f"row budget {MAX_ROWS} -> " in first and "\n" not in first


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    "place",
    [
        "prepare",
        "_table.start",
        "_path.forward",
        "_path.denoise",
        "launch",
    ],
)
def test_wherever_memory_runs_out(calm_checkpoint, undisturbed, place, after):
    """Every fifth call fails while several are in flight, before or after its work is done."""
    with load(calm_checkpoint) as engine:
        *path, name = place.split(".")
        owner, calls = reduce(getattr, path, engine._loop._runner), 0
        original = getattr(owner, name)

        def fail_now_and_then(*arguments):
            nonlocal calls
            calls += 1
            fails = calls % 5 == 0 and engine.stats.canvases_in_flight > 1
            if fails and not after:
                raise torch.OutOfMemoryError(OUT_OF_MEMORY)
            result = original(*arguments)
            if fails:
                raise torch.OutOfMemoryError(OUT_OF_MEMORY)
            return result

        setattr(owner, name, fail_now_and_then)
        results = {i: text_of(result) for i, result in engine.generate(requests()[:12])}
        assert_nothing_held(engine)
        assert engine.stats.out_of_memory_total >= 1
        assert engine.stats.row_budget < MAX_ROWS
    assert results == {i: undisturbed[i] for i in range(12)}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_memory_that_runs_out_while_a_step_is_read(
    calm_checkpoint, undisturbed, monkeypatch, after
):
    """As it does where the device tells of it late, or where scores are computed."""
    read, calls = StepInFlight.outcomes, 0
    with load(calm_checkpoint) as engine:

        def fail_now_and_then(step):
            nonlocal calls
            calls += 1
            fails = calls % 4 == 0 and engine.stats.canvases_in_flight > 1
            if fails and not after:
                raise torch.AcceleratorError("CUDA error: out of memory")
            outcomes = read(step)
            if fails:
                raise torch.OutOfMemoryError(OUT_OF_MEMORY)
            return outcomes

        monkeypatch.setattr(StepInFlight, "outcomes", fail_now_and_then)
        results = {i: text_of(result) for i, result in engine.generate(requests()[:12])}
        assert_nothing_held(engine)
        assert engine.stats.out_of_memory_total >= 1
    assert results == {i: undisturbed[i] for i in range(12)}


def test_too_wide_a_canvas_is_refused_and_its_neighbours_finish(calm_checkpoint, undisturbed):
    with load(calm_checkpoint) as engine:
        shrink(engine, max_rows=24)
        futures = [engine.submit(request) for request in requests()]
        for i, future in enumerate(futures):
            if requests()[i].canvas_length == 16:
                assert text_of(future.result(timeout=60)) == undisturbed[i]
            else:
                with pytest.raises(RequestTooLarge, match=r"alone: a canvas of 32 rows.*budget"):
                    future.result(timeout=60)
        assert_nothing_held(engine)


def test_one_request_too_large_costs_the_others_no_budget(calm_checkpoint, undisturbed):
    with load(calm_checkpoint) as engine:
        shrink(engine, max_text=140)
        wanted = requests()
        too_long = Request((5,) * 141, 16, seed=0, sampling=SAMPLING)
        futures = [engine.submit(r) for r in (*wanted[:12], too_long, *wanted[12:])]
        refused = futures.pop(12)
        with pytest.raises(RequestError, match=r"a prompt of 141 tokens \(row budget 160\)"):
            refused.result(timeout=60)
        assert {i: text_of(f.result(timeout=60)) for i, f in enumerate(futures)} == undisturbed
        assert engine.stats.row_budget == MAX_ROWS
        assert engine.stats.out_of_memory_total > 1


@pytest.mark.parametrize("place", ["forward", "denoise"])
def test_one_alone_gets_another_try_on_an_empty_device(calm_checkpoint, undisturbed, place):
    """Tensors of the step before may have been in its way; nothing is left of them then."""
    several = next(i for i, result in undisturbed.items() if result.num_canvases == 3)
    with load(calm_checkpoint) as engine:
        runner, held, calls = engine._loop._runner, [], 0
        prepare, original = runner.prepare, getattr(runner._path, place)

        def fail_twice(*arguments):
            nonlocal calls
            calls += 1
            result = original(*arguments)
            if calls in (2, 4):  # with a step that succeeds between
                raise torch.OutOfMemoryError(OUT_OF_MEMORY)
            return result

        def look(plan):
            if plan.chunks and plan.chunks[0].start == 0:
                held.append(runner.num_held)
            return prepare(plan)

        setattr(runner._path, place, fail_twice)
        runner.prepare = look
        assert text_of(engine.submit(requests()[several]).result()) == undisturbed[several]
        assert (engine.stats.out_of_memory_total, engine.stats.row_budget) == (2, MAX_ROWS)
        assert held == [0, 0, 0]


def test_a_refusal_leaves_what_was_lowered_before(calm_checkpoint):
    with load(calm_checkpoint) as engine:
        shrink(engine, max_rows=100, max_text=140)
        list(engine.generate(requests()))
        lowered = engine.stats.row_budget
        assert lowered < MAX_ROWS
        with pytest.raises(RequestTooLarge, match=rf"row budget {lowered}"):
            engine.submit(Request((5,) * 141, 16, seed=0, sampling=SAMPLING)).result()
        assert engine.stats.row_budget == lowered


def test_what_is_cancelled_before_it_began_stays_cancelled(calm_checkpoint, undisturbed):
    """A request that was put back has begun, and cannot be cancelled any more."""
    with load(calm_checkpoint) as engine:
        entered, go_on = threading.Event(), threading.Event()
        table = engine._loop._runner._table
        start = table.start

        def out_of_memory_once(generations):
            if not entered.is_set():
                entered.set()
                assert go_on.wait(60)
                raise torch.OutOfMemoryError(OUT_OF_MEMORY)
            start(generations)

        table.start = out_of_memory_once
        futures = [engine.submit(requests()[0])]
        assert entered.wait(60)
        futures += [engine.submit(request) for request in requests()[1:4]]
        assert not futures[0].cancel() and futures[2].cancel()
        go_on.set()
        for i in (0, 1, 3):
            assert text_of(futures[i].result(timeout=60)) == undisturbed[i]
        assert futures[2].cancelled()


@pytest.mark.parametrize(
    "fault",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nadvice\n"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
        RuntimeError("Triton Error [CUDA]: device-side assert triggered"),
    ],
)
def test_a_broken_device_ends_the_engine(calm_checkpoint, fault):
    engine = load(calm_checkpoint)

    def broken(*arguments):
        raise fault

    engine._loop._runner._model.read_and_denoise = broken
    future = engine.submit(requests()[0])
    with pytest.raises(DeviceError, match="the engine stopped: ") as told:
        future.result(timeout=60)
    assert str(fault).partition("\n")[0] in str(told.value) and "\n" not in str(told.value)
    with pytest.raises(DeviceError):
        engine.submit(requests()[0])
    assert engine.stats.out_of_memory_total == 0
    engine.close()
    with pytest.raises(DeviceError):  # closing does not hide why it ended
        engine.submit(requests()[0])


def test_what_is_the_device_and_what_is_not():
    assert type(error_for(RuntimeError("shapes do not match"))) is EngineError
    assert type(error_for(torch.OutOfMemoryError(OUT_OF_MEMORY))) is DeviceError


def test_who_has_no_use_for_a_kernel_is_told_how_to_do_without():
    compiler = RuntimeError("Failed to find C compiler. Please specify via CC environment variable")
    for error in (KernelError("norm: a size of 7"), OutOfResources(300, 99, "shared"), compiler):
        assert "DGQ_KERNELS=torch" in str(error_for(error))
    assert "DGQ_KERNELS" not in str(error_for(RuntimeError("shapes do not match")))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError(OUT_OF_MEMORY), True),
        (torch.AcceleratorError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("Triton Error [CUDA]: out of memory"), True),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("the list is out of memory lane"), False),
        (MemoryError(), False),
    ],
)
def test_what_counts_as_out_of_memory(error, expected):
    assert is_out_of_memory(error) is expected
