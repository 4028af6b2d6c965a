"""Rewrites: a text piece by piece, protected spans behind marks, joined as it was.

The checks can tell a damaged piece from a whole one, not a good rewriting from a poor one.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from .asking import Answer, Context, Outcome, Question, Steps, ask, attempts_of, piece_question
from .documents import Segment, line_feeds, split_document, with_line_ends_of
from .errors import Rejected
from .job import RewriteJob
from .prompts import rewrite_prompt
from .protect import Hidden, find_spans, hide, numbers_of
from .result import Check
from .rules import CONTROL

RATIO_FROM_CHARS = 20
LEAST_RATIO, MOST_RATIO = 0.3, 3.0
_OPENER = re.compile(r"^[ \t>]*(?:`{3}|~{3})|<!--|<(?:pre|script|style)\b", re.MULTILINE)
_BLANK_LINE = re.compile(r"\n[ \t]*\r?\n")


@dataclass(frozen=True, slots=True)
class RewritePlan:
    """segments: join to the text. questions: one for each segment that the model sees.

    crlf: whether the text's line ends, line feeds here, are to become the caller's again.
    """

    segments: tuple[Segment, ...]
    questions: tuple[Question, ...]
    crlf: bool

    def assemble(self, answers: list[Answer]) -> str:
        """The new text from the answers, which all have values."""
        values = iter([answer.value or "" for answer in answers])
        text = "".join(next(values) if part.ask else part.text for part in self.segments)
        return text.replace("\n", "\r\n") if self.crlf else text


def plan(job: RewriteJob, context: Context) -> RewritePlan:
    """Split the text and word the questions."""
    decoding, tokenizer = context.decodings.rewrite, context.tokenizer
    text, crlf = line_feeds(job.text)
    segments = split_document(
        text,
        job.format,
        decoding.piece_tokens,
        lambda piece: len(tokenizer.encode(piece)),
        job.keep_numbers,
    )
    texts = [segment.text for segment in segments if segment.ask]
    questions = []
    for number, text in enumerate(texts, 1):
        hidden = hide(text, find_spans(text, job.keep_numbers))
        questions.append(
            piece_question(
                f"piece {number} of {len(texts)}",
                rewrite_prompt(job.instruction, hidden.text),
                hidden.text,
                _judge(text, hidden, job.keep_numbers),
                context,
                decoding,
                must_converge=True,
            )
        )
    return RewritePlan(tuple(segments), tuple(questions), crlf)


def run(job: RewriteJob, context: Context) -> Steps:
    """Rewrite the text; the original where any piece fails its checks."""
    planned = plan(job, context)
    attempts = attempts_of(job, context.decodings.rewrite)
    answers = yield from ask(job, planned.questions, context, attempts)
    failed = [answer for answer in answers if answer.value is None]
    if failed:
        checks = tuple(
            Check(name=answer.check, passed=False, detail=f"{answer.key}: {answer.detail}")
            for answer in failed
        )
        return Outcome("invalid_output", job.text, checks)
    names = ["finished", "text", "protected spans"] + ["numbers"] * job.keep_numbers
    detail = "" if answers else "nothing to rewrite"
    checks = tuple(Check(name=name, passed=True, detail=detail) for name in names)
    return Outcome("ok", planned.assemble(answers), checks)


def _judge(source: str, hidden: Hidden, keep_numbers: bool) -> Callable[[str], str]:
    def judge(answer: str) -> str:
        text = hidden.restore(with_line_ends_of(source, answer).strip())
        if wrong := _damage(source, text):
            raise Rejected("text", wrong)
        spans = iter([text[start:end] for start, end in find_spans(text, keep_numbers)])
        if not all(span in spans for span in hidden.originals):  # each after the one before it
            raise Rejected("protected spans", "a protected span has run into the text around it")
        if keep_numbers and numbers_of(source) != numbers_of(text):
            raise Rejected("numbers", "a number is missing, changed or added")
        return text

    return judge


def _damage(source: str, text: str) -> str | None:
    """What tells a broken answer, in words."""
    if not text:
        return "empty"
    if set(CONTROL.findall(text)) - set(CONTROL.findall(source)):
        return "a control character"
    if _OPENER.search(text) and not _OPENER.search(source):
        return "code or a comment begins that the source does not have"
    if _BLANK_LINE.search(text) and not _BLANK_LINE.search(source):
        return "more than one paragraph"
    ratio = len(text) / len(source)
    if len(source) > RATIO_FROM_CHARS and not LEAST_RATIO <= ratio <= MOST_RATIO:
        return f"{ratio:.1f} times as long as the source"
    return None
