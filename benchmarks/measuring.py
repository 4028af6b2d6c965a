"""What the benchmarks of the engine share: jobs with right answers, and what a run of them came to."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from dgq.pipelines.job import FillJob, Job
from dgq.pipelines.ports import TextEngine, TextTokenizer
from dgq.pipelines.reading import BadLine, read_jobs
from dgq.pipelines.result import JobResult
from dgq.pipelines.run import RunOptions, run_jobs
from dgq.pipelines.template import parse_template
from training.evaluate import as_lines, held_out_jobs

AS_DGQ_RUN = RunOptions()


@dataclass(frozen=True, slots=True)
class JobSet:
    """Held-out jobs with their right outputs, by id."""

    jobs: tuple[Job, ...]
    expected: dict[str, str]

    def __iter__(self) -> Iterator[Job]:
        return iter(self.jobs)

    def __len__(self) -> int:
        return len(self.jobs)

    def sample(self, count: int) -> "JobSet":
        """About this many of them, evenly spread."""
        return JobSet(self.jobs[:: max(1, len(self.jobs) // count)], self.expected)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one run. exact, ok: shares of the jobs, whose output is the right one, whose checks passed.

    useful_tokens: of the outputs that passed, what the model made; retries count for nothing.
    steps_per_canvas: denoising steps.
    """

    jobs: int
    seconds: float
    exact: float
    ok: float
    useful_tokens: int
    requests: int
    steps_per_canvas: float

    @property
    def jobs_per_s(self) -> float:
        return self.jobs / self.seconds

    def __str__(self) -> str:
        return (
            f"{self.jobs} jobs in {self.seconds:.1f} s: {self.jobs_per_s:.2f} jobs/s, "
            f"{self.useful_tokens / self.seconds:.0f} useful tokens/s, exact {self.exact:.1%}, "
            f"passed checks {self.ok:.1%}, {self.requests} requests, "
            f"{self.steps_per_canvas:.1f} steps per canvas"
        )


def mixed_jobs(families: Sequence[str], count: int, seed: int) -> JobSet:
    """``count`` held-out jobs, equally many of each family, in turn."""
    expected: dict[str, str] = {}
    by_family = []
    for family in families:
        cases = held_out_jobs(family, count // len(families), seed)
        expected |= {f"{family}-{i}": case.expected for i, case in enumerate(cases)}
        by_family.append(as_lines(cases, family))
    lines = [line for group in zip_longest(*by_family) for line in group if line is not None]
    jobs = []
    for entry in read_jobs(lines):
        if isinstance(entry, BadLine):
            raise SystemExit(f"a held-out job is none: {entry.message}")
        jobs.append(entry)
    return JobSet(tuple(jobs), expected)


def run_set(jobs: JobSet, engine: TextEngine, options: RunOptions = AS_DGQ_RUN) -> Figures:
    """Run the jobs as ``dgq run`` does, with the engine loaded beforehand."""
    started = time.perf_counter()
    results = list(run_jobs(jobs, engine, options=options))
    seconds = time.perf_counter() - started
    by_id = {job.id: job for job in jobs}
    passed = [result for result in results if result.status == "ok"]
    canvases = sum(result.stats.canvases for result in results)
    return Figures(
        jobs=len(results),
        seconds=seconds,
        exact=share(result.output == jobs.expected[str(result.id)] for result in results),
        ok=len(passed) / len(results),
        useful_tokens=sum(
            useful_tokens(by_id[str(result.id)], result, engine.tokenizer) for result in passed
        ),
        requests=sum(result.stats.requests for result in results),
        steps_per_canvas=sum(result.stats.steps for result in results) / max(canvases, 1),
    )


def share(verdicts: Iterable[bool]) -> float:
    """How many of them are true, of all."""
    listed = list(verdicts)
    return sum(listed) / len(listed)


def useful_tokens(job: Job, result: JobResult, tokenizer: TextTokenizer) -> int:
    """Tokens of a good output that the model made: of a fill, the values that it was asked for."""
    output = result.output or ""
    if not isinstance(job, FillJob):
        return len(tokenizer.encode(output))
    copied = {check.name for check in result.checks if check.detail == "copied"}
    values = slot_values(job.template, output)
    asked = [value for slot, value in values.items() if f"slot {slot}" not in copied]
    return sum(len(tokenizer.encode(value)) for value in asked)


def slot_values(template: str, output: str) -> dict[str, str]:
    """What stands in each slot of a filled template, each value up to the literal text behind it."""
    parsed = parse_template(template)
    values: dict[str, str] = {}
    at = len(parsed.literals[0])
    for number, (slot, literal) in enumerate(
        zip(parsed.slots, parsed.literals[1:], strict=True), 1
    ):
        is_last = number == len(parsed.slots)
        end = len(output) - len(literal) if is_last else output.index(literal, at)
        values.setdefault(slot, output[at:end])
        at = end + len(literal)
    return values
