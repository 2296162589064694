"""Concept guidance on SA-V: earlier frames that outline an object, and its mask on a later one."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from projects.common.masks import rle_area
from projects.common.packed import packed
from projects.common.samplers import Draw
from projects.llava_sam2.datasets.concept_draw import FEWEST, ConceptDraw, Shown
from projects.llava_sam2.datasets.concept_inputs import ConceptInputs
from projects.llava_sam2.datasets.pixels import resize_masks
from projects.llava_sam2.datasets.records import RowErrors
from projects.llava_sam2.structures import GroundingSample
from projects.sam2_video.data.sav import SavSource, SavVideo, read_video_objects

logger = logging.getLogger(__name__)

Row = tuple[int, int]  # index of the video in its source, index of the object in its masklet


class ConceptDataset:
    """Samples of SeC's stage 2, one an object: see :class:`ConceptDraw`.

    Args:
        source: videos of SA-V with all their objects.
        objects_file: lines of ``id object``, written by ``tools/make_sav_lists.py``; None takes
            every object that is visible before its last annotated frame, for which all annotations
            are read.
        inputs: contours, pictures and words.
        mask_size: side of the square at which the mask loss is computed.
        frames: which frames are shown; None: as published.
        on_bad_row: "error" raises with all lines that name no video of the source; "skip" leaves
            them out with a count.
        task: the head that trains on the samples.

    Raises:
        FileNotFoundError, ValueError: naming the list and its lines, or a folder without objects.
    """

    def __init__(
        self,
        *,
        source: SavSource,
        inputs: ConceptInputs,
        mask_size: int,
        objects_file: str | Path | None = None,
        frames: ConceptDraw | None = None,
        on_bad_row: str = "error",
        task: str = "concept",
    ) -> None:
        self.source = source
        self.inputs = inputs
        self.mask_size = mask_size
        self.frames = frames or ConceptDraw()
        self.task = task
        if objects_file is None:
            self.rows = packed(_all_objects(source, on_bad_row))
        else:
            self.rows = packed(_listed_objects(source, objects_file, on_bad_row))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, draw: Draw | int) -> GroundingSample:
        draw = Draw(0, draw, 0) if isinstance(draw, int) else draw
        number, key = self.rows[draw.index]
        video = self.source[number]
        name = f"{video.json_path} object {key}"
        generator = np.random.default_rng(draw.seed)
        shown, target = self._draw(video, key, name, generator)
        frames = video.read_frames([*(reference.frame for reference in shown), target])
        outlined = [
            self.inputs.outline(frame, _mask(video, reference.frame, reference.key))
            for reference, frame in zip(shown, frames[:-1], strict=True)
        ]
        pictures = self.inputs.pictures(np.stack([*outlined, frames[-1]]))
        encoded = self.inputs.conversation(
            self.inputs.draw(generator), pictures=pictures, name=name
        )
        mask = _mask(video, target, key)
        return GroundingSample(
            task=self.task,
            name=name,
            input_ids=encoded.input_ids,
            labels=encoded.labels,
            pixel_values=pictures,
            grounding_frames=self.inputs.inputs.grounding_frames(frames[-1:]),
            masks=resize_masks(mask[None, None], self.mask_size),
        )

    def _draw(
        self, video: SavVideo, key: int, name: str, generator: np.random.Generator
    ) -> tuple[list[Shown], int]:
        if key not in video.objects:
            raise ValueError(f"{name}: it has {len(video.objects)} objects; is the list its own?")
        annotated, visible = frames_of(video, key)
        try:
            start, target = self.frames.target(visible, annotated, generator)
        except ValueError as error:
            raise ValueError(
                f"{name}: {error}; make the list with tools/make_sav_lists.py --min-frames 2"
            ) from error
        references = self.frames.of_object(visible, start, target, generator)
        shown = [Shown(frame, key) for frame in references]
        if not self.frames.noise_fits(shown):  # the areas of all objects take their time
            return shown, target
        others = {other: frames_of(video, other)[1] for other in video.objects if other != key}
        return self.frames.with_noise(shown, others, target, generator), target


def frames_of(video: SavVideo, key: int) -> tuple[list[int], list[int]]:
    """Frames on which an object is annotated, and those of them that show it; nothing is drawn."""
    annotated, visible = [], []
    for frame, step in enumerate(video.masklet_indices):
        rle = video.masklets[step][key]
        if rle is not None:
            annotated.append(frame)
            if rle_area(rle, where=f"{video.json_path}, masklet[{step}][{key}]"):
                visible.append(frame)
    return annotated, visible


def _mask(video: SavVideo, frame: int, key: int) -> np.ndarray:
    """bool [H, W]."""
    return video.read_masks(frame, [key])[key]


def _listed_objects(source: SavSource, objects_file: str | Path, on_bad_row: str) -> list[Row]:
    numbers = {name: number for number, name in enumerate(source.names)}
    errors = RowErrors(objects_file, on_bad_row)
    rows = []
    for name, keys in read_video_objects(objects_file).items():
        if name in numbers:
            rows += [(numbers[name], key) for key in keys]
        else:
            errors.add(name, f"no annotation of this video in {source.annotation_root}")
    errors.finish(rows)
    return rows


def _all_objects(source: SavSource, on_bad_row: str) -> list[Row]:
    errors = RowErrors(source.annotation_root, on_bad_row)
    rows, late = [], 0
    for number in range(len(source)):
        try:
            video = source[number]
            for key in video.objects:
                annotated, visible = frames_of(video, key)
                if visible and visible[0] != annotated[-1]:
                    rows.append((number, key))
                else:
                    late += 1
        except ValueError as error:
            errors.add(source.names[number], str(error))
    errors.finish(rows)
    if late:
        logger.info("%s: %d objects left out: %s", source.annotation_root, late, FEWEST)
    return rows
