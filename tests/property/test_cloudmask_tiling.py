"""Windows of any frame: each pixel is kept once, with the halo around it wherever the frame has one."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stormbench.cloudmask import tiling

SIZES = st.integers(1, 400)
EDGES = st.integers(1, 20).map(lambda n: 8 * n)


@given(height=SIZES, width=SIZES, edge=EDGES)
def test_each_pixel_is_kept_once(height: int, width: int, edge: int) -> None:
    kept_hw = np.zeros((height, width), int)
    for tile in tiling.tiles(height, width, edge):
        kept_hw[tile.rows, tile.columns] += 1
    assert (kept_hw == 1).all()


@given(height=SIZES, width=SIZES, edge=EDGES)
def test_kept_part_of_the_window_is_the_same_place(height: int, width: int, edge: int) -> None:
    place_hw = np.arange(tiling.padded(height) * tiling.padded(width)).reshape(tiling.padded(height), tiling.padded(width))
    for tile in tiling.tiles(height, width, edge):
        assert (place_hw[tile.window][tile.kept] == place_hw[tile.rows, tile.columns]).all()


@given(height=SIZES, width=SIZES, edge=EDGES)
def test_window_lies_in_the_frame_on_its_grid_and_reaches_far_enough(height: int, width: int, edge: int) -> None:
    for tile in tiling.tiles(height, width, edge):
        for start, length, kept, size in ((tile.top, tile.height, tile.rows, height), (tile.left, tile.width, tile.columns, width)):
            whole = tiling.padded(size)
            assert start >= 0 and start + length <= whole
            assert start % 8 == 0 and length % 8 == 0
            assert start == 0 or kept.start - start >= tiling.REACH
            assert start + length == whole or start + length - kept.stop >= tiling.REACH


@given(height=SIZES, width=SIZES, edge=EDGES)
def test_windows_are_as_large_as_was_said(height: int, width: int, edge: int) -> None:
    sizes = {tile.height * tile.width for tile in tiling.tiles(height, width, edge)}
    assert sizes == {tiling.window_pixels(height, width, edge)}
