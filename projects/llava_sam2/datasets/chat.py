"""Plain conversations about an image, a video or nothing, trained by the language loss alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from projects.common.packed import packed
from projects.common.samplers import Draw
from projects.common.video import image_size, open_video, read_image
from projects.llava_sam2.datasets.frame_samplers import FrameSampler, UniformFrames
from projects.llava_sam2.datasets.inputs import GroundingInputs, Turn
from projects.llava_sam2.datasets.labels import Labels
from projects.llava_sam2.datasets.rows import Row
from projects.llava_sam2.datasets.templates import IMAGE_CAPTION_QUESTIONS
from projects.llava_sam2.structures import GroundingSample


@dataclass(frozen=True)
class ChatRow:
    """A conversation, and what it is about.

    Attributes:
        name: what errors call it.
        turns: questions and answers; the pictures stand where a question says ``<image>``, else
            before the first one.
        source: image file, mp4 or folder of frames; None: words alone.
        video: whether ``source`` is a video.
    """

    name: str
    turns: tuple[Turn, ...]
    source: Path | None = None
    video: bool = False


class ChatDataset:
    """Samples without masks.

    Args:
        rows: from an annotation source.
        inputs: pixels and conversations of the recipe.
        frames: which frames of a video.
        task: names the head (language loss only).
    """

    def __init__(
        self,
        *,
        rows: Sequence[ChatRow],
        inputs: GroundingInputs,
        frames: FrameSampler | None = None,
        task: str = "chat",
    ) -> None:
        self.rows = packed(rows)
        self.inputs = inputs
        self.frames = frames or UniformFrames(num=5)
        self.task = task

    def __len__(self) -> int:
        return len(self.rows)

    def length_of(self, index: int) -> int:
        """Tokens of the sample, visual ones included; a video is taken to have enough frames."""
        row = self.rows[index]
        if row.source is None:
            return self.inputs.length(row.turns, name=row.name)
        if row.video:
            return self.inputs.length(row.turns, frames=self.frames.num, name=row.name)
        return self.inputs.length(row.turns, size=image_size(row.source), name=row.name)

    def __getitem__(self, draw: Draw | int) -> GroundingSample:
        draw = Draw(0, draw, 0) if isinstance(draw, int) else draw
        row = self.rows[draw.index]
        frames = self._read(row, np.random.default_rng(draw.seed))
        pixel_values = None if frames is None else self.inputs.pixel_values(frames, video=row.video)
        encoded = self.inputs.conversation(
            row.turns,
            tiles=0 if pixel_values is None else pixel_values,
            video=row.video,
            name=row.name,
        )
        return GroundingSample(
            task=self.task,
            name=row.name,
            input_ids=encoded.input_ids,
            labels=encoded.labels,
            pixel_values=pixel_values,
        )

    def _read(self, row: ChatRow, generator: np.random.Generator) -> np.ndarray | None:
        """uint8 [T, H, W, 3]; an image has T = 1, words alone have none."""
        if row.source is None:
            return None
        if not row.video:
            return read_image(row.source)[None]
        video = open_video(row.source)  # here, not in the constructor: it does not survive a fork
        return video.read(self.frames(len(video), generator))


def listing_rows(
    *,
    rows: Sequence[Row],
    question: str | Sequence[str] = IMAGE_CAPTION_QUESTIONS,
    joiner: str = " , ",
    labels: Labels | None = None,
    only: Sequence[str] = (),
) -> list[ChatRow]:
    """A caption for each image row: its objects from left to right, each by an expression.

    The longest expression of an object is taken, as it says most. Groups and objects without one
    are left out, and so are images where none has one.

    Args:
        rows: of images.
        question: what the captions answer; of several, each image takes the next.
        joiner: stands between the objects.
        labels, only: with both, only expressions whose ``uses`` labels lie within ``only`` count:
            "the largest" says little about what an object looks like.
    """
    questions = [question] if isinstance(question, str) else question
    listed: list[ChatRow] = []
    for row in rows:
        if row.frames is not None:
            raise ValueError(f"{row.name} is a video; captions by listing are for images")
        said: dict[int, str] = {}
        for expression in row.expressions:
            tells = labels is None or set(labels[expression.key]["uses"]) <= set(only)
            if tells and len(expression.objects) == 1:
                said_before = said.get(expression.objects[0], "")
                said[expression.objects[0]] = max(said_before, expression.text, key=len)
        said = {index: text for index, text in said.items() if not row.objects[index].group}
        if said:
            answer = joiner.join(said[index] for index in _left_to_right(row, said))
            asked = questions[len(listed) % len(questions)]
            listed.append(ChatRow(row.name, ((asked, answer),), row.source))
    return listed


def _left_to_right(row: Row, objects: Iterable[int]) -> list[int]:
    def centre(index: int) -> float:
        mask = row.objects[index].read(0)
        return 0.0 if mask is None else float(mask.nonzero()[1].mean())

    return sorted(objects, key=centre)
