"""What goes into the engine and what comes out: plain data, importable without torch."""

from dataclasses import dataclass
from typing import Literal

from .errors import RequestError

ROW_MULTIPLE = 16
"""Canvas widths are multiples of this many rows."""

FinishReason = Literal["stop", "length", "unconverged"]
StopRuleName = Literal["stable_and_confident", "mean_entropy", "plateau"]
STOP_RULES: tuple[StopRuleName, ...] = ("stable_and_confident", "mean_entropy", "plateau")

Candidates = tuple[tuple[tuple[int, float], ...], ...]
"""For each row, its most probable tokens and their log-probabilities, most probable first."""


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """The denoising loop's knobs, named as in the checkpoint's generation_config.json.

    The defaults are DiffusionGemma's published values and rule. The knobs that follow are ours.

    stop_rule: what counts as converged, always below a mean entropy of confidence_threshold nats:
        the argmax unchanged for stability_threshold steps ("stable_and_confident", the reference's);
        nothing more, after min_denoising_steps ("mean_entropy"); or the accepted rows unchanged for
        stability_threshold steps ("plateau").
    stop_to_end: judge only the rows up to the first stop token of the argmax.
    max_rerolls, reroll_entropy_nats: a canvas that used all its steps and whose mean entropy is
        still above the limit is started anew from other noise, at most that many times.
    """

    max_denoising_steps: int = 48
    entropy_bound: float = 0.1
    t_max: float = 0.8
    t_min: float = 0.4
    stability_threshold: int = 1
    confidence_threshold: float = 0.005
    stop_rule: StopRuleName = "stable_and_confident"
    stop_to_end: bool = False
    min_denoising_steps: int = 1
    max_rerolls: int = 1
    reroll_entropy_nats: float = 0.2

    def __post_init__(self) -> None:
        """Raise RequestError, naming the field, for a value out of range."""
        if self.max_denoising_steps < 1:
            raise RequestError(
                f"max_denoising_steps must be at least 1, not {self.max_denoising_steps}"
            )
        if not 1 <= self.min_denoising_steps <= self.max_denoising_steps:
            raise RequestError(
                "min_denoising_steps must lie in 1..max_denoising_steps "
                f"({self.max_denoising_steps}), not {self.min_denoising_steps}"
            )
        if self.stop_rule not in STOP_RULES:
            raise RequestError(
                f"stop_rule must be one of {', '.join(STOP_RULES)}, not {self.stop_rule!r}"
            )
        if self.entropy_bound <= 0 or self.confidence_threshold <= 0:
            raise RequestError("entropy_bound and confidence_threshold must be above 0")
        if not 0 < self.t_min <= self.t_max:
            raise RequestError(
                f"need 0 < t_min <= t_max, not t_min={self.t_min} t_max={self.t_max}"
            )
        if self.stability_threshold < 0 or self.max_rerolls < 0:
            raise RequestError("stability_threshold and max_rerolls must not be negative")


@dataclass(frozen=True, slots=True)
class Request:
    """One text to generate.

    prompt_ids: the whole prompt, chat template applied.
    max_new_tokens: the answer ends after this many tokens at the latest.
    seed: all random draws of this request are keyed by it, never by its place in a batch.
    canvas_length: rows of each canvas, a multiple of ROW_MULTIPLE; None takes the checkpoint's.
    draft_ids: warm start; the first canvas begins as these ids followed by end-of-sequence filler.
    draft_noise: the share of the draft's rows (0 to 1) that is replaced by uniform noise first.
    draft_renoise: with a draft, the share of the rows not accepted by a step that becomes noise; the
        others keep their token, so that an unsure step does not wear the draft away. 1, the
        reference's rule, treats the draft as any canvas.
    pins: (row, token id) pairs, held at that token in every step. A request with pins has one canvas,
        and its answer is all rows of it, stop tokens and what follows them included.
    scored: (row, token ids) pairs: asks for the log-probabilities of these tokens at this row in
        the last step of the last canvas.
    num_candidates: how many of the most probable tokens of each free row of the last canvas to tell.
    sampling: None takes the checkpoint's generation_config.json.
    """

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    seed: int
    canvas_length: int | None = None
    draft_ids: tuple[int, ...] = ()
    draft_noise: float = 0.0
    draft_renoise: float = 1.0
    pins: tuple[tuple[int, int], ...] = ()
    scored: tuple[tuple[int, tuple[int, ...]], ...] = ()
    num_candidates: int = 0
    sampling: SamplingConfig | None = None

    def __post_init__(self) -> None:
        """Raise RequestError, naming the field, for a request that no engine could serve."""
        if not self.prompt_ids:
            raise RequestError("prompt_ids is empty")
        if self.max_new_tokens < 1:
            raise RequestError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")
        for name in ("draft_noise", "draft_renoise"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise RequestError(f"{name} must lie in 0..1, not {getattr(self, name)}")
        if self.num_candidates < 0:
            raise RequestError(f"num_candidates must not be negative, not {self.num_candidates}")
        if self.canvas_length is not None and (
            self.canvas_length < ROW_MULTIPLE or self.canvas_length % ROW_MULTIPLE
        ):
            raise RequestError(
                f"canvas_length must be a positive multiple of {ROW_MULTIPLE}, not {self.canvas_length}"
            )


@dataclass(frozen=True, slots=True)
class Result:
    """A finished request.

    token_ids: the answer, without the stop token and what follows it.
    finish_reason: "stop" (a stop token), "length" (max_new_tokens), or "unconverged" (a canvas
        was still above the entropy limit after its last re-roll; the text is a best guess).
    num_steps: denoising forwards of this request's canvases, re-rolls included.
    mean_entropy_nats: mean over the rows of the last step of each kept canvas.
    scores: beside each entry of Request.scored, its tokens' log-probabilities (natural logarithm, at
        temperature 1).
    candidates: for each row of the last canvas, its Request.num_candidates most probable tokens with
        their log-probabilities; none for a pinned row.
    """

    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    num_canvases: int
    num_steps: int
    num_rerolls: int
    mean_entropy_nats: float
    seconds: float
    scores: tuple[tuple[float, ...], ...] = ()
    candidates: Candidates = ()
