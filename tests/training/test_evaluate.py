"""dgq-tiny on jobs it has not seen, through the engine and the pipelines that ship."""

import pytest

from dgq.engine.engine import Engine
from training.case import is_held_out
from training.evaluate import FAMILIES, as_lines, evaluate, held_out_jobs

LEAST_EXACT = {
    "fill": 0.8,
    "json": 0.65,
    "python": 0.5,
    "rewrite": 0.7,
}
"""Well below what benchmarks.md reports, so that chance does not fail a sound change."""


@pytest.fixture(scope="module")
def engine():
    with Engine.load() as engine:
        yield engine


@pytest.mark.parametrize("family", FAMILIES)
def test_held_out_jobs_come_out_right(engine, family) -> None:
    score = evaluate(engine, family, count=12, seed=11, show=0)
    assert score.jobs == 12
    assert score.exact >= LEAST_EXACT[family]
    assert score.exact <= score.passed_checks or family == "rewrite"


def test_the_same_seed_gives_the_same_jobs() -> None:
    once, again = (as_lines(held_out_jobs("python", 5, 3), "python") for _ in range(2))
    assert once == again != as_lines(held_out_jobs("python", 5, 4), "python")


def test_values_of_held_out_fills_are_held_out() -> None:
    for made in held_out_jobs("fill", 30, 0):
        record = made.job["record"]
        if isinstance(record, dict):
            assert all(is_held_out(value) or " " in value for value in record.values())
