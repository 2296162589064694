"""Splits whose masks are with a benchmark's server: predictions, and the zip that it takes."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from projects.common.evaluation import read_records
from projects.common.masks import decode_rle, encode_rle
from projects.common.progress import track
from projects.common.whole_file import whole_file
from projects.llava_sam2.datasets.rows import Row
from projects.llava_sam2.evaluation.breakdown import Record
from projects.llava_sam2.evaluation.refer_image import fingerprint, first_mask
from projects.llava_sam2.evaluation.responders import Responder

# Where a server looks for <video>/<expression id>/<frame>.png within the zip.
LAYOUTS = {"mevis": "", "ref_ytvos": "Annotations"}
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same predictions make the same file


class SubmissionBenchmark:
    """Predicts on videos whose masks are not public; ``tools/make_submission.py`` packs that.

    Its only metrics are ``answered``, the share of expressions for which a [SEG] came, and
    ``empty``, the share of expressions with nothing on any frame.

    Args:
        rows: of videos, from an annotation source.
        respond: who answers.
    """

    metrics = ("answered", "empty")

    def __init__(self, *, rows: Sequence[Row], respond: Responder) -> None:
        self.rows = rows
        self.respond = respond

    def __len__(self) -> int:
        return len(self.rows)

    def predict(self, model: Any, index: int) -> list[Record]:
        row = self.rows[index]
        answers = self.respond.answer(model, row)
        size = row[0].shape[:2]
        records = []
        for expression, answer in zip(row.expressions, answers, strict=True):
            masks = [first_mask(answer, frame, size) for frame in range(len(row))]
            records.append(
                {
                    "video": str(row.source),
                    "frames": list(row.frames or ()),
                    "expression": expression.text,
                    "key": expression.key,
                    "answer": answer.text,
                    "seg_tokens": len(answer.masks),
                    "empty": not any(mask.any() for mask in masks),
                    "pred": [encode_rle(mask) for mask in masks],
                }
            )
        return records

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        return {
            "answered": float(np.mean([record["seg_tokens"] > 0 for record in records])),
            "empty": float(np.mean([record["empty"] for record in records])),
        }

    def fingerprint(self) -> str:
        return fingerprint(self.rows, self.respond)


def write_submission(records_file: str | Path, out: str | Path, *, layout: str) -> int:
    """Pack a benchmark's records as a server takes them; returns the number of expressions.

    Masks are written as ``<video>/<expression id>/<frame>.png``, 0 and 255.

    Args:
        records_file: ``predictions/<benchmark>.jsonl`` of an evaluation.
        out: the zip; written whole or not at all.
        layout: "mevis" or "ref_ytvos", which wants a folder ``Annotations`` around it.

    Raises:
        FileNotFoundError, ValueError: no records, or none of videos.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout is one of {', '.join(LAYOUTS)}; got {layout!r}")
    records_file, out = Path(records_file), Path(out)
    if not records_file.is_file():
        raise FileNotFoundError(f"{records_file}: no such records; evaluate first (tools/test.py)")
    records = read_records(records_file)
    with whole_file(out) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, record in enumerate(track(records, description=f"Writing {out.name}")):
            where = f"{records_file}: line {number + 1}"
            for name, content in _pngs(record, where):
                path = str(PurePosixPath(LAYOUTS[layout]) / name)
                archive.writestr(zipfile.ZipInfo(path, _EPOCH), content)
    return len(records)


def _pngs(record: Record, where: str) -> list[tuple[str, bytes]]:
    """The names and contents of one expression's files."""
    frames, masks = record.get("frames"), record.get("pred")
    if not frames or not isinstance(masks, list) or len(frames) != len(masks):
        raise ValueError(
            f"{where}: {len(frames or ())} frames and {len(masks or ())} masks; a record of a "
            "referring-video benchmark has one mask a frame"
        )
    return [
        (f"{record['key']}/{PurePosixPath(frame).stem}.png", _png(mask, where))
        for frame, mask in zip(frames, masks, strict=True)
    ]


def _png(rle: dict[str, Any], where: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(decode_rle(rle, where=where).astype(np.uint8) * 255).save(content, "PNG")
    return content.getvalue()
