"""What a job will cost, before any model is asked: from the same plan that running it makes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from . import fill, reformat, rewrite
from .asking import Context, Question
from .decoding import DEFAULT_DECODINGS, Decodings
from .fill_pinned import PlannedWindow
from .job import Job
from .ports import TextTokenizer

PLAN: dict[str, Callable[[Any, Context], Any]] = {
    "fill": fill.plan,
    "reformat": reformat.plan,
    "rewrite": rewrite.plan,
}


@dataclass(frozen=True, slots=True)
class Estimate:
    """requests and prompt_tokens are exact for a first attempt; answer_tokens is a guess."""

    requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0

    def __add__(self, other: "Estimate") -> "Estimate":
        """Both together."""
        return Estimate(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.answer_tokens + other.answer_tokens,
        )


def estimate_tokens(
    job: Job,
    tokenizer: TextTokenizer,
    *,
    canvas_length: int = 256,
    decodings: Decodings = DEFAULT_DECODINGS,
) -> Estimate:
    """Estimate one job. Raises JobError for a job that would be an error (unparsable code)."""
    context = Context(tokenizer, canvas_length, decodings)
    questions: Sequence[Question | PlannedWindow] = PLAN[job.kind](job, context).questions
    return Estimate(
        requests=len(questions),
        prompt_tokens=sum(len(question.prompt_ids) for question in questions),
        answer_tokens=sum(question.expected_tokens for question in questions),
    )
