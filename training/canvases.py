"""What the decoder sees in training: canvases between the right answer and noise.

The published objective replaces each position by a uniform random token with a probability that is
itself uniform in (0, 1]. Two more kinds are mixed in. *Edited drafts*: the source text with some of
its edits already made and some tokens replaced, dropped or repeated, or with some rows as in the
answer and the others as in the source, which is what a warm start and its first steps look like. *Pinned canvases*: clean but for a few contiguous runs of pure noise,
which is what infilling looks like.
"""

import difflib
import math
import random

Tokens = list[int]


def noised(rng: random.Random, tokens: Tokens, share: float, vocab_size: int) -> Tokens:
    """Replace each token by a uniform one with this probability."""
    if share <= 0:
        return list(tokens)
    return [rng.randrange(vocab_size) if rng.random() < share else token for token in tokens]


def pinned(rng: random.Random, tokens: Tokens, vocab_size: int) -> Tokens:
    """Clean, but for one to three contiguous runs of noise."""
    canvas = list(tokens)
    for _ in range(rng.randint(1, 3)):
        length = min(len(canvas), max(2, int(len(canvas) * rng.uniform(0.05, 0.5))))
        start = rng.randrange(len(canvas) - length + 1)
        canvas[start : start + length] = [rng.randrange(vocab_size) for _ in range(length)]
    return canvas


def half_edited(rng: random.Random, draft: Tokens, answer: Tokens) -> Tokens:
    """The draft with some of the edits made that lead to the answer, and a few slips."""
    share = rng.choice([0.0, 0.0, 0.0, rng.random(), rng.random()])
    if share == 0.0:
        canvas = list(draft)
    else:
        canvas = []
        matcher = difflib.SequenceMatcher(None, draft, answer, autojunk=False)
        for kind, i, i_end, j, j_end in matcher.get_opcodes():
            done = kind == "equal" or rng.random() < share
            canvas += answer[j:j_end] if done else draft[i:i_end]
    if rng.random() < 0.3:
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(canvas) + 1)
            if rng.random() < 0.5:
                canvas.insert(at, rng.choice(answer))
            else:
                del canvas[at : at + 1]
    return canvas


def mixed_rows(rng: random.Random, draft: Tokens, answer: Tokens) -> Tokens:
    """Each row from the answer or from the draft: what a step leaves that accepts some rows only."""
    share = rng.random()
    return [a if rng.random() < share else d for d, a in zip(draft, answer, strict=True)]


def width_for(rng: random.Random, longest: int, canvas_length: int) -> int:
    """Rows for an answer and its stop token: a multiple of 16, often with room to spare."""
    least = math.ceil((longest + 1) / 16) * 16
    if rng.random() < 0.02:
        return canvas_length
    return min(canvas_length, least + 16 * rng.choice([0, 0, 0, 0, 1, 2]))


def noise_share(rng: random.Random) -> float:
    """Uniform in (0, 1], with more weight on pure noise, where every cold canvas starts."""
    return 1.0 if rng.random() < 0.15 else 1.0 - rng.random()


def corrupt(
    rng: random.Random, answer: Tokens, draft: Tokens, width: int, vocab_size: int, filler: int
) -> Tokens:
    """A canvas of ``width`` rows. answer: width tokens, stop token and filler included."""
    kind = rng.random()
    if kind < 0.08:
        return pinned(rng, answer, vocab_size)
    if not draft or kind < 0.33:
        return noised(rng, answer, noise_share(rng), vocab_size)
    if kind < 0.63:
        canvas = mixed_rows(rng, (draft + [filler] * width)[:width], answer)
    else:
        end = answer.index(filler) if filler in answer else width
        canvas = (half_edited(rng, draft, answer[:end]) + [filler] * width)[:width]
    share = rng.choice([0.0, 0.0, 0.0, rng.uniform(0, 0.3), rng.uniform(0, 0.8)])
    return noised(rng, canvas, share, vocab_size)
