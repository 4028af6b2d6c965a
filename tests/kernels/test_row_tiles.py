import pytest
import torch

from dgq.kernels.launch import tl, triton
from dgq.kernels.row_tiles import find_row_tile, max_row_tiles

SIZES = [
    [5],
    [16, 16, 16],  # whole tiles
    [0, 33, 0, 1, 17, 0],  # empty groups, also the first and the last
    [0, 0],
]


@triton.jit
def _write_tiles(offsets_ptr, tiles_ptr, num_groups, PADDED: tl.constexpr, BLOCK: tl.constexpr):
    tile = tl.program_id(0)
    group, first, end = find_row_tile(offsets_ptr, tile, num_groups, PADDED, BLOCK)
    tl.store(tiles_ptr + 3 * tile, group)
    tl.store(tiles_ptr + 3 * tile + 1, first)
    tl.store(tiles_ptr + 3 * tile + 2, end)


@pytest.mark.parametrize("sizes", SIZES)
def test_every_row_is_in_one_tile_of_its_group(sizes, device):
    offsets = torch.tensor([0, *torch.tensor(sizes).cumsum(0)], dtype=torch.int32, device=device)
    num_programs = max_row_tiles(sum(sizes), len(sizes), 16) + 2
    tiles = torch.empty(num_programs, 3, dtype=torch.int32, device=device)
    padded = triton.next_power_of_2(len(sizes))
    _write_tiles[(num_programs,)](offsets, tiles, len(sizes), padded, 16)
    expected = [
        [group, int(offsets[group]) + start, int(offsets[group]) + min(start + 16, size)]
        for group, size in enumerate(sizes)
        for start in range(0, size, 16)
    ]
    assert tiles[: len(expected)].tolist() == expected
    assert (tiles[len(expected) :, 0] == len(sizes)).all()


@pytest.mark.parametrize("block_rows", [16, 64])
def test_no_division_needs_more_tiles(block_rows):
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        groups = torch.randint(24, (150,), generator=generator)
        counts = torch.bincount(groups, minlength=24)
        assert (-(-counts // block_rows)).sum() <= max_row_tiles(150, 24, block_rows)
