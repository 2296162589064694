"""What a tracker remembers of the frames it has seen.

One bank serves one set of rows, which are prompted on the same frames. It keeps encoded memories
and object pointers, never masks or image features, and forgets tracked frames that are too far
away to be read again, so that it does not grow with the length of a video.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import Tensor


@dataclass
class FrameMemory:
    """One remembered frame."""

    memory: Tensor | None  # [B, 64, h, w]; None once only the pointer can still be read
    pointer: Tensor  # [B, C]

    def rows(self, index: Tensor) -> FrameMemory:
        memory = None if self.memory is None else self.memory[index]
        return FrameMemory(memory, self.pointer[index])


@dataclass
class MemoryRead:
    """What one frame attends to, in the order of Meta's implementation."""

    memories: list[tuple[int, Tensor]]  # row of the temporal table, [B, 64, h, w]
    pointers: list[tuple[int, Tensor]]  # signed frames before the current one, [B, C]
    span: int  # most pointers that a frame reads

    def rows(self, index: Tensor) -> MemoryRead:
        return replace(
            self,
            memories=[(slot, memory[index]) for slot, memory in self.memories],
            pointers=[(offset, pointer[index]) for offset, pointer in self.pointers],
        )


def closest_conditioning(frame_index: int, frames: Iterable[int], limit: int) -> list[int]:
    """Conditioning frames that are read: the nearest before, the nearest from here on, then others.

    Args:
        limit: most frames; -1 for all.
    """
    frames = list(frames)
    if limit == -1 or len(frames) <= limit:
        return frames
    before = [frame for frame in frames if frame < frame_index]
    after = [frame for frame in frames if frame >= frame_index]
    chosen = ([max(before)] if before else []) + ([min(after)] if after else [])
    others = [frame for frame in frames if frame not in chosen]
    others.sort(key=lambda frame: abs(frame - frame_index))
    return chosen + others[: limit - len(chosen)]


class MemoryBank:
    """Conditioning frames (prompted) and tracked frames of one set of rows.

    Args:
        num_maskmem: memories that a frame reads: conditioning frames share the last place of the
            temporal table, the ``num_maskmem - 1`` nearest tracked frames have one each.
        max_object_pointers: object pointers that a frame reads beside those of conditioning frames.
        num_frames: length of the clip, where known; short clips scale pointer offsets by it.
        videos: [B] number of each row's video, for rows that must not overlap; None: all the same.
        keep_all: do not forget; needed to track back over frames that were tracked forwards.
    """

    def __init__(
        self,
        *,
        num_maskmem: int,
        max_object_pointers: int,
        num_frames: int | None = None,
        videos: Tensor | None = None,
        keep_all: bool = False,
    ) -> None:
        self.num_maskmem = num_maskmem
        self.span = min(max_object_pointers, num_frames or max_object_pointers)
        self.num_frames = num_frames
        self.videos = videos
        self.keep_all = keep_all
        self.conditioning: dict[int, FrameMemory] = {}
        self.tracked: dict[int, FrameMemory] = {}

    @property
    def is_empty(self) -> bool:
        return not self.conditioning and not self.tracked

    def add(self, frame_index: int, *, memory: Tensor, pointer: Tensor, conditioning: bool) -> None:
        """Remember a frame; what was known of it before is replaced."""
        self.conditioning.pop(frame_index, None)
        self.tracked.pop(frame_index, None)
        store = self.conditioning if conditioning else self.tracked
        store[frame_index] = FrameMemory(memory, pointer)
        if not conditioning and not self.keep_all:
            self._forget_far_from(frame_index)

    def _forget_far_from(self, frame_index: int) -> None:
        for frame in list(self.tracked):
            distance = abs(frame - frame_index)
            if distance >= self.num_maskmem:
                self.tracked[frame].memory = None
            if distance >= max(self.num_maskmem, self.span):
                del self.tracked[frame]

    def read(
        self,
        frame_index: int,
        *,
        max_cond_frames: int = -1,
        past_pointers_only: bool = False,
        reverse: bool = False,
    ) -> MemoryRead:
        """What ``frame_index`` attends to.

        Args:
            max_cond_frames: conditioning frames at most; those left out may serve as tracked ones.
            past_pointers_only: no pointers of conditioning frames that lie ahead.
            reverse: tracking runs backwards in time.
        """
        chosen = closest_conditioning(frame_index, self.conditioning, max_cond_frames)
        step = -1 if reverse else 1  # frames "before" lie at frame_index - step * distance
        others = {f: m for f, m in self.conditioning.items() if f not in chosen} | self.tracked

        memories = [(self.num_maskmem - 1, self.conditioning[frame].memory) for frame in chosen]
        for distance in range(self.num_maskmem - 1, 0, -1):
            seen = others.get(frame_index - step * distance)
            if seen is not None and seen.memory is not None:
                memories.append((distance - 1, seen.memory))

        pointers = [
            (step * (frame_index - frame), self.conditioning[frame].pointer)
            for frame in chosen
            if not past_pointers_only or step * (frame_index - frame) >= 0
        ]
        for distance in range(1, self.span):
            seen = others.get(frame_index - step * distance)
            if seen is not None:
                pointers.append((distance, seen.pointer))
        return MemoryRead(memories, pointers, self.span)

    def rows(self, index: Tensor) -> MemoryBank:
        """A bank of the rows ``index``, to go on with some objects only."""
        bank = MemoryBank(
            num_maskmem=self.num_maskmem,
            max_object_pointers=self.span,
            num_frames=self.num_frames,
            videos=None if self.videos is None else self.videos[index],
            keep_all=self.keep_all,
        )
        bank.conditioning = {f: seen.rows(index) for f, seen in self.conditioning.items()}
        bank.tracked = {f: seen.rows(index) for f, seen in self.tracked.items()}
        return bank
