"""Semi-supervised video object segmentation: the first mask of every object is given."""

from __future__ import annotations

import logging
from typing import Any, Protocol

import numpy as np

from projects.common.masks import Rle, encode_rle
from projects.common.video import FrameFolder, ImageSequence
from projects.sam2_video.data.sources import AnnotationSource, FramedVideo
from projects.sam2_video.evaluation.given import GivenObject, find_objects, mask_prompts
from projects.sam2_video.evaluation.scorer import VideoScorer, mean_scores, scored_frames
from projects.sam2_video.predictor import VideoPredictor

logger = logging.getLogger(__name__)

Record = dict[str, Any]


class Predicts(Protocol):
    """A model that can track (``Sam2VideoTraining``)."""

    def video_predictor(self) -> VideoPredictor: ...


class VosBenchmark:
    """J, F and J&F of DAVIS; one item is a video, one record an object.

    Every object is given as a mask on the first annotated frame that shows it. The frames of the
    video are tracked, the annotated ones are scored by the rules of ``scorer.py`` as they come, so
    that memory does not grow with the length of the video.

    Args:
        source: of videos, whose frames may be folders, files or the images of a COCO json.
        skip_first_and_last: leave out the first and the last annotated frame, as is usual.
        report_frames: evenly spaced annotated frames that a record keeps as RLE.
    """

    metrics = ("J&F", "J", "F")

    def __init__(
        self,
        *,
        source: AnnotationSource,
        skip_first_and_last: bool = True,
        report_frames: int = 6,
    ) -> None:
        self.source = source
        self.skip_first_and_last = skip_first_and_last
        self.report_frames = report_frames

    def __len__(self) -> int:
        return len(self.source)

    def predict(self, model: Predicts, index: int) -> list[Record]:
        video = self.source[index]
        objects = find_objects(video)
        scored = {given.key: self._scored(given) for given in objects}
        if not any(scored.values()):
            raise ValueError(
                f"video {video.folder.path}: {video.num_frames} annotated frames, none is left to "
                "score without the first and the last; leave it out by a file list"
            )
        shown = np.linspace(0, video.num_frames - 1, min(self.report_frames, video.num_frames))
        report = _Report(objects, [round(frame) for frame in shown])
        scorer = VideoScorer()
        for frame, masks in _track(model.video_predictor(), video, objects):
            truths = video.read_masks(frame)
            for given in objects:
                truth = truths.get(given.key, np.zeros_like(masks[given.key]))
                if frame in scored[given.key]:
                    scorer.add(given.key, masks[given.key], truth)
                report.add(frame, given.key, masks[given.key], truth)
        return self._records(video, objects, scorer, report)

    def summarise(self, records: list[Record]) -> dict[str, float]:
        return mean_scores((record["J"], record["F"]) for record in records)

    def fingerprint(self) -> str:
        """What the records depend on beside the weights."""
        source = vars(self.source)
        places = [str(source[key]) for key in sorted(source) if key.startswith("annotation_")]
        return repr((places, self.source.names, self.skip_first_and_last, self.report_frames))

    def _scored(self, given: GivenObject) -> set[int]:
        return set(scored_frames(given.listed, skip_first_and_last=self.skip_first_and_last))

    def _records(
        self,
        video: FramedVideo,
        objects: list[GivenObject],
        scorer: VideoScorer,
        report: _Report,
    ) -> list[Record]:
        scores = scorer.scores()
        unscored = [given.name for given in objects if given.key not in scores]
        if unscored:
            logger.warning(
                "%s: objects %s are annotated on no frame that counts: they have no score",
                video.folder.path,
                ", ".join(unscored),
            )
        frames = [_frame_of_record(video, frame) for frame in report.frames]
        return [
            {
                "video": str(video.folder.path),
                "frames": frames,
                "object": str(given.key),
                "J": scores[given.key].region,
                "F": scores[given.key].boundary,
                "pred": report.predicted[given.key],
                "gt": report.annotated[given.key],
            }
            for given in objects
            if given.key in scores
        ]


def _frame_of_record(video: FramedVideo, frame: int) -> str | int:
    """How a report finds the picture of an annotated frame (``common/report/examples.py``)."""
    position = video.frame_indices[frame]
    if isinstance(video.folder, FrameFolder):
        return video.stems[frame]
    if isinstance(video.folder, ImageSequence):
        return str(video.folder.files[position].absolute())
    return position


class _Report:
    """A few masks of every object, for the pictures of a report."""

    def __init__(self, objects: list[GivenObject], frames: list[int]) -> None:
        self.frames = frames
        self.predicted: dict[int, list[Rle]] = {given.key: [] for given in objects}
        self.annotated: dict[int, list[Rle]] = {given.key: [] for given in objects}

    def add(self, frame: int, key: int, predicted: np.ndarray, truth: np.ndarray) -> None:
        if frame in self.frames:
            self.predicted[key].append(encode_rle(predicted))
            self.annotated[key].append(encode_rle(truth))


def _track(predictor: VideoPredictor, video: FramedVideo, objects: list[GivenObject]):
    """Yield ``(annotated frame, {key: mask})`` for every annotated frame; before the first prompt
    nothing is there."""
    numbers = {position: frame for frame, position in enumerate(video.frame_indices)}
    prompts = mask_prompts(video, objects)
    order = predictor.object_ids(prompts)
    empty = np.zeros(prompts[0].mask.shape, dtype=bool)
    for frame in range(min(given.first for given in objects)):
        yield frame, {key: empty for key in order}
    for position, masks in predictor.propagate(video.folder, prompts):
        if position in numbers:
            yield numbers[position], dict(zip(order, masks, strict=True))
        if position == video.frame_indices[-1]:
            return
