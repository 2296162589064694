"""One picture of what a model does: images above, a film strip below, expressions under each.

::

    +----------+  +----------+  +----------+
    |  image   |  |  image   |  |  image   |      prediction on each
    +----------+  +----------+  +----------+
    "expression"  "expression"  "expression"
    +------+ +------+ +------+ +------+ +------+ +------+
    |      frames of a video, prediction on each        |
    +------+ +------+ +------+ +------+ +------+ +------+
    "expression"
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from projects.common import visualise
from projects.common.report import examples
from projects.common.report.results import Results, write_whole
from projects.common.report.scores import MODEL, split_key

WIDTH, MARGIN, GAP = 1200, 24, 16
LINE = 24  # height of a line of a caption
IMAGES, VIDEOS = 4, 2
_BACKGROUND, _INK = (250, 249, 247), (29, 33, 38)


def write_overview(results: Results, path: str | Path) -> Path:
    """Compose the picture from the records of good answers and write it as PNG.

    The examples are those that the report shows as "around the best tenth".

    Raises:
        ValueError: no record of an image or a video with an expression.
        FileNotFoundError: an image of a record is gone.
    """
    images, videos = _good_examples(results)
    rows = []
    if images:
        rows.append(_row(images))
    rows += [_row([video]) for video in videos]
    if not rows:
        raise ValueError(
            f"{results.folder}: no records with expressions to draw; evaluate a referring "
            f"benchmark first (its records lie in <stage>/predictions)"
        )
    height = 2 * MARGIN + sum(row.height for row in rows) + GAP * (len(rows) - 1)
    canvas = Image.new("RGB", (WIDTH, height), _BACKGROUND)
    top = MARGIN
    for row in rows:
        canvas.paste(row, (MARGIN, top))
        top += row.height + GAP
    return write_whole(Path(path), visualise.encode(np.asarray(canvas), "png"))


def _good_examples(results: Results) -> tuple[list[examples.Picture], list[examples.Picture]]:
    pictures: dict[bool, list[examples.Picture]] = {False: [], True: []}
    for name, records in results.records.items():
        asked = [record for record in records if record.get("expression")]
        if split_key(f"{name}/-")[3] != MODEL or not asked:
            continue
        is_video = "video" in asked[0]
        wanted = (VIDEOS if is_video else IMAGES) - len(pictures[is_video])
        for record in examples.select(asked, max(0, wanted))["good"]:
            pictures[is_video].append(examples.load(record, name))
    return pictures[False], pictures[True]


def _row(pictures: list[examples.Picture]) -> Image.Image:
    """Pictures of equal width in a row over the full width, captions below."""
    width = (WIDTH - 2 * MARGIN - GAP * (len(pictures) - 1)) // len(pictures)
    panels = [_panel(picture, width) for picture in pictures]
    captions = [_lines(f"{p.caption} ({p.metric} {p.score:.2f})", width) for p in pictures]
    height = max(panel.shape[0] for panel in panels)
    below = 8 + LINE * max(map(len, captions))
    row = Image.new("RGB", (WIDTH - 2 * MARGIN, height + below), _BACKGROUND)
    draw = ImageDraw.Draw(row)
    for index, (panel, lines) in enumerate(zip(panels, captions, strict=True)):
        left = index * (width + GAP)
        row.paste(Image.fromarray(panel), (left, 0))
        for number, line in enumerate(lines):
            top = panel.shape[0] + 8 + LINE * number
            draw.text((left, top), line, fill=_INK, font=_font())
    return row


def _panel(picture: examples.Picture, width: int) -> np.ndarray:
    if picture.is_video:
        scale = visualise.legible_scale(picture.frames[0])
        strip = visualise.film_strip(picture.frames, picture.prediction, scale=scale, gap=8)
    else:
        scale = visualise.legible_scale(picture.frames[0], minimum=width)
        colour = visualise.PREDICTION
        strip = visualise.marked(picture.frames[0], picture.prediction[0], colour, scale)
    height = max(1, round(strip.shape[0] * width / strip.shape[1]))
    return visualise.resize(strip, (width, height))


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(18)


def _lines(text: str, width: int) -> list[str]:
    """``text`` broken at spaces so that no line is wider than ``width`` pixels."""
    font, lines = _font(), [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
