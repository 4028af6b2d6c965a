"""The state of one request in flight: which canvas it is at, and what becomes of a finished one.

Plain data and decisions, no tensors. A request is read (its prompt is encoded), then written canvas
by canvas: a canvas starts from noise or from a draft, is denoised until it converges or has used
all its steps, and is then kept, or re-rolled: started anew from other noise. A kept canvas without
a stop token is committed, that is encoded, so that the next canvas can see it.
"""

import time
from dataclasses import dataclass, field
from enum import Enum, auto

from dgq.kernels.page import PAGE_TOKENS

from .errors import RequestError
from .kv_pages import TextPages
from .request import ROW_MULTIPLE, Candidates, FinishReason, Request, Result, SamplingConfig


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What the loaded checkpoint and the engine's settings can serve.

    max_kv_tokens: that the KV pool holds, for all texts in flight together.
    """

    vocab_size: int
    canvas_length: int
    max_position_embeddings: int
    max_kv_tokens: int
    eos_ids: frozenset[int]
    filler_id: int
    sampling: SamplingConfig


@dataclass(frozen=True, slots=True)
class Outcome:
    """A canvas that left the denoising loop.

    ids: its most probable tokens. mean_entropy: of its last step, nats, over its free rows.
    scores, candidates: as in Result, of its last step.
    """

    ids: list[int]
    num_steps: int
    mean_entropy: float
    converged: bool
    scores: tuple[tuple[float, ...], ...] = ()
    candidates: Candidates = ()


class Verdict(Enum):
    """What happens after a canvas has left the denoising loop."""

    FINISHED = auto()
    COMMIT = auto()
    REROLL = auto()


@dataclass(slots=True, eq=False)
class Generation:
    """One request in flight.

    pending_ids: tokens that the encoder must read before the canvas may be denoised.
    prefix_length: tokens that the encoder has read.
    width: rows of the current canvas; 0 once finished.
    pages: of the KV pool, while in flight.
    num_shared_tokens: of the prompt, that others had read before it.
    num_steps_planned: of this attempt at the current canvas.
    submitted_s: when it came, on the clock of time.perf_counter.
    """

    number: int
    request: Request
    limits: EngineLimits
    sampling: SamplingConfig
    pending_ids: tuple[int, ...]
    width: int
    prefix_length: int = 0
    canvas: int = 0
    attempt: int = 0
    needs_start: bool = True
    pages: TextPages = field(default_factory=TextPages)
    result: Result | None = None
    num_shared_tokens: int = 0
    num_steps_planned: int = 0
    submitted_s: float = field(default_factory=time.perf_counter)
    _committed: list[int] = field(default_factory=list)
    _num_steps: int = 0
    _num_rerolls: int = 0
    _entropy_rows: float = 0.0
    _num_rows: int = 0
    _last: Outcome | None = None

    @classmethod
    def begin(cls, number: int, request: Request, limits: EngineLimits) -> "Generation":
        """Take a request in. RequestError says what this engine cannot serve."""
        width = request.canvas_length or limits.canvas_length
        check_request(request, limits)
        return cls(
            number=number,
            request=request,
            limits=limits,
            sampling=request.sampling or limits.sampling,
            pending_ids=request.prompt_ids,
            width=_rows_for(request.max_new_tokens, width),
        )

    @property
    def place(self) -> tuple[int, int, int]:
        """Names this attempt at this canvas of this request; no other has the same."""
        return self.number, self.canvas, self.attempt

    @property
    def has_steps_left(self) -> bool:
        """Whether one more step may be planned, whatever becomes of those that are not judged yet."""
        return self.needs_start or self.num_steps_planned < self.sampling.max_denoising_steps

    def plan_step(self) -> None:
        """The canvas will be denoised once more."""
        self.num_steps_planned = 1 if self.needs_start else self.num_steps_planned + 1

    def start_ids(self) -> list[int]:
        """What the canvas starts from, where noise does not replace it; pins are in place."""
        ids = [self.limits.filler_id] * self.width
        if self.canvas == 0:
            ids[: len(self.request.draft_ids)] = self.request.draft_ids
            for row, token in self.pinned():
                ids[row] = token
        return ids

    def start_noise(self) -> float:
        """The share of free rows that starts as uniform noise."""
        last_reroll = self.attempt > 0 and self.attempt == self.sampling.max_rerolls
        if self.canvas > 0 or last_reroll or not self.request.draft_ids:
            return 1.0
        return self.request.draft_noise

    def renoise_share(self) -> float:
        """The share of the rows not accepted by a step that becomes noise."""
        return 1.0 if self.start_noise() == 1.0 else self.request.draft_renoise

    def pinned(self) -> tuple[tuple[int, int], ...]:
        """(row, token) pairs that the current canvas must hold."""
        return self.request.pins if self.canvas == 0 else ()

    @property
    def max_tokens(self) -> int:
        """Of the longest text that this request may become, its canvas apart."""
        return max_text_tokens(self.request, self.limits)

    def let_go(self) -> TextPages:
        """Give the pages up; returns them."""
        pages, self.pages = self.pages, TextPages()
        return pages

    def find_read(self, num_tokens: int) -> None:
        """Others have read this many of the pending tokens, and nothing was read before."""
        self.num_shared_tokens = num_tokens
        self.read(num_tokens)

    def read(self, num_tokens: int) -> None:
        """The encoder has read this many of the pending tokens."""
        self.prefix_length += num_tokens
        self.pending_ids = self.pending_ids[num_tokens:]

    def restart(self) -> None:
        """Begin the current canvas anew, with nothing read yet: the tensors are lost."""
        self.pending_ids = (*self.request.prompt_ids, *self._committed)
        self.prefix_length = self.num_shared_tokens = 0
        self.needs_start = True

    def finish_canvas(self, outcome: Outcome) -> Verdict:
        """Decide on a canvas that stopped or used all its steps, and move on."""
        self._num_steps += outcome.num_steps
        settled = outcome.converged or outcome.mean_entropy <= self.sampling.reroll_entropy_nats
        if not settled and self.attempt < self.sampling.max_rerolls:
            self.attempt += 1
            self._num_rerolls += 1
            self.needs_start = True
            return Verdict.REROLL
        self._entropy_rows += outcome.mean_entropy * self.width
        self._num_rows += self.width
        self._last = outcome
        return self._keep(outcome.ids, settled)

    def _keep(self, ids: list[int], settled: bool) -> Verdict:
        if self.request.pins:
            return self._finish(ids, "stop" if settled else "unconverged")
        room = self.request.max_new_tokens - len(self._committed)
        end = next((i for i, token in enumerate(ids) if token in self.limits.eos_ids), None)
        if not settled:
            return self._finish(ids[:end][:room], "unconverged")
        if end is not None and end <= room:
            return self._finish(ids[:end], "stop")
        if len(ids) >= room:
            return self._finish(ids[:room], "length")
        self._committed.extend(ids)
        self.pending_ids = tuple(ids)
        self.canvas += 1
        self.attempt = 0
        self.needs_start = True
        self.width = _rows_for(room - len(ids), self.width)
        return Verdict.COMMIT

    def _finish(self, last_ids: list[int], reason: FinishReason) -> Verdict:
        self.width = 0
        self.result = Result(
            token_ids=(*self._committed, *last_ids),
            finish_reason=reason,
            num_canvases=self.canvas + 1,
            num_steps=self._num_steps,
            num_rerolls=self._num_rerolls,
            mean_entropy_nats=self._entropy_rows / self._num_rows,
            seconds=time.perf_counter() - self.submitted_s,
            scores=self._last.scores if self._last else (),
            candidates=self._last.candidates if self._last else (),
        )
        return Verdict.FINISHED


def check_request(request: Request, limits: EngineLimits) -> None:
    """Raise RequestError, with what to change, for a request that these limits exclude."""
    width = request.canvas_length or limits.canvas_length
    if width > limits.canvas_length:
        raise RequestError(
            f"canvas_length {width} is above the checkpoint's {limits.canvas_length}"
        )
    rows = _rows_for(request.max_new_tokens, width)
    if len(request.draft_ids) > rows:
        raise RequestError(
            f"draft_ids has {len(request.draft_ids)} tokens and the first canvas {rows} rows: "
            "raise canvas_length or max_new_tokens, or split the text"
        )
    pinned_rows = [row for row, _ in request.pins]
    if any(not 0 <= row < rows for row in pinned_rows) or len(set(pinned_rows)) < len(pinned_rows):
        raise RequestError(f"pins must name different rows of the first canvas, 0 to {rows - 1}")
    if request.pins and request.max_new_tokens > rows:
        raise RequestError(
            f"a request with pins has one canvas, here of {rows} rows, but max_new_tokens is "
            f"{request.max_new_tokens}: raise canvas_length or lower max_new_tokens"
        )
    if any(not 0 <= row < rows for row, _ in request.scored):
        raise RequestError(f"scored must name rows of the canvas, 0 to {rows - 1}")
    if request.num_candidates > limits.vocab_size:
        raise RequestError(
            f"num_candidates {request.num_candidates} is above the vocabulary's {limits.vocab_size}"
        )
    for name, ids in (
        ("prompt_ids", request.prompt_ids),
        ("draft_ids", request.draft_ids),
        ("pins", tuple(token for _, token in request.pins)),
        ("scored", tuple(token for _, tokens in request.scored for token in tokens)),
    ):
        if ids and (min(ids) < 0 or max(ids) >= limits.vocab_size):
            bad = min(ids) if min(ids) < 0 else max(ids)
            raise RequestError(
                f"{name} holds token id {bad}; the vocabulary has {limits.vocab_size} tokens: "
                "use the tokenizer of the loaded checkpoint"
            )
    full, rest = divmod(request.max_new_tokens, width)
    length = len(request.prompt_ids) + full * width + _rows_for(rest, width)
    if length > limits.max_position_embeddings:
        raise RequestError(
            f"prompt of {len(request.prompt_ids)} tokens and max_new_tokens "
            f"{request.max_new_tokens} need {length} positions; the checkpoint has "
            f"{limits.max_position_embeddings}: shorten the prompt or split the job"
        )
    tokens = -(-max_text_tokens(request, limits) // PAGE_TOKENS) * PAGE_TOKENS + rows
    if tokens > limits.max_kv_tokens:
        raise RequestError(
            f"prompt of {len(request.prompt_ids)} tokens and max_new_tokens "
            f"{request.max_new_tokens} need room for {tokens} tokens; the KV pool has "
            f"{limits.max_kv_tokens}: raise max_kv_tokens, shorten the prompt or split the job"
        )


def max_text_tokens(request: Request, limits: EngineLimits) -> int:
    """Tokens of the prompt and of all canvases that may be committed: all but the last."""
    width = _rows_for(request.max_new_tokens, request.canvas_length or limits.canvas_length)
    num_committed = (-(-request.max_new_tokens // width) - 1) * width
    return len(request.prompt_ids) + num_committed


def _rows_for(num_tokens: int, width: int) -> int:
    """Rows of a canvas that may stop after num_tokens: rounded up, at most width."""
    return min(width, -(-num_tokens // ROW_MULTIPLE) * ROW_MULTIPLE)
