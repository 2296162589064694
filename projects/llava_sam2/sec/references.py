"""What the language model is shown of an object: its first frame, and the last few that were kept.

A reference is the picture with the contour at the size of a tile, and, once it has been looked at,
its visual tokens, which never change. Seven of them at most, however long the video.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass
class Reference:
    """An outlined frame."""

    frame: int
    picture: Tensor  # [3, h, w] uint8
    prompted: bool  # the user's own mask, not a tracked one
    visual: Tensor | None = None  # [V, W]


class References:
    """The references of one object.

    Args:
        kept: references beside the first one, 6 in SeC's inference.
    """

    def __init__(self, *, kept: int) -> None:
        self.first: Reference | None = None
        self.last: deque[Reference] = deque(maxlen=kept)

    def __len__(self) -> int:
        return (self.first is not None) + len(self.last)

    def __iter__(self) -> Iterator[Reference]:
        """In the order in which they were added."""
        if self.first is not None:
            yield self.first
        yield from self.last

    def add(self, reference: Reference) -> None:
        """The first stays, the oldest of the others makes room."""
        if self.first is None:
            self.first = reference
        else:
            self.last.append(reference)

    def forget_tracked(self) -> None:
        """Keep what the user gave: tracking starts over, in the other direction."""
        self.last = deque((one for one in self.last if one.prompted), maxlen=self.last.maxlen)
