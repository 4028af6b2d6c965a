"""Training examples: cases encoded, corrupted, and cut into batches of similar length."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from . import tokenizer as tiny
from .canvases import corrupt, width_for
from .case import Case, JobCase, Split
from .checkpoint import CONFIG
from .choices import choice_job
from .fills import fill_job
from .infills import make_infill
from .json_documents import json_job
from .python_functions import python_job, python_piece
from .rewrites import INSTRUCTIONS, REPLACE, rewrite_case
from .standard_library import sentences
from .sudoku import sudoku_job
from .tokenizer import TinyTokenizer

MAX_ROWS = 4_000
CANVASES, PINNED_CANVASES = 2, 4
"""Canvases of one prompt, which is then read once for all of them."""
LONGEST_ANSWER, LONGEST_PROMPT, LONGEST_PINNED_PROMPT = 127, 220, 280
SHORT_ANSWER, SHORT_UNTIL = 60, 0.25
SHARES = {"fill": 0.26, "choices": 0.04, "rewrite": 0.32, "json": 0.17, "python": 0.21}
PINNED_FAMILIES: dict[str, Callable[[random.Random, Split], JobCase]] = {
    "fill": fill_job,
    "choices": choice_job,
    "sudoku": sudoku_job,
}
PINNED_SHARES = {None: 0.72, "fill": 0.09, "choices": 0.05, "sudoku": 0.14}
"""Of canvases with pins, by family; the rest has none, and is mixed by SHARES."""
# The hardest of each family is drawn more often than users are thought to ask for it.
TRAINING_INSTRUCTIONS = (*INSTRUCTIONS, REPLACE, REPLACE, REPLACE)
LEAST_LEAVES = (2, 4)
SHARE_OF_PIECES = 0.5


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of one case. answer (with its filler), is_free and each canvas have the same length.

    is_free: whether a row is the model's to fill; the others are pinned to the answer.
    """

    prompt: list[int]
    text: list[int]
    answer: list[int]
    canvases: list[list[int]]
    is_free: list[bool]


@dataclass(frozen=True, slots=True)
class Batch:
    """texts int64 [B, T], prompts with their answers, and text_valid bool [B, T]; prompt_lengths
    int64 [B]; answers int64 [B, W] and free bool [B, W]; canvases int64 [B, C, W], C to a prompt."""

    texts: Tensor
    text_valid: Tensor
    prompt_lengths: Tensor
    answers: Tensor
    canvases: Tensor
    free: Tensor

    def to(self, device: str) -> "Batch":
        """The same batch on a device."""
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))


def draw_case(rng: random.Random) -> Case:
    """A training case, families mixed by SHARES."""
    kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
    if kind == "rewrite":
        return rewrite_case(rng, "train", sentences("train"), TRAINING_INSTRUCTIONS)[1]
    if kind == "json":
        return json_job(rng, "train", rng.choice(LEAST_LEAVES)).cases[0]
    if kind == "python" and rng.random() < SHARE_OF_PIECES:
        return python_piece(rng)
    job = {"fill": fill_job, "choices": choice_job, "python": python_job}[kind](rng, "train")
    return rng.choice(job.cases)


def draw_example(
    rng: random.Random, tokenizer: TinyTokenizer, longest_answer: int
) -> Example | None:
    """A training example of any family, pinned or not; None for one that is too long."""
    family = rng.choices(list(PINNED_SHARES), list(PINNED_SHARES.values()))[0]
    if family is None:
        return make_example(rng, tokenizer, draw_case(rng), longest_answer)
    return make_pinned_example(rng, tokenizer, PINNED_FAMILIES[family](rng, "train"))


def make_pinned_example(
    rng: random.Random, tokenizer: TinyTokenizer, case: JobCase
) -> Example | None:
    """A window of a fill's template; None when it is too long."""
    infill = make_infill(rng, case, tokenizer, tiny.VOCAB_SIZE, PINNED_CANVASES)
    prompt = tokenizer.encode_chat([{"role": "user", "content": infill.prompt}])
    if len(infill.answer) > LONGEST_ANSWER or len(prompt) > LONGEST_PINNED_PROMPT:
        return None
    prompt += infill.prefix_ids
    return Example(prompt, prompt, infill.answer, infill.canvases, infill.is_free)


def make_example(
    rng: random.Random, tokenizer: TinyTokenizer, case: Case, longest_answer: int = LONGEST_ANSWER
) -> Example | None:
    """Encode and corrupt a case; None when its answer or draft is longer than longest_answer."""
    answer = tokenizer.encode(case.answer)
    draft = tokenizer.encode(case.draft)
    prompt = tokenizer.encode_chat([{"role": "user", "content": case.prompt}])
    longest = max(len(answer), len(draft))
    if longest > longest_answer or len(prompt) > LONGEST_PROMPT:
        return None
    width = width_for(rng, longest, CONFIG["canvas_length"])
    full = answer + [tiny.END_OF_TURN_ID] + [tiny.EOS_ID] * (width - len(answer) - 1)
    canvases = [
        corrupt(rng, full, draft, width, tiny.VOCAB_SIZE, tiny.EOS_ID) for _ in range(CANVASES)
    ]
    text = prompt + answer + [tiny.END_OF_TURN_ID]
    return Example(prompt, text, full, canvases, [True] * width)


def batches(
    rng: random.Random, tokenizer: TinyTokenizer, progress: Callable[[], float]
) -> Iterator[Batch]:
    """For ever: pools of examples, sorted by length, cut into batches of about MAX_ROWS rows."""
    while True:
        longest = SHORT_ANSWER if progress() < SHORT_UNTIL else LONGEST_ANSWER
        pool: list[Example] = []
        while len(pool) < 2_000:
            if example := draw_example(rng, tokenizer, longest):
                pool.append(example)
        pool.sort(key=lambda e: (len(e.canvases), len(e.answer), len(e.prompt)))
        groups: list[list[Example]] = [[]]
        for example in pool:
            num_canvases = len(example.canvases)
            rows = len(example.answer) * 1.5 * num_canvases + len(example.text)
            is_other = bool(groups[-1]) and len(groups[-1][0].canvases) != num_canvases
            if is_other or (len(groups[-1]) + 1) * rows > MAX_ROWS:
                groups.append([])
            groups[-1].append(example)
        rng.shuffle(groups)
        for group in groups:
            rng.shuffle(group)
            yield collate(group)


def collate(group: list[Example]) -> Batch:
    """Pad prompts on the right, and canvases of the batch to the widest with filler."""
    length = max(len(example.text) for example in group)
    width = max(len(example.answer) for example in group)

    def padded(tokens: list[int], size: int, filler: int) -> list[int]:
        return tokens + [filler] * (size - len(tokens))

    return Batch(
        torch.tensor([padded(e.text, length, tiny.PAD_ID) for e in group]),
        torch.tensor([[i < len(e.text) for i in range(length)] for e in group]),
        torch.tensor([len(e.prompt) for e in group]),
        torch.tensor([padded(e.answer, width, tiny.EOS_ID) for e in group]),
        torch.tensor([[padded(c, width, tiny.EOS_ID) for c in e.canvases] for e in group]),
        torch.tensor([e.is_free + [all(e.is_free)] * (width - len(e.is_free)) for e in group]),
    )
