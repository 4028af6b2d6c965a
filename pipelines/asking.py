"""The one loop in which every kind asks the model: ask, judge, ask again what failed.

A kind is a generator: it yields lists of requests, is sent the list of their results, and returns
its Outcome. So a kind knows no engine and no threads, and many jobs are driven at once (run.py).
"""

import hashlib
import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

from dgq.engine.request import Request, Result

from .decoding import DEFAULT_DECODINGS, Decoding, Decodings, round_up
from .errors import Rejected
from .job import Job
from .ports import TextTokenizer
from .result import Check, Status


@dataclass(frozen=True, slots=True)
class Context:
    """What a kind needs to know of the engine, and how each kind is decoded."""

    tokenizer: TextTokenizer
    canvas_length: int = 256
    decodings: Decodings = DEFAULT_DECODINGS


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a kind returns: the job's result without its costs."""

    status: Status
    output: str | None
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """One piece or slot to ask the model for.

    key: names it within its job, in seeds and in checks. judge: from the answer's text to the
    value to keep; raises Rejected for an answer that does not do. must_converge: whether a best
    guess is refused (where the judge cannot prove an answer right). draft_ids: what the canvas starts
    from, where the decoding lets it. expected_tokens: of the answer, for estimates.
    """

    key: str
    prompt_ids: tuple[int, ...]
    canvas_length: int
    max_new_tokens: int
    expected_tokens: int
    judge: Callable[[str], str]
    decoding: Decoding
    draft_ids: tuple[int, ...] = ()
    must_converge: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """A question's last state: a value, or the check that refused it and why."""

    key: str
    value: str | None
    check: str = ""
    detail: str = ""


Steps = Generator[list[Request], list[Result], Outcome]
Asking = Generator[list[Request], list[Result], list[Answer]]


def ask(job: Job, questions: Sequence[Question], context: Context, max_attempts: int) -> Asking:
    """Ask all questions together, then those that failed again, with new seeds, and so on.

    An answer that did not fit its canvas was continued in another; if it failed, it may be for that,
    and the next attempt's canvas is twice as wide. Returns an Answer for each question, in order.
    """
    answers: dict[str, Answer] = {}
    pending = list(questions)
    for attempt in range(max_attempts):
        if not pending:
            break
        results = yield [_request(job, question, attempt, context) for question in pending]
        for question, result in zip(pending, results, strict=True):
            answers[question.key] = _judged(question, result, context.tokenizer)
        pending = [
            _wider(question, result, context)
            for question, result in zip(pending, results, strict=True)
            if answers[question.key].value is None
        ]
    return [answers[question.key] for question in questions]


def _wider(question: Question, result: Result, context: Context) -> Question:
    if result.num_canvases == 1:
        return question
    rows = min(2 * question.canvas_length, context.canvas_length)
    return replace(question, canvas_length=rows, max_new_tokens=max(question.max_new_tokens, rows))


def seed_of(job: Job, key: str, attempt: int) -> int:
    """63 bits that depend on the job's seed and id, the piece and the attempt, on nothing else."""
    parts = json.dumps([job.seed or 0, job.id, key, attempt]).encode()
    return int.from_bytes(hashlib.blake2b(parts, digest_size=8).digest(), "big") >> 1


def chat(tokenizer: TextTokenizer, prompt: str) -> tuple[int, ...]:
    """The prompt's ids, chat template applied."""
    return tuple(tokenizer.encode_chat([{"role": "user", "content": prompt}]))


def piece_question(
    key: str,
    prompt: str,
    source: str,
    judge: Callable[[str], str],
    context: Context,
    decoding: Decoding,
    *,
    must_converge: bool,
) -> Question:
    """A question whose answer resembles a source text: a warm start if the decoding says so."""
    source_ids = tuple(context.tokenizer.encode(source))
    rows = decoding.rows(len(source_ids), context.canvas_length)
    return Question(
        key=key,
        prompt_ids=chat(context.tokenizer, prompt),
        canvas_length=rows,
        max_new_tokens=max(2 * rows, round_up(2 * decoding.needed(len(source_ids)))),
        expected_tokens=len(source_ids),
        judge=judge,
        decoding=decoding,
        draft_ids=source_ids,
        must_converge=must_converge,
    )


def _request(job: Job, question: Question, attempt: int, context: Context) -> Request:
    decoding = question.decoding
    noise, renoise = decoding.start_of(attempt)
    least_rows = context.canvas_length if decoding.full_width else 0
    rows = max(question.canvas_length, least_rows)
    warm = noise < 1 and bool(question.draft_ids)
    return Request(
        prompt_ids=question.prompt_ids,
        max_new_tokens=max(question.max_new_tokens, least_rows),
        seed=seed_of(job, question.key, attempt),
        canvas_length=rows,
        draft_ids=question.draft_ids[:rows] if warm else (),
        draft_noise=noise if warm else 0.0,
        draft_renoise=renoise if warm else 1.0,
        sampling=decoding.sampling,
    )


def _judged(question: Question, result: Result, tokenizer: TextTokenizer) -> Answer:
    try:
        if question.must_converge and result.finish_reason != "stop":
            reason = "cut off" if result.finish_reason == "length" else "did not converge"
            raise Rejected("finished", reason)
        return Answer(question.key, question.judge(tokenizer.decode(result.token_ids)))
    except Rejected as rejected:
        return Answer(question.key, None, rejected.check, rejected.detail)


def attempts_of(job: Job, decoding: Decoding) -> int:
    """How often each question of the job may be asked."""
    return job.max_attempts or decoding.max_attempts
