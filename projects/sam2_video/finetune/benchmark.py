"""J&F on videos of any annotation source: the annotated frames alone are tracked and scored."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from projects.common.masks import encode_rle
from projects.sam2_video.data.sources import AnnotatedVideo, AnnotationSource
from projects.sam2_video.evaluation.davis import sequence_scores
from projects.sam2_video.evaluation.vos import Predicts
from projects.sam2_video.predictor import ObjectPrompt

Record = dict[str, Any]


class AnnotatedFrames:
    """The annotated frames of a video as a video of its own, read one at a time."""

    def __init__(self, video: AnnotatedVideo) -> None:
        self.video = video

    def __len__(self) -> int:
        return self.video.num_frames

    def __getitem__(self, index: int) -> np.ndarray:
        return self.video.read_frames([index])[0]


class AnnotatedVosBenchmark:
    """As ``VosBenchmark``, for sources whose frames are no folder (COCO video, SA-V's json).

    Every object is given as a mask on the first annotated frame that shows it; frames without
    annotation are not seen at all, so that scores differ a little from those of ``VosBenchmark``
    where annotations are sparse. The first and the last annotated frame do not count, and videos
    with fewer than three are left out.
    """

    def __init__(self, *, source: AnnotationSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def predict(self, model: Predicts, index: int) -> list[Record]:
        video = self.source[index]
        if video.num_frames < 3:
            return []
        truths = _masks_per_object(video)
        if not truths:
            return []
        predictions = {key: np.zeros_like(truth) for key, truth in truths.items()}
        prompts = []
        for key, truth in truths.items():
            first = int(truth.any((1, 2)).argmax())
            prompts.append(ObjectPrompt(key, first, mask=truth[first]))
        predictor = model.video_predictor()
        objects = predictor.object_ids(prompts)
        for frame, masks in predictor.propagate(AnnotatedFrames(video), prompts):
            for key, mask in zip(objects, masks, strict=True):
                predictions[key][frame] = mask
        return [_record(video, key, predictions[key], truth) for key, truth in truths.items()]

    def summarise(self, records: list[Record]) -> dict[str, float]:
        if not records:
            raise ValueError(
                "no video of the validation has an object and three annotated frames to score"
            )
        region = float(np.mean([record["J"] for record in records]))
        boundary = float(np.mean([record["F"] for record in records]))
        return {"J": region, "F": boundary, "J&F": (region + boundary) / 2}

    def fingerprint(self) -> str:
        """What the records depend on beside the weights."""
        parts = vars(self.source)
        where = [str(value) for key, value in sorted(parts.items()) if key.startswith("annotation")]
        return hashlib.sha256(repr((where, parts.get("names"))).encode()).hexdigest()


def _masks_per_object(video: AnnotatedVideo) -> dict[int, np.ndarray]:
    """bool ``[T, H, W]`` of every object that any annotated frame shows."""
    frames = [video.read_masks(index) for index in range(video.num_frames)]
    shown = sorted({key for masks in frames for key, mask in masks.items() if mask.any()})
    if not shown:
        return {}
    empty = np.zeros_like(next(mask for masks in frames for mask in masks.values()))
    return {key: np.stack([masks.get(key, empty) for masks in frames]) for key in shown}


def _record(video: AnnotatedVideo, key: int, predicted: np.ndarray, truth: np.ndarray) -> Record:
    region, boundary = sequence_scores(list(predicted), list(truth))
    last = len(truth) - 1
    return {
        "video": video.name,
        "object": str(key),
        "J": region,
        "F": boundary,
        "frame": last,
        "pred": encode_rle(predicted[last]),
        "gt": encode_rle(truth[last]),
    }
