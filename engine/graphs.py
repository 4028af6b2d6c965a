"""Steps as CUDA graphs: all launches of a step in one call of the host's.

A graph holds the launches of one shape. A shape is first run kernel by kernel, which also compiles its
kernels and lets the libraries make their workspaces, as none of that may happen in a capture; the second
time it is captured, and from then on replayed. So a shape that does not come again costs no capture.

What a step allocates on its way comes from one pool of memory, whether it is launched or captured, and
in one stream, so that it is the same memory every time: a step's workspace is there once. That is safe in any
order of replays: no two steps run at once, since each waits for the one before; and nothing of
a step lives on in the pool after it, since inputs and results have buffers elsewhere. (What is made once and
kept, like a library's workspace, is not given to anybody else.)

A capture runs nothing. If one fails, for want of memory or otherwise, the step is launched kernel by
kernel like all that follow, and what was captured is given up; otherwise an engine short of memory
would capture, fail and begin anew without end.

Source: CUDA graphs and private pools as PyTorch's documentation describes them ("CUDA semantics"); that
launches before a capture share its pool and stream is the method of torch's own cudagraph trees.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import torch

from .step_inputs import StepShape

logger = logging.getLogger("dgq.engine")

MAX_GRAPHS = 64
"""Graphs that are kept; the longest unused goes."""

Work = Callable[[], None]


class Graph(Protocol):
    """Work that was captured."""

    def replay(self) -> None:
        """Do it, in the current stream."""
        ...


class Capturer(Protocol):
    """Does work, or captures it."""

    def launch(self, work: Work) -> None:
        """Do it now, in the order of the current stream."""
        ...

    def capture(self, work: Work) -> Graph:
        """Keep what it would launch. RuntimeError where that fails."""
        ...

    def clear(self) -> None:
        """Let go of the memory; all graphs are gone."""
        ...


class CudaCapturer:
    """On a GPU: one stream and one pool of memory for all work.

    A pool that needs more gets nothing of what torch keeps for others, so that is given back first.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._memory = _new_memory(device)

    def launch(self, work: Work) -> None:
        """As Capturer says."""
        caller = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(caller)
        try:
            with (
                torch.cuda.stream(self._stream),
                torch.cuda.use_mem_pool(self._memory, self._device),
            ):
                work()
        finally:
            caller.wait_stream(self._stream)

    def capture(self, work: Work) -> torch.cuda.CUDAGraph:
        """As Capturer says; waits for the device, and takes as long as the host's launches."""
        caller = torch.cuda.current_stream(self._device)
        graph = torch.cuda.CUDAGraph()
        capturing = torch.cuda.graph(
            graph,
            pool=self._memory.id,  # type: ignore[arg-type] # a new type of the same tuple
            stream=self._stream,
            capture_error_mode="thread_local",
        )
        try:
            with capturing:
                work()
        except BaseException:
            self._end_capture()
            raise
        finally:
            torch.cuda.set_stream(caller)  # a capture that fails may leave its own
        return graph

    def clear(self) -> None:
        """As Capturer says."""
        del self._memory  # else it is still there when the cache is emptied
        self._memory = _new_memory(self._device)

    def _end_capture(self) -> None:
        """What torch leaves out where a capture was broken off by what may not be captured.

        Its allocator would take the capture to be still under way, and give no memory back to the
        device from then on.
        """
        place = self._stream.device_index, self._memory.id
        with suppress(RuntimeError):  # it has ended: nothing was left out
            torch._C._cuda_endAllocateToPool(*place)
            torch._C._cuda_releasePool(*place)


def _new_memory(device: torch.device) -> torch.cuda.MemPool:
    with torch.cuda.device(device):  # a pool is the current device's
        torch.cuda.empty_cache()
        return torch.cuda.MemPool()


class StepGraphs:
    """Runs steps by their shape, captured where they come again. One thread only."""

    def __init__(self, capturer: Capturer) -> None:
        self._capturer = capturer
        self._is_enabled = True
        self._graphs: OrderedDict[StepShape, Graph] = OrderedDict()
        self._seen: set[StepShape] = set()

    @property
    def num_held(self) -> int:
        """Graphs that are kept."""
        return len(self._graphs)

    def run(self, shape: StepShape, work: Work) -> None:
        """Do the work, which launches the same for this shape in every call."""
        graph = self._graphs.get(shape)
        if graph is None and shape in self._seen and self._is_enabled:
            graph = self._try_to_capture(shape, work)
        if graph is None:
            self._capturer.launch(work)
            self._seen.add(shape)
            return
        self._graphs.move_to_end(shape)
        graph.replay()

    def clear(self) -> None:
        """Forget all shapes, and let go of the memory."""
        self._graphs.clear()
        self._seen.clear()
        self._capturer.clear()

    def _try_to_capture(self, shape: StepShape, work: Work) -> Graph | None:
        graph = self._capture(work)
        if graph is None:  # and the error is gone, which held memory of the capture's
            self._is_enabled = False
            self.clear()
            return None
        self._graphs[shape] = graph
        if len(self._graphs) > MAX_GRAPHS:
            self._graphs.popitem(last=False)
        return graph

    def _capture(self, work: Work) -> Graph | None:
        try:
            return self._capturer.capture(work)
        except RuntimeError as error:  # torch's out of memory is one too
            reason = str(error).partition("\n")[0]
            logger.warning("no CUDA graphs from here on, a capture failed: %s", reason)
            return None
