"""J&F on videos of any annotation source: the annotated frames alone are tracked and scored."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from projects.common.masks import encode_rle
from projects.sam2_video.data.sources import AnnotatedVideo, AnnotationSource
from projects.sam2_video.evaluation.scorer import VideoScorer, mean_scores, scored_frames
from projects.sam2_video.evaluation.vos import Predicts
from projects.sam2_video.object_prompts import ObjectPrompt

Record = dict[str, Any]
LEAST_FRAMES = 3  # the first and the last annotated frame do not count


class AnnotatedFrames:
    """The annotated frames of a video as a video of its own, read one at a time."""

    def __init__(self, video: AnnotatedVideo) -> None:
        self.video = video

    def __len__(self) -> int:
        return self.video.num_frames

    def __getitem__(self, index: int) -> np.ndarray:
        return self.video.read_frames([index])[0]


class AnnotatedVosBenchmark:
    """``VosBenchmark`` for sources whose videos are no folders (COCO video, SA-V's json).

    Every object is given as a mask on the first annotated frame that shows it; the first and the
    last annotated frame do not count. Frames without annotation are not seen at all, so that scores
    differ a little from those of ``VosBenchmark`` where annotations are sparse.
    """

    def __init__(self, *, source: AnnotationSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def predict(self, model: Predicts, index: int) -> list[Record]:
        video = self.source[index]
        if video.num_frames < LEAST_FRAMES:
            raise ValueError(
                f"video {video.name}: {video.num_frames} annotated frames, none is left to score "
                "without the first and the last; leave it out by a file list"
            )
        prompts = _first_masks(video)
        if not prompts:
            raise ValueError(f"video {video.name}: no mask shows an object; leave it out")
        counted = scored_frames(range(video.num_frames), skip_first_and_last=True)
        scorer, shown = VideoScorer(), {}
        predictor = model.video_predictor()
        keys = predictor.object_ids(prompts)
        for frame, masks in predictor.propagate(AnnotatedFrames(video), prompts):
            truths = video.read_masks(frame)
            for key, mask in zip(keys, masks, strict=True):
                truth = truths.get(key, np.zeros_like(mask))
                if frame in counted:
                    scorer.add(key, mask, truth)
                shown[key] = {"frame": frame, "pred": encode_rle(mask), "gt": encode_rle(truth)}
        return [
            {"video": video.name, "object": str(key), "J": score.region, "F": score.boundary}
            | shown[key]
            for key, score in scorer.scores().items()
        ]

    def summarise(self, records: list[Record]) -> dict[str, float]:
        return mean_scores((record["J"], record["F"]) for record in records)

    def fingerprint(self) -> str:
        """What the records depend on beside the weights."""
        source = vars(self.source)
        places = [str(v) for k, v in sorted(source.items()) if k.startswith(("annotation", "root"))]
        return hashlib.sha256(repr((places, source.get("names"))).encode()).hexdigest()


def _first_masks(video: AnnotatedVideo) -> list[ObjectPrompt]:
    """One mask per object, on the first annotated frame that shows it."""
    prompts: dict[int, ObjectPrompt] = {}
    for frame in range(video.num_frames):
        for key, mask in video.read_masks(frame).items():
            if key not in prompts and mask.any():
                prompts[key] = ObjectPrompt(key, frame, mask=mask)
    return list(prompts.values())
