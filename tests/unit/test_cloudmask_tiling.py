"""Windows of a frame: where they lie, what is kept of them, and that padding is the same for the whole frame and its windows."""

from __future__ import annotations

import numpy as np
import pytest

from stormbench.cloudmask import tiling
from stormbench.core.errors import UserError


def test_halo_is_the_reach_of_the_network_on_its_grid() -> None:
    # convolutions of 3 x 3, two a level: 2 (1 + 2 + 4) on each way and 2 x 8 at the bottom; and the grid of 8 pixels
    assert tiling.REACH == 2 * (1 + 2 + 4) * 2 + 2 * 8 + 7
    assert tiling.HALO == 56


def test_full_frame_is_padded_by_four_columns_of_zeros_at_its_right() -> None:
    image_hwc = np.ones((1200, 1500, 1), np.float32)
    padded_hwc = tiling.pad(image_hwc)
    assert padded_hwc.shape == (1200, 1504, 1)
    assert padded_hwc[:, :1500].all()
    assert not padded_hwc[:, 1500:].any()


def test_frame_of_the_right_size_is_not_copied() -> None:
    image_hwc = np.ones((16, 24, 9), np.float32)
    assert tiling.pad(image_hwc) is image_hwc


def test_windows_of_a_frame_have_one_size_and_begin_on_the_grid() -> None:
    tiles = list(tiling.tiles(300, 500, 64))
    assert len(tiles) == 5 * 8
    assert {(tile.height, tile.width) for tile in tiles} == {(64 + 2 * 56, 64 + 2 * 56)}
    assert all(tile.top % 8 == 0 and tile.left % 8 == 0 for tile in tiles)


def test_first_window_and_what_is_kept_of_it() -> None:
    tile = next(iter(tiling.tiles(1200, 1500, 512)))
    assert (tile.top, tile.left, tile.height, tile.width) == (0, 0, 624, 624)
    assert tile.kept == (slice(0, 512), slice(0, 512))
    assert (tile.rows, tile.columns) == (slice(0, 512), slice(0, 512))


def test_last_window_begins_earlier_and_keeps_what_is_left() -> None:
    tile = list(tiling.tiles(1200, 1500, 512))[-1]
    # columns 1024 to 1500 of 1504; 1504 - 624 = 880
    assert (tile.left, tile.width) == (880, 624)
    assert (tile.columns, tile.kept[1]) == (slice(1024, 1500), slice(144, 620))


def test_window_larger_than_the_frame_is_the_frame() -> None:
    (tile,) = tiling.tiles(30, 50, 64)
    assert tile.window == (slice(0, 32), slice(0, 56))
    assert tile.kept == (slice(0, 30), slice(0, 50))


@pytest.mark.parametrize("edge", [0, -8, 12, 7])
def test_edge_off_the_grid_is_refused(edge: int) -> None:
    with pytest.raises(UserError, match=rf"--tile {edge}: must be a multiple of 8"):
        list(tiling.tiles(100, 100, edge))


def test_image_without_pixels_is_refused() -> None:
    with pytest.raises(UserError, match="0 x 5 pixels"):
        tiling.pad(np.empty((0, 5, 9), np.float32))
