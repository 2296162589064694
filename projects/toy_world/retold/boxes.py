"""Box files: what the masks of videos span, ``special_jsons/spatial``.

Boxes are [x1, y1, x2, y2] in pixels, x2 and y2 exclusive, or null; taken from decoded pixels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from projects.common.masks import decode_rle, mask_to_box
from projects.common.plain_pickle import load_plain_pickle
from projects.toy_world.layouts.files import Records, write_json
from projects.toy_world.world import World

Tracks = Mapping[str, list[dict[str, Any] | None]]


def write(world: World, records: Mapping[str, Records], root: Path) -> None:
    """Of MeViS, ReVOS and Ref-YouTube-VOS, whose files are there."""
    videos, out = root / "video_datas", root / "special_jsons" / "spatial"
    for source, target in (
        (videos / "mevis" / "train" / "mask_dict.json", out / "mevis" / "mevis_bbox.json"),
        (videos / "ReVOS" / "mask_dict.json", out / "revos" / "revos_bbox.json"),
    ):
        write_json(target, _boxes(json.loads(source.read_text(encoding="utf-8"))))
    rvos = videos / "rvos"
    numbered = _boxes(load_plain_pickle(rvos / "mask_dict.pkl"))
    write_json(out / "refytvos" / "ref_ytvos_bbox.json", numbered)
    meta = rvos / "meta_expressions" / "train" / "meta_expressions.json"
    content = json.loads(meta.read_text(encoding="utf-8"))
    numbers = iter(numbered)
    for video in content["videos"].values():
        for key in sorted(video["expressions"]):
            video["expressions"][key]["anno_id"] = [next(numbers)]
    write_json(out / "refytvos" / "ref_ytvos_expressions.json", content)


def _boxes(tracks: Tracks) -> dict[str, list[tuple[int, int, int, int] | None]]:
    return {
        key: [
            None if rle is None else mask_to_box(decode_rle(rle, where="toy world"))
            for rle in track
        ]
        for key, track in tracks.items()
    }
