"""Conversations about regions that the question points at by their masks; see pointing.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from projects.common.packed import packed
from projects.common.samplers import Draw
from projects.llava_sam2.datasets.grounding import picture_size
from projects.llava_sam2.datasets.inputs import GroundingInputs, Turn
from projects.llava_sam2.datasets.pointing import check_overview
from projects.llava_sam2.datasets.rows import Row
from projects.llava_sam2.datasets.templates import REGION_QUESTIONS
from projects.llava_sam2.structures import GroundingSample, square_side


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
        check_overview(inputs.tiles)
        square_side(inputs.tokens_per_tile)
        self.rows = packed(rows)
        self.inputs = inputs
        self.questions = questions
        self.short_answer = short_answer
        self.task = task

    def __len__(self) -> int:
        return len(self.rows)

    def length_of(self, index: int) -> int:
        """Tokens of a sample of this row, visual ones included; regions by their box."""
        region_row = self.rows[index]
        row = region_row.row
        height, width = picture_size(row)
        rows, columns = self.inputs.overview_grid(height, width)
        cells = rows * columns / (height * width)  # of a pixel
        boxes = [track.box(0) or (0, 0, 0, 0) for track in row.objects]
        return self.inputs.length(
            self._turns(region_row, np.random.default_rng(0)),
            size=(height, width),
            name=row.name,
            region_tokens=[
                max(1, round((x2 - x1) * (y2 - y1) * cells)) for x1, y1, x2, y2 in boxes
            ],
        )

    def __getitem__(self, draw: Draw | int) -> GroundingSample:
        draw = Draw(0, draw, 0) if isinstance(draw, int) else draw
        region_row = self.rows[draw.index]
        row = region_row.row
        image = row[0]
        masks = np.stack([row.read_mask([k], 0, image.shape[:2]) for k in range(len(row.objects))])
        pixel_values = self.inputs.pixel_values(image[None], video=False)
        regions = self.inputs.regions(masks, pixel_values, size=image.shape[:2], name=row.name)
        encoded = self.inputs.conversation(
            self._turns(region_row, np.random.default_rng(draw.seed)),
            tiles=pixel_values,
            video=False,
            name=row.name,
            regions=regions,
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
        return turns
