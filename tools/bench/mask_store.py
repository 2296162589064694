"""A mask dictionary as a store against reading the json in each process.

    python tools/bench/mask_store.py [--megabytes 1024] [--workers 1 8] [--json-workers 1 2]

Writes a synthetic ``mask_dict.json`` (ragged masks of 1280x720, every eleventh null), makes its
store, then lets N processes at once become ready to read any mask: wall time until all are, memory
that a process has for itself (pages of the store's file are the system's), and processor time of a
random mask.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import projects  # noqa: F401  (compatibility lines first)

# isort: split
import numpy as np

from projects.common.mask_store import MaskStore, open_masks
from projects.common.masks import decode_rle, encode_rle
from projects.llava_sam2.datasets.pixels import resize_masks
from tools.bench import common

HEIGHT, WIDTH, FRAMES, SIDE = 720, 1280, 80, 256
READS = 2000
PARSED = 3.0  # memory of the json's text and of what it is parsed to, over its size


def write_dictionary(path: Path, megabytes: int) -> int:
    """Tracks of 80 frames until the file is as large; returns the number of masks."""
    rng = np.random.default_rng(0)
    texts = [json.dumps(encode_rle(ragged(rng))) for _ in range(100)] + ["null"] * 10
    tracks = 0
    with path.open("w") as file:
        file.write("{")
        while file.tell() < megabytes << 20:
            chosen = rng.integers(len(texts), size=FRAMES)
            track = ", ".join(texts[number] for number in chosen)
            file.write(f'{", " if tracks else ""}"{tracks}": [{track}]')
            tracks += 1
        file.write("}")
    return tracks * FRAMES


def ragged(rng: np.random.Generator) -> np.ndarray:
    """A disc whose outline trembles, as annotated ones do."""
    y, x = np.arange(HEIGHT)[:, None], np.arange(WIDTH)
    middle, radius = rng.uniform((200, 350), (520, 930)), rng.uniform(120, 300)
    half = np.sqrt(np.maximum(radius**2 - (y - middle[0]) ** 2, 0))
    left, right = middle[1] - half, middle[1] + half
    tremble = rng.normal(0, 2, (2, HEIGHT, 1)) * (half > 0)
    return (x > left + tremble[0]) & (x < right + tremble[1])


def own_bytes() -> int:
    """Memory of this process that is neither shared nor a clean page of a file (Linux)."""
    lines = (common.PROC / "smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) * 1024


def read_json(path: Path) -> Callable[[int, int], Any]:
    masks = json.loads(path.read_text())
    keys = list(masks)
    return lambda track, frame: masks[keys[track]][frame]


def read_store(path: Path) -> Callable[[int, int], Any]:
    store = open_masks(path)
    return lambda track, frame: store[str(track)].rle(frame)


def be_ready(way: Callable, path: Path, tracks: int, start: Any, results: Any) -> None:
    gc.freeze()  # as a loader's workers do: a collection would write to all that is inherited
    start.wait()
    before, began = own_bytes(), time.perf_counter()
    read = way(path)
    read(tracks // 2, 0)
    ready = time.perf_counter() - began
    places = np.random.default_rng(1).integers((tracks, FRAMES), size=(READS, 2)).tolist()
    began = time.process_time()
    for track, frame in places:
        read(track, frame)
    each = (time.process_time() - began) / READS
    results.put((ready, own_bytes() - before, each))


def run_workers(way: Callable, path: Path, tracks: int, workers: int) -> dict[str, Any]:
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    processes = [
        context.Process(target=be_ready, args=(way, path, tracks, start, results))
        for _ in range(workers)
    ]
    for process in processes:
        process.start()
    start.set()
    found = np.array([results.get() for _ in processes])
    for process in processes:
        process.join()
    return {
        "ready_s": float(found[:, 0].max()),
        "own_memory_MB": float(found[:, 1].max() / 1e6),
        "random_mask_us": float(np.median(found[:, 2]) * 1e6),
    }


def available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo has no MemAvailable: this measurement needs Linux")


def measure_workers(
    path: Path, tracks: int, counts: list[int], json_counts: list[int]
) -> list[dict[str, Any]]:
    rows = []
    for name, way, wanted in (
        ("store", read_store, counts),
        ("json in each", read_json, json_counts),
    ):
        for workers in wanted:
            needed = path.stat().st_size * PARSED * workers
            if way is read_json and needed > available_memory() * 0.8:
                skipped = f"left out, needs {needed / 1e9:.0f} GB"
                found: dict[str, Any] = dict.fromkeys(
                    ("ready_s", "own_memory_MB", "random_mask_us"), skipped
                )
            else:
                found = run_workers(way, path, tracks, workers)
            rows.append({"masks": name, "processes": workers, **found})
    return rows


def measure_decoding(store: MaskStore, repeats: int) -> list[dict[str, Any]]:
    """A mask of 1280x720 at the resolution of the loss: from its runs, and the long way."""
    track = store["0"]
    frame = next(t for t in range(FRAMES) if track.rle(t) is not None)

    def long_way() -> Any:
        return resize_masks(decode_rle(track.rle(frame), where="bench"), SIDE)

    def short_way() -> Any:
        return track.sample(frame, (HEIGHT, WIDTH), SIDE)

    def many(read: Callable[[], Any]) -> Callable[[], None]:
        return lambda: [read() for _ in range(50)] and None

    np.testing.assert_array_equal(short_way(), long_way().numpy())
    pairs = common.run_pairs(many(short_way), many(long_way), repeats=repeats, clock="cpu")
    per = {
        "runs_us": min(pairs.first) / 50 * 1e6,
        "decode_and_resize_us": min(pairs.second) / 50 * 1e6,
    }
    return [{"to": f"{SIDE}x{SIDE}", **per, "ratio": pairs.ratio}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=1024, help="size of the json")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8])
    parser.add_argument(
        "--json-workers", type=int, nargs="+", default=[1, 2], help="that read the json themselves"
    )
    parser.add_argument("--folder", type=Path, help="for the files, default a temporary one")
    common.add_arguments(parser)
    arguments = parser.parse_args()
    common.start(arguments)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "mask_dict.json"
        masks = write_dictionary(path, arguments.megabytes)
        with common.peak_memory() as peak:
            began, work = time.perf_counter(), time.process_time()
            store = open_masks(path)
            seconds, work = time.perf_counter() - began, time.process_time() - work
        made = {
            "json_MB": path.stat().st_size / 1e6,
            "masks": masks,
            "store_MB": store.path.stat().st_size / 1e6,
            "conversion_s": seconds,
            "processor_s": work,
            "peak_memory_MB": peak.value / 1e6,
        }
        decoding = measure_decoding(store, arguments.repeats)
        del store
        workers = measure_workers(path, masks // FRAMES, arguments.workers, arguments.json_workers)
    settings = {"made": made, "decoding": decoding}
    sys.stdout.write(common.table([made]) + "\n" + common.table(decoding) + "\n")
    common.report("mask store", workers, output=arguments.output, settings=settings)


if __name__ == "__main__":
    main()
