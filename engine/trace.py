"""A trace of the engine's steps in the Chrome trace format, so that anyone can see the rows fill.

The file opens in chrome://tracing and in Perfetto. The lane ``steps`` holds every step, split into
``plan`` (the host decides and lays out), ``model`` (the forward, the head, the sampler) and
``judge`` (results are handed back). Below it each canvas in flight has a lane: its request from
admission to end, in it its canvases from start to verdict, and ``reading`` where a text takes more
than one step to read. Two counters go along: the rows of each step and the requests that wait. On a
GPU a step is read while the next one runs: ``model`` is then the time to launch a step and to wait for
the one before it, of which ``judge`` is.

Format: "Trace Event Format" by Google, JSON array. Each step's events are handed to the operating
system at once and whole; a closing bracket may be missing, so the file of a run that was broken off
can be opened too, and what was in flight then is shown up to its end.
"""

import json
import logging
import os
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .canvas import Generation, Outcome, Verdict
from .errors import EngineError
from .scheduler import Plan
from .stats import BLOCK_ROWS

logger = logging.getLogger("dgq.engine")

BEGINNING = b'[\n{"name":"process_name"'
"""How every trace of ours begins."""

_PROCESS = 1
_STEPS_LANE = 0
_VERDICTS = {
    Verdict.FINISHED: "finished",
    Verdict.COMMIT: "committed",
    Verdict.REROLL: "re-rolled",
}


class Trace:
    """What the engine's loop tells of its work, in this order in every step. This one forgets it."""

    def step_began(self) -> None:
        """Before anything is decided."""

    def planned(self, plan: Plan, running: Collection[Generation]) -> None:
        """The step is decided and laid out. running: all in flight, those of the plan included."""

    def computed(self) -> None:
        """The model is through with the step that is judged next."""

    def judged(self, generation: Generation, outcome: Outcome, verdict: Verdict) -> None:
        """A canvas has left the denoising loop, and the generation has moved on accordingly."""

    def step_ended(self, num_waiting: int) -> None:
        """Results are handed back. num_waiting: requests that have not begun."""

    def gave_up(self, running: Iterable[Generation]) -> None:
        """In place of all that was missing of a step: memory ran out, and these lost their canvases."""


NO_TRACE = Trace()


@dataclass(slots=True)
class _Lane:
    """A request in flight. open: the slice open within it: a canvas, "reading", or None."""

    number: int
    open: str | None = None


class TraceRecorder(Trace):
    """Writes the trace to a file. Called by the engine's thread; closed after the engine."""

    def __init__(self, path: Path) -> None:
        """Create or replace the file. EngineError where it cannot be written."""
        self._path = path
        self._events: list[str] = []
        self._separator = b"[\n"
        self._lanes: dict[int, _Lane] = {}
        self._num_lanes = 0
        self._free_lanes: list[int] = []
        self._num_steps = 0
        self._origin_s = time.perf_counter()
        self._step: list[float] = []  # microseconds: began, planned, computed
        self._step_facts: dict[str, Any] = {}
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise EngineError(f"cannot write the trace {path}: {error.strerror}") from error
        self._name("process_name", "dgq engine", _STEPS_LANE)
        self._name("thread_name", "steps", _STEPS_LANE)
        self._flush()

    def step_began(self) -> None:
        self._step = [self._now()]

    def planned(self, plan: Plan, running: Collection[Generation]) -> None:
        self._step.append(self._now())
        began = self._step[0]
        denoised = {generation.number for generation in plan.canvases}
        starting = {generation.number for generation in plan.start}
        for generation in running:
            if generation.number not in self._lanes:
                self._admit(generation, began)
            lane = self._lanes[generation.number]
            if generation.number in starting:
                self._close_slice(lane, began, {})
                self._open_canvas(lane, generation, began)
            elif generation.number not in denoised and lane.open is None:
                self._open_slice(lane, "reading", began, {})
        num_rows = plan.num_read_rows + plan.num_canvas_rows
        num_blocks = -(-num_rows // BLOCK_ROWS)
        self._step_facts = {
            "step": self._num_steps,
            "rows_read": plan.num_read_rows,
            "rows_denoised": plan.num_canvas_rows,
            "block_fill": round(num_rows / (num_blocks * BLOCK_ROWS), 4) if num_blocks else 0.0,
            "canvases": len(plan.canvases),
            "canvases_started": len(plan.start),
        }

    def computed(self) -> None:
        self._step.append(self._now())

    def judged(self, generation: Generation, outcome: Outcome, verdict: Verdict) -> None:
        now, lane = self._now(), self._lanes[generation.number]
        facts = {
            "steps": outcome.num_steps,
            "converged": outcome.converged,
            "mean_entropy_nats": round(outcome.mean_entropy, 6),
            "verdict": _VERDICTS[verdict],
        }
        self._close_slice(lane, now, facts)
        if verdict is Verdict.FINISHED:
            self._leave(generation, now)

    def step_ended(self, num_waiting: int) -> None:
        began, planned, computed = self._step
        ended = self._now()
        self._slice("step", began, ended, self._step_facts)
        self._slice("plan", began, planned, {})
        self._slice("model", planned, computed, {})
        self._slice("judge", computed, ended, {})
        rows = {name: self._step_facts[f"rows_{name}"] for name in ("read", "denoised")}
        self._event("rows", "C", _STEPS_LANE, began, rows)
        self._event("requests", "C", _STEPS_LANE, ended, {"waiting": num_waiting})
        self._num_steps += 1
        self._flush()

    def gave_up(self, running: Iterable[Generation]) -> None:
        now = self._now()
        self._event("out of memory", "i", _STEPS_LANE, now, {})
        for generation in running:
            if lane := self._lanes.get(generation.number):
                self._close_slice(lane, now, {"verdict": "given up"})
                self._leave(generation, now)
        self._flush()

    def close(self) -> None:
        """Complete the file; after a write that failed it stays as it is. May be called twice."""
        if self._fd >= 0:
            self._write(b"\n]\n")
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def _admit(self, generation: Generation, at: float) -> None:
        number = self._free_lanes.pop() if self._free_lanes else self._add_lane()
        self._lanes[generation.number] = _Lane(number)
        queued_s = self._origin_s + at / 1e6 - generation.submitted_s
        facts = {
            "request": generation.number,
            "queued_ms": round(max(queued_s, 0.0) * 1e3, 3),
            "prompt_tokens": len(generation.request.prompt_ids),
        }
        self._event(f"request {generation.number}", "B", number, at, facts)

    def _leave(self, generation: Generation, at: float) -> None:
        lane, result = self._lanes.pop(generation.number), generation.result
        facts: dict[str, Any] = {"prompt_tokens_shared": generation.num_shared_tokens}
        if result is not None:
            facts |= {
                "finish_reason": result.finish_reason,
                "answer_tokens": len(result.token_ids),
                "canvases": result.num_canvases,
                "steps": result.num_steps,
                "rerolls": result.num_rerolls,
            }
        self._event(f"request {generation.number}", "E", lane.number, at, facts)
        self._free_lanes.append(lane.number)
        self._free_lanes.sort(reverse=True)  # the lowest is the next to be taken

    def _open_canvas(self, lane: _Lane, generation: Generation, at: float) -> None:
        facts = {
            "request": generation.number,
            "canvas": generation.canvas,
            "attempt": generation.attempt,
            "width": generation.width,
            "start_noise": generation.start_noise(),
        }
        self._open_slice(lane, f"canvas {generation.canvas}", at, facts)

    def _open_slice(self, lane: _Lane, name: str, at: float, facts: dict[str, Any]) -> None:
        lane.open = name
        self._event(name, "B", lane.number, at, facts)

    def _close_slice(self, lane: _Lane, at: float, facts: dict[str, Any]) -> None:
        if lane.open is not None:
            self._event(lane.open, "E", lane.number, at, facts)
            lane.open = None

    def _slice(self, name: str, start: float, end: float, facts: dict[str, Any]) -> None:
        self._event(name, "X", _STEPS_LANE, start, facts, dur=end - start)

    def _add_lane(self) -> int:
        self._num_lanes += 1
        self._name("thread_name", f"canvas {self._num_lanes:02}", self._num_lanes)
        return self._num_lanes

    def _name(self, kind: str, name: str, lane: int) -> None:
        self._event(kind, "M", lane, 0, {"name": name})

    def _event(
        self, name: str, phase: str, lane: int, at: float, facts: dict[str, Any], **more: Any
    ) -> None:
        event = {"name": name, "ph": phase, "pid": _PROCESS, "tid": lane, "ts": at, **more}
        if facts:
            event["args"] = facts
        self._events.append(json.dumps(event, separators=(",", ":")))

    def _now(self) -> float:
        """Microseconds since the beginning, of which the format's times are."""
        return round((time.perf_counter() - self._origin_s) * 1e6)

    def _flush(self) -> None:
        events, self._events = self._events, []
        if self._fd >= 0:
            self._write(self._separator + ",\n".join(events).encode())
            self._separator = b",\n"

    def _write(self, data: bytes) -> None:
        """A trace that cannot be written stops; the work goes on."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            logger.warning("the trace %s ends here: %s", self._path, error.strerror)
            os.close(self._fd)
            self._fd = -1
