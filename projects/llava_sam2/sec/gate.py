"""When the language model is asked: where the colours of a video change from frame to frame.

SeC's gate (Zhang et al., 2025): hue x saturation histograms of neighbouring frames, Bhattacharyya's
distance, 0.35; see ``projects/common/scenes.py``.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import Literal

import numpy as np

from projects.common.scenes import THRESHOLD, colour_histogram, histogram_distance
from projects.sam2_video.frame_reader import Video

Colours = Literal["swapped", "rgb"]
_RECENT = 4  # the frame at hand, the one before it, and those that are read ahead


class SceneGate:
    """Says whether a new scene begins between two frames.

    Args:
        threshold: of the distance, 0 (alike) to 1; a negative one opens on every frame.
        colours: ``swapped`` takes red for blue, as SeC's released inference does: it hands RGB to
            a conversion from BGR. Saturation stays, hue is mirrored, and at the borders of bins
            pixels fall into other ones, which can decide near the threshold. ``rgb`` does not.

    Raises:
        ValueError: another word.
    """

    def __init__(self, *, threshold: float = THRESHOLD, colours: Colours = "swapped") -> None:
        if colours not in ("swapped", "rgb"):
            raise ValueError(f"colours are 'swapped' or 'rgb', got {colours!r}")
        self.threshold = threshold
        self.colours = colours

    def histogram(self, frame: np.ndarray) -> np.ndarray:
        """What two frames are compared by; ``frame`` is RGB uint8 [H, W, 3]."""
        if self.colours == "swapped":
            frame = np.ascontiguousarray(frame[..., ::-1])
        return colour_histogram(frame)

    def opens(self, before: np.ndarray, now: np.ndarray) -> bool:
        """Whether two histograms differ by more than the threshold."""
        return histogram_distance(before, now) > self.threshold


class SceneWatch:
    """A gate over one video; each frame is looked at once.

    Args:
        gate: says what a change is.
        video: RGB frames of one size.
    """

    def __init__(self, gate: SceneGate, video: Video) -> None:
        self.gate = gate
        self.video = video
        self._seen: dict[int, np.ndarray] = {}

    def changes(self, before: int, frame: int) -> bool:
        """Whether a new scene begins from one frame to another; never at the end of the video."""
        if not 0 <= before < len(self.video):
            return False
        self._seen = {
            index: self._seen[index]
            if index in self._seen
            else self.gate.histogram(np.asarray(self.video[index]))
            for index in (before, frame)
        }
        return self.gate.opens(self._seen[before], self._seen[frame])


class RecentFrames:
    """A video whose last few frames are kept, so that tracking and guidance decode each once.

    Both read it, from two threads; decoders may be used by one at a time only.
    """

    def __init__(self, video: Video, *, keep: int = _RECENT) -> None:
        self.video = video
        self.keep = keep
        self._frames: OrderedDict[int, np.ndarray] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self.video)

    def __getitem__(self, index: int) -> np.ndarray:
        with self._lock:
            if index not in self._frames:
                self._frames[index] = self.video[index]
                if len(self._frames) > self.keep:
                    self._frames.popitem(last=False)
            return self._frames[index]
