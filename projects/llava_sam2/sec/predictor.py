"""SeC's predictor: SAM 2's, with a language model that is asked where the scene changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from projects.llava_sam2.datasets.concept_inputs import ConceptInputs
from projects.llava_sam2.models.heads.concept import ConceptHead
from projects.llava_sam2.models.sa2va import Sa2VA
from projects.llava_sam2.sec.gate import RecentFrames, SceneGate
from projects.llava_sam2.sec.guidance import Guidance
from projects.llava_sam2.sec.reliable import ReliableTracker
from projects.llava_sam2.sec.tracking import ConceptTracking
from projects.sam2_video.frame_reader import FrameReader, Resize, Video
from projects.sam2_video.modeling import Sam2, TrackingPolicy
from projects.sam2_video.object_groups import GroupTracker
from projects.sam2_video.object_prompts import ObjectPrompt
from projects.sam2_video.predictor import VideoPredictor


class SecPredictor(VideoPredictor):
    """Segments the prompted objects through a video; used like ``VideoPredictor``.

    Args:
        sam2: the network.
        guidance: the language side; None: the gate is shut and no language model is needed. This is
            then ``VideoPredictor``, to the last bit, unless the memory is another.
        reliable_memory: read the frames that were tracked well instead of the last ones, as SeC's
            released inference does. Objects are tracked one by one then.
        tracking: further arguments of ``VideoPredictor``.
    """

    def __init__(
        self,
        sam2: Sam2,
        *,
        guidance: Guidance | None = None,
        reliable_memory: bool = False,
        **tracking: Any,
    ) -> None:
        super().__init__(sam2, **tracking)
        self.guidance = guidance
        self.reliable_memory = reliable_memory
        if reliable_memory:
            if self.tracker.policy.non_overlapping:
                raise ValueError("reliable_memory tracks objects one by one: they may overlap")
            self.tracker = ReliableTracker(sam2, policy=self.tracker.policy)
            self.object_chunk = 1

    def settings(self) -> dict[str, object]:
        asks = {} if self.guidance is None else self.guidance.settings()
        return super().settings() | {"reliable_memory": self.reliable_memory, **asks}

    def _plan(
        self,
        video: Video,
        prompts: Sequence[ObjectPrompt],
        direction: str,
        max_frames: int | None,
    ) -> tuple[FrameReader, list[tuple[range, bool]]]:
        if self.guidance is not None:
            video = RecentFrames(video)
        return super()._plan(video, prompts, direction, max_frames)

    def _tracking(self, reader: FrameReader) -> GroupTracker:
        if self.guidance is None:
            return super()._tracking(reader)
        return ConceptTracking(
            guidance=self.guidance,
            tracker=self.tracker,
            clean=self._clean,
            decoder=self.decoder,
            keep_corrections=self.corrected_frames == "conditioning",
            reader=reader,
        )


class SecInference:
    """How a model tracks with concept guidance: all that a config says beside the weights.

    Args:
        inputs: contours, pictures and words, as in training.
        task: the concept head's.
        threshold: of the gate; None: shut, the language model is never asked.
        colours: of the gate, see :class:`projects.llava_sam2.sec.gate.SceneGate`.
        kept: references beside the first one.
        min_object_logit: what a frame must exceed to be kept as a reference.
        reliable_memory: see :class:`SecPredictor`.
        fill_hole_area, resize: see ``VideoPredictor``; frames are read as the release reads them.
        batch_size: objects about which the language model is asked at once.
    """

    def __init__(
        self,
        *,
        inputs: ConceptInputs,
        task: str = "concept",
        threshold: float | None = 0.35,
        colours: Literal["swapped", "rgb"] = "swapped",
        kept: int = 6,
        min_object_logit: float = 1.0,
        reliable_memory: bool = True,
        fill_hole_area: int = 0,
        resize: Resize = "meta",
        batch_size: int = 4,
    ) -> None:
        self.inputs = inputs
        self.task = task
        self.threshold = threshold
        self.colours = SceneGate(colours=colours).colours
        self.reliable_memory = reliable_memory
        self.tracking = dict[str, Any](fill_hole_area=fill_hole_area, resize=resize)
        self.asking = dict(kept=kept, min_object_logit=min_object_logit, batch_size=batch_size)

    def predictor(self, model: Sa2VA, *, policy: TrackingPolicy | None = None) -> SecPredictor:
        """The predictor of a model.

        Args:
            policy: of tracking; None: the model's.

        Raises:
            ValueError: the model has no concept head of the task.
        """
        plain = model.video_predictor()
        return SecPredictor(
            model.grounding,
            guidance=self._guidance(model),
            reliable_memory=self.reliable_memory,
            policy=policy or plain.tracker.policy,
            decoder="own" if plain.decoder is None else "propagation",
            **self.tracking,
        )

    def settings(self) -> dict[str, Any]:
        """All but the words and the head, plain; further arguments of this class."""
        asking = {key: self.asking[key] for key in ("kept", "min_object_logit")}
        return {
            "threshold": self.threshold,
            "colours": self.colours,
            "reliable_memory": self.reliable_memory,
            **self.tracking,
            **asking,
        }

    def describe(self) -> str:
        """Everything that masks depend on, beside the weights."""
        return f"{self.inputs.describe()} {self.task} {self.settings()}"

    def _guidance(self, model: Sa2VA) -> Guidance | None:
        if self.threshold is None:
            return None
        head = model.heads[self.task] if self.task in model.heads else None
        if not isinstance(head, ConceptHead):
            raise ValueError(
                f"the model has no concept head {self.task!r} (it has {', '.join(model.heads)}): "
                "threshold=None tracks without the language model"
            )
        gate = SceneGate(threshold=self.threshold, colours=self.colours)
        return Guidance(mllm=model.mllm, head=head, inputs=self.inputs, gate=gate, **self.asking)
