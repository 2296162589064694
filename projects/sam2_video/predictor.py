"""Video object segmentation: prompts on some frames, masks on all, batched over objects.

Objects that are prompted on the same frames share a memory bank and are tracked as one batch; each
object is tracked as if it were alone (Ravi et al., 2024). Frames are read one at a time, and the
memory does not grow with the length of the video.

    prompted frames ─► answer (no memory) ─┐ conditioning memories, never forgotten
                                           ▼
    every frame ─► encode once ─► track each group ─► logits ─► holes, size of the video, overlap
                                           └─► correct: clicks on a tracked frame
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from projects.sam2_video.frame_reader import FrameReader, Resize, Video, read_ahead, resize_frames
from projects.sam2_video.modeling.blocks import Sam2
from projects.sam2_video.modeling.tracker import Tracker, TrackingPolicy
from projects.sam2_video.modeling.typed import ABSENT_LOGIT, FrameFeatures
from projects.sam2_video.object_groups import GroupTracker, ObjectGroup, group_objects
from projects.sam2_video.object_prompts import ObjectPrompt, check_prompts
from projects.sam2_video.postprocess import fill_holes, remove_specks, winners

__all__ = ["ObjectPrompt", "Video", "VideoPredictor", "inference", "resize_frames"]

KEPT_FEATURES = 4  # prompted frames whose features wait for the groups that track over them
Direction = Literal["forward", "backward", "both"]


class VideoPredictor:
    """Segments the prompted objects through a video.

    Args:
        sam2: the network; used in eval mode and without gradient, its mode is restored.
        policy: None is Meta's predictor (``TrackingPolicy.meta_predictor()``).
        decoder: the mask decoder of frames without a prompt: the model's own, or the
            ``propagation`` one that it keeps.
        resize: how frames become the square input: ``training``, or ``meta``; see ``FrameReader``.
        before_prompt: going forward, before an object's first prompt: it is ``absent``, or
            ``tracked`` from prompts that lie ahead, as Meta's predictor does.
        corrected_frames: a corrected frame is remembered as ``conditioning``, which all other
            frames read, or as ``tracked``, which is forgotten (Meta's default).
        fill_hole_area: holes of at most this many pixels are filled, at the resolution of the
            logits; Meta's ``apply_postprocessing`` uses 8. 0 is off.
        remove_area: the same for small components of the foreground.
        non_overlapping: a pixel of the result belongs to one object at most.
        object_chunk: objects at most that are tracked in one batch, to bound memory.
        precision: ``bf16`` runs the network under autocast.
    """

    def __init__(
        self,
        sam2: Sam2,
        *,
        policy: TrackingPolicy | None = None,
        decoder: Literal["own", "propagation"] = "own",
        resize: Resize = "training",
        before_prompt: Literal["absent", "tracked"] = "absent",
        corrected_frames: Literal["conditioning", "tracked"] = "conditioning",
        fill_hole_area: int = 0,
        remove_area: int = 0,
        non_overlapping: bool = False,
        object_chunk: int | None = None,
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        if decoder == "propagation" and sam2.propagation_decoder is None:
            raise ValueError("the model keeps no propagation decoder: keep_propagation_decoder()")
        for name, value, choices in (
            ("decoder", decoder, ("own", "propagation")),
            ("resize", resize, ("training", "meta")),
            ("before_prompt", before_prompt, ("absent", "tracked")),
            ("corrected_frames", corrected_frames, ("conditioning", "tracked")),
            ("precision", precision, ("fp32", "bf16")),
        ):
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        if fill_hole_area < 0 or remove_area < 0:
            raise ValueError("fill_hole_area and remove_area are numbers of pixels, 0 for off")
        if object_chunk is not None and object_chunk < 1:
            raise ValueError(f"object_chunk must be at least 1, got {object_chunk}")
        self.sam2 = sam2
        self.tracker = Tracker(sam2, policy=policy or TrackingPolicy.meta_predictor())
        if object_chunk is not None and self.tracker.policy.non_overlapping:
            raise ValueError("object_chunk would let memories overlap, which the policy forbids")
        self.decoder = sam2.propagation_decoder if decoder == "propagation" else None
        self.resize = resize
        self.before_prompt = before_prompt
        self.corrected_frames = corrected_frames
        self.fill_hole_area = fill_hole_area
        self.remove_area = remove_area
        self.non_overlapping = non_overlapping
        self.object_chunk = object_chunk
        self.precision = precision

    def settings(self) -> dict[str, object]:
        """What changes the masks, for the file of the results."""
        return {
            "decoder": "own" if self.decoder is None else "propagation",
            "resize": self.resize,
            "before_prompt": self.before_prompt,
            "corrected_frames": self.corrected_frames,
            "fill_hole_area": self.fill_hole_area,
            "remove_area": self.remove_area,
            "non_overlapping": self.non_overlapping,
            "precision": self.precision,
        }

    # ---- what a user calls --------------------------------------------------------------------

    def propagate(
        self,
        video: Video,
        prompts: Sequence[ObjectPrompt],
        *,
        direction: Direction = "forward",
        max_frames: int | None = None,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield ``(frame index, masks)`` frame by frame.

        Forward starts at the earliest prompted frame, backward runs from there to frame 0, and
        ``both`` gives the forward frames first, then those before the start, tracked as by
        ``backward``. Going backward, every object is tracked from its own first prompt on.

        Args:
            video: RGB frames of one size.
            prompts: at most one per object and frame.
            max_frames: frames at most, in each direction.

        Yields:
            masks bool ``[O, H, W]``, objects in the order in which ``prompts`` first name them.

        Raises:
            ValueError: no prompt, two for one object and frame, one outside of the video, or a
                correction of a frame that is not tracked.
        """
        reader, passes = self._plan(video, prompts, direction, max_frames)
        return self._masks(reader, prompts, passes)

    def logits(
        self,
        video: Video,
        prompts: Sequence[ObjectPrompt],
        *,
        direction: Direction = "forward",
        max_frames: int | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """As ``propagate``, but mask logits ``[O, 1, 4h, 4w]``; -1024 where an object is absent.

        Holes are filled in them where that is asked for; overlaps are left.
        """
        reader, passes = self._plan(video, prompts, direction, max_frames)
        return self._logits(reader, prompts, passes)

    def object_ids(self, prompts: Sequence[ObjectPrompt]) -> list[int]:
        """The order of the objects in what :meth:`propagate` yields."""
        return list(dict.fromkeys(prompt.object_id for prompt in prompts))

    # ---- the passes over the video ------------------------------------------------------------

    def _plan(
        self,
        video: Video,
        prompts: Sequence[ObjectPrompt],
        direction: str,
        max_frames: int | None,
    ) -> tuple[FrameReader, list[tuple[range, bool]]]:
        """A reader, and the passes over the frames: (frames, reverse)."""
        if direction not in ("forward", "backward", "both"):
            raise ValueError(f"direction must be forward, backward or both, got {direction!r}")
        length = len(video)
        check_prompts(prompts, length)
        start = min(prompt.frame for prompt in prompts if not prompt.correction)
        limit = length if max_frames is None else max_frames
        forward = range(start, min(start + limit, length))
        backward = range(start, max(start - limit, -1), -1)
        passes = {
            "forward": [(forward, False)],
            "backward": [(backward, True)],
            "both": [(forward, False), (backward[1:], True)],
        }[direction]
        self._check_corrections(prompts, passes)
        return FrameReader(video, side=self.sam2.image_size, how=self.resize), passes

    def _check_corrections(
        self, prompts: Sequence[ObjectPrompt], passes: list[tuple[range, bool]]
    ) -> None:
        for prompt in prompts:
            if not prompt.correction:
                continue
            own = [p for p in prompts if p.object_id == prompt.object_id and not p.correction]
            late = prompt.frame < min(p.frame for p in own) and self.before_prompt == "absent"
            if not any(prompt.frame in run and (back or not late) for run, back in passes):
                raise ValueError(
                    f"correction of {prompt.place}: the object is not tracked there; it is "
                    f"prompted on {', '.join(str(p.frame) for p in own)}"
                )

    def _masks(
        self, reader: FrameReader, prompts: Sequence[ObjectPrompt], passes: list[tuple[range, bool]]
    ) -> Iterator[tuple[int, np.ndarray]]:
        for frame, logits in self._logits(reader, prompts, passes):
            with torch.no_grad():
                masks = self._to_video(logits, *reader.size)
            yield frame, masks

    def _logits(
        self, reader: FrameReader, prompts: Sequence[ObjectPrompt], passes: list[tuple[range, bool]]
    ) -> Iterator[tuple[int, Tensor]]:
        length = len(reader.video)
        groups = group_objects(
            prompts,
            chunk=self.object_chunk,
            new_memory=lambda: self.tracker.new_memory(num_frames=length),
        )
        prompted = sorted({frame for group in groups for frame in group.prompts})
        tracking = self._tracking(reader)
        kept = self._answer_prompts(tracking, reader, groups, prompted)
        for number, (frames, reverse) in enumerate(passes):
            if number:
                for group in groups:
                    group.memory.tracked.clear()
            yield from self._track(tracking, reader, groups, frames, kept, reverse=reverse)

    def _tracking(self, reader: FrameReader) -> GroupTracker:
        """What is done with groups of objects on the frames of one video."""
        return GroupTracker(
            tracker=self.tracker,
            clean=self._clean,
            decoder=self.decoder,
            keep_corrections=self.corrected_frames == "conditioning",
            reader=reader,
        )

    def _answer_prompts(
        self,
        tracking: GroupTracker,
        reader: FrameReader,
        groups: list[ObjectGroup],
        frames: list[int],
    ) -> dict[int, FrameFeatures]:
        """Answer all prompted frames; returns features that tracking needs again."""
        kept: dict[int, FrameFeatures] = {}
        for frame, image in zip(frames, read_ahead(frames, reader), strict=True):
            with self._running():
                features = self._encode(image)
                for group in groups:
                    if frame in group.prompts:
                        tracking.answer(group, frame, features)
            others = any(frame not in group.prompts for group in groups)
            if others and len(kept) < KEPT_FEATURES:
                kept[frame] = features
        return kept

    def _track(
        self,
        tracking: GroupTracker,
        reader: FrameReader,
        groups: list[ObjectGroup],
        frames: range,
        kept: dict[int, FrameFeatures],
        *,
        reverse: bool,
    ) -> Iterator[tuple[int, Tensor]]:
        todo = {frame: self._unanswered(groups, frame, reverse) for frame in frames}
        images = read_ahead([f for f, some in todo.items() if some and f not in kept], reader)
        for frame in frames:
            answers: dict[int, Tensor] = {}
            with self._running():
                if todo[frame]:
                    features = kept.pop(frame, None) or self._encode(next(images))
                for number, group in enumerate(groups):
                    if number in todo[frame]:
                        answers[number] = tracking.follow(group, frame, features, reverse=reverse)
                    elif frame in group.answers:
                        answers[number] = group.answers[frame]
                masks = self._join(groups, answers)
            yield frame, masks

    def _encode(self, image: Tensor) -> FrameFeatures:
        return self.sam2.encode_frames(image.to(self.sam2.device))

    def _unanswered(self, groups: list[ObjectGroup], frame: int, reverse: bool) -> set[int]:
        """Numbers of the groups that are tracked on this frame."""
        early = reverse or self.before_prompt == "tracked"
        return {
            number
            for number, group in enumerate(groups)
            if frame not in group.answers and (early or frame > group.first)
        }

    # ---- the result ---------------------------------------------------------------------------

    def _clean(self, logits: Tensor) -> Tensor:
        if self.fill_hole_area:
            logits = fill_holes(logits, self.fill_hole_area)
        if self.remove_area:
            logits = remove_specks(logits, self.remove_area)
        return logits

    def _join(self, groups: list[ObjectGroup], answers: dict[int, Tensor]) -> Tensor:
        """Logits of all objects in their order; absent where a group has no answer."""
        if len(groups) == 1 and answers:
            return answers[0]
        rows = sum(len(group.rows) for group in groups)
        side = self.sam2.mask_size
        masks = torch.full((rows, 1, side, side), ABSENT_LOGIT, device=self.sam2.device)
        for number, logits in answers.items():
            masks[groups[number].rows] = logits
        return masks

    def _to_video(self, logits: Tensor, height: int, width: int) -> np.ndarray:
        """Logits ``[O, 1, m, m]`` as bool masks ``[O, H, W]`` of the video's size."""
        if self.non_overlapping:
            return winners(_upsample(logits, height, width)).cpu().numpy()
        chunks = logits.split(self.object_chunk or len(logits))
        return torch.cat([_upsample(chunk, height, width) > 0 for chunk in chunks]).cpu().numpy()

    @contextmanager
    def _running(self) -> Iterator[None]:
        with (
            inference(self.sam2),
            torch.autocast(self.sam2.device.type, torch.bfloat16, enabled=self.precision == "bf16"),
        ):
            yield


def _upsample(logits: Tensor, height: int, width: int) -> Tensor:
    """[O, 1, m, m] to [O, H, W]."""
    size = (height, width)
    return F.interpolate(logits.float(), size, mode="bilinear", align_corners=False)[:, 0]


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradient for a while; each module gets its own mode back.

    Not ``torch.inference_mode``: tables that the model caches must stay usable in training.
    """
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
