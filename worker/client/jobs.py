"""Jobs from Python as the entries of a submission."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dgq.pipelines.job import Job
from dgq.pipelines.parsing import Limits
from dgq.pipelines.reading import BadLine, id_of, read_job_lines

from ..errors import UsageFault
from .submission import Entry

AnyJob = Job | Mapping[str, Any] | bytes | str
"""A job, a mapping as in a line of a file of jobs, or such a line itself."""


def entries_of(jobs: Iterable[AnyJob], limits: Limits) -> Iterator[Entry]:
    """One entry for each job, numbered from 1; what is no job is a BadLine.

    Raises UsageFault for a lone job, or a file's name, in place of jobs.
    """
    if isinstance(jobs, str | bytes | Mapping):
        raise UsageFault("jobs must be an iterable of jobs: a list, a generator, or an open file")
    return _entries(jobs, limits)


def _entries(jobs: Iterable[AnyJob], limits: Limits) -> Iterator[Entry]:
    unwritable: dict[int, BadLine] = {}
    for entry, line in read_job_lines(_lines(jobs, unwritable), limits=limits):
        number = entry.line or 0
        yield unwritable.pop(number, entry), line


def _lines(jobs: Iterable[AnyJob], unwritable: dict[int, BadLine]) -> Iterator[bytes]:
    """A line for each job. One that has no JSON becomes no good line, and is noted by its number."""
    for number, job in enumerate(jobs, 1):
        try:
            yield _line(job)
        except (TypeError, ValueError, RecursionError) as error:
            unwritable[number] = BadLine(number, f"no JSON can be made of it: {error}", id_of(job))
            yield b"{"


def _line(job: AnyJob) -> bytes:
    match job:
        case bytes():
            return job
        case str():
            text = job
        case Mapping():
            text = json.dumps(dict(job), ensure_ascii=False)
        case _ if hasattr(job, "model_dump_json"):
            text = job.model_dump_json(exclude_none=True)
        case _:
            text = json.dumps(job, ensure_ascii=False)
    # Half a character becomes the escape that JSON has for it, and is then refused by name.
    return text.encode(errors="backslashreplace")
