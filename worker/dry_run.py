"""``dgq run --dry-run``: what is wrong with the jobs, and what they would cost. Runs no model."""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import click

from dgq.engine.config import ModelConfig
from dgq.pipelines.decoding import load_decoding
from dgq.pipelines.errors import JobError
from dgq.pipelines.estimate import Estimate, estimate_tokens
from dgq.pipelines.job import Job
from dgq.pipelines.reading import BadLine

from . import exit_codes
from .errors import UsageFault
from .guard import WORKER_PACKAGES, one_line, say
from .host import SHIPPED_MODEL_PATH

Estimator = Callable[[Job], Estimate]


def dry_run(entries: Iterable[Job | BadLine], name: str, model_path: Path | None) -> int:
    """Print counts for each kind, the bad lines, and an estimate; returns the exit code.

    name: the input's, for messages. Raises UsageFault where there are no jobs at all, and
    CheckpointError where a model is named whose tokenizer cannot be read.
    """
    estimate = _estimator(model_path)
    kinds: Counter[str] = Counter()
    num_bad, total = 0, Estimate()
    for entry in entries:
        wrong = entry.message if isinstance(entry, BadLine) else None
        if isinstance(entry, BadLine):
            pass
        elif estimate is None:
            kinds[entry.kind] += 1
        else:
            try:
                total += estimate(entry)
                kinds[entry.kind] += 1
            except JobError as error:
                wrong = error.message
        if wrong is not None:
            num_bad += 1
            click.echo(f"line {entry.line}: {one_line(wrong)}")
    if not num_bad and not kinds:
        raise UsageFault(f"no jobs in {name}")
    click.echo(_counts(kinds, num_bad))
    if estimate is not None:
        click.echo(
            f"{total.requests} requests, {total.prompt_tokens} prompt tokens, "
            f"about {total.answer_tokens} answer tokens, if each succeeds at once"
        )
    return exit_codes.FAILED_ROWS if num_bad else exit_codes.OK


def _counts(kinds: Counter[str], num_bad: int) -> str:
    counts = [f"{count} {kind}" for kind, count in sorted(kinds.items())]
    return ", ".join([*counts, f"{num_bad} bad"])


def _estimator(model_path: Path | None) -> Estimator | None:
    """A function that estimates a job with the checkpoint's tokenizer, its weights unread.

    None where the tokenizer's packages are not installed: jobs can be checked without them.
    """
    try:
        from dgq.engine.tokenizer import Tokenizer
    except ModuleNotFoundError as error:
        if error.name not in WORKER_PACKAGES:
            raise
        say(f"{error.name} is not installed: the jobs are checked, but no tokens are counted")
        return None
    folder = model_path or SHIPPED_MODEL_PATH
    tokenizer = Tokenizer.from_folder(folder)
    canvas_length = ModelConfig.from_file(folder / "config.json").canvas_length
    decodings = load_decoding(folder)
    return lambda job: estimate_tokens(
        job, tokenizer, canvas_length=canvas_length, decodings=decodings
    )
