"""Engines in front of the engine, that take away one thing that it does."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

from dgq.engine.engine import Engine
from dgq.engine.request import Request, Result

QUIET_S = 0.01


class WrappedEngine:
    """A TextEngine that passes requests on, changed or not."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.tokenizer = engine.tokenizer
        self.canvas_length = engine.canvas_length
        self.model_name = engine.model_name
        self.model_path = engine.model_path

    def submit(self, request: Request) -> Future[Result]:
        """As Engine.submit."""
        return self.engine.submit(request)


class FullWidth(WrappedEngine):
    """Every canvas has all rows of the checkpoint's canvas."""

    def submit(self, request: Request) -> Future[Result]:
        width = self.canvas_length
        num_tokens = max(request.max_new_tokens, width)
        return self.engine.submit(replace(request, canvas_length=width, max_new_tokens=num_tokens))


class Waves(WrappedEngine):
    """Lockstep: as many requests as fit a step are begun together, and all ended before the next."""

    def __init__(self, engine: Engine, max_canvases: int, max_rows: int) -> None:
        """max_canvases, max_rows: the engine's own bounds for a step."""
        super().__init__(engine)
        self._max_canvases, self._max_rows = max_canvases, max_rows
        self._pending: list[tuple[Request, Future[Result]]] = []
        self._changed = threading.Condition()
        threading.Thread(target=self._work, daemon=True).start()

    def submit(self, request: Request) -> Future[Result]:
        future: Future[Result] = Future()
        with self._changed:
            self._pending.append((request, future))
            self._changed.notify()
        return future

    def _work(self) -> None:
        while True:
            wave = self._next_wave()
            inner = [self.engine.submit(request) for request, _ in wave]
            ends = [_end_of(future) for future in inner]  # all have ended before any is told
            for end, (_, future) in zip(ends, wave, strict=True):
                end(future)

    def _next_wave(self) -> list[tuple[Request, Future[Result]]]:
        """What fits a step, of what has come until no more came for a while."""
        with self._changed:
            while not self._pending:
                self._changed.wait()
            while len(self._pending) < self._max_canvases and self._changed.wait(QUIET_S):
                pass
            wave: list[tuple[Request, Future[Result]]] = []
            num_rows = 0
            while self._pending and len(wave) < self._max_canvases:
                request = self._pending[0][0]
                num_rows += min(request.canvas_length or self.canvas_length, self.canvas_length)
                if wave and num_rows > self._max_rows:
                    break
                wave.append(self._pending.pop(0))
            return wave


def _end_of(future: Future[Result]) -> Callable[[Future[Result]], None]:
    """How the future ended, once it has, as what does the same to another."""
    error = future.exception()
    if error is not None:
        return lambda other: other.set_exception(error)
    return lambda other: other.set_result(future.result())
