"""What turns jobs into results in a worker: the engine, or a stub where only the queue is looked at."""

import hashlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Protocol

from dgq.engine.errors import DeviceError
from dgq.pipelines.job import Job
from dgq.pipelines.reading import BadLine
from dgq.pipelines.result import JobResult, Stats
from dgq.pipelines.run import bad_line_result, run_jobs

if TYPE_CHECKING:
    from dgq.engine.engine import Engine


class Runner(Protocol):
    """Several threads may call ``run`` at the same time, each with its own jobs."""

    @property
    def model_name(self) -> str:
        """The name that results carry, and a label that the worker serves."""
        ...

    def run(self, jobs: Iterable[Job | BadLine]) -> Iterator[JobResult]:
        """One result for each job, as they finish. Raises EngineError when the engine is dead."""
        ...

    def stats(self) -> object:
        """What the metrics show of the engine; see metrics.py."""
        ...

    def pulse(self) -> int:
        """Changes as long as the model works, while one job may take very long."""
        ...

    def close(self) -> None:
        """Let go of the device."""
        ...


class EngineRunner:
    """The engine of this process, shared by all shards in hand."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine

    @property
    def model_name(self) -> str:
        """The checkpoint folder's name."""
        return self._engine.model_name

    def run(self, jobs: Iterable[Job | BadLine]) -> Iterator[JobResult]:
        """Through the pipelines."""
        with closing(run_jobs(jobs, self._engine)) as results:
            yield from results

    def stats(self) -> object:
        """The engine's own."""
        return self._engine.stats

    def pulse(self) -> int:
        """Steps so far."""
        return self._engine.stats.steps_total

    def close(self) -> None:
        """Stop the engine."""
        self._engine.close()


class StubRunner:
    """No model: the output is a digest of the job, the same on every worker.

    For drills and for measuring the queue. What a job's text orders is done: ``stub:kill`` ends the
    process, ``stub:hang`` never ends, ``stub:wait SECONDS`` takes so long, ``stub:break`` breaks the
    device for good, ``stub:fail`` makes the output invalid.
    """

    model_name = "stub"

    def __init__(self, seconds_per_job: float = 0.0, *, obey: bool = True) -> None:
        """obey: False for what an undisturbed run would give."""
        self._seconds_per_job = seconds_per_job
        self._obey = obey
        self._broken = False

    def run(self, jobs: Iterable[Job | BadLine]) -> Iterator[JobResult]:
        """One after the other."""
        for job in jobs:
            if isinstance(job, BadLine):
                yield bad_line_result(job)
                continue
            text = job.model_dump_json()
            order = re.search(r"stub:(kill|hang|break|fail|wait [0-9.]+)", text)
            self._broken |= self._obey and order is not None and order[1] == "break"
            if self._broken:
                raise DeviceError("the stub was told to break")
            if self._obey and order and order[1].split()[0] in ORDERS:
                ORDERS[order[1].split()[0]](order[1])
            if self._seconds_per_job:
                time.sleep(self._seconds_per_job)
            failed = order is not None and order[1] == "fail"
            yield JobResult(
                id=job.id,
                line=job.line,
                kind=job.kind,
                status="invalid_output" if failed else "ok",
                output=hashlib.blake2b(text.encode(), digest_size=16).hexdigest(),
                stats=Stats(tokens=8, canvases=1, steps=4, attempts=1, requests=1, model="stub"),
            )

    def stats(self) -> object:
        """Nothing to show."""
        return None

    def pulse(self) -> int:
        """Still: what it hangs in is to be noticed."""
        return 0

    def close(self) -> None:
        """Nothing to let go of."""


def _kill(_: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hang(_: str) -> None:
    while True:
        time.sleep(60)


ORDERS: dict[str, Callable[[str], None]] = {
    "kill": _kill,
    "hang": _hang,
    "wait": lambda order: time.sleep(float(order.split()[1])),
}
