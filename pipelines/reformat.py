"""Reformats: the model lays the code out anew, piece by piece; every answer must be the same
program, and in the style where the style is known. Otherwise the original comes back.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from .asking import Answer, Context, Outcome, Question, Steps, ask, attempts_of, piece_question
from .decoding import Decoding
from .documents import line_feeds, with_line_ends_of
from .errors import Rejected
from .job import ReformatJob
from .json_splitting import join_json, split_json
from .prompts import reformat_prompt
from .result import Check
from .same_program import check_parses, difference
from .splitting import WRAPPER, Part, join_parts, split_python, unwrapped
from .styles import Style, language_of, style_of

_FENCED = re.compile(r"```[^\n`]*\n(.*?)\n?```", re.DOTALL)
_BOM = "\ufeff"


@dataclass(frozen=True, slots=True)
class ReformatPlan:
    """code: what is compared, without a byte order mark and with line feeds for line ends."""

    code: str
    language: str
    style: Style
    parts: tuple[Part, ...]
    questions: tuple[Question, ...]
    bom: str
    crlf: bool

    def assemble(self, answers: list[Answer]) -> str:
        """The new code from the answers, which all have values."""
        values = iter([answer.value or "" for answer in answers])
        texts = [next(values) if part.ask else part.text for part in self.parts]
        if self.style.json_layout:
            return join_json(self.parts, texts)
        indent = " " * self.style.indent if self.style.indent else None
        return join_parts(self.parts, texts, indent)

    def restore(self, text: str) -> str:
        """The text with the caller's line ends and byte order mark."""
        return self.bom + (text.replace("\n", "\r\n") if self.crlf else text)


def plan(job: ReformatJob, context: Context) -> ReformatPlan:
    """Split the code and word the questions. Raises JobError for code that does not parse."""
    language = language_of(job.language)
    style = style_of(language, job.style)
    code, crlf = line_feeds(job.code.removeprefix(_BOM))
    check_parses(code, language)
    decoding = _decoding(language, context)
    parts = _parts(code, language, style, decoding, context)
    asked = [part for part in parts if part.ask]
    questions = [
        piece_question(
            f"piece {number} of {len(asked)}",
            reformat_prompt(language, style.words, part.text),
            part.text,
            _judge(part, language, style),
            context,
            decoding,
            must_converge=False,
        )
        for number, part in enumerate(asked, 1)
    ]
    bom = _BOM if job.code.startswith(_BOM) else ""
    return ReformatPlan(code, language, style, tuple(parts), tuple(questions), bom, crlf)


def run(job: ReformatJob, context: Context) -> Steps:
    """Reformat the code; the original where any piece or the whole fails its checks."""
    planned = plan(job, context)
    attempts = attempts_of(job, _decoding(planned.language, context))
    answers = yield from ask(job, planned.questions, context, attempts)
    failed = [answer for answer in answers if answer.value is None]
    if failed:
        checks = tuple(
            Check(name=answer.check, passed=False, detail=f"{answer.key}: {answer.detail}")
            for answer in failed
        )
        return Outcome("invalid_output", job.code, checks)
    text = planned.assemble(answers)
    checks = _checks(planned, text)
    if any(check.passed is False for check in checks):
        return Outcome("invalid_output", job.code, checks)
    return Outcome("ok", planned.restore(text), checks)


def _decoding(language: str, context: Context) -> Decoding:
    decodings = context.decodings
    known = {"python": decodings.reformat_python, "json": decodings.reformat_json}
    return known.get(language, decodings.reformat_other)


def _parts(
    code: str, language: str, style: Style, decoding: Decoding, context: Context
) -> list[Part]:
    def measure(text: str) -> int:
        return len(context.tokenizer.encode(text))

    if language == "python":
        return split_python(code, decoding.piece_tokens, measure, inside=style.indent is not None)
    core = code.strip() if language == "json" else code.strip("\n").rstrip()
    parts = [Part(core, ask=True)] if core.strip() else []
    if style.json_layout and parts:
        parts = split_json(core, style.json_layout, decoding.piece_tokens, measure)
    return [*parts, Part("\n", ask=False)] if code.endswith("\n") else parts


def _judge(part: Part, language: str, style: Style) -> Callable[[str], str]:
    source = part.text

    def judge(answer: str) -> str:
        text = with_line_ends_of(source, answer).strip("\r\n").rstrip()
        if fenced := _FENCED.fullmatch(text.strip()):
            text = fenced[1].strip("\r\n").rstrip()
        if wrong := difference(source, text, language):
            raise Rejected("same program", wrong)
        if style.check and (wrong := style.check(text)):
            raise Rejected("style", wrong)
        if part.wrapped and language == "python":
            if (body := unwrapped(text, " " * (style.indent or 0))) is None:
                raise Rejected("style", f"not below a line {WRAPPER!r}")
            return body
        return text

    return judge


def _checks(planned: ReformatPlan, text: str) -> tuple[Check, ...]:
    """The whole file once more, after its pieces: what comes out is what was checked."""
    wrong = difference(planned.code, text, planned.language)
    program = Check(name="same program", passed=wrong is None, detail=wrong or "")
    if planned.style.check is None:
        return program, Check(name="style", passed=None, detail="not checked")
    layout = text.removesuffix("\n") if planned.language == "json" else text
    wrong = planned.style.check(layout)
    return program, Check(name="style", passed=wrong is None, detail=wrong or "")
