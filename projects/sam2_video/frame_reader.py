"""Frames of a video as the network's square input, read when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import resize

Resize = Literal["training", "meta"]
T = TypeVar("T")


class Video(Protocol):
    """Frames that are read when asked for; a numpy array ``[T, H, W, 3]`` is one too."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray:
        """RGB uint8 ``[H, W, 3]``."""
        ...


def resize_frames(frames: Tensor, side: int) -> Tensor:
    """uint8 ``[N, 3, H, W]`` to ``[N, 3, side, side]``, as the training's ``ResizeSquare``."""
    return resize(frames, [side, side], antialias=True)


class FrameReader:
    """Frames of one video as input of the network, uint8 ``[1, 3, S, S]``.

    Args:
        video: RGB frames of one size.
        side: S.
        how: ``training`` resizes as this project's training does (bilinear with antialias),
            ``meta`` as Meta's predictor reads JPEG folders (Pillow, bicubic), to the last bit.
    """

    def __init__(self, video: Video, *, side: int, how: Resize) -> None:
        self.video = video
        self.side = side
        self.how = how
        self._size: tuple[int, int] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the video, known once a frame is read."""
        assert self._size is not None, "no frame has been read"
        return self._size

    def __call__(self, index: int) -> Tensor:
        """Frame ``index``.

        Raises:
            ValueError: it is not of the size of the frames read before.
        """
        image = np.asarray(self.video[index])
        size = image.shape[:2]
        self._size = self._size or (size[0], size[1])
        if size != self.size:
            raise ValueError(
                f"frame {index} is {size[0]} x {size[1]} (height x width), those read before are "
                f"{self.size[0]} x {self.size[1]}: a video has frames of one size"
            )
        if size != (self.side, self.side) and self.how == "meta":
            image = np.array(Image.fromarray(image).resize((self.side, self.side)))
        frame = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
        if frame.shape[-2:] != (self.side, self.side):
            frame = resize_frames(frame, self.side)
        return frame


def read_ahead(indices: Sequence[int], load: Callable[[int], T]) -> Iterator[T]:
    """``load(index)`` in order; another thread loads the next one while this one is used."""
    if not indices:
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead") as pool:
        coming = pool.submit(load, indices[0])
        for index in indices[1:]:
            loaded = coming.result()
            coming = pool.submit(load, index)
            yield loaded
        yield coming.result()
