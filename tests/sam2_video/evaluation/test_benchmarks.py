"""VOS and click benchmarks: what is prompted, what is scored, what is recorded."""

from __future__ import annotations

import json
import pickle
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from projects.common.masks import decode_rle, encode_rle, write_palette_png
from projects.common.video import write_mp4
from projects.sam2_video.data.coco import CocoImageSource
from projects.sam2_video.data.png import PaletteSource
from projects.sam2_video.data.sav import SavSource
from projects.sam2_video.evaluation.clicks import ClickBenchmark
from projects.sam2_video.evaluation.davis import boundary_measure, region_similarity
from projects.sam2_video.evaluation.vos import VosBenchmark
from projects.sam2_video.predictor import VideoPredictor

SIZE = (40, 60)
FRAMES = 6


def truth_of(key, frame):
    """Object 1 moves right; object 2 appears on frame 2."""
    mask = np.zeros(SIZE, bool)
    if key == 1:
        mask[5:20, 5 + 3 * frame : 20 + 3 * frame] = True
    elif frame >= 2:
        mask[24:36, 30:50] = True
    return mask


class Oracle:
    """A model and its predictor: tracks the truth, shifted down by ``shift`` pixels."""

    def __init__(self, shift=0):
        self.shift = shift
        self.prompts = []

    def video_predictor(self):
        return self

    def object_ids(self, prompts):
        return [prompt.object_id for prompt in prompts]

    def propagate(self, video, prompts):
        self.prompts = list(prompts)
        for frame in range(min(prompt.frame for prompt in prompts), len(video)):
            masks = [truth_of(prompt.object_id, frame) for prompt in prompts]
            yield frame, np.roll(np.stack(masks), self.shift, 1)


@pytest.fixture
def davis(tmp_path):
    images, masks = tmp_path / "JPEGImages" / "a", tmp_path / "Annotations" / "a"
    images.mkdir(parents=True)
    masks.mkdir(parents=True)
    for frame in range(FRAMES):
        pixels = np.random.default_rng(frame).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{frame:05d}.jpg")
        ids = truth_of(1, frame) * 1 + truth_of(2, frame) * 2
        write_palette_png(masks / f"{frame:05d}.png", ids.astype(np.uint8))
    return PaletteSource(
        image_root=tmp_path / "JPEGImages", annotation_root=tmp_path / "Annotations"
    )


def test_every_object_is_given_once_where_it_first_shows(davis):
    model = Oracle()
    records = VosBenchmark(source=davis).predict(model, 0)
    assert [(p.object_id, p.frame) for p in model.prompts] == [(1, 0), (2, 2)]
    assert np.array_equal(model.prompts[1].mask, truth_of(2, 2))
    assert [record["J"] for record in records] == [1, 1]
    assert VosBenchmark(source=davis).summarise(records) == {"J": 1, "F": 1, "J&F": 1}


@pytest.mark.parametrize("skip", [True, False])
def test_scores_are_means_over_frames_then_objects(davis, skip):
    benchmark = VosBenchmark(source=davis, skip_first_and_last=skip)
    records = benchmark.predict(Oracle(shift=2), 0)
    frames = range(1, FRAMES - 1) if skip else range(FRAMES)
    expected = []
    for key, record in zip((1, 2), records, strict=True):
        appeared = [t for t in frames if key == 1 or t >= 2]  # nothing is scored before
        pairs = [(np.roll(truth_of(key, t), 2, 0), truth_of(key, t)) for t in appeared]
        region = np.mean([region_similarity(*pair) for pair in pairs])
        boundary = np.mean([boundary_measure(*pair) for pair in pairs])
        assert (record["J"], record["F"]) == pytest.approx((region, boundary))
        expected.append((region, boundary))
    region, boundary = np.mean(expected, axis=0)
    assert benchmark.summarise(records) == pytest.approx(
        {"J": region, "F": boundary, "J&F": (region + boundary) / 2}
    )
    assert 0.5 < region < 1


def test_records_are_json_with_a_few_masks(davis):
    records = VosBenchmark(source=davis, report_frames=3).predict(Oracle(shift=1), 0)
    record = json.loads(json.dumps(records[0]))
    assert record["frames"] == ["00000", "00002", "00005"] and record["object"] == "1"
    assert record["video"].endswith("JPEGImages/a")
    for frame, predicted, truth in zip((0, 2, 5), record["pred"], record["gt"], strict=True):
        assert np.array_equal(decode_rle(truth, where="gt"), truth_of(1, frame))
        assert np.array_equal(
            decode_rle(predicted, where="pred"), np.roll(truth_of(1, frame), 1, 0)
        )


def test_videos_that_cannot_be_scored_are_named(davis, tmp_path):
    model = Oracle()
    folder = tmp_path / "Annotations" / "a"
    for frame in range(FRAMES):
        write_palette_png(folder / f"{frame:05d}.png", np.zeros(SIZE, np.uint8))
    with pytest.raises(ValueError, match="JPEGImages/a: no mask shows an object"):
        VosBenchmark(source=davis).predict(model, 0)
    for frame in range(2, FRAMES):
        (folder / f"{frame:05d}.png").unlink()
    write_palette_png(folder / "00000.png", truth_of(1, 0).astype(np.uint8))
    with pytest.raises(ValueError, match="JPEGImages/a: 2 annotated frames"):
        VosBenchmark(source=davis).predict(model, 0)
    assert not model.prompts  # nothing was tracked


def test_memory_does_not_grow_with_the_length_of_the_video(tmp_path):
    size = (200, 300)
    mask = np.zeros(size, bool)
    mask[50:90, 60:130] = True

    class Still(Oracle):
        def propagate(self, video, prompts):
            for frame in range(len(video)):
                yield frame, mask[None]

    def peak(length):
        images, masks = tmp_path / f"images{length}" / "a", tmp_path / f"masks{length}" / "a"
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        for frame in range(length):
            Image.new("RGB", size[::-1]).save(images / f"{frame:05d}.jpg")
            write_palette_png(masks / f"{frame:05d}.png", mask.astype(np.uint8))
        source = PaletteSource(image_root=images.parent, annotation_root=masks.parent)
        tracemalloc.start()
        VosBenchmark(source=source).predict(Still(), 0)
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(10)  # what is imported and cached on the way
    assert peak(70) - peak(20) < 0.1 * 50 * mask.nbytes  # names and scores, no masks


def test_a_real_model_runs_the_benchmark(davis, random_sam2):
    class Model:
        def video_predictor(self):
            return VideoPredictor(random_sam2)

    records = VosBenchmark(source=davis, skip_first_and_last=False).predict(Model(), 0)
    first = decode_rle(records[0]["pred"][0], where="pred")
    assert region_similarity(first, truth_of(1, 0)) > 0.8  # the given mask
    late = [decode_rle(rle, where="pred") for rle in records[1]["pred"]]
    assert not late[0].any() and not late[1].any() and late[2].any()


# ---- clicks ------------------------------------------------------------------------------------


class ClickOracle(Oracle):
    """Answers clicks with the object under them, and boxes with the whole box."""

    def propagate(self, video, prompts):
        self.prompts = list(prompts)
        masks = []
        for prompt in prompts:
            mask = np.zeros(SIZE, bool)
            if prompt.points is not None:
                x, y = prompt.points[0].astype(int)
                mask = next(truth_of(k, 3) for k in (1, 2) if truth_of(k, 3)[y, x])
            else:
                x1, y1, x2, y2 = prompt.box.astype(int)
                mask[y1 : y2 + 1, x1 : x2 + 1] = True
            masks.append(mask)
        yield 0, np.stack(masks)


@pytest.fixture
def image_source(tmp_path):
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / "1.jpg")
    ring = [[5, 5, 35, 5, 35, 25, 5, 25], [40, 30, 44, 30, 44, 34, 40, 34]]  # two parts
    annotations = [
        {"id": 1, "image_id": 1, "segmentation": [[14, 5, 29, 5, 29, 20, 14, 20]]},
        {"id": 2, "image_id": 1, "segmentation": [[30, 24, 50, 24, 50, 36, 30, 36]]},
        {"id": 3, "image_id": 1, "segmentation": ring},
    ]
    images = [{"id": 1, "file_name": "1.jpg", "height": SIZE[0], "width": SIZE[1]}]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return CocoImageSource(annotation_file=path, image_root=tmp_path)


def test_one_click_and_one_box_per_object(image_source):
    model = ClickOracle()
    benchmark = ClickBenchmark(source=image_source)
    records = benchmark.predict(model, 0)
    assert len(model.prompts) == 6 and all(prompt.frame == 0 for prompt in model.prompts)
    assert [record["object"] for record in records] == ["1", "2", "3"]
    truths = image_source[0].read_masks(0)
    for record, truth in zip(records, truths.values(), strict=True):
        x, y = record["click"]
        assert truth[y, x]
        rows, columns = np.nonzero(truth)
        area = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        assert record["box_iou"] == pytest.approx(truth.sum() / area)
        assert np.array_equal(decode_rle(record["gt"], where="gt"), truth)
    assert [record["iou"] for record in records[:2]] == [1, 1]
    assert records[2]["iou"] < 0.5
    assert benchmark.summarise(records) == {
        "click_iou": pytest.approx(np.mean([record["iou"] for record in records])),
        "box_iou": pytest.approx(np.mean([record["box_iou"] for record in records])),
    }
    assert records[0]["image"].endswith("1.jpg")


def test_an_interrupted_evaluation_goes_on_with_the_same_images_only(tmp_path):
    """Two splits with equally many images in one file are not the same evaluation."""
    square = [[5, 5, 20, 5, 20, 20, 5, 20]]
    record = {"images": [], "annotations": []}
    for key in (1, 2):
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / f"{key}.jpg")
        image = {"id": key, "file_name": f"{key}.jpg", "height": SIZE[0], "width": SIZE[1]}
        record["images"].append(image)
        record["annotations"].append({"id": key, "image_id": key, "segmentation": square})
    (tmp_path / "instances.json").write_text(json.dumps(record))
    refs = [{"image_id": 1, "split": "val"}, {"image_id": 2, "split": "testA"}]
    (tmp_path / "refs.p").write_bytes(pickle.dumps(refs))

    def fingerprint(*splits, **options):
        source = CocoImageSource(
            annotation_file=tmp_path / "instances.json",
            image_root=tmp_path,
            refs_file=tmp_path / "refs.p",
            splits=splits,
        )
        return ClickBenchmark(source=source, **options).fingerprint()

    assert fingerprint("val") == fingerprint("val") != fingerprint("testA")
    assert fingerprint("val", "testA") != fingerprint("val", "testA", max_items=1)


def test_clicks_on_the_first_frame_of_videos(davis, random_sam2):
    class Model:
        def video_predictor(self):
            return VideoPredictor(random_sam2)

    benchmark = ClickBenchmark(source=davis, max_items=1)
    (record,) = benchmark.predict(Model(), 0)
    assert len(benchmark) == 1 and record["image"].endswith("00000.jpg")
    assert decode_rle(record["pred"], where="pred").shape == SIZE
    expected = region_similarity(decode_rle(record["pred"], where="pred"), truth_of(1, 0))
    assert record["iou"] == pytest.approx(expected)


def test_clicks_on_the_first_frame_of_a_video_file(tmp_path, random_sam2):
    class Model:
        def video_predictor(self):
            return VideoPredictor(random_sam2)

    write_mp4(tmp_path / "a.mp4", [np.zeros((*SIZE, 3), np.uint8)] * 4, 24)
    masklet = [[encode_rle(truth_of(1, 0))]]
    (tmp_path / "a_manual.json").write_text(json.dumps({"masklet": masklet}))
    source = SavSource(annotation_root=tmp_path, frame_root=tmp_path)
    (record,) = ClickBenchmark(source=source).predict(Model(), 0)
    assert (record["image"], record["frame"]) == (str(tmp_path / "a.mp4"), 0)
    assert record["object"] == "0"
    assert np.array_equal(decode_rle(record["gt"], where="gt"), truth_of(1, 0))
