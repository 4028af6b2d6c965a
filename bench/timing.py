"""How long something takes: on a GPU by events around the replay of a graph, on a CPU by the clock.

A graph holds the launches only, so the host's work between them does not count, as it does not in the
engine. Between two runs the cache is overwritten, so that weights come from memory as they would.
"""

import statistics
import time
from collections.abc import Callable

import torch

_GPU_RUNS, _CPU_RUNS = 20, 7
_CPU_LIMIT_S = 1.0
_CACHE_BYTES = 256 << 20
"""More than the L2 cache of any GPU."""


def seconds_of(compute: Callable[[], object], device: str) -> float:
    """The median of some runs, after one that may compile."""
    compute()
    if device.startswith("cuda"):
        return _gpu_seconds(compute, torch.device(device))
    return _cpu_seconds(compute)


def _cpu_seconds(compute: Callable[[], object]) -> float:
    times: list[float] = []
    while len(times) < _CPU_RUNS and sum(times) < _CPU_LIMIT_S:
        started_s = time.perf_counter()
        compute()
        times.append(time.perf_counter() - started_s)
    return statistics.median(times)


def _gpu_seconds(compute: Callable[[], object], device: torch.device) -> float:
    run = _captured(compute, device)
    cache = torch.empty(_CACHE_BYTES, dtype=torch.uint8, device=device)
    events = [(_event(), _event()) for _ in range(_GPU_RUNS)]
    for start, end in events:
        cache.zero_()
        start.record()
        run()
        end.record()
    torch.cuda.synchronize(device)
    return statistics.median(float(start.elapsed_time(end)) for start, end in events) / 1e3


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _captured(compute: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """The launches as a graph; what waits for the device cannot be captured, and runs as it is."""
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize(device)
    stream = torch.cuda.current_stream(device)
    try:
        with torch.cuda.graph(graph):
            compute()
    except RuntimeError:
        torch.cuda.set_stream(stream)  # torch leaves the thread on the capture's
        torch.cuda.synchronize(device)
        return compute
    return graph.replay
