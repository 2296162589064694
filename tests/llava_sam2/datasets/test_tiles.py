"""Dynamic tiling against the rule derived anew, with fractions instead of floats."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.datasets.pixels import DynamicTiles, SingleTile, resize_frames


def best_grids(width, height, size, least, most):
    """All grids that the rule allows: nearest ratio, then the largest that the image half fills."""
    ratio = Fraction(width, height)
    grids = [(c, r) for c in range(1, 13) for r in range(1, 13) if least <= c * r <= most]
    nearest = min(abs(ratio - Fraction(c, r)) for c, r in grids)
    near = [(c, r) for c, r in grids if abs(ratio - Fraction(c, r)) == nearest]
    smallest = min(c * r for c, r in near)
    filled = [c * r for c, r in near if 2 * width * height > size**2 * c * r]
    area = max(filled, default=smallest)
    return {(c, r) for c, r in near if c * r == area}


@pytest.mark.parametrize("least, most", [(1, 12), (1, 6), (2, 9), (1, 1)])
def test_grid_over_many_sizes(least, most):
    tiles = DynamicTiles(size=448, min_tiles=least, max_tiles=most)
    draw = np.random.default_rng(0)
    sizes = [tuple(draw.integers(20, 4000, 2).tolist()) for _ in range(400)]
    sizes += [(448 * c, 448 * r) for c in range(1, 5) for r in range(1, 5)]
    sizes += [(640, 480), (300, 300), (1000, 1000), (2000, 2000), (4000, 100), (1, 900)]
    for width, height in sizes:
        assert tiles.grid(width, height) in best_grids(width, height, 448, least, most)


@pytest.mark.parametrize(
    "size, grid",
    [
        ((448, 448), (1, 1)),
        ((600, 600), (1, 1)),  # 2 x 2 tiles want more than 401408 pixels
        ((634, 634), (2, 2)),
        ((951, 951), (3, 3)),
        ((800, 1200), (2, 3)),
        ((640, 480), (4, 3)),
        ((1344, 448), (3, 1)),
        ((9000, 448), (12, 1)),
        ((448, 9000), (1, 12)),
    ],
)
def test_grids_known_by_hand(size, grid):
    assert DynamicTiles(size=448).grid(*size) == grid


def test_tiles_lie_row_by_row_and_the_thumbnail_is_last():
    image = np.zeros((8, 12, 3), dtype=np.uint8)  # 3 x 2 tiles of 4, which need no resizing
    for row in range(2):
        for column in range(3):
            image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 10 * (3 * row + column + 1)
    image[0, 0] = (1, 2, 3)
    tiles = DynamicTiles(size=4).image(image)
    assert tiles.shape == (7, 3, 4, 4) and tiles.dtype == torch.uint8
    assert [int(tile[0, 3, 3]) for tile in tiles[:6]] == [10, 20, 30, 40, 50, 60]
    assert tiles[0, :, 0, 0].tolist() == [1, 2, 3]
    assert torch.equal(tiles[6:], resize_frames(image[None], 4))
    bare = DynamicTiles(size=4, thumbnail=False).image(image)
    assert torch.equal(bare, tiles[:6])


def test_one_tile_has_no_thumbnail_and_a_frame_is_one_tile():
    tiles = DynamicTiles(size=8)
    square = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    assert torch.equal(tiles.image(square), SingleTile(size=8).image(square))
    wide = np.zeros((3, 8, 80, 3), dtype=np.uint8)
    assert tiles.frames(wide).shape == (3, 3, 8, 8)
    assert (tiles.most, DynamicTiles(size=8, max_tiles=1).most) == (13, 1)
    assert DynamicTiles(size=8, thumbnail=False).most == 12


def test_an_image_is_stretched_to_its_grid():
    ramp = np.tile(np.linspace(0, 255, 40).round().astype(np.uint8)[None, :, None], (20, 1, 3))
    left, right = DynamicTiles(size=16, thumbnail=False, max_tiles=2).image(ramp)
    assert left.float().mean() < 70 and right.float().mean() > 185
    whole = torch.cat([left, right], dim=2)[0].float()
    assert (whole.diff(dim=1) >= 0).all() and whole[:, 0].max() < 12 and whole[:, -1].min() > 243


def test_impossible_tiles():
    with pytest.raises(ValueError, match="got 5 to 4"):
        DynamicTiles(size=8, min_tiles=5, max_tiles=4)
    with pytest.raises(ValueError, match="got 0 to 4"):
        DynamicTiles(size=8, min_tiles=0, max_tiles=4)
    with pytest.raises(ValueError, match="13 tiles of 256 tokens, and max_length=3000"):
        GroundingInputs(
            tokenizer=None,
            template="qwen_chat",
            tiles=DynamicTiles(size=448),
            tokens_per_tile=256,
            grounding_size=1024,
            max_length=3000,
        )


@pytest.mark.parametrize("size", [(97, 161), (40, 31), (300, 64)])
def test_pixels_are_those_of_pillow_up_to_rounding(size):
    """Sa2VA calls Pillow's ``resize`` without more for SAM 2's frames: bicubic, as for tiles."""
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    frames = np.stack([image, image[::-1]])
    expected = [np.array(Image.fromarray(frame).resize((64, 64))) for frame in frames]
    expected = torch.from_numpy(np.stack(expected)).permute(0, 3, 1, 2).int()
    for found in (SingleTile(size=64).frames(frames), resize_frames(frames, 64)):
        assert (found - expected).abs().max() < 3
        assert (found != expected).float().mean() < 0.02


def test_tiles_are_counted_without_pixels():
    rng = np.random.default_rng(0)
    for tiles in (DynamicTiles(size=4), DynamicTiles(size=4, thumbnail=False), SingleTile(size=4)):
        for height, width in rng.integers(2, 40, (30, 2)).tolist():
            image = np.zeros((height, width, 3), dtype=np.uint8)
            assert tiles.count(height, width) == len(tiles.image(image)) <= tiles.most
