"""Training examples: cases encoded, corrupted, and cut into batches of similar length."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import torch
from tokenizers import Tokenizer as FastTokenizer
from torch import Tensor

from . import tokenizer as tiny
from .canvases import corrupt, width_for
from .case import Case
from .checkpoint import CONFIG
from .fills import fill_job
from .json_documents import json_job
from .python_functions import python_job
from .rewrites import INSTRUCTIONS, REPLACE, rewrite_case
from .standard_library import sentences

MAX_ROWS = 5_000
LONGEST_ANSWER, LONGEST_PROMPT = 127, 220
SHORT_ANSWER, SHORT_UNTIL = 60, 0.25
SHARES = {"fill": 0.16, "rewrite": 0.36, "json": 0.26, "python": 0.22}
# The hardest of each family is drawn more often than users are thought to ask for it.
TRAINING_INSTRUCTIONS = (*INSTRUCTIONS, REPLACE, REPLACE, REPLACE)
LEAST_LEAVES = (2, 4)


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of one case. answer (with its filler) and canvas have the same length."""

    prompt: list[int]
    text: list[int]
    answer: list[int]
    canvas: list[int]


@dataclass(frozen=True, slots=True)
class Batch:
    """texts int64 [B, T], prompts with their answers, and text_valid bool [B, T]; prompt_lengths
    int64 [B]; answers and canvases int64 [B, W]."""

    texts: Tensor
    text_valid: Tensor
    prompt_lengths: Tensor
    answers: Tensor
    canvases: Tensor

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
    job = {"fill": fill_job, "python": python_job}[kind](rng, "train")
    return rng.choice(job.cases)


def encode_prompt(tokenizer: FastTokenizer, message: str) -> list[int]:
    """What the chat template makes of one user message."""

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    return [
        tiny.BOS_ID,
        tiny.TURN_ID,
        *encode("user\n"),
        *encode(message),
        tiny.END_OF_TURN_ID,
        *encode("\n"),
        tiny.TURN_ID,
        *encode("model\n"),
    ]


def make_example(
    rng: random.Random, tokenizer: FastTokenizer, case: Case, longest_answer: int = LONGEST_ANSWER
) -> Example | None:
    """Encode and corrupt a case; None when its answer or draft is longer than longest_answer."""
    answer = tokenizer.encode(case.answer, add_special_tokens=False).ids
    draft = tokenizer.encode(case.draft, add_special_tokens=False).ids
    prompt = encode_prompt(tokenizer, case.prompt)
    longest = max(len(answer), len(draft))
    if longest > longest_answer or len(prompt) > LONGEST_PROMPT:
        return None
    width = width_for(rng, longest, CONFIG["canvas_length"])
    full = answer + [tiny.END_OF_TURN_ID] + [tiny.EOS_ID] * (width - len(answer) - 1)
    canvas = corrupt(rng, full, draft, width, tiny.VOCAB_SIZE, tiny.EOS_ID)
    return Example(prompt, prompt + answer + [tiny.END_OF_TURN_ID], full, canvas)


def batches(
    rng: random.Random, tokenizer: FastTokenizer, progress: Callable[[], float]
) -> Iterator[Batch]:
    """For ever: pools of examples, sorted by length, cut into batches of about MAX_ROWS rows."""
    while True:
        longest = SHORT_ANSWER if progress() < SHORT_UNTIL else LONGEST_ANSWER
        pool: list[Example] = []
        while len(pool) < 2_000:
            if example := make_example(rng, tokenizer, draw_case(rng), longest):
                pool.append(example)
        pool.sort(key=lambda example: (len(example.canvas), len(example.prompt)))
        groups: list[list[Example]] = [[]]
        for example in pool:
            rows = len(example.canvas) * 1.5 + len(example.text)
            if (len(groups[-1]) + 1) * rows > MAX_ROWS:
                groups.append([])
            groups[-1].append(example)
        rng.shuffle(groups)
        for group in groups:
            rng.shuffle(group)
            yield collate(group)


def collate(group: list[Example]) -> Batch:
    """Pad prompts on the right, and canvases of the batch to the widest with filler."""
    length = max(len(example.text) for example in group)
    width = max(len(example.canvas) for example in group)

    def padded(tokens: list[int], size: int, filler: int) -> list[int]:
        return tokens + [filler] * (size - len(tokens))

    return Batch(
        torch.tensor([padded(e.text, length, tiny.PAD_ID) for e in group]),
        torch.tensor([[i < len(e.text) for i in range(length)] for e in group]),
        torch.tensor([len(e.prompt) for e in group]),
        torch.tensor([padded(e.answer, width, tiny.EOS_ID) for e in group]),
        torch.tensor([padded(e.canvas, width, tiny.EOS_ID) for e in group]),
    )
