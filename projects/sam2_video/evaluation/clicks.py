"""Interactive segmentation of single images: one click, or one box, per object."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from projects.common.masks import encode_rle, mask_to_box
from projects.common.video import ImageSequence
from projects.sam2_video.data.sources import AnnotationSource
from projects.sam2_video.evaluation.davis import region_similarity
from projects.sam2_video.evaluation.vos import Predicts
from projects.sam2_video.points import interior_point
from projects.sam2_video.predictor import ObjectPrompt

Record = dict[str, Any]


class ClickBenchmark:
    """IoU after one positive click on the most interior pixel, and after a box; mean over objects.

    Args:
        source: images, or videos of which the first annotated frame is taken.
        max_items: the first n images only; None: all.
    """

    metrics = ("click_iou", "box_iou")

    def __init__(self, *, source: AnnotationSource, max_items: int | None = None) -> None:
        self.source = source
        self.count = len(source) if max_items is None else min(max_items, len(source))

    def __len__(self) -> int:
        return self.count

    def predict(self, model: Predicts, index: int) -> list[Record]:
        video = self.source[index]
        truths = {key: mask for key, mask in video.read_masks(0).items() if mask.any()}
        if not truths:
            return []
        clicks = {key: interior_point(mask) for key, mask in truths.items()}
        prompts = [
            ObjectPrompt(row, 0, points=np.array([clicks[key]]), labels=np.array([1]))
            for row, key in enumerate(truths)
        ]
        prompts += [
            ObjectPrompt(len(truths) + row, 0, box=_corner_pixels(mask))
            for row, mask in enumerate(truths.values())
        ]
        _, masks = next(model.video_predictor().propagate(video.read_frames([0]), prompts))
        by_click, by_box = masks[: len(truths)], masks[len(truths) :]
        return [
            _image(video)
            | {
                "object": str(key),
                "click": list(clicks[key]),
                "iou": region_similarity(clicked, truth),
                "box_iou": region_similarity(boxed, truth),
                "pred": encode_rle(clicked),
                "gt": encode_rle(truth),
            }
            for (key, truth), clicked, boxed in zip(truths.items(), by_click, by_box, strict=True)
        ]

    def summarise(self, records: list[Record]) -> dict[str, float]:
        return {
            "click_iou": float(np.mean([record["iou"] for record in records])),
            "box_iou": float(np.mean([record["box_iou"] for record in records])),
        }

    def fingerprint(self) -> str:
        """What the records depend on beside the weights."""
        parts = vars(
            self.source
        )  # a COCO file with ids of images, or a folder with names of videos
        where = str(parts.get("annotation_file") or parts.get("annotation_root"))
        items = list(parts.get("image_ids") or parts.get("names") or ())[: self.count]
        return hashlib.sha256(repr((where, items, self.count)).encode()).hexdigest()


def _corner_pixels(mask: np.ndarray) -> np.ndarray:
    """The box by its corner pixels, both inside of it, as in training."""
    box = mask_to_box(mask)
    assert box is not None
    return np.array([box[0], box[1], box[2] - 1, box[3] - 1])


def _image(video: Any) -> Record:
    """Where the report finds the picture (``common/report/examples.py``)."""
    folder = getattr(video, "folder", None)
    if folder is None:
        return {"image": str(video.path)}
    if isinstance(folder, ImageSequence):
        return {"image": str(folder.files[video.frame_indices[0]])}
    return {"image": str(folder.path), "frame": video.frame_indices[0]}
