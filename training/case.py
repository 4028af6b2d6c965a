"""A case: one request to the model with its right answer, and the split that keeps tests honest."""

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Split = Literal["train", "held_out"]


@dataclass(frozen=True, slots=True)
class Case:
    """prompt: the user's message. draft: what a warm canvas starts from ("" = noise)."""

    kind: str
    prompt: str
    draft: str
    answer: str


@dataclass(frozen=True, slots=True)
class JobCase:
    """A whole job as a user writes it, its right output, and the requests that it should cause.

    values: of a fill, the right value of each slot.
    """

    job: dict[str, object]
    expected: str
    cases: tuple[Case, ...]
    values: Mapping[str, str] = field(default_factory=dict)


def is_held_out(value: str) -> bool:
    """Whether a name, value or function belongs to the held-out eighth; fixed for ever."""
    return hashlib.blake2b(value.encode(), digest_size=1).digest()[0] % 8 == 0


def pick(rng: random.Random, make: Callable[[random.Random], str], split: Split) -> str:
    """Draw until the value belongs to the split: no held-out value is ever seen in training."""
    while True:
        value = make(rng)
        if is_held_out(value) == (split == "held_out"):
            return value
