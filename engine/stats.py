"""What the engine says of its load: plain data, importable without torch."""

from collections import deque
from dataclasses import dataclass

BLOCK_ROWS = 256
"""Rows of a block, the unit of the device's work."""

_FILL_STEPS = 64
"""Steps that ``block_fill`` looks back on."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """One look at a running engine; the numbers may be a step apart from each other.

    rows_in_flight, canvases_in_flight: what the step now running holds.
    requests_waiting: submitted and not yet begun, or begun and put back for want of memory.
    row_budget: most rows of one step; out of memory lowers it.
    block_fill: of the blocks of BLOCK_ROWS that the last steps filled, the share of rows that hold
        something; 0 before the first step.
    steps_total: denoising steps since the start, each over all canvases in flight.
    out_of_memory_total: how often a step was given up for want of memory.
    device_memory_bytes: what this process holds of the accelerator's memory; 0 on a CPU.
    """

    rows_in_flight: int
    canvases_in_flight: int
    requests_waiting: int
    row_budget: int
    block_fill: float
    steps_total: int
    out_of_memory_total: int
    device_memory_bytes: int


class StepMeter:
    """Counts steps and how full they were. One thread writes; any thread may read."""

    def __init__(self) -> None:
        self.steps_total = 0
        self.block_fill = 0.0
        self._last: deque[tuple[int, int]] = deque(maxlen=_FILL_STEPS)

    def count(self, num_read_rows: int, num_canvas_rows: int) -> None:
        """One step is done."""
        num_rows = num_read_rows + num_canvas_rows
        self._last.append((num_rows, -(-num_rows // BLOCK_ROWS) * BLOCK_ROWS))
        self.block_fill = sum(rows for rows, _ in self._last) / sum(room for _, room in self._last)
        self.steps_total += 1
