"""The split between training and held-out values."""

import random

import pytest

from training.case import Split, is_held_out, pick
from training.values import person


def test_an_eighth_is_held_out() -> None:
    share = sum(is_held_out(f"value {i}") for i in range(4000)) / 4000
    assert 0.10 < share < 0.15


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_pick_stays_in_its_split(split: Split) -> None:
    rng = random.Random(0)
    drawn = [pick(rng, person, split) for _ in range(50)]
    assert {is_held_out(value) for value in drawn} == {split == "held_out"}
