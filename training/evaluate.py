"""Measure a checkpoint on held-out jobs: ``python -m training.evaluate --jobs 200``.

The jobs go through the shipped engine and pipelines with their default decoding. They share no
name, value or function with training: the split is by hash (case.py). Prints a line per family and,
last, one JSON document.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from dgq.engine.engine import Engine
from dgq.pipelines.reading import read_jobs
from dgq.pipelines.result import JobResult
from dgq.pipelines.run import run_jobs

from .case import JobCase, Split
from .fills import fill_job
from .json_documents import json_job
from .python_functions import python_job
from .rewrites import rewrite_job
from .standard_library import sentences

FAMILIES: dict[str, Callable[[random.Random, Split], JobCase]] = {
    "fill": fill_job,
    "json": json_job,
    "python": python_job,
    "rewrite": lambda rng, split: rewrite_job(rng, split, sentences(split)),
}


@dataclass(frozen=True, slots=True)
class Score:
    """Shares of one family's jobs, and what they cost."""

    family: str
    jobs: int
    exact: float
    passed_checks: float
    steps_per_canvas: float
    attempts: float
    seconds: float


def held_out_jobs(family: str, count: int, seed: int) -> list[JobCase]:
    """Jobs that training has not seen; the same for the same seed."""
    rng = random.Random(f"{family} {seed}")
    return [FAMILIES[family](rng, "held_out") for _ in range(count)]


def as_lines(cases: Iterable[JobCase], family: str) -> list[bytes]:
    """The jobs as a user's JSONL, with ids ``family-0``, ``family-1`` and so on."""
    return [
        json.dumps({"id": f"{family}-{i}"} | case.job, ensure_ascii=False).encode() + b"\n"
        for i, case in enumerate(cases)
    ]


def evaluate(engine: Engine, family: str, count: int, seed: int, show: int) -> Score:
    """Run one family; print up to ``show`` wrong outputs."""
    cases = held_out_jobs(family, count, seed)
    expected = {f"{family}-{i}": case.expected for i, case in enumerate(cases)}
    started = time.perf_counter()
    results = list(run_jobs(read_jobs(as_lines(cases, family)), engine))
    seconds = time.perf_counter() - started
    for result in results:
        if result.output != expected[str(result.id)] and show > 0:
            show -= 1
            print_wrong(result, expected[str(result.id)])
    exact = sum(result.output == expected[str(result.id)] for result in results)
    canvases = sum(result.stats.canvases for result in results)
    return Score(
        family,
        len(results),
        exact / len(results),
        sum(result.status == "ok" for result in results) / len(results),
        sum(result.stats.steps for result in results) / max(canvases, 1),
        sum(result.stats.attempts for result in results) / len(results),
        round(seconds, 2),
    )


def print_wrong(result: JobResult, expected: str) -> None:
    """Wanted, got, and what the checks said."""
    failed = [check for check in result.checks if check.passed is False]
    print(f"--- {result.id} {result.status} {failed}\n{expected}\n>>>\n{result.output}")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=None, help="default: the shipped dgq-tiny")
    parser.add_argument("--jobs", type=int, default=200, help="jobs of each family")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--families", nargs="*", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--show", type=int, default=0, help="print this many wrong outputs")
    arguments = parser.parse_args()
    scores = []
    with Engine.load(arguments.model) as engine:
        for family in arguments.families:
            score = evaluate(engine, family, arguments.jobs, arguments.seed, arguments.show)
            scores.append(score)
            print(
                f"{family:8} {score.jobs} jobs: exact {score.exact:.1%}, "
                f"passed checks {score.passed_checks:.1%}, "
                f"{score.steps_per_canvas:.1f} steps per canvas, "
                f"{score.jobs / score.seconds:.1f} jobs/s",
                flush=True,
            )
    print(json.dumps([asdict(score) for score in scores]))


if __name__ == "__main__":
    main()
