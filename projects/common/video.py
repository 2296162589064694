"""Images and videos in files: always RGB, uint8 [H, W, 3], decoded only when asked for.

``FrameFolder`` (a folder of images) and ``VideoFile`` (mp4) read alike: ``len(video)``,
``video[i]`` -> [H, W, 3], ``video.read([i, ...])`` -> [T, H, W, 3]. ``open_video`` picks one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import decord
import numpy as np
from PIL import Image, UnidentifiedImageError

from projects.common.whole_file import whole_file

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def read_image(path: str | Path) -> np.ndarray:
    """Decode an image to RGB, uint8 [H, W, 3], as stored (an EXIF rotation is not applied).

    Raises:
        FileNotFoundError, ValueError: missing, or not whole (a truncated JPEG is an error here,
            not a half-grey picture).
    """
    with _open_image(path) as image:
        if image.format == "JPEG" and image.mode in ("RGB", "L"):
            pixels = _whole_jpeg(Path(path).read_bytes())
            if pixels is not None:
                return pixels
        try:
            return np.array(image.convert("RGB"))
        except (OSError, SyntaxError) as error:
            raise ValueError(_undecodable(path, error)) from error


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of an image from its header, without decoding it."""
    with _open_image(path) as image:
        return image.height, image.width


def write_jpeg(path: str | Path, image: np.ndarray, quality: int = 95) -> None:
    """Write RGB uint8 [H, W, 3] as JPEG, whole or not at all."""
    _check_frame(image, str(path))
    with whole_file(path) as partial:
        Image.fromarray(image).save(partial, format="JPEG", quality=quality)


class ImageSequence:
    """A video stored as image files.

    Args:
        path: what to call it: the folder of the images, or the file that lists them.
        files: the images in order.
    """

    def __init__(self, path: str | Path, files: Sequence[Path]) -> None:
        self.path = Path(path)
        self.files = list(files)
        self.names = [file.stem for file in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> np.ndarray:
        """Frame ``index``, uint8 [H, W, 3]."""
        return read_image(self.files[_checked(index, len(self), self.path)])

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the first frame."""
        return image_size(self.files[0])

    def read(self, indices: Iterable[int]) -> np.ndarray:
        """The frames asked for, in that order, uint8 [T, H, W, 3]."""
        indices = list(indices)
        frames = [self[index] for index in indices]
        for index, frame in zip(indices, frames, strict=True):
            if frame.shape != frames[0].shape:
                raise ValueError(
                    f"{self.files[index]}: this frame is {frame.shape[:2]} (height, width), frame "
                    f"{self.names[indices[0]]!r} is {frames[0].shape[:2]}; all must be alike"
                )
        return np.stack(frames) if frames else np.zeros((0, *self.size, 3), np.uint8)


class FrameFolder(ImageSequence):
    """A video stored as a folder of images, in the order of the numbers in their names.

    Args:
        path: the folder.
        names: frames to use, in this order, without suffix; None uses all. Names make it
            independent of other files that lie in the folder.
    """

    def __init__(self, path: str | Path, *, names: Sequence[str] | None = None) -> None:
        path = Path(path)
        if not path.is_dir():
            raise FileNotFoundError(f"{path}: no such folder of frames")
        files = _files_by_name(path)
        if not files:
            suffixes = ", ".join(IMAGE_SUFFIXES)
            raise ValueError(f"{path}: no frames in this folder (looked for {suffixes})")
        chosen = sorted(files, key=_number_key) if names is None else list(names)
        missing = [name for name in chosen if name not in files]
        if missing:
            raise FileNotFoundError(
                f"{path}: {len(missing)} of {len(chosen)} frames are missing, first "
                f"{missing[0]!r}; extract the frames again"
            )
        super().__init__(path, [files[name] for name in chosen])


class VideoFile:
    """A video file (mp4), read by seeking: only the frames asked for are decoded.

    Open it in the process that reads it; a reader does not survive a fork.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such video")
        try:
            self._reader = decord.VideoReader(str(self.path), num_threads=1)
            height, width = self._reader[0].shape[:2]
        except (RuntimeError, IndexError, decord.DECORDError) as error:
            raise ValueError(_undecodable(self.path, error)) from error
        self.size: tuple[int, int] = (height, width)
        self.fps = float(self._reader.get_avg_fps())

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, index: int) -> np.ndarray:
        """Frame ``index``, uint8 [H, W, 3]."""
        return self.read([index])[0]

    def read(self, indices: Iterable[int]) -> np.ndarray:
        """The frames asked for, in that order, uint8 [T, H, W, 3]."""
        wanted = [_checked(index, len(self), self.path) for index in indices]
        if not wanted:
            return np.zeros((0, *self.size, 3), np.uint8)
        try:
            return self._reader.get_batch(wanted).asnumpy()
        except decord.DECORDError as error:
            raise ValueError(_undecodable(self.path, error)) from error


def decode_frames(
    path: str | Path, wanted: Callable[[int, float], bool] = lambda index, fps: True
) -> Iterator[tuple[int, np.ndarray]]:
    """All wanted frames of a video file in order, without seeking: (index, RGB uint8 [H, W, 3]).

    The pixels are those of :class:`VideoFile`, but for a little colour at edges where the height
    is odd.

    Args:
        wanted: says of a frame's index and the video's frames a second whether it is decoded.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a video, or, after the last frame that decodes, one that breaks off before
            the number of frames that its header announces.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such video")
    # a line per broken block would bury what is said here; FFmpeg is silenced unless asked to speak
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise ValueError(_undecodable(path, ValueError("not a video, or cut off")))
        announced = round(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        fps = float(capture.get(cv2.CAP_PROP_FPS))
        index = 0
        while capture.grab():
            if wanted(index, fps):
                decoded, frame = capture.retrieve()
                if not decoded:
                    break
                yield index, np.ascontiguousarray(frame[..., ::-1])  # OpenCV's order to RGB
            index += 1
        if index < announced:
            raise ValueError(
                f"{path}: breaks off, {index} of {announced} frames decode; get the file again"
            )
    finally:
        capture.release()


def open_video(path: str | Path) -> FrameFolder | VideoFile:
    """Open a folder of frames or a video file."""
    path = Path(path)
    if path.is_dir():
        return FrameFolder(path)
    if path.is_file():
        return VideoFile(path)
    raise FileNotFoundError(f"{path}: neither a folder of frames nor a video file")


def write_mp4(path: str | Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """Write RGB frames, uint8 [H, W, 3] each, as an mp4 (MPEG-4), whole or not at all.

    Raises:
        ValueError: no frames, frames of different sizes, or an odd height or width (the codec
            would drop a row or column, and masks would no longer fit).
    """
    frames = list(frames)
    if not frames:
        raise ValueError(f"{path}: a video needs at least one frame")
    height, width = frames[0].shape[:2]
    for number, frame in enumerate(frames):
        _check_frame(frame, f"{path}: frame {number}")
        if frame.shape[:2] != (height, width):
            raise ValueError(f"{path}: frame {number} is {frame.shape[:2]}, not {height, width}")
    if height % 2 or width % 2:
        raise ValueError(f"{path}: {height}x{width} frames; mp4 needs even sides, pad or crop")
    path = Path(path)
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")  # the suffix names the format
    writer = cv2.VideoWriter(
        str(partial), cv2.VideoWriter.fourcc(*"mp4v"), float(fps), (width, height)
    )
    if not writer.isOpened():
        raise ValueError(f"{path}: this build of OpenCV cannot write it; is the suffix .mp4?")
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))  # RGB to OpenCV's order
    writer.release()
    os.replace(partial, path)


def _files_by_name(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if file.stem in files:
            raise ValueError(
                f"{folder}: two files of one frame, {files[file.stem].name} and {file.name};"
                " remove one of them"
            )
        files[file.stem] = file
    return files


def _open_image(path: str | Path) -> Image.Image:
    try:
        return Image.open(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such image; is the dataset complete?") from error
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(_undecodable(path, error)) from error


def _whole_jpeg(data: bytes) -> np.ndarray | None:
    """RGB uint8 [H, W, 3] of a JPEG that ends as one; None leaves any other to Pillow.

    OpenCV gives the pixels that Pillow gives, in half the time, but a half-grey picture where the
    file breaks off; the mark of the end cannot stand within the data of a picture.
    """
    if not data.endswith(b"\xff\xd9"):
        return None
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags)


def _undecodable(path: str | Path, error: Exception) -> str:
    reason = str(error).strip().splitlines()
    return f"{path}: does not decode ({reason[0] if reason else error!r}); get the file again"


def _check_frame(frame: np.ndarray, where: str) -> None:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(
            f"{where}: expected RGB uint8 [H, W, 3], found {frame.dtype} {frame.shape}"
        )


def _checked(index: int, length: int, path: Path) -> int:
    if not 0 <= index < length:
        raise IndexError(f"{path}: frame {index} of {length} frames")
    return int(index)


def _number_key(name: str) -> list[tuple[int, int | str]]:
    """Sorts '9' before '10', and '00009' alike."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]
