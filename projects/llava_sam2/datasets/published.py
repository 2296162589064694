"""How large the released datasets are, to compare a download with.

Images or videos, refs (objects that are referred to) and sentences, which are called expressions
here, or queries. A dataset that was released more than once has several counts; one is enough.

    RefCOCO, +, g          TensorFlow Datasets (``ref_coco``) and the papers
    MeViS                  the two releases of its repository, 2023 and 2024
    Ref-YouTube-VOS        Seo et al., ECCV 2020: full-video expressions; of its 507 validation
                           videos 202 stayed for validation
    Ref-DAVIS17            Khoreva et al., ACCV 2018: the videos of DAVIS 2017's validation
    Charades-STA, DiDeMo   Gao et al. and Hendricks et al., ICCV 2017
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from projects.llava_sam2.datasets.temporal_row import TemporalRow


class Published(NamedTuple):
    """Counts of one split; None where no source was found."""

    images: int | None = None
    refs: int | None = None
    expressions: int | None = None
    videos: int | None = None
    queries: int | None = None


Key = tuple[str, ...]  # dataset, split; of RefCOCO's family who split it stands between

PUBLISHED: dict[Key, tuple[Published, ...]] = {
    ("refcoco", "unc", "train"): (Published(16994, 42404, 120624),),
    ("refcoco", "unc", "val"): (Published(1500, 3811, 10834),),
    ("refcoco", "unc", "testA"): (Published(750, 1975, 5657),),
    ("refcoco", "unc", "testB"): (Published(750, 1810, 5095),),
    ("refcoco", "google", "train"): (Published(19213, 40000),),
    ("refcoco", "google", "val"): (Published(4559, 5000),),
    ("refcoco", "google", "test"): (Published(4527, 5000),),
    ("refcoco+", "unc", "train"): (Published(16992, 42278, 120191),),
    ("refcoco+", "unc", "val"): (Published(1500, 3805, 10758),),
    ("refcoco+", "unc", "testA"): (Published(750, 1975, 5726),),
    ("refcoco+", "unc", "testB"): (Published(750, 1798, 4889),),
    ("refcocog", "umd", "train"): (Published(21899, 42226, 80512),),
    ("refcocog", "umd", "val"): (Published(1300, 2573, 4896),),
    ("refcocog", "umd", "test"): (Published(2600, 5023, 9602),),
    ("refcocog", "google", "train"): (Published(24698, 44822, 85474),),
    ("refcocog", "google", "val"): (Published(4650, 5000, 9536),),
    ("mevis", "train"): (
        Published(videos=1662, expressions=23051),
        Published(videos=1662, expressions=27502),
    ),
    ("mevis", "valid_u"): (
        Published(videos=50, expressions=793),
        Published(videos=50, expressions=907),
    ),
    ("mevis", "valid"): (
        Published(videos=140, expressions=2236),
        Published(videos=140, expressions=2523),
    ),
    ("ref_ytvos", "train"): (Published(videos=3471, expressions=12913),),
    ("ref_ytvos", "valid"): (Published(videos=202), Published(videos=507, expressions=2096)),
    ("ref_davis17", "valid"): (Published(videos=30),),
    ("charades", "train"): (Published(queries=12408),),
    ("charades", "test"): (Published(queries=3720),),
    ("didemo", "train"): (Published(videos=8395),),
    ("didemo", "val"): (Published(videos=1065),),
    ("didemo", "test"): (Published(videos=1004),),
}

# reader -> the key of what its arguments ask for
_KEYS: dict[str, Callable[[Mapping[str, Any]], Key]] = {
    "refcoco_rows": lambda a: (Path(a["root"]).name, a.get("split_by", "unc"), a["split"]),
    "mevis_rows": lambda a: ("mevis", Path(a["root"]).name),
    "ref_ytvos_rows": lambda a: ("ref_ytvos", a["split"]),
    "ref_davis_rows": lambda a: ("ref_davis17", a.get("split", "valid")),
    "charades_rows": lambda a: ("charades", Path(a["file"]).stem.rpartition("_")[2]),
    "didemo_rows": lambda a: ("didemo", Path(a["file"]).stem.removesuffix("_data")),
}


def count_rows(rows: Sequence[Any]) -> Published:
    """The same counts of what was read; a ref is an object (or a set of them) that is named."""
    if isinstance(rows[0], TemporalRow):
        return Published(videos=len({row.video for row in rows}), queries=len(rows))
    refs = expressions = 0
    for row in rows:
        refs += len({expression.objects for expression in row.expressions})
        expressions += len(row.expressions)
    if rows[0].frames is None:
        return Published(images=len(rows), refs=refs, expressions=expressions)
    return Published(videos=len(rows), refs=refs, expressions=expressions)


def differences(rows: Sequence[Any], *, reader: str, arguments: Mapping[str, Any]) -> list[str]:
    """Where the rows of a split differ from its published counts, in words; empty: nowhere.

    A split that nothing is known of differs nowhere. Of several releases, the nearest counts.

    Args:
        reader: name of the function that made the rows.
        arguments: of it.
    """
    key = _KEYS[reader](arguments) if reader in _KEYS else None
    if key not in PUBLISHED:
        return []
    found = count_rows(rows)
    return min((_compare(found, known) for known in PUBLISHED[key]), key=len)


def _compare(found: Published, known: Published) -> list[str]:
    return [
        f"{count} {name}, published are {expected}"
        for name, count, expected in zip(Published._fields, found, known, strict=True)
        if expected is not None and count != expected
    ]
