"""Conversations about regions that the question points at by their masks.

    "There are 2 regions in the picture: region1 <region>, region2 <region>. What is region1?"
                                                  │
    mask ──► which of the overview tile's g x g visual tokens it covers ──► <vp>, these tokens
                                                                             once more, </vp>

Sa2VA's visual prompt (Yuan et al., 2025): a region is shown by repeating its own visual tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from projects.common.conversation import REGION_PLACEHOLDER
from projects.common.packed import packed
from projects.common.samplers import Draw
from projects.llava_sam2.datasets.grounding import picture_size
from projects.llava_sam2.datasets.inputs import GroundingInputs, Turn
from projects.llava_sam2.datasets.pixels import DynamicTiles
from projects.llava_sam2.datasets.rows import Row
from projects.llava_sam2.datasets.templates import REGION_QUESTIONS
from projects.llava_sam2.structures import GroundingSample


@dataclass(frozen=True)
class RegionRow:
    """An image with regions, and what is said about them.

    Attributes:
        row: the image; its objects are the regions: region1, region2, ...
        turns: questions and answers that call them so. A question that is None is drawn from the
            dataset's list, about the region of its own place.
    """

    row: Row
    turns: tuple[tuple[str | None, str], ...]


class RegionDataset:
    """Samples whose questions point at regions; trained by the language loss alone.

    Args:
        rows: from an annotation source.
        inputs: pixels and conversations of the recipe. Its last tile must show the whole image, as
            the thumbnail of dynamic tiling and a single tile do.
        questions: for rows that bring answers only; with ``{region}``.
        short_answer: stands behind each question of the rows; "" for none.
        task: the head that trains on the samples.
    """

    def __init__(
        self,
        *,
        rows: Sequence[RegionRow],
        inputs: GroundingInputs,
        questions: Sequence[str] = REGION_QUESTIONS,
        short_answer: str = "",
        task: str = "chat",
    ) -> None:
        wrong = [question for question in questions if "{region}" not in question]
        if wrong or not questions:
            raise ValueError(f"region questions hold {{region}}: {wrong or 'there are none'}")
        if isinstance(inputs.tiles, DynamicTiles) and not inputs.tiles.thumbnail:
            raise ValueError("regions lie on the thumbnail: dynamic tiles need thumbnail=True")
        self.rows = packed(rows)
        self.inputs = inputs
        self.questions = questions
        self.short_answer = short_answer
        self.task = task
        self.grid = token_grid(inputs.tokens_per_tile)

    def __len__(self) -> int:
        return len(self.rows)

    def length_of(self, index: int) -> int:
        """Tokens of a sample of this row, visual ones included; regions by their box."""
        region_row = self.rows[index]
        row = region_row.row
        height, width = picture_size(row)
        boxes = [track.box(0) or (0, 0, 0, 0) for track in row.objects]
        shares = [(x2 - x1) * (y2 - y1) / (height * width) for x1, y1, x2, y2 in boxes]
        return self.inputs.length(
            self._turns(region_row, np.random.default_rng(0)),
            size=(height, width),
            name=row.name,
            region_tokens=[max(1, round(share * self.grid**2)) for share in shares],
        )

    def __getitem__(self, draw: Draw | int) -> GroundingSample:
        draw = Draw(0, draw, 0) if isinstance(draw, int) else draw
        region_row = self.rows[draw.index]
        row = region_row.row
        image = row[0]
        masks = np.stack([row.read_mask([k], 0, image.shape[:2]) for k in range(len(row.objects))])
        pixel_values = self.inputs.pixel_values(image[None], video=False)
        regions = cover_grid(masks, self.inputs.grid(pixel_values))
        encoded = self.inputs.conversation(
            self._turns(region_row, np.random.default_rng(draw.seed)),
            tiles=pixel_values,
            video=False,
            name=row.name,
            region_tokens=regions.flatten(1).sum(1).tolist(),
        )
        return GroundingSample(
            task=self.task,
            name=row.name,
            input_ids=encoded.input_ids,
            labels=encoded.labels,
            pixel_values=pixel_values,
            regions=regions,
        )

    def _turns(self, region_row: RegionRow, generator: np.random.Generator) -> list[Turn]:
        turns = []
        for number, (question, answer) in enumerate(region_row.turns, start=1):
            if question is None:
                template = self.questions[int(generator.integers(len(self.questions)))]
                question = template.replace("{region}", f"region{number}")
            elif self.short_answer:
                question = f"{question} {self.short_answer}"
            turns.append((question, answer))
        (first, answer), *rest = turns
        return [(f"{introduce(len(region_row.row.objects))}\n{first}", answer), *rest]


def introduce(count: int) -> str:
    """The sentence that points at ``count`` regions and names them region1, region2, ..."""
    named = ", ".join(f"region{k} {REGION_PLACEHOLDER}" for k in range(1, count + 1))
    are = "is 1 region" if count == 1 else f"are {count} regions"
    return f"There {are} in the picture: {named}."


def cover_grid(masks: np.ndarray, grid: int | tuple[int, int]) -> Tensor:
    """Which cells of a grid over the whole image masks cover, bool [R, H, W] to bool [R, g, g].

    The grid is a square's side, or rows and columns.

    A cell counts where the mask covers half of it; a region too small for that keeps the cell that
    it covers most, so that every region is seen.

    Raises:
        ValueError: an empty mask.
    """
    share = F.adaptive_avg_pool2d(torch.from_numpy(masks).float(), grid)  # [R, g, g]
    most = share.flatten(1).max(1).values
    if not bool((most > 0).all()):
        raise ValueError(f"region{int(most.argmin()) + 1} has an empty mask; nothing to point at")
    return share >= most.clamp(max=0.5)[:, None, None]


def token_grid(tokens: int) -> int:
    """Side of the square grid of a tile's visual tokens.

    Raises:
        ValueError: they form no square.
    """
    side = round(tokens**0.5)
    if side * side != tokens:
        raise ValueError(f"{tokens} visual tokens a tile are no square grid; regions need one")
    return side
