"""One video in every layout: the same prompts and the same scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from projects.common.masks import encode_rle, write_palette_png
from projects.common.report.examples import load
from projects.common.video import write_jpeg, write_mp4
from projects.sam2_video.data.coco_video import CocoVideoSource
from projects.sam2_video.data.folders import FolderSource, ImageFolderSource
from projects.sam2_video.data.png import PaletteSource, PerObjectSource
from projects.sam2_video.data.sav import SavSource
from projects.sam2_video.evaluation.clicks import ClickBenchmark
from projects.sam2_video.evaluation.vos import VosBenchmark
from tests.sam2_video.evaluation.test_benchmarks import FRAMES, SIZE, Oracle, truth_of

EVERY = 4


class Shifted(Oracle):
    """Tracks truths that lie on every ``every``-th frame, whatever number an object has."""

    def __init__(self, every: int, first_key: int):
        super().__init__(shift=2)
        self.every, self.first_key = every, first_key

    def propagate(self, video, prompts):
        self.prompts = list(prompts)
        for frame in range(min(prompt.frame for prompt in prompts), len(video)):
            assert video[frame].shape == (*SIZE, 3)
            truths = [
                truth_of(p.object_id - self.first_key + 1, frame // self.every) for p in prompts
            ]
            yield frame, np.roll(np.stack(truths), self.shift, 1)


def grey(number: int) -> np.ndarray:
    """A picture that tells which frame it is."""
    return np.full((*SIZE, 3), 40 + 9 * number, np.uint8)


def write_images(folder: Path, numbers: range) -> None:
    folder.mkdir(parents=True)
    for number in numbers:
        write_jpeg(folder / f"{number:05d}.jpg", grey(number))


def palette(root: Path) -> PaletteSource:
    write_images(root / "images" / "a", range(FRAMES))
    (root / "masks" / "a").mkdir(parents=True)
    for frame in range(FRAMES):
        ids = truth_of(1, frame) * 1 + truth_of(2, frame) * 2
        write_palette_png(root / "masks" / "a" / f"{frame:05d}.png", ids.astype(np.uint8))
    return PaletteSource(image_root=root / "images", annotation_root=root / "masks")


def folder(root: Path) -> FolderSource:
    palette(root)
    return FolderSource(image_root=root / "images", annotation_root=root / "masks")


def palette_mp4(root: Path) -> PaletteSource:
    palette(root)
    write_mp4(root / "mp4" / "a.mp4", greys(FRAMES, root / "mp4"), 24)
    return PaletteSource(image_root=root / "mp4", annotation_root=root / "masks")


def per_object(root: Path) -> PerObjectSource:
    write_images(root / "images" / "a", range(FRAMES))
    for key in (1, 2):
        (root / "masks" / "a" / f"{key:03d}").mkdir(parents=True)
        for frame in range(FRAMES):
            mask = Image.fromarray(truth_of(key, frame).astype(np.uint8) * 255)
            mask.save(root / "masks" / "a" / f"{key:03d}" / f"{frame:05d}.png")
    return PerObjectSource(image_root=root / "images", annotation_root=root / "masks")


def coco_video(root: Path) -> CocoVideoSource:
    write_images(root / "a", range(FRAMES))
    images, annotations = [], []
    for frame in range(FRAMES):
        size = {"height": SIZE[0], "width": SIZE[1]}
        place = {"video_id": 1, "order_in_video": frame, "file_name": f"a/{frame:05d}.jpg"}
        images.append({"id": 100 + frame, **size, **place})
        for key in (1, 2):
            if truth_of(key, frame).any():  # absent objects have no annotation
                mask = encode_rle(truth_of(key, frame))
                entry = {"id": 10 * frame + key, "image_id": 100 + frame, "track_id": key}
                annotations.append({**entry, "segmentation": mask})
    path = root / "videos.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return CocoVideoSource(annotation_file=path, image_root=root)


def write_masklets(root: Path) -> SavSource:
    masklets = [[encode_rle(truth_of(key, t)) for key in (1, 2)] for t in range(FRAMES)]
    (root / "a_manual.json").write_text(json.dumps({"masklet": masklets}))
    return SavSource(annotation_root=root, frame_root=root)


def sav_frames(root: Path) -> SavSource:
    write_images(root / "a", range((FRAMES - 1) * EVERY + 1))
    return write_masklets(root)


def sav_mp4(root: Path) -> SavSource:
    write_mp4(root / "a.mp4", greys((FRAMES - 1) * EVERY + 3, root), 24)
    return write_masklets(root)


def greys(count: int, folder: Path) -> list[np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    return [grey(number) for number in range(count)]


def check_pictures(record: dict, is_sav: bool) -> None:
    """What the report draws: each frame has its own grey, the masks those of the frame."""
    record = json.loads(json.dumps(record))
    picture = load(record, "test")
    shown = [round(frame) for frame in np.linspace(0, FRAMES - 1, min(6, FRAMES))]
    for frame, pixels, truth in zip(shown, picture.frames, picture.truth, strict=True):
        number = frame * (EVERY if is_sav else 1)
        assert abs(pixels.mean() - grey(number).mean()) < 4.5
        assert np.array_equal(truth, truth_of(int(record["object"]) + is_sav, frame))


LAYOUTS = [palette, folder, palette_mp4, per_object, coco_video, sav_frames, sav_mp4]


@pytest.mark.parametrize("write", LAYOUTS)
def test_a_layout_changes_no_score(write, tmp_path):
    reference = VosBenchmark(source=palette(tmp_path / "reference"))
    expected = reference.predict(Oracle(shift=2), 0)
    (tmp_path / "data").mkdir()
    source = write(tmp_path / "data")
    is_sav = isinstance(source, SavSource)
    model = Shifted(EVERY if is_sav else 1, first_key=0 if is_sav else 1)
    benchmark = VosBenchmark(source=source)
    records = benchmark.predict(model, 0)
    assert [prompt.frame for prompt in model.prompts] == [0, 2 * model.every]
    assert np.array_equal(model.prompts[1].mask, truth_of(2, 2))
    for record, other in zip(records, expected, strict=True):
        assert (record["J"], record["F"]) == (other["J"], other["F"])
        assert 0.5 < record["J"] < 1 and record["gt"] == other["gt"]
    check_pictures(records[0], is_sav)
    assert set(benchmark.summarise(records)) == set(benchmark.metrics)
    assert benchmark.fingerprint() != reference.fingerprint()
    assert benchmark.fingerprint() == VosBenchmark(source=source).fingerprint()


@pytest.mark.parametrize("write", LAYOUTS)
def test_clicks_on_the_first_frame_of_every_layout(write, tmp_path):
    class Whole(Oracle):
        def propagate(self, video, prompts):
            yield 0, np.stack([truth_of(1, 0)] * len(prompts))

    benchmark = ClickBenchmark(source=write(tmp_path))
    (record,) = benchmark.predict(Whole(), 0)
    assert record["iou"] == 1 and set(benchmark.summarise([record])) == set(benchmark.metrics)
    assert Path(record["image"]).is_file()
    assert ("frame" in record) == (write in (palette_mp4, sav_mp4))
    picture = load(record, "test")
    assert abs(picture.frames[0].mean() - grey(0).mean()) < 3
    assert np.array_equal(picture.truth[0], truth_of(1, 0))
    assert picture.truth[0][picture.click[::-1]]


def test_the_picture_of_a_single_image_is_named(tmp_path):
    write_images(tmp_path / "images", range(1))
    (tmp_path / "masks").mkdir()
    write_palette_png(tmp_path / "masks" / "00000.png", truth_of(1, 0).astype(np.uint8))
    source = ImageFolderSource(image_root=tmp_path / "images", annotation_root=tmp_path / "masks")

    class Whole(Oracle):
        def propagate(self, video, prompts):
            yield 0, np.stack([truth_of(1, 0)] * len(prompts))

    (record,) = ClickBenchmark(source=source).predict(Whole(), 0)
    assert record["image"] == str(tmp_path / "images" / "00000.jpg")
