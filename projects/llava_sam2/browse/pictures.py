"""Pictures of a sample as HTML: tiles, frames with masks and boxes, clips, feature timelines."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from projects.common.visualise import PALETTE, Colour, data_uri, overlay, resize
from projects.llava_sam2.datasets.box_text import Box
from projects.llava_sam2.structures import GroundingSample
from projects.sam2_video.data.clip import Clip

HEIGHT = 200  # of a picture on the page, in pixels; drawn at twice that
WIDTH, STRIP = 1000, 64  # of a timeline


Answer = Sequence[Sequence[Box]]  # the boxes of each frame


def tiles_html(sample: GroundingSample, answers: Sequence[Answer] = ()) -> str:
    """What the language model sees. Regions lie on the last tile, which is the whole picture.

    Boxes of answers, a colour for each answer: on the tiles of the frames, or on the last tile.
    """
    assert sample.pixel_values is not None
    tiles = [_shown(tile) for tile in sample.pixel_values]
    if sample.regions is not None:
        tiles[-1] = overlay(tiles[-1], _fitted(sample.regions, tiles[-1]))
    for answer, colour in zip(answers, cycle(PALETTE)):
        first = 0 if len(answer) == len(tiles) else len(tiles) - 1
        for tile, boxes in zip(range(first, len(tiles)), answer, strict=False):
            tiles[tile] = _draw_boxes(tiles[tile], boxes, colour)
    return _strip(tiles)


def frames_html(sample: GroundingSample) -> str:
    """What SAM 2 sees, with the masks that it is to find."""
    assert sample.grounding_frames is not None
    frames = []
    for number, frame in enumerate(sample.grounding_frames):
        image = _shown(frame)
        if sample.masks is not None:
            image = overlay(image, _fitted(sample.masks[:, number], image))
        frames.append(image)
    return _strip(frames)


def clip_html(clip: Clip) -> str:
    """Frames of a clip with a colour for each object."""
    frames = [
        overlay(image, _fitted(masks, image))
        for image, masks in ((_shown(f), m) for f, m in zip(clip.frames, clip.masks, strict=True))
    ]
    return _strip(frames)


def timeline_html(features: Tensor, span: tuple[int, int] | None) -> str:
    """A bar for each frame, as high as its features differ from the frame before; the answer's
    frames stand on colour."""
    unit = F.normalize(features.float(), dim=-1)
    change = torch.cat([torch.zeros(1), 1 - (unit[1:] * unit[:-1]).sum(-1)]).clamp(min=0)
    heights = (change / change.max().clamp(min=1e-6)).numpy()
    step = WIDTH / len(heights)
    parts = []
    if span is not None:
        first, last = span
        parts.append(
            f'<rect class="span" x="{first * step:.1f}" y="0" '
            f'width="{(last - first + 1) * step:.1f}" height="{STRIP}"/>'
        )
    for number, height in enumerate(heights):
        tall = max(2.0, float(height) * (STRIP - 4))
        parts.append(
            f'<rect x="{number * step + step * 0.15:.1f}" y="{STRIP - tall:.1f}" '
            f'width="{step * 0.7:.1f}" height="{tall:.1f}"><title>{number}</title></rect>'
        )
    return (
        f'<svg class="timeline" viewBox="0 0 {WIDTH} {STRIP}" preserveAspectRatio="none" '
        f'role="img" aria-label="change of the features over time">{"".join(parts)}</svg>'
    )


def _shown(frame: Tensor) -> np.ndarray:
    """A frame [3, H, W] as a picture of the page's height, uint8 [h, w, 3]."""
    image = frame.permute(1, 2, 0).contiguous().numpy()
    return resize(image, (round(2 * HEIGHT * image.shape[1] / image.shape[0]), 2 * HEIGHT))


def _fitted(masks: Tensor, image: np.ndarray) -> np.ndarray:
    """Masks bool [N, h, w] at the picture's size, each pixel the nearest one."""
    if not len(masks):
        return np.zeros((0, *image.shape[:2]), dtype=bool)
    grown = F.interpolate(masks[None].to(torch.uint8), size=image.shape[:2], mode="nearest-exact")
    return grown[0].bool().numpy()


def _draw_boxes(image: np.ndarray, boxes: Sequence[Box], colour: Colour) -> np.ndarray:
    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas)
    for box in boxes:
        corners = np.array(box) * np.array([canvas.width, canvas.height] * 2)
        pen.rectangle(tuple(corners.tolist()), outline=colour, width=5)
    return np.array(canvas)


def _strip(images: Sequence[np.ndarray]) -> str:
    shown = "".join(f'<img alt="" height="{HEIGHT}" src="{data_uri(i)}">' for i in images)
    return f'<div class="strip">{shown}</div>'
