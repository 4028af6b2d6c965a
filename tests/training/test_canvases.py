"""What the decoder is shown in training."""

import random

from training.canvases import corrupt, half_edited, noise_share, noised, pinned, width_for

ANSWER = list(range(100, 130)) + [5] + [1] * 17


def test_noise_replaces_about_its_share() -> None:
    rng = random.Random(0)
    changed = sum(a != 7 for a in noised(rng, [7] * 4000, 0.3, 2048))
    assert 1000 < changed < 1400


def test_no_noise_is_a_copy() -> None:
    canvas = noised(random.Random(0), ANSWER, 0.0, 2048)
    assert canvas == ANSWER and canvas is not ANSWER


def test_noise_shares_lie_in_half_open_unit_interval() -> None:
    rng = random.Random(0)
    assert all(0 < noise_share(rng) <= 1 for _ in range(2000))


def test_pinned_noise_is_contiguous() -> None:
    rng = random.Random(1)
    for _ in range(50):
        canvas = pinned(rng, ANSWER, 100_000)  # so many tokens that noise never hits the answer
        runs = sum(
            canvas[i] != ANSWER[i] and (i == 0 or canvas[i - 1] == ANSWER[i - 1])
            for i in range(len(ANSWER))
        )
        assert 1 <= runs <= 3


def test_half_edited_lies_between_draft_and_answer() -> None:
    rng = random.Random(2)
    draft, answer = [1, 2, 3, 4, 5], [1, 9, 3, 5, 6]
    seen = {tuple(half_edited(rng, draft, answer)) for _ in range(500)}
    assert tuple(draft) in seen
    assert tuple(answer) in seen


def test_every_canvas_has_the_width() -> None:
    rng = random.Random(3)
    draft = list(range(100, 140))
    for _ in range(300):
        assert len(corrupt(rng, ANSWER, draft, len(ANSWER), 2048, 1)) == len(ANSWER)


def test_widths_are_multiples_of_16_with_room_for_the_stop_token() -> None:
    rng = random.Random(4)
    for longest in (1, 15, 16, 100):
        for _ in range(50):
            width = width_for(rng, longest, 256)
            assert width % 16 == 0 and longest + 1 <= width <= 256
