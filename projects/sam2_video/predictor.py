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
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from projects.sam2_video.frame_reader import FrameReader, Resize, Video, read_ahead, resize_frames
from projects.sam2_video.modeling.blocks import Sam2
from projects.sam2_video.modeling.memory import MemoryBank
from projects.sam2_video.modeling.tracker import Tracker, TrackingPolicy
from projects.sam2_video.modeling.typed import ABSENT_LOGIT, FrameFeatures, FrameOutput
from projects.sam2_video.object_prompts import ObjectPrompt, check_prompts, to_network
from projects.sam2_video.postprocess import fill_holes, remove_specks, winners

__all__ = ["ObjectPrompt", "Video", "VideoPredictor", "inference", "resize_frames"]

KEPT_FEATURES = 4  # prompted frames whose features wait for the groups that track over them
PREVIOUS_LIMIT = 32.0  # Meta's bound of the logits that clicks correct
Direction = Literal["forward", "backward", "both"]


@dataclass
class _Group:
    """Objects with prompts on the same frames: one bank, one batch."""

    rows: list[int]  # places in the output
    memory: MemoryBank
    prompts: dict[int, list[ObjectPrompt]]  # frame to one prompt per row
    corrections: dict[int, list[ObjectPrompt]]
    answers: dict[int, Tensor] = field(default_factory=dict)  # logits [B, 1, m, m] where prompted

    @property
    def first(self) -> int:
        return min(self.prompts)


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
        for prompt in prompts:
            if prompt.correction and not any(prompt.frame in frames for frames, _ in passes):
                raise ValueError(f"correction of {prompt.place}: this frame is not tracked")
        return FrameReader(video, side=self.sam2.image_size, how=self.resize), passes

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
        groups = self._group(prompts, len(reader.video))
        kept = self._answer_prompts(reader, groups)
        for number, (frames, reverse) in enumerate(passes):
            if number:
                for group in groups:
                    group.memory.tracked.clear()
            yield from self._track(reader, groups, frames, kept, reverse=reverse)

    def _answer_prompts(
        self, reader: FrameReader, groups: list[_Group]
    ) -> dict[int, FrameFeatures]:
        """Answer all prompted frames; returns features that tracking needs again."""
        kept: dict[int, FrameFeatures] = {}
        prompted = sorted({frame for group in groups for frame in group.prompts})
        for frame, image in zip(prompted, read_ahead(prompted, reader), strict=True):
            with self._running():
                features = self.sam2.encode_frames(image.to(self.sam2.device))
                for group in groups:
                    if frame in group.prompts:
                        self._answer(group, frame, features, reader)
            others = any(frame not in group.prompts for group in groups)
            if others and len(kept) < KEPT_FEATURES:
                kept[frame] = features
        return kept

    def _track(
        self,
        reader: FrameReader,
        groups: list[_Group],
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
                features = kept.pop(frame, None)
                if todo[frame] and features is None:
                    features = self.sam2.encode_frames(next(images).to(self.sam2.device))
                for number, group in enumerate(groups):
                    if number in todo[frame]:
                        answers[number] = self._follow(group, frame, features, reader, reverse)
                    elif frame in group.answers:
                        answers[number] = group.answers[frame]
                masks = self._join(groups, answers)
            yield frame, masks

    def _unanswered(self, groups: list[_Group], frame: int, reverse: bool) -> set[int]:
        """Numbers of the groups that are tracked on this frame."""
        early = reverse or self.before_prompt == "tracked"
        return {
            number
            for number, group in enumerate(groups)
            if frame not in group.answers and (early or frame > group.first)
        }

    # ---- one frame of one group ---------------------------------------------------------------

    def _answer(
        self, group: _Group, frame: int, features: FrameFeatures, reader: FrameReader
    ) -> None:
        """Decode and remember a prompted frame, without memory of others."""
        features = _repeat(features, len(group.rows))
        prompt = self._prompt(group.prompts[frame], reader)
        memory = group.memory
        output = self.tracker.step(
            features, frame, memory, prompt=prompt, use_memory=False, run_memory_encoder=False
        )
        self._clean(output)
        if len(reader.video) > 1:
            self.tracker.remember(features, frame, output, memory, prompt=prompt)
        group.answers[frame] = output.masks

    def _follow(
        self,
        group: _Group,
        frame: int,
        features: FrameFeatures,
        reader: FrameReader,
        reverse: bool,
    ) -> Tensor:
        """Track a frame; logits [B, 1, m, m]. Memories hold what the network said, uncleaned."""
        features = _repeat(features, len(group.rows))
        output = self.tracker.step(
            features,
            frame,
            group.memory,
            reverse=reverse,
            decoder=self.decoder,
            run_memory_encoder=frame not in group.corrections,
        )
        self._clean(output)
        if frame not in group.corrections:
            return output.masks
        return self._correct(group, frame, features, output.masks, reader, reverse)

    def _correct(
        self,
        group: _Group,
        frame: int,
        features: FrameFeatures,
        tracked: Tensor,
        reader: FrameReader,
        reverse: bool,
    ) -> Tensor:
        """Decode a tracked frame again with clicks and remember that answer."""
        previous = tracked.clamp(-PREVIOUS_LIMIT, PREVIOUS_LIMIT)
        prompt = self._prompt(group.corrections[frame], reader, previous)
        output = self.tracker.step(
            features, frame, group.memory, prompt=prompt, reverse=reverse, run_memory_encoder=False
        )
        self._clean(output)
        self.tracker.remember(
            features,
            frame,
            output,
            group.memory,
            prompt=prompt,
            conditioning=self.corrected_frames == "conditioning",
        )
        return output.masks

    def _clean(self, output: FrameOutput) -> None:
        """Holes and specks; what is remembered of a prompted frame is what the user sees."""
        if self.fill_hole_area:
            output.masks = fill_holes(output.masks, self.fill_hole_area)
        if self.remove_area:
            output.masks = remove_specks(output.masks, self.remove_area)

    def _prompt(
        self, prompts: list[ObjectPrompt], reader: FrameReader, previous: Tensor | None = None
    ):
        return to_network(
            prompts,
            size=reader.size,
            side=self.sam2.image_size,
            device=self.sam2.device,
            previous=previous,
        )

    # ---- objects and their groups -------------------------------------------------------------

    def _group(self, prompts: Sequence[ObjectPrompt], num_frames: int) -> list[_Group]:
        """Objects that are prompted and corrected on the same frames, ``object_chunk`` at most."""
        by_object: dict[int, list[ObjectPrompt]] = {}
        for prompt in prompts:
            by_object.setdefault(prompt.object_id, []).append(prompt)
        groups: list[_Group] = []
        open_groups: dict[frozenset, _Group] = {}
        for row, of_object in enumerate(by_object.values()):
            frames = frozenset((prompt.frame, prompt.correction) for prompt in of_object)
            group = open_groups.get(frames)
            if group is None or len(group.rows) == self.object_chunk:
                group = _Group([], self.tracker.new_memory(num_frames=num_frames), {}, {})
                groups.append(group)
                open_groups[frames] = group
            group.rows.append(row)
            for prompt in of_object:
                store = group.corrections if prompt.correction else group.prompts
                store.setdefault(prompt.frame, []).append(prompt)
        return groups

    def _join(self, groups: list[_Group], answers: dict[int, Tensor]) -> Tensor:
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


def _repeat(features: FrameFeatures, rows: int) -> FrameFeatures:
    """One image's features for each of ``rows`` objects, without a copy."""

    def repeat(level: Tensor) -> Tensor:
        return level.expand(rows, *level.shape[1:])

    kept = features.propagation_high_res
    return FrameFeatures(
        embed=repeat(features.embed),
        high_res=(repeat(features.high_res[0]), repeat(features.high_res[1])),
        propagation_high_res=None if kept is None else (repeat(kept[0]), repeat(kept[1])),
    )


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
