"""Steps as CUDA graphs: all launches of a step in one call of the host's.

A graph holds the launches of one shape. A shape is first run kernel by kernel, which also compiles its
kernels and lets the libraries make their workspaces, as none of that may happen in a capture; the second
time it is captured, and from then on replayed. So a shape that does not come again costs no capture.

All graphs take their memory from one pool. That is safe in any order of replays: no two run at once,
as all are in one stream; and nothing that a capture allocates lives on after it, since inputs and
results have buffers elsewhere. A capture runs nothing. If one fails, for want of memory or otherwise,
the step is run kernel by kernel like all that follow, and what was captured is given up with its
memory; otherwise an engine short of memory would capture, fail and begin anew without end.

Source: CUDA graphs as PyTorch's documentation describes them ("CUDA semantics", private pools).
"""

import logging
from collections import OrderedDict
from collections.abc import Callable

import torch

from .step_inputs import StepShape

logger = logging.getLogger("dgq.engine")

MAX_GRAPHS = 64
"""Graphs that are kept; the longest unused goes."""


class StepGraphs:
    """Runs steps by their shape, captured where they come again. One thread only."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_enabled = True
        self.clear()

    def run(self, shape: StepShape, compute: Callable[[StepShape], None]) -> None:
        """Do what compute launches for this shape; it must be the same in every call."""
        graph = self._graphs.get(shape)
        if graph is None and shape in self._seen and self._is_enabled:
            graph = self._try_to_capture(shape, compute)
        if graph is None:
            self._seen.add(shape)
            compute(shape)
            return
        self._graphs.move_to_end(shape)
        graph.replay()

    def clear(self) -> None:
        """Forget all shapes, and let go of the pool."""
        self._graphs: OrderedDict[StepShape, torch.cuda.CUDAGraph] = OrderedDict()
        self._seen: set[StepShape] = set()
        self._pool: torch.cuda._POOL_HANDLE | None = None

    def _try_to_capture(
        self, shape: StepShape, compute: Callable[[StepShape], None]
    ) -> torch.cuda.CUDAGraph | None:
        try:
            graph = self._capture(shape, compute)
        except RuntimeError as error:  # torch's out of memory is one too
            reason = str(error).partition("\n")[0]
            logger.warning("no CUDA graphs from here on, a capture failed: %s", reason)
            self._is_enabled = False
            self.clear()
            return None
        self._graphs[shape] = graph
        if len(self._graphs) > MAX_GRAPHS:
            self._graphs.popitem(last=False)
        return graph

    def _capture(
        self, shape: StepShape, compute: Callable[[StepShape], None]
    ) -> torch.cuda.CUDAGraph:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.current_stream(self._device)
        try:
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                compute(shape)
        finally:
            torch.cuda.set_stream(stream)  # a capture that fails may leave its own
        return graph
