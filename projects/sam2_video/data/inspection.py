"""Looks through whole videos: every annotated frame and mask is decoded once."""

from __future__ import annotations

from projects.common.inspection import RecordReport
from projects.sam2_video.data.sources import AnnotatedVideo, AnnotationSource


class SourceInspection:
    """An annotation source, such as a benchmark's, for ``projects.common.inspection``."""

    def __init__(self, source: AnnotationSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def inspect(self, index: int) -> RecordReport:
        return inspect_video(self.source[index])


def inspect_video(video: AnnotatedVideo, *, min_frames: int = 1) -> RecordReport:
    """Count frames, objects and empty frames; every frame that cannot be used is a problem.

    Args:
        min_frames: annotated frames that a clip wants.
    """
    problems = list(getattr(video, "problems", ()))  # what the video itself knows
    objects: set[int] = set()
    empty = unreadable = 0
    for index in range(video.num_frames):
        try:
            shown = _visible_objects(video, index)
        except (ValueError, OSError) as error:
            problems.append(str(error))
            unreadable += 1
            continue
        objects |= shown
        empty += not shown
    if video.num_frames < min_frames:
        problems.append(
            f"{video.name}: {video.num_frames} annotated frames, but a clip wants {min_frames}"
        )
    if not objects and not unreadable:
        problems.append(
            f"{video.name}: no frame shows an object (in masks of ids 0 is background and 255 "
            "nothing)"
        )
    counts = {
        "videos": 1,
        "frames": video.num_frames,
        "objects": len(objects),
        "empty_frames": empty,
        "unreadable": unreadable,
    }
    return RecordReport(counts=counts, problems=problems)


def _visible_objects(video: AnnotatedVideo, index: int) -> set[int]:
    frame = video.read_frames([index])[0]
    masks = video.read_masks(index)
    name = video.stems[index] if hasattr(video, "stems") else index
    for key, mask in masks.items():
        if mask.shape != frame.shape[:2]:
            raise ValueError(
                f"{video.name}: frame {name} is {frame.shape[:2]} and its mask of object {key} "
                f"{mask.shape} (height, width)"
            )
    return {key for key, mask in masks.items() if mask.any()}
