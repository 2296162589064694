"""Writers that draw nothing: they tell in more formats what other layouts' images and videos show.

A writer gets the records of all layouts, after their own files are written. Each tells of the first
few items of a split only: enough to train, evaluate and test on, and hardly any time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from projects.toy_world.layouts.files import Records
from projects.toy_world.retold import (
    boxes,
    captions,
    chat,
    references,
    regions,
    sa2va_json,
    times,
    videos,
)
from projects.toy_world.world import World

Write = Callable[[World, Mapping[str, Records], Path], None]

WRITERS: tuple[Write, ...] = (
    references.write,
    sa2va_json.write,
    chat.write,
    captions.write,
    regions.write,
    videos.write,
    boxes.write,  # of the masks that others have written
    times.write,
)
