"""Large annotation files in the memory of a loader's workers: rows as bytes, and as objects.

    python tools/bench/rows.py [--records 200000] [--workers 8]

Writes synthetic files of the released shapes (LLaVA's conversations, RefCOCO's polygons, MeViS's
boxes), makes their rows once, then lets N forked processes read every row, as workers do in the
course of an epoch: processor time and highest memory of making the rows, memory that they hold,
memory that each worker then has for itself, and processor time of a row that is read.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import pickle
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import projects  # noqa: F401  (compatibility lines first)

# isort: split
import numpy as np

from projects.common.video import write_jpeg
from projects.llava_sam2.datasets.box_rows import box_rows
from projects.llava_sam2.datasets.llava_json import llava_rows
from projects.llava_sam2.datasets.refcoco import refcoco_rows
from tools.bench import common
from tools.bench.mask_store import own_bytes

BOX_FRAMES, BOX_OBJECTS = 60, 4
POLYGONS, CORNERS = 8, 40  # an image's objects; COCO's polygons have about as many corners
IMAGES_PER_FOLDER = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=200_000, help="of the largest file, LLaVA's")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--folder", type=Path, help="for the files, default a temporary one")
    common.add_arguments(parser)
    args = parser.parse_args()
    common.start(args)
    table: list[dict[str, Any]] = []
    for name, prepare in (("LLaVA", llava), ("RefCOCO", refcoco), ("boxes", boxes)):
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            size, read = prepare(Path(folder), args.records)
            # each in a process of its own: what one leaves behind is not the next one's
            for kind in (_as_they_are, list):
                row = in_process(measure, read, kind, args.workers)
                row = {"file": name, "MB": size / 1e6, "rows": KINDS[kind], **row}
                common.log_row(row)
                table.append(row)
    common.report("rows", table, output=args.output, settings={"records": args.records})


def _as_they_are(rows: Sequence[Any]) -> Sequence[Any]:
    return rows


KINDS: dict[Callable, str] = {_as_they_are: "bytes", list: "objects"}


def measure(read: Callable[[], Sequence[Any]], kind: Callable, workers: int) -> dict[str, Any]:
    gc.collect()
    before, began = common.resident_memory(), time.process_time()
    with common.peak_memory() as peak:
        rows = kind(read())
    seconds = time.process_time() - began
    gc.collect()
    held = common.resident_memory() - before
    found = read_in_workers(rows, workers)
    return {
        "made_s": seconds,
        "peak_MB": peak.value / 1e6,
        "held_MB": held / 1e6,
        "workers": workers,
        "worker_MB": max(own for own, _ in found) / 1e6,
        "row_us": float(np.median([each for _, each in found]) * 1e6),
    }


def read_in_workers(rows: Sequence[Any], workers: int) -> list[tuple[int, float]]:
    """Bytes of its own and seconds a row of each of some forked processes that read every row."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=read_all, args=(rows, results)) for _ in range(workers)]
    for process in processes:
        process.start()
    found = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return found


def read_all(rows: Sequence[Any], results: Any) -> None:
    gc.freeze()  # as a loader's worker does
    before, began = own_bytes(), time.process_time()
    for row in rows:
        _touch(row)
    results.put((own_bytes() - before, (time.process_time() - began) / len(rows)))


def _touch(row: Any) -> int:
    """Read what a sample would: words, and the corners or boxes of every object."""
    if hasattr(row, "turns"):
        return sum(len(question) + len(answer) for question, answer in row.turns)
    total = sum(len(expression.text) for expression in row.expressions)
    for track in row.objects:
        numbers = track.segmentation[0] if hasattr(track, "segmentation") else _flat(track.boxes)
        total += len([number for number in numbers])
    return total


def _flat(boxes: Iterable[Any]) -> list[float]:
    return [value for box in boxes if box is not None for value in box]


def in_process(work: Callable, *arguments: Any) -> Any:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, work, *arguments))
    process.start()
    sender.close()  # a process that dies is then an EOFError
    found = receiver.recv()
    process.join()
    return found


def _answer(sender: Any, work: Callable, *arguments: Any) -> None:
    sender.send(work(*arguments))


# ---- files ---------------------------------------------------------------------------------------


def llava(root: Path, records: int) -> tuple[int, Callable[[], Sequence[Any]]]:
    """Three turns each, about as many words as LLaVA's mixture has."""
    file, images = root / "chat.json", root / "images"
    words = "a person in the red shirt stands beside the table and looks at what is on it . "
    with file.open("w") as out:
        out.write("[")
        for number in range(records):
            name = f"{number // IMAGES_PER_FOLDER}/{number:012d}.jpg"
            turns = [
                {"from": "human", "value": f"<image>\nWhat is in picture {number} ?"},
                {"from": "gpt", "value": words * 4},
                {"from": "human", "value": f"And what is not in it , {number} ?"},
                {"from": "gpt", "value": words * 6},
            ]
            record = {"id": str(number), "image": name, "conversations": turns}
            out.write((", " if number else "") + json.dumps(record))
            if number % IMAGES_PER_FOLDER == 0:
                (images / name).parent.mkdir(parents=True)
            (images / name).touch()  # their presence is looked at, nothing else
        out.write("]")
    return file.stat().st_size, lambda: llava_rows(file=file, image_root=images)


def refcoco(root: Path, records: int) -> tuple[int, Callable[[], Sequence[Any]]]:
    """A tenth as many images; two of the eight objects of each are referred to, thrice."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir()
    images, annotations, refs = [], [], []
    for number in range(records // 10):
        name = f"{number:012d}.jpg"
        (root / "images" / name).touch()
        images.append({"id": number, "file_name": name, "height": 480, "width": 640})
        for key in range(POLYGONS):
            corners = np.round(rng.uniform(10, 470, 2 * CORNERS), 2).tolist()
            ann = POLYGONS * number + key
            annotations.append({"id": ann, "image_id": number, "segmentation": [corners]})
        for key in range(2):
            sentences = [
                {"sent_id": 6 * number + 3 * key + say, "sent": "the red one on the left"}
                for say in range(3)
            ]
            ann = POLYGONS * number + key
            refs.append(
                {"ref_id": 2 * number + key, "ann_id": ann, "image_id": number, "split": "train"}
                | {"sentences": sentences}
            )
    instances = root / "instances.json"
    instances.write_text(json.dumps({"images": images, "annotations": annotations}))
    (root / "refs(unc).p").write_bytes(pickle.dumps(refs))
    return instances.stat().st_size, lambda: refcoco_rows(
        root=root, image_root=root / "images", split="train"
    )


def boxes(root: Path, records: int) -> tuple[int, Callable[[], Sequence[Any]]]:
    """A hundredth as many videos, as MeViS has them."""
    rng = np.random.default_rng(0)
    picture = root / "first.jpg"
    write_jpeg(picture, np.zeros((720, 1280, 3), np.uint8), 50)
    videos, tracks = {}, {}
    for number in range(records // 100):
        folder = root / "frames" / f"{number}"
        folder.mkdir(parents=True)
        frames = [f"{frame:05d}" for frame in range(BOX_FRAMES)]
        for frame in frames:
            (folder / f"{frame}.jpg").touch()
        shutil.copyfile(picture, folder / f"{frames[0]}.jpg")  # tells the size of the others
        expressions = {}
        for key in range(BOX_OBJECTS):
            anno = str(BOX_OBJECTS * number + key)
            corners = np.sort(rng.integers(0, 720, (BOX_FRAMES, 2, 2)), axis=1)
            corners[:, 1] += 1
            tracks[anno] = corners.reshape(BOX_FRAMES, 4).tolist()
            for say in range(3):
                entry = {"exp": "the one that walks away", "obj_id": [key], "anno_id": [int(anno)]}
                expressions[str(3 * key + say)] = entry
        videos[str(number)] = {"frames": frames, "expressions": expressions}
    file, found = root / "meta_expressions.json", root / "bbox.json"
    file.write_text(json.dumps({"videos": videos}))
    found.write_text(json.dumps(tracks))
    return found.stat().st_size, lambda: box_rows(
        file=file, boxes=found, frame_root=root / "frames"
    )


if __name__ == "__main__":
    main()
