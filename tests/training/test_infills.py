"""What infilling examples show: literals clean, slots from noise to right, filler behind values."""

import random

import pytest
from tokenizers import Tokenizer as FastTokenizer

from training.case import JobCase
from training.choices import choice_job
from training.fills import fill_job
from training.infills import Infill, make_infill
from training.sudoku import sudoku_job
from training.tokenizer import PAD_ID, VOCAB_SIZE, TinyTokenizer


@pytest.fixture(scope="module")
def tiny_tokenizer(shipped_model) -> TinyTokenizer:
    return TinyTokenizer(FastTokenizer.from_file(str(shipped_model / "tokenizer.json")))


def made(rng: random.Random, tokenizer: TinyTokenizer) -> tuple[JobCase, Infill]:
    case = rng.choice([fill_job, choice_job, sudoku_job])(rng, "train")
    return case, make_infill(rng, case, tokenizer, VOCAB_SIZE, 3)


def test_the_right_rows_are_the_text_and_filler_only_behind_values(tiny_tokenizer) -> None:
    rng = random.Random(1)
    for _ in range(150):
        case, infill = made(rng, tiny_tokenizer)
        text = tiny_tokenizer.decode(infill.prefix_ids) + tiny_tokenizer.decode(infill.answer)
        assert case.expected.startswith(text)
        pairs = list(zip(infill.answer, infill.is_free, strict=True))
        assert all(free for token, free in pairs if token == PAD_ID)
        assert any(free for _, free in pairs) and len(infill.answer) % 16 == 0


def test_only_slots_are_noised_and_the_canvases_differ(tiny_tokenizer) -> None:
    rng = random.Random(2)
    noisy = 0
    for _ in range(100):
        _, infill = made(rng, tiny_tokenizer)
        assert len(infill.canvases) == 3
        for canvas in infill.canvases:
            rows = zip(canvas, infill.answer, infill.is_free, strict=True)
            changed = [free for token, right, free in rows if token != right]
            assert all(changed)
            noisy += len(changed) >= 0.9 * sum(infill.is_free)
    assert 90 < noisy < 200  # of 300: pure noise, where every request starts, is common


def test_prompts_and_known_values_vary(tiny_tokenizer) -> None:
    rng = random.Random(3)
    case = fill_job(random.Random(9), "train")
    made_of_one = [make_infill(rng, case, tiny_tokenizer, VOCAB_SIZE, 1) for _ in range(40)]
    assert len({sum(infill.is_free) for infill in made_of_one}) > 5
    assert all(
        infill.prompt.endswith("Give the template with its values.") for infill in made_of_one
    )
    assert any(infill.prefix_ids for infill in made_of_one)
