"""Which objects a video annotates, and the masks that a tracker is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from projects.common.progress import track
from projects.common.video import image_size
from projects.sam2_video.data.png import (
    PaletteSource,
    PaletteVideo,
    PerObjectSource,
    PerObjectVideo,
)
from projects.sam2_video.data.sources import FramedVideo
from projects.sam2_video.object_prompts import ObjectPrompt

_SHOWN = 10  # of many mistakes


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


def check_annotations(source: PaletteSource | PerObjectSource, names: Sequence[str]) -> None:
    """Find videos whose annotations cannot be given, without decoding them all.

    Of every mask the header is read; the first annotated frame of a video is decoded.

    Raises:
        ValueError: naming all such videos.
    """
    mistakes = []
    for name in track(names, description="annotations"):
        try:
            _check_video(source[source.names.index(name)])
        except (ValueError, OSError) as error:
            mistakes.append(str(error))
    if mistakes:
        shown = "\n".join(f"  {mistake}" for mistake in mistakes[:_SHOWN])
        more = f"\n  and {len(mistakes) - _SHOWN} more" if len(mistakes) > _SHOWN else ""
        raise ValueError(
            f"the annotations of {len(mistakes)} of {len(names)} videos cannot be given:\n"
            f"{shown}{more}"
        )


def _check_video(video: PaletteVideo | PerObjectVideo) -> None:
    size = video.folder.size
    for path in video.mask_paths():
        found = image_size(path)
        if found != size:
            raise ValueError(
                f"{path} is {found}, the frames of {video.folder.path} are {size} (height, width)"
            )
    video.read_masks(0)


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
