"""A memory of frames that were tracked well, as SeC's inference reads it (Zhang et al., 2025).

SAM 2 reads the frames just before the current one. Here a tracked frame is read if its predicted
IoU exceeds 0.3 and its object is there; the frame just before is read in any case. Frames take the
places of the temporal table by their rank, not by their distance, so that what was last seen well
is still near after a long occlusion. The bank holds as many frames as are read, and no more.
"""

from __future__ import annotations

from projects.sam2_video.modeling import FrameFeatures, FrameOutput, MemoryBank, Tracker
from projects.sam2_video.modeling.memory import MemoryRead, closest_conditioning
from projects.sam2_video.modeling.tracker import AnyPrompt

MIN_IOU = 0.3


class ReliableMemory(MemoryBank):
    """The bank of one object: which frames are good differs between objects."""

    def __init__(
        self,
        *,
        num_maskmem: int,
        max_object_pointers: int,
        num_frames: int | None = None,
    ) -> None:
        super().__init__(
            num_maskmem=num_maskmem,
            max_object_pointers=max_object_pointers,
            num_frames=num_frames,
            keep_all=True,  # nothing is forgotten by distance
        )
        self._reliable: list[int] = []

    def rate(self, frame_index: int, *, reliable: bool) -> None:
        """Say how good the frame is that was added last; bad ones before it are forgotten."""
        good = [frame for frame in self._reliable if frame in self.tracked and frame != frame_index]
        if reliable:
            good.append(frame_index)
        most = max(self.num_maskmem, self.span) - 1
        self._reliable = good[max(0, len(good) - most) :]
        kept = dict.fromkeys([*self._reliable, frame_index])  # the last one is read in any case
        self.tracked = {frame: self.tracked[frame] for frame in kept}

    def read(
        self,
        frame_index: int,
        *,
        max_cond_frames: int = -1,
        past_pointers_only: bool = False,
        reverse: bool = False,
    ) -> MemoryRead:
        """As for ``MemoryBank``; tracked frames by their rank, 1 the latest.

        The oldest of them gives no pointer: SeC's loop over pointers ends one early.
        """
        step = -1 if reverse else 1
        chosen = closest_conditioning(frame_index, self.conditioning, max_cond_frames)
        tracked = list(self.tracked.values())
        memories = [(self.num_maskmem - 1, self.conditioning[frame].memory) for frame in chosen]
        for rank in range(min(self.num_maskmem - 1, len(tracked)), 0, -1):
            memories.append((rank - 1, tracked[-rank].memory))
        pointers = [
            (step * (frame_index - frame), self.conditioning[frame].pointer)
            for frame in chosen
            if not past_pointers_only or step * (frame_index - frame) >= 0
        ]
        for rank in range(1, min(self.span, len(tracked))):
            pointers.append((rank, tracked[-rank].pointer))
        return MemoryRead(memories, pointers, self.span)


class ReliableTracker(Tracker):
    """A tracker of single objects whose memory is a :class:`ReliableMemory`."""

    def new_memory(
        self, *, num_frames: int | None = None, videos: object = None, keep_all: bool = False
    ) -> ReliableMemory:
        """An empty bank; one object has one video, and what is kept depends on the frames alone."""
        return ReliableMemory(
            num_maskmem=self.model.num_maskmem,
            max_object_pointers=self.model.max_object_pointers,
            num_frames=num_frames,
        )

    def remember(
        self,
        features: FrameFeatures,
        frame_index: int,
        output: FrameOutput,
        memory: MemoryBank,
        *,
        prompt: AnyPrompt = None,
        conditioning: bool | None = None,
    ) -> None:
        """As for ``Tracker``, with a judgement of the frame.

        Raises:
            ValueError: several objects in one batch.
        """
        if len(output.iou) != 1:
            raise ValueError(
                f"{len(output.iou)} objects in one batch: each has reliable frames of its own; "
                "track with object_chunk=1"
            )
        super().remember(
            features, frame_index, output, memory, prompt=prompt, conditioning=conditioning
        )
        if frame_index in memory.tracked:
            good = float(output.iou) > MIN_IOU and float(output.object_logits) > 0
            memory.rate(frame_index, reliable=good)
