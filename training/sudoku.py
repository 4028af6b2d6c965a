"""Sudoku of 4 x 4 cells as a fill: the template is the puzzle, each empty cell a slot of one digit.

Nothing but the grid says what belongs where, and every cell depends on cells before and behind it.
"""

import random
from functools import cache
from itertools import permutations

from .case import JobCase, Split, is_held_out

SIZE = 4
DIGITS = "1234"
NAMES = "abcdefghijklmnop"
INSTRUCTION = "Solve the Sudoku."
FEWEST_CLUES, MOST_CLUES = 5, 12

Grid = tuple[str, ...]
"""16 cells, row by row, each a digit or empty."""


@cache
def grids() -> tuple[Grid, ...]:
    """All 288 solved grids."""
    rows = list(permutations(DIGITS))
    found: list[Grid] = []
    for a in rows:
        for b in rows:
            for c in rows:
                for d in rows:
                    if _is_solved((a, b, c, d)):
                        found.append((*a, *b, *c, *d))
    return tuple(found)


def _is_solved(rows: tuple[tuple[str, ...], ...]) -> bool:
    columns = zip(*rows, strict=True)
    boxes = [{rows[r + i][c + j] for i in (0, 1) for j in (0, 1)} for r in (0, 2) for c in (0, 2)]
    return all(len(set(column)) == SIZE for column in columns) and all(len(b) == 4 for b in boxes)


def solutions(puzzle: Grid) -> list[Grid]:
    """The solved grids that agree with a puzzle."""
    clues = [(i, digit) for i, digit in enumerate(puzzle) if digit]
    return [grid for grid in grids() if all(grid[i] == digit for i, digit in clues)]


def make_puzzle(rng: random.Random, solution: Grid, num_clues: int) -> Grid:
    """Cells taken away at random while the solution stays the only one."""
    puzzle = list(solution)
    for cell in rng.sample(range(SIZE * SIZE), SIZE * SIZE):
        if SIZE * SIZE - puzzle.count("") <= num_clues:
            break
        kept, puzzle[cell] = puzzle[cell], ""
        if len(solutions(tuple(puzzle))) > 1:
            puzzle[cell] = kept
    return tuple(puzzle)


def sudoku_job(rng: random.Random, split: Split) -> JobCase:
    """A puzzle with one solution. A solution's hash decides its split."""
    wanted = [g for g in grids() if is_held_out("".join(g)) == (split == "held_out")]
    solution = rng.choice(wanted)
    puzzle = make_puzzle(rng, solution, rng.randint(FEWEST_CLUES, MOST_CLUES))
    values = {NAMES[i]: solution[i] for i, digit in enumerate(puzzle) if not digit}
    rule = {"type": "enum", "values": list(DIGITS)}
    job: dict[str, object] = {
        "kind": "fill",
        "template": _text([digit or "{{" + NAMES[i] + "}}" for i, digit in enumerate(puzzle)]),
        "instructions": INSTRUCTION,
        "slots": dict.fromkeys(values, rule),
    }
    return JobCase(job, _text(solution), (), values)


def _text(cells: list[str] | Grid) -> str:
    return "\n".join(" ".join(cells[i : i + SIZE]) for i in range(0, SIZE * SIZE, SIZE))
