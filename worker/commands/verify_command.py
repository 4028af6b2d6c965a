"""``dgq verify``: whether the results are what the jobs ask for."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from .. import exit_codes
from ..guard import guarded, one_line
from .options import json_option, print_json

if TYPE_CHECKING:
    from ..client.verifying import Finding, Verdict

VERIFY_JSON = """\b
With --json, one object:
  same            whether nothing differs
  num_jobs, num_bad_lines   of the input
  num_rows, num_by_status   of the output
  missing, doubled, foreign, broken   each with count, and first: the first 20 of
                  missing  {file, line}: a job or bad line without a row
                  doubled  {line, first_line, id, input_line}: a second row of a job
                  foreign  {line, id, input_line}: a row that no job asks for
                  broken   {line, why}: a line of the output that is no row"""


@click.command(epilog=VERIFY_JSON)
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.argument("output", metavar="OUTPUT")
@json_option
@guarded
def verify(inputs: tuple[str, ...], output: str, as_json: bool) -> int:
    """Check that OUTPUT has each job's row exactly once, and no other.

    INPUT is what dgq submit or dgq run was given: files, patterns, or -. Bad lines of it must have
    their error rows. What differs is printed with its line numbers, the first 20 of each kind. The
    exit code is 8 if anything differs. No server is needed. The statuses of rows do not matter.
    """
    from dataclasses import replace
    from pathlib import Path

    from dgq.pipelines.parsing import DEFAULT_LIMITS

    from ..client.verifying import verify as compare
    from ..jobs_input import check_file, find_inputs
    from ..settings import load_settings

    check_file(output)
    names = find_inputs(inputs, out=Path(output))
    limits = replace(DEFAULT_LIMITS, line_bytes=load_settings().max_job_bytes)
    verdict = compare(names, Path(output), limits=limits)
    if as_json:
        print_json(
            {
                "same": verdict.same,
                "num_jobs": verdict.num_jobs,
                "num_bad_lines": verdict.num_bad_lines,
                "num_rows": verdict.num_rows,
                "num_by_status": dict(verdict.num_by_status),
                **{
                    name: {"count": kind.count, "first": kind.shown}
                    for name, kind in verdict.kinds().items()
                },
            }
        )
    else:
        for line in in_words(verdict, output):
            click.echo(line)
    return exit_codes.OK if verdict.same else exit_codes.DIFFERENCES


def in_words(verdict: "Verdict", output: str) -> Iterator[str]:
    """What is printed: the differences, then the counts."""
    for one in verdict.missing.shown:
        yield f"{one['file']} line {one['line']} has no row"
    yield from _more(verdict.missing, "without a row")
    for one in verdict.doubled.shown:
        yield f"{output} line {one['line']} is a second row of {_whose(one)}, after line {one['first_line']}"
    yield from _more(verdict.doubled, "second rows")
    for one in verdict.foreign.shown:
        yield f"{output} line {one['line']} is a row of {_whose(one)}, which the input does not have"
    yield from _more(verdict.foreign, "foreign rows")
    for one in verdict.broken.shown:
        yield f"{output} line {one['line']}: {one['why']}"
    yield from _more(verdict.broken, "lines that are no rows")
    counts = ", ".join(f"{kind.count} {name}" for name, kind in verdict.kinds().items())
    statuses = ", ".join(f"{n} {status}" for status, n in sorted(verdict.num_by_status.items()))
    yield (
        f"{verdict.num_jobs} jobs and {verdict.num_bad_lines} bad lines, {verdict.num_rows} rows"
        f"{f' ({statuses})' if statuses else ''}: {'the same' if verdict.same else counts}"
    )


def _more(kind: "Finding", what: str) -> Iterator[str]:
    if kind.count > len(kind.shown):
        yield f"and {kind.count - len(kind.shown)} more {what}"


def _whose(one: Mapping[str, Any]) -> str:
    if one["id"] is None:
        return f"the bad line {one['input_line']}"
    return f"the id {one_line(repr(one['id']), 120)}"
