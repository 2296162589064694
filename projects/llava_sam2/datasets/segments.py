"""What several annotators chose among the equal pieces of a video, as DiDeMo asks them to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Span = tuple[int, int]  # first and last segment, both included

_AGREEING = 3  # of an item's annotators, those that agree best count


@dataclass(frozen=True)
class Segments:
    """Choices of annotators, and how they are scored (Hendricks et al., 2017).

    Attributes:
        chosen: a span for each annotator.
        count: segments of the video.
        seconds: length of a segment.
    """

    chosen: tuple[Span, ...]
    count: int
    seconds: float

    @classmethod
    def read(cls, times: Any, count: Any, seconds: float) -> Segments:
        """From DiDeMo's ``times`` and ``num_segments``.

        Raises:
            ValueError: saying what is wrong.
        """
        if type(count) is not int or count < 1:
            raise ValueError(f"num_segments is a positive number, found {count!r}")
        if not isinstance(times, list) or not times or not all(map(_is_pair, times)):
            raise ValueError(f"times are pairs of whole numbers, found {times!r}")
        for first, last in times:
            if first > last:
                raise ValueError(f"a choice starts at segment {first}, after its end at {last}")
            if first < 0 or last >= count:
                raise ValueError(f"segments {first} to {last} of a video that has {count}")
        return cls(tuple((first, last) for first, last in times), count, seconds)

    @property
    def duration(self) -> float:
        """Seconds of the video that were annotated, from its start."""
        return self.count * self.seconds

    def best(self) -> tuple[float, float]:
        """The choice that overlaps most with those of all annotators, in seconds."""
        totals = [sum(span_iou(one, other) for other in self.chosen) for one in self.chosen]
        first, last = self.chosen[int(np.argmax(totals))]  # the first of equals
        return first * self.seconds, (last + 1) * self.seconds

    def nearest(self, start: float, end: float) -> Span:
        """The span that overlaps most with an interval in seconds, or lies nearest to it."""

        def fit(span: Span) -> tuple[float, float]:
            first, last = span[0] * self.seconds, (span[1] + 1) * self.seconds
            common = max(0.0, min(end, last) - max(start, first))
            covered = (end - start) + (last - first) - common
            return common / covered, -abs((first + last) - (start + end))

        spans = [(i, j) for i in range(self.count) for j in range(i, self.count)]
        return max(spans, key=fit)

    def score(self, span: Span) -> tuple[bool, float]:
        """Whether a span is right, and its mean overlap.

        Both as the mean over the three annotators that agree with it best: right, if those chose
        exactly this span.
        """
        overlaps = sorted((span_iou(span, other) for other in self.chosen), reverse=True)
        agreeing = overlaps[:_AGREEING]
        return all(overlap == 1.0 for overlap in agreeing), float(np.mean(agreeing))


def span_iou(one: Span, other: Span) -> float:
    """Segments in both spans over segments in any, as if there were none between two spans."""
    common = max(0, min(one[1], other[1]) - max(one[0], other[0]) + 1)
    return common / (max(one[1], other[1]) - min(one[0], other[0]) + 1)


def _is_pair(value: Sequence[Any]) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(item) is int for item in value)
