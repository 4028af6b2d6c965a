"""Cuts ragged groups of rows into tiles of equal height, without the host knowing the groups' sizes.

Group g owns the rows offsets[g] up to offsets[g + 1]: an expert's slots, or a canvas's rows. Tiles are
numbered group by group, and a group's last tile may be partial. A kernel is launched for as many tiles
as there can be at most; every program finds its own tile from the offsets, and those past the last tile
end at once. So a launch depends on the numbers of rows and groups only, as a CUDA graph needs it.
"""

from .launch import tl, triton


def max_row_tiles(num_rows: int, num_groups: int, block_rows: int) -> int:
    """The most tiles that so many rows can make in any division among the groups."""
    return min(num_rows, num_rows // block_rows + num_groups)


@triton.jit
def find_row_tile(offsets_ptr, tile, num_groups, PADDED: tl.constexpr, BLOCK_ROWS: tl.constexpr):
    """Inside a kernel: the group, the first row and the row past the last of the tile-th tile.

    offsets int32 [num_groups + 1]; PADDED is a power of two from num_groups up. Past the last tile
    the group is num_groups.
    """
    groups = tl.arange(0, PADDED)
    starts = tl.load(offsets_ptr + groups, mask=groups < num_groups, other=0)
    ends = tl.load(offsets_ptr + groups + 1, mask=groups < num_groups, other=0)
    num_tiles = (ends - starts + BLOCK_ROWS - 1) // BLOCK_ROWS
    tile_ends = tl.cumsum(num_tiles, axis=0)
    group = tl.minimum(tl.sum((tile_ends <= tile).to(tl.int32), axis=0), num_groups)
    here = groups == group
    tiles_before = tl.sum(tl.where(here, tile_ends - num_tiles, 0), axis=0)
    first = tl.sum(tl.where(here, starts, 0), axis=0) + (tile - tiles_before) * BLOCK_ROWS
    end = tl.minimum(first + BLOCK_ROWS, tl.sum(tl.where(here, ends, 0), axis=0))
    return group, first, end
