"""The puzzles have one solution, which is the right answer."""

import random

from dgq.pipelines.template import parse_template
from training.case import is_held_out
from training.sudoku import DIGITS, grids, make_puzzle, solutions, sudoku_job


def test_there_are_288_grids() -> None:
    assert len(grids()) == len(set(grids())) == 288
    for grid in grids()[::40]:
        rows = [grid[i : i + 4] for i in range(0, 16, 4)]
        assert all(sorted(line) == list(DIGITS) for line in [*rows, *zip(*rows, strict=True)])


def test_a_puzzle_has_one_solution_and_few_clues() -> None:
    rng = random.Random(1)
    counts = []
    for _ in range(30):
        solution = rng.choice(grids())
        puzzle = make_puzzle(rng, solution, 6)
        assert solutions(puzzle) == [solution]
        counts.append(16 - puzzle.count(""))
    assert min(counts) == 6


def test_a_job_asks_for_the_empty_cells() -> None:
    rng = random.Random(2)
    for _ in range(30):
        case = sudoku_job(rng, "held_out")
        template = parse_template(str(case.job["template"]))
        assert set(template.names) == set(case.values)
        assert template.assemble(case.values) == case.expected
        assert is_held_out(case.expected.replace(" ", "").replace("\n", ""))
