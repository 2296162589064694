"""Video object segmentation with concept guidance, scored as without it."""

from __future__ import annotations

from dataclasses import dataclass

from projects.llava_sam2.models.sa2va import Sa2VA
from projects.llava_sam2.sec.predictor import SecInference, SecPredictor
from projects.sam2_video.data.sources import AnnotationSource
from projects.sam2_video.evaluation.vos import Record, VosBenchmark


@dataclass
class _Guided:
    """A model that tracks as a recipe says."""

    model: Sa2VA
    sec: SecInference

    def video_predictor(self) -> SecPredictor:
        return self.sec.predictor(self.model)


class ConceptVosBenchmark(VosBenchmark):
    """``VosBenchmark`` with SeC's predictor.

    Args:
        sec: how the model tracks; ``threshold=None`` scores it without the language model.

    Further arguments as of ``VosBenchmark``.
    """

    def __init__(
        self,
        *,
        source: AnnotationSource,
        sec: SecInference,
        skip_first_and_last: bool = True,
        report_frames: int = 6,
    ) -> None:
        super().__init__(
            source=source, skip_first_and_last=skip_first_and_last, report_frames=report_frames
        )
        self.sec = sec

    def predict(self, model: Sa2VA, index: int) -> list[Record]:
        return super().predict(_Guided(model, self.sec), index)

    def fingerprint(self) -> str:
        return f"{super().fingerprint()} {self.sec.describe()}"
