"""``dgq run``: jobs in, checked results out, in this process."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from dgq.pipelines.job import Job
from dgq.pipelines.reading import BadLine, read_jobs

from . import exit_codes
from .dry_run import dry_run
from .errors import CommandError, UsageFault
from .guard import say
from .host import EngineOptions, check_model_path
from .interrupt import DelayedInterrupt
from .jobs_input import STDIN, open_jobs
from .local import RunSettings, results_of
from .output import ResultWriter, check_output
from .progress import count_lines, progress
from .resume import EarlierRows, read_earlier_rows
from .settings import Settings, load_settings
from .summary import Tally, exit_code, summary_lines
from .tracing import check_trace


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The command line of ``dgq run``. jobs, out: paths, or ``-`` for stdin and stdout.

    dtype, kernels: None where the settings decide. trace_path: where the engine's trace goes, if
    anywhere.
    """

    jobs: str
    out: str
    model_path: Path | None
    device: str
    dtype: str | None
    kernels: str | None
    preset: str
    max_memory_bytes: int | None
    ordered: bool
    resume: bool
    overwrite: bool
    dry_run: bool
    seed: int | None
    max_attempts: int | None
    trace_path: Path | None
    quiet: bool


@dataclass(slots=True)
class Input:
    """The jobs of an input that have no row yet. num_read: how many there were in all."""

    lines: BinaryIO
    earlier: EarlierRows
    num_read: int = 0

    def __iter__(self) -> Iterator[Job | BadLine]:
        """Read on; what has its row is left out."""
        for entry in read_jobs(self.lines):
            self.num_read += 1
            if not self._is_done(entry):
                yield entry

    def _is_done(self, entry: Job | BadLine) -> bool:
        if entry.id is None:
            return entry.line is not None and self.earlier.has_line(entry.line)
        return self.earlier.has_id(entry.id)


@dataclass(slots=True)
class Run:
    """One run: where its rows go and what it has done so far."""

    options: RunOptions
    settings: Settings
    writer: ResultWriter
    earlier: EarlierRows
    tally: Tally = field(default_factory=Tally)

    @property
    def where(self) -> str:
        """Where the rows are, in words."""
        return "standard output" if self.writer.path is None else str(self.writer.path)

    def execute(self, entries: Iterable[Job | BadLine], total: int | None) -> None:
        """Run the jobs and write their rows. Raises what stops it, the rows so far being safe."""
        run_settings = RunSettings(
            ordered=self.options.ordered,
            seed=self.options.seed,
            max_attempts=self.options.max_attempts,
            trace_path=self.options.trace_path,
            engine=EngineOptions(
                device=self.options.device,
                dtype=self.settings.dtype,
                kernels=self.settings.kernels,
                preset=self.options.preset,
                max_memory_bytes=self.options.max_memory_bytes,
            ),
        )
        model_path = self.options.model_path or self.settings.model_path
        with DelayedInterrupt() as interrupt, results_of(entries, model_path, run_settings) as rows:
            self._start()
            with self._progress(total):
                for row in rows:
                    with interrupt.held():
                        self.writer.write(row.to_json_line().encode())
                        self.tally.add(row)

    def _start(self) -> None:
        """Only now, with the model loaded, is a file of results changed."""
        self.tally = Tally()
        self.writer.start(keep_bytes=self.earlier.keep_bytes)

    def _progress(self, total: int | None) -> AbstractContextManager[object]:
        to_terminal = self.writer.path is None and sys.stdout.isatty()
        return progress(
            self.tally,
            total=total,
            quiet=self.options.quiet,
            live=sys.stderr.isatty() and not to_terminal,
            interval_s=self.settings.progress_interval_s,
        )


def run_command(options: RunOptions) -> int:
    """Do what the command line says; returns the exit code. Raises CommandError and DgqError."""
    settings = load_settings(dtype=options.dtype, kernels=options.kernels)
    check_model_path(options.model_path or settings.model_path)
    with open_jobs(options.jobs) as lines:
        if options.dry_run:
            return dry_run(
                read_jobs(lines), options.jobs, options.model_path or settings.model_path
            )
        out = check_output(
            options.jobs, options.out, resume=options.resume, overwrite=options.overwrite
        )
        if options.trace_path:
            check_trace(options.trace_path, [options.jobs, options.out])
        with ResultWriter(out) as writer:
            earlier = read_earlier_rows(out) if options.resume and out else EarlierRows()
            return _run(Run(options, settings, writer, earlier), Input(lines, earlier))


def _run(run: Run, jobs: Input) -> int:
    if run.earlier.torn_bytes:
        say(f"{run.where} ends in a torn line; its {run.earlier.torn_bytes} bytes are cut off")
    entries = iter(jobs)
    first = next(entries, None)
    if not jobs.num_read:
        raise UsageFault(f"no jobs in {_name(run.options.jobs)}")
    try:
        if first is None:
            run.writer.start(keep_bytes=run.earlier.keep_bytes)
        else:
            run.execute(chain([first], entries), _total(run))
    except KeyboardInterrupt:
        say(f"interrupted; {_what_is_safe(run)}")
        return exit_codes.INTERRUPTED
    except CommandError:
        raise
    except Exception:
        if run.tally.num_rows:
            say(_what_is_safe(run))
        raise
    if not run.options.quiet:
        seconds = time.monotonic() - run.tally.started_s
        for line in summary_lines(run.tally, run.earlier, run.where, seconds):
            say(line)
    return exit_code(run.tally, run.earlier)


def _total(run: Run) -> int | None:
    """How many rows this run will write; None where that cannot be known beforehand."""
    path = Path(run.options.jobs)
    if run.options.jobs == STDIN or run.options.quiet or not path.is_file():
        return None
    return max(count_lines(path) - run.earlier.num_rows, 0)


def _what_is_safe(run: Run) -> str:
    rows = run.tally.num_rows
    if run.writer.path is None or run.options.jobs == STDIN:
        return f"{rows} results were written to {run.where}"
    return f"{rows} results were written to {run.where}; to go on: the same command with --resume"


def _name(jobs: str) -> str:
    return "standard input" if jobs == STDIN else jobs
