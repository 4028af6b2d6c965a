"""Short answers: requests per second where each answer is one narrow canvas, by how many at once.

A closed loop: so many requests are in flight, and one that is answered is followed by the next.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from queue import SimpleQueue

from dgq.engine.engine import Engine
from dgq.engine.request import ROW_MULTIPLE, Request

from .engines import (
    fit,
    open_engine,
    random_requests,
    room_for,
)
from .section import Group, Measure, Row, Settings
from .tables import as_table, quantity

ANSWER_TOKENS = 32
PROMPT_TOKENS = 128
_GPU_CONCURRENCIES = (1, 16, 64, 128, 256)
_CPU_CONCURRENCIES = (1, 8, 32)
_STEPS = (1, 4, 16)


class ShortSection:
    """Requests per second by concurrency and number of steps."""

    name = "short"
    title = f"Answers of {ANSWER_TOKENS} tokens behind prompts of {PROMPT_TOKENS}"

    def groups(self, settings: Settings) -> Sequence[Group]:
        """The first preset only."""
        points = [
            f"{concurrency} at once, steps: {steps}"
            for steps in (_STEPS if settings.on_gpu else _STEPS[1:2])
            for concurrency in _concurrencies(settings)
        ]
        return [Group(settings.presets[0], tuple(points))]

    @contextmanager
    def open(self, settings: Settings, group: str) -> Iterator[Measure]:
        """One engine with room for the most requests."""
        config = settings.config
        width = -(-ANSWER_TOKENS // ROW_MULTIPLE) * ROW_MULTIPLE
        most = max(_concurrencies(settings))
        room = room_for(most, width, PROMPT_TOKENS + ANSWER_TOKENS)
        room = replace(room, max_rows=max(room.max_rows, config.canvas_length))
        room, reason = fit(settings, group, room)
        if reason:
            yield lambda point: {"preset": group, "skipped": reason}
            return
        with open_engine(settings, group, room) as engine:

            def measure(point: str) -> Row:
                words = point.split()
                concurrency, steps = int(words[0]), int(words[-1])
                rounds = 8 if settings.on_gpu else 2
                requests = random_requests(
                    config, rounds * concurrency, PROMPT_TOKENS, ANSWER_TOKENS, steps
                )
                requests = [replace(request, canvas_length=width) for request in requests]
                answer_in_turn(engine, requests[: 2 * concurrency], concurrency)
                seconds = answer_in_turn(engine, requests, concurrency)
                return {
                    "preset": group,
                    "concurrency": concurrency,
                    "steps_per_answer": steps,
                    "requests": len(requests),
                    "seconds": seconds,
                    "requests_per_s": len(requests) / seconds,
                }

            yield measure

    def table(self, settings: Settings, rows: Sequence[Row]) -> str:
        """By steps and concurrency."""
        lines = [
            [
                row["preset"],
                str(row["steps_per_answer"]),
                str(row["concurrency"]),
                quantity(row["requests_per_s"]),
                quantity(row["requests_per_s"] * ANSWER_TOKENS),
            ]
            for row in rows
            if "requests_per_s" in row
        ]
        return as_table(["preset", "steps", "at once", "requests/s", "tokens/s"], lines)


def answer_in_turn(engine: Engine, requests: list[Request], concurrency: int) -> float:
    """So many in flight until all are answered; the seconds that it took."""
    answered: SimpleQueue[object] = SimpleQueue()
    started_s = time.perf_counter()
    futures = []
    for number, request in enumerate(requests):
        if number >= concurrency:
            answered.get()
        future = engine.submit(request)
        future.add_done_callback(answered.put)
        futures.append(future)
    for future in futures:
        future.result()
    return time.perf_counter() - started_s


def _concurrencies(settings: Settings) -> tuple[int, ...]:
    return _GPU_CONCURRENCIES if settings.on_gpu else _CPU_CONCURRENCIES
