"""Which objects a video annotates, and the masks that a tracker is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from projects.sam2_video.data.png import PerObjectVideo
from projects.sam2_video.data.sources import FramedVideo
from projects.sam2_video.object_prompts import ObjectPrompt


@dataclass(frozen=True)
class GivenObject:
    """Frames are numbers of annotated frames of the video, ascending."""

    key: int
    name: str  # of its folder; a palette index with three digits
    listed: tuple[int, ...]  # frames whose annotation speaks of it, be it absent there
    visible: tuple[int, ...]  # frames that show it

    @property
    def first(self) -> int:
        return self.visible[0]


def find_objects(video: FramedVideo, *, late_objects: bool = True) -> list[GivenObject]:
    """Objects that any annotated frame shows, ascending; masks are decoded one frame at a time.

    Args:
        late_objects: False: only those that the first annotated frame shows.

    Raises:
        ValueError: no mask shows an object.
    """
    listed: dict[int, list[int]] = {}
    visible: dict[int, list[int]] = {}
    for frame in range(video.num_frames):
        for key, mask in video.read_masks(frame).items():
            listed.setdefault(key, []).append(frame)
            if mask.any():
                visible.setdefault(key, []).append(frame)
    keys = [key for key in sorted(visible) if late_objects or visible[key][0] == 0]
    if not keys:
        where = "on its first annotated frame " if visible else ""
        raise ValueError(
            f"video {video.folder.path}: no mask {where}shows an object (palette index 255 is "
            "void); leave it out by a file list"
        )
    if isinstance(video, PerObjectVideo):
        names = {key: folder.name for key, folder in video.object_folders.items()}
    else:  # palette PNGs and lists of annotations speak of every object
        names = {key: f"{key:03d}" for key in keys}
        listed = {key: list(range(video.num_frames)) for key in keys}
    return [GivenObject(key, names[key], tuple(listed[key]), tuple(visible[key])) for key in keys]


def mask_prompts(
    video: FramedVideo, objects: Sequence[GivenObject], *, use_all_masks: bool = False
) -> list[ObjectPrompt]:
    """The first mask of every object, or all its masks, by position in the video.

    Raises:
        ValueError: a mask has another size than the frames.
    """
    size = video.folder.size
    prompts = []
    for given in objects:
        for frame in given.visible if use_all_masks else given.visible[:1]:
            mask = video.read_masks(frame, [given.key])[given.key]
            if mask.shape != size:
                raise ValueError(
                    f"video {video.folder.path}: the mask of object {given.name} on frame "
                    f"{video.stems[frame]} is {mask.shape}, the frames are {size} (height, width)"
                )
            prompts.append(ObjectPrompt(given.key, video.frame_indices[frame], mask=mask))
    return prompts
