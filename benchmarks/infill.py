"""Fills by their values against fills inside their text, by kind of slot.

``python -m benchmarks.infill --jobs 100 --seed 3``: held-out jobs whose slots are all of one kind,
then mixed ones, each by both methods, through the engine and the pipelines. Prints a table, and last one
line of JSON. *Rows* is the work of the denoising loop, canvas rows times steps, failed attempts
included; it does not depend on what else the machine does, as seconds do.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dgq.engine.engine import Engine
from dgq.pipelines.decoding import SLOT_KINDS, load_decoding
from dgq.pipelines.fill_slots import copied_values, slot_kind
from dgq.pipelines.job import FillJob
from dgq.pipelines.reading import read_jobs
from dgq.pipelines.run import RunOptions, run_jobs
from dgq.pipelines.template import parse_template
from training.case import JobCase, Split
from training.choices import choice_job
from training.evaluate import as_lines
from training.fills import fill_job
from training.sudoku import sudoku_job

from .decoding import RecordingEngine

METHODS: dict[str, tuple[str, ...]] = {"by value": (), "pinned": SLOT_KINDS}


@dataclass(frozen=True, slots=True)
class Family:
    """Jobs of a maker whose slots are of these kinds only; an empty set takes all jobs."""

    make: Callable[[random.Random, Split], JobCase]
    kinds: frozenset[str] = frozenset()

    def jobs(self, count: int, seed: str) -> list[JobCase]:
        """Held-out jobs, the same for the same seed."""
        rng = random.Random(seed)
        found: list[JobCase] = []
        while len(found) < count:
            case = self.make(rng, "held_out")
            if not self.kinds or self.kinds == slot_kinds(case):
                found.append(case)
        return found


FAMILIES = {
    "field": Family(fill_job, frozenset({"field"})),
    "note": Family(fill_job, frozenset({"note"})),
    "enum": Family(choice_job, frozenset({"enum"})),
    "typed": Family(choice_job, frozenset({"typed"})),
    "mixed": Family(choice_job),
    "sudoku": Family(sudoku_job),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One family by one method; counts and CPU seconds are per job."""

    family: str
    method: str
    jobs: int
    exact: float
    passed_checks: float
    requests: float
    steps_per_canvas: float
    rows: float
    cpu_s: float
    jobs_per_s: float

    def cells(self) -> list[str]:
        """The row as the table prints it."""
        return [
            self.family, self.method, f"{self.exact:.1%}", f"{self.passed_checks:.1%}",
            f"{self.requests:.2f}", f"{self.steps_per_canvas:.1f}", f"{self.rows:.0f}",
            f"{self.cpu_s:.3f}", f"{self.jobs_per_s:.1f}",
        ]  # fmt: skip


def slot_kinds(case: JobCase) -> Collection[str]:
    """The kinds of the slots that a job asks a model for."""
    job = FillJob.model_validate({"id": "1"} | case.job)
    names = parse_template(job.template).names
    copied = copied_values(job, names)
    return frozenset(slot_kind(job, slot) for slot in names if slot not in copied)


def measure(engine: Engine, family: str, method: str, cases: list[JobCase]) -> Row:
    """Run the jobs once."""
    decodings = load_decoding(engine.model_path)
    decodings = replace(decodings, fill=replace(decodings.fill, pinned=METHODS[method]))
    recorder = RecordingEngine(engine)
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    options = RunOptions(ordered=True, decodings=decodings)
    results = list(run_jobs(read_jobs(as_lines(cases, family)), recorder, options=options))
    seconds, cpu_s = time.perf_counter() - started_s, time.process_time() - started_cpu_s
    canvases = sum(result.num_canvases for _, result in recorder.answered)
    return Row(
        family,
        method,
        len(cases),
        sum(r.output == case.expected for r, case in zip(results, cases, strict=True)) / len(cases),
        sum(result.status == "ok" for result in results) / len(cases),
        len(recorder.answered) / len(cases),
        sum(result.num_steps for _, result in recorder.answered) / max(canvases, 1),
        sum((q.canvas_length or 0) * r.num_steps for q, r in recorder.answered) / len(cases),
        cpu_s / len(cases),
        len(cases) / seconds,
    )


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=None, help="default: the shipped dgq-tiny")
    parser.add_argument("--jobs", type=int, default=100, help="jobs of each family")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--families", nargs="*", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    arguments = parser.parse_args()
    rows = []
    print("| slots | method | exact | passed | requests | steps | rows | CPU s | jobs/s |")
    with Engine.load(arguments.model) as engine:
        for family in arguments.families:
            cases = FAMILIES[family].jobs(arguments.jobs, f"{family} {arguments.seed}")
            for method in arguments.methods:
                rows.append(measure(engine, family, method, cases))
                print(f"| {' | '.join(rows[-1].cells())} |", flush=True)
    print(json.dumps([asdict(row) for row in rows]))


if __name__ == "__main__":
    main()
