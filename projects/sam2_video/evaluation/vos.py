"""Semi-supervised video object segmentation: the first mask of every object is given."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from projects.common.masks import encode_rle
from projects.sam2_video.data.png import FolderVideo, PaletteSource, PerObjectSource
from projects.sam2_video.evaluation.davis import sequence_scores
from projects.sam2_video.predictor import ObjectPrompt, VideoPredictor

Record = dict[str, Any]


class Predicts(Protocol):
    """A model that can track (``Sam2VideoTraining``)."""

    def video_predictor(self) -> VideoPredictor: ...


class VosBenchmark:
    """J, F and J&F of DAVIS; one item is a video, one record an object.

    Every object is given as a mask on the first annotated frame that shows it. All frames of the
    folder are tracked, the annotated ones are scored: the mean over frames, then over objects.

    Args:
        source: videos with palette PNGs (DAVIS, MOSE) or a folder of PNGs per object (SA-V).
        skip_first_and_last: leave out the first and the last annotated frame, as is usual.
        report_frames: evenly spaced frames per object that a record keeps as RLE.
    """

    def __init__(
        self,
        *,
        source: PaletteSource | PerObjectSource,
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
        if self.skip_first_and_last and video.num_frames < 3:
            raise ValueError(
                f"video {video.folder.path}: {video.num_frames} annotated frames, none is left to "
                "score without the first and the last; leave it out by a file list"
            )
        annotated = [video.read_masks(i) for i in range(video.num_frames)]
        truths = _per_object(annotated, where=f"video {video.folder.path}")
        predictions = self._track(model.video_predictor(), video, truths)
        return [self._record(video, key, predictions[key], truth) for key, truth in truths.items()]

    def summarise(self, records: list[Record]) -> dict[str, float]:
        region = float(np.mean([record["J"] for record in records]))
        boundary = float(np.mean([record["F"] for record in records]))
        return {"J": region, "F": boundary, "J&F": (region + boundary) / 2}

    def fingerprint(self) -> str:
        """What the records depend on beside the weights."""
        return repr(
            (
                str(self.source.annotation_root),
                self.source.names,
                self.skip_first_and_last,
                self.report_frames,
            )
        )

    def _track(
        self, predictor: VideoPredictor, video: FolderVideo, truths: dict[int, np.ndarray]
    ) -> dict[int, np.ndarray]:
        """bool ``[T, H, W]`` per object on the annotated frames."""
        prompts = []
        for key, truth in truths.items():
            first = int(truth.any((1, 2)).argmax())
            prompts.append(ObjectPrompt(key, video.frame_indices[first], mask=truth[first]))
        annotated = {position: i for i, position in enumerate(video.frame_indices)}
        predictions = {key: np.zeros_like(truth) for key, truth in truths.items()}
        objects = predictor.object_ids(prompts)
        for position, masks in predictor.propagate(video.folder, prompts):
            if position in annotated:
                for key, mask in zip(objects, masks, strict=True):
                    predictions[key][annotated[position]] = mask
        return predictions

    def _record(
        self, video: FolderVideo, key: int, predicted: np.ndarray, truth: np.ndarray
    ) -> Record:
        region, boundary = sequence_scores(
            list(predicted), list(truth), skip_first_and_last=self.skip_first_and_last
        )
        shown = np.linspace(0, len(truth) - 1, min(self.report_frames, len(truth)))
        frames = [int(round(i)) for i in shown]
        return {
            "video": str(video.folder.path),
            "frames": [video.stems[i] for i in frames],
            "object": str(key),
            "J": region,
            "F": boundary,
            "pred": [encode_rle(predicted[i]) for i in frames],
            "gt": [encode_rle(truth[i]) for i in frames],
        }


def _per_object(annotated: list[dict[int, np.ndarray]], *, where: str) -> dict[int, np.ndarray]:
    """Masks bool ``[T, H, W]`` of every object that any annotated frame shows."""
    shapes = {mask.shape for masks in annotated for mask in masks.values()}
    if len(shapes) > 1:
        raise ValueError(f"{where}: its masks have several sizes: {sorted(shapes)}")
    shown = {key for masks in annotated for key, mask in masks.items() if mask.any()}
    if not shown:
        raise ValueError(f"{where}: no mask shows an object; leave it out by a file list")
    empty = np.zeros(shapes.pop(), dtype=bool)
    return {key: np.stack([masks.get(key, empty) for masks in annotated]) for key in sorted(shown)}
