"""How each kind of job is decoded: draft noise, sizes, attempts, stop rule.

The defaults suit any checkpoint. A checkpoint says what suits it better in an optional
``dgq.json`` in its folder: an object of kinds (``fill``, ``fill_pinned``, ``reformat_python``, ``reformat_json``,
``reformat_other``, ``rewrite``), each an object with some of Decoding's fields; ``sampling`` there is an
object of SamplingConfig's fields, and what it leaves out is as in generation_config.json.
"""

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeGuard, get_args

from dgq.engine.errors import RequestError
from dgq.engine.generation_config import read_generation_config
from dgq.engine.request import ROW_MULTIPLE, SamplingConfig

from .errors import DecodingError

FILE_NAME = "dgq.json"
SlotKind = Literal["field", "note", "enum", "typed", "free"]
"""field: a text from a record of fields. note: a text from a free-text record. enum: one of the
rule's values. typed: a number, a date, or a text that matches a pattern. free: any other text."""

SLOT_KINDS: tuple[SlotKind, ...] = get_args(SlotKind)
PER_ATTEMPT = ("draft_noise", "draft_renoise")

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a name"}


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _nth_or_last(values: tuple[float, ...], index: int) -> float:
    return values[min(index, len(values) - 1)]


def _is_share(value: object) -> bool:
    return _is_number(value) and 0 <= value <= 1


@dataclass(frozen=True, slots=True)
class Decoding:
    """The knobs of one kind.

    draft_noise: for each attempt, the last one for all after it, the share of the first canvas's
        rows that starts as noise, 0 to 1; the others start as the source text. 1 is a cold start.
    draft_renoise: likewise, the share of the rows not accepted by a step that becomes noise.
    piece_tokens: the most source tokens of one piece of a long text.
    room: answer rows allowed for each source token.
    max_attempts: how often a piece or slot is asked before the job is given up.
    slot_tokens: rows for the value of a slot of no known length (fills only).
    pinned: the kinds of slot, of SLOT_KINDS, that are filled inside their text, as fill_pinned
        says; the others are filled by their values (fill only).
    full_width: every canvas has all the rows that the checkpoint was trained with, in place of as
        many as the answer needs.
    sampling: the denoising loop's knobs; None takes the checkpoint's.
    """

    draft_noise: tuple[float, ...] = (0.5,)
    draft_renoise: tuple[float, ...] = (1.0,)
    piece_tokens: int = 192
    room: float = 1.25
    max_attempts: int = 3
    slot_tokens: int = 48
    pinned: tuple[str, ...] = ()
    full_width: bool = False
    sampling: SamplingConfig | None = None

    def __post_init__(self) -> None:
        """Raise DecodingError, naming the field, for a value of the wrong type or out of range."""
        for name in PER_ATTEMPT:
            shares = getattr(self, name)
            if not (isinstance(shares, tuple) and shares and all(map(_is_share, shares))):
                raise DecodingError(f"{name} must be a list of numbers in 0..1, not {shares!r}")
        if not isinstance(self.full_width, bool):
            raise DecodingError(f"full_width must be true or false, not {self.full_width!r}")
        for name, low, high in (
            ("piece_tokens", 8, 100_000),
            ("room", 0.25, 16),
            ("max_attempts", 1, 100),
            ("slot_tokens", 1, 4096),
        ):
            value = getattr(self, name)
            whole = name != "room"
            if not _is_number(value) or (whole and not isinstance(value, int)):
                raise DecodingError(f"{name} must be a {'whole ' * whole}number, not {value!r}")
            if not low <= value <= high:
                raise DecodingError(f"{name} must lie in {low}..{high}, not {value}")
        if not (isinstance(self.pinned, tuple) and all(kind in SLOT_KINDS for kind in self.pinned)):
            raise DecodingError(
                f"pinned must be a list of some of {', '.join(SLOT_KINDS)}, not {self.pinned!r}"
            )

    def start_of(self, attempt: int) -> tuple[float, float]:
        """The draft noise and the draft renoise of an attempt, counted from 0."""
        return _nth_or_last(self.draft_noise, attempt), _nth_or_last(self.draft_renoise, attempt)

    def rows(self, source_tokens: int, canvas_length: int) -> int:
        """Rows of a canvas for an answer to this many source tokens: a multiple of 16, capped."""
        return min(round_up(self.needed(source_tokens)), canvas_length)

    def needed(self, source_tokens: int) -> int:
        """Tokens that the answer to this many source tokens may take, the stop token included."""
        return int(source_tokens * self.room) + 4


@dataclass(frozen=True, slots=True)
class Decodings:
    """A Decoding for each kind."""

    fill: Decoding = Decoding(draft_noise=(1.0,))
    fill_pinned: Decoding = Decoding(draft_noise=(1.0,), slot_tokens=24)
    reformat_python: Decoding = Decoding(room=1.5)
    reformat_json: Decoding = Decoding(room=2.0)
    reformat_other: Decoding = Decoding(room=1.5)
    rewrite: Decoding = Decoding()


DEFAULT_DECODINGS = Decodings()


def round_up(tokens: int) -> int:
    """The next multiple of 16 rows, at least 16."""
    return max(-(-tokens // ROW_MULTIPLE), 1) * ROW_MULTIPLE


def load_decoding(model_path: Path) -> Decodings:
    """The checkpoint's decodings: the defaults, changed by its dgq.json if it has one.

    Raises DecodingError, naming the file and the field, for a file that cannot be used.
    """
    path = Path(model_path) / FILE_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return DEFAULT_DECODINGS
    except (OSError, UnicodeDecodeError) as error:
        raise DecodingError(f"cannot read {path}: {error}") from error
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DecodingError(f"{path} is not JSON: {error}") from error
    sampling = read_generation_config(Path(model_path)).sampling
    try:
        return _changed(data, sampling)
    except DecodingError as error:
        raise DecodingError(f"{path}: {error}") from error


def _changed(data: Any, sampling: SamplingConfig) -> Decodings:
    kinds = [field.name for field in fields(Decodings)]
    decodings = DEFAULT_DECODINGS
    if not isinstance(data, dict):
        raise DecodingError("must hold an object")
    for kind, values in data.items():
        if kind not in kinds:
            raise DecodingError(f"unknown kind {kind!r}; known are {', '.join(kinds)}")
        decoding = changed_decoding(getattr(decodings, kind), values, sampling, kind)
        decodings = replace(decodings, **{kind: decoding})
    return decodings


def changed_decoding(
    decoding: Decoding, values: Any, sampling: SamplingConfig, where: str
) -> Decoding:
    """A decoding with some fields replaced by what JSON says; ``sampling`` where it has none.

    Raises DecodingError, naming the field, which is inside ``where``.
    """
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in _object_of(values, Decoding, where).items()
    }
    if "sampling" in given:
        inside = f"{where}.sampling"
        knobs = _object_of(given["sampling"], SamplingConfig, inside)
        given["sampling"] = _changed_sampling(decoding.sampling or sampling, knobs, inside)
    try:
        return replace(decoding, **given)
    except DecodingError as error:
        raise DecodingError(f"{where}.{error}") from error


def _object_of(values: Any, kind: type[Decoding | SamplingConfig], where: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise DecodingError(f"{where} must be an object")
    known = [field.name for field in fields(kind)]
    for name in values:
        if name not in known:
            raise DecodingError(f"unknown field {where}.{name}; known are {', '.join(known)}")
    return values


def _changed_sampling(
    sampling: SamplingConfig, knobs: dict[str, Any], where: str
) -> SamplingConfig:
    for name, value in knobs.items():
        wanted = type(getattr(sampling, name))
        fits = _is_number(value) if wanted is float else type(value) is wanted
        if not fits:
            raise DecodingError(f"{where}.{name} must be {_WORDS[wanted]}, not {value!r}")
    try:
        return replace(sampling, **knobs)
    except RequestError as error:
        raise DecodingError(f"{where}: {error}") from error
