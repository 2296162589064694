"""Visual tokens and the places in the text where they stand.

    ... <img> tile 1 | tile 2 | ... </img> ... <vp> some tokens of the last tile again </vp> ...

Shapes: B samples, L tokens, N tiles of all samples, V visual tokens a tile, n those of all tiles, W
their width, R regions of one sample.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from projects.llava_sam2.structures import square_side

Grid = tuple[int, int]  # rows and columns of the visual tokens of a tile


@dataclass
class VisualTokens:
    """What stands where."""

    tokens: Tensor  # [n, W] in reading order
    places: Tensor  # [B, L] bool, n of them
    pictures: Tensor  # [B, L] bool: the places of whole tiles; the others repeat a region
    grids: list[Grid]  # of every tile, in reading order


def place_visual(
    input_ids: Tensor,
    visual: Tensor | None,
    grids: Sequence[Grid] | None,
    regions: Sequence[Tensor | None] | None,
    *,
    image_id: int,
    region_ids: Sequence[int],
    context: str,
) -> VisualTokens | None:
    """Visual tokens and their places, which are equal in number; None without any.

    Args:
        input_ids: ``[B, L]``.
        visual: ``[N, V, W]``, or None.
        grids: of the tiles; None: they are squares.
        regions: per sample ``[R, rows, columns]`` bool, or None.
        image_id, region_ids: of the context token, and of the two around a region.
        context: the context token in words, for errors.

    Raises:
        ValueError: with both counts.
    """
    places = input_ids == image_id
    start, end = ((input_ids == index).long().cumsum(1) for index in region_ids)
    region_places = (start > end) & places
    pictures = places & ~region_places
    check_visual(pictures, visual, context)
    if visual is None:
        return None
    grids = list(grids or square_grids(*visual.shape[:2]))
    tokens = visual.flatten(0, 1)
    if region_places.any() or any(region is not None for region in regions or ()):
        counts = pictures.sum(1).tolist()
        copied = region_tokens(tokens, grids, counts, regions or [None] * len(counts))
        check_regions(region_places, copied)
        tokens = _merged(tokens, torch.cat(copied), region_places[places])
    return VisualTokens(tokens, places, pictures, grids)


def _merged(tokens: Tensor, copied: Tensor, repeats: Tensor) -> Tensor:
    """``[n, W]``: those of regions where ``repeats`` ``[n]`` says so, of tiles elsewhere."""
    repeats = repeats.unsqueeze(1)
    merged = tokens.new_zeros(len(repeats), tokens.shape[1]).masked_scatter(~repeats, tokens)
    return merged.masked_scatter(repeats, copied)


def check_visual(pictures: Tensor, visual: Tensor | None, token: str) -> None:
    """There are as many visual tokens as places for tiles.

    Raises:
        ValueError: with both counts.
    """
    expected = int(pictures.sum())
    given = 0 if visual is None else visual.shape[0] * visual.shape[1]
    if expected != given:
        each = "" if visual is None else f" ({visual.shape[1]} each of {visual.shape[0]})"
        raise ValueError(
            f"{expected} {token} tokens but {given} visual features{each}; they must "
            "be equal in number"
        )


def region_tokens(
    tokens: Tensor,
    grids: Sequence[Grid],
    counts: Sequence[int],
    regions: Sequence[Tensor | None],
) -> list[Tensor]:
    """The tokens of each sample's regions, ``[n_b, W]``: region by region, row by row.

    Args:
        tokens: ``[n, W]`` of all tiles.
        grids: of all tiles.
        counts: how many of the n belong to each sample; regions lie on its last tile.
        regions: per sample ``[R, rows, columns]`` bool, or None.

    Raises:
        ValueError: regions on another grid than the tile's.
    """
    copied, end, tile = [], 0, 0
    ends = list(itertools.accumulate(rows * columns for rows, columns in grids))
    for count, masks in zip(counts, regions, strict=True):
        end += count
        while tile < len(ends) and ends[tile] <= end:
            tile += 1
        if masks is None:
            copied.append(tokens[:0])
            continue
        grid = grids[tile - 1] if count else (0, 0)
        if not count or masks.shape[1:] != grid:
            raise ValueError(
                f"regions of shape {tuple(masks.shape)} on {count} visual tokens; they lie on the "
                f"last tile's grid, [regions, {grid[0]}, {grid[1]}]"
            )
        chosen = masks.flatten(1).nonzero()[:, 1]
        copied.append(tokens[end - grid[0] * grid[1] :][chosen.to(tokens.device)])
    return copied


def check_regions(places: Tensor, tokens: Sequence[Tensor]) -> None:
    """Each sample has as many places in its regions as tokens for them.

    Raises:
        ValueError: with both counts.
    """
    for row, (expected, given) in enumerate(zip(places.sum(1).tolist(), tokens, strict=True)):
        if expected != len(given):
            raise ValueError(
                f"sample {row} of the batch: {expected} tokens within <vp> </vp>, but its regions "
                f"cover {len(given)} visual tokens; they must be equal in number"
            )


def square_grids(number: int, tokens: int) -> list[Grid]:
    """Grids of so many square tiles of so many tokens."""
    side = square_side(tokens)
    return [(side, side)] * number


def grid_positions(attention_mask: Tensor, pictures: Tensor, grids: Sequence[Grid]) -> Tensor:
    """Time, row and column of every token, ``[3, B, L]``, as Qwen-VL's multimodal rope counts.

    Text counts on in all three. The tokens of a tile share their time and lie on its grid; what
    follows starts behind the larger of its sides (Qwen2-VL, Wang et al., 2024).

    Args:
        attention_mask: ``[B, L]``, False on padding.
        pictures: ``[B, L]`` bool, whole tiles.
        grids: of the tiles, in reading order.
    """
    advance = attention_mask.long()
    offsets = torch.zeros(3, *pictures.shape, dtype=torch.int64, device=pictures.device)
    if grids:
        device = pictures.device
        inner = [torch.stack(_places(rows, columns)) for rows, columns in grids]
        steps = [_last(rows * columns, max(rows, columns)) for rows, columns in grids]
        offsets[1:, pictures] = torch.cat(inner, dim=1).to(device)
        advance[pictures] = torch.cat(steps).to(device)
    base = advance.cumsum(1) - advance
    return base + offsets


def _places(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Row and column of the tokens of a grid."""
    index = torch.arange(rows * columns)
    return index // columns, index % columns


def _last(number: int, step: int) -> Tensor:
    """Zeros, and at the end ``step``: a tile takes its place as a whole."""
    steps = torch.zeros(number, dtype=torch.int64)
    steps[-1] = step
    return steps
