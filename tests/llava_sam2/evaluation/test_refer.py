"""cIoU, gIoU, J and F against numbers made another way; baselines; records."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools import mask as coco

from projects.common.evaluation import read_records, run_benchmark
from projects.common.masks import encode_rle
from projects.llava_sam2.datasets.frame_samplers import UniformFrames
from projects.llava_sam2.datasets.mevis import mevis_rows
from projects.llava_sam2.datasets.refcoco import refcoco_rows
from projects.llava_sam2.datasets.rows import Expression, RleTrack, Row, StillMask
from projects.llava_sam2.datasets.templates import Templates
from projects.llava_sam2.evaluation.breakdown import by_uses
from projects.llava_sam2.evaluation.refer_image import ReferImageBenchmark
from projects.llava_sam2.evaluation.refer_video import ReferVideoBenchmark
from projects.llava_sam2.evaluation.responders import AskModel, Trivial
from projects.llava_sam2.predictor import Answer
from tests.llava_sam2.datasets.tiny import (
    HEIGHT,
    LEFT,
    RIGHT,
    WIDTH,
    block,
    rle,
    write_mevis,
    write_refcoco,
)
from tests.llava_sam2.evaluation.tiny_model import Script, toy_model

EMPTY = np.zeros((HEIGHT, WIDTH), bool)
TEMPLATES = Templates(questions=["segment {expression} ."], answers=["sure it is [SEG] ."])


class Says:
    """Answers with given masks: expression key -> frames of bool masks, or None for no [SEG]."""

    def __init__(self, masks):
        self.masks = masks

    def answer(self, model, row):
        def one(frames):
            return [] if frames is None else [[encode_rle(frame) for frame in frames]]

        return [Answer("so", one(self.masks[e.key])) for e in row.expressions]

    def describe(self):
        return "says"


def decoded(record_rle):
    return coco.decode({**record_rle, "counts": record_rle["counts"].encode()}).astype(bool)


@pytest.fixture
def images(tmp_path):
    return refcoco_rows(**write_refcoco(tmp_path / "refcoco"), split="train")


@pytest.fixture
def videos(tmp_path):
    return mevis_rows(root=write_mevis(tmp_path / "mevis"))


def named(scores):
    """Metrics without the benchmark's name and the breakdowns."""
    return {key.split("/", 1)[1] for key in scores if "[" not in key}


def test_image_metrics(tmp_path, images):
    half = block(4, 2, 12, 6)  # half of LEFT, 32 of 64 pixels
    predictions = {"10": [half], "11": [LEFT], "20": None, "30": [EMPTY]}
    labels = {
        "10": {"uses": ["relation", "shape"], "needs": ["relation"]},
        "11": {"uses": ["colour", "shape"], "needs": []},
        "20": {"uses": ["relation", "shape"], "needs": ["shape"]},
        "30": {"uses": ["colour", "shape"], "needs": []},
    }
    benchmark = ReferImageBenchmark(rows=images, respond=Says(predictions), labels=labels)
    scores = run_benchmark("val", benchmark, None, tmp_path / "out")
    crowd = 5 * 6
    ious = [0.5, 1.0, 0.0, 0.0]
    assert RIGHT.sum() == 120
    assert scores["val/cIoU"] == pytest.approx((32 + 64) / (64 + 64 + 120 + crowd))
    assert scores["val/gIoU"] == pytest.approx(np.mean(ious))
    assert scores["val/answered"] == 0.75
    assert named(scores) == set(ReferImageBenchmark.metrics)
    assert scores["val/gIoU[shape]"] == pytest.approx(np.mean(ious))
    assert scores["val/gIoU[relation]"] == scores["val/gIoU[only relation+shape]"] == 0.25
    assert scores["val/cIoU[only colour+shape]"] == pytest.approx(64 / (64 + crowd))
    assert scores["val/gIoU[needs relation]"] == 0.5
    assert scores["val/gIoU[needs shape]"] == 0.0
    assert "val/gIoU[needs colour]" not in scores
    first, second, third, _ = read_records(tmp_path / "out" / "val.jsonl")
    assert first["image"].endswith("im_1.jpg") and first["expression"] == "the left square"
    assert (first["iou"], first["intersection"], first["union"]) == (0.5, 32, 64)
    np.testing.assert_array_equal(decoded(first["pred"]), half)
    np.testing.assert_array_equal(decoded(first["gt"]), LEFT)
    assert (second["uses"], second["seg_tokens"]) == (["colour", "shape"], 1)
    assert third["seg_tokens"] == 0 and not decoded(third["pred"]).any()


def test_empty_against_empty_counts_one(tmp_path, images):
    (row, *_) = images
    nothing = StillMask(rle(EMPTY), HEIGHT, WIDTH, "test")
    expressions = (Expression("nothing", (0,), "a"), Expression("something", (0,), "b"))
    blank = Row("blank", row.source, None, row.size, (nothing,), expressions)
    benchmark = ReferImageBenchmark(rows=[blank], respond=Says({"a": [EMPTY], "b": [LEFT]}))
    scores = run_benchmark("blank", benchmark, None, tmp_path)
    assert (scores["blank/gIoU"], scores["blank/cIoU"]) == (0.5, 0.0)
    only = ReferImageBenchmark(rows=[blank], respond=Says({"a": [EMPTY], "b": [EMPTY]}))
    assert run_benchmark("only", only, None, tmp_path)["only/cIoU"] == 1.0


def naive_region(predicted, truth):
    union = (predicted | truth).sum()
    return (predicted & truth).sum() / union if union else 1.0


def naive_boundary(predicted, truth):
    """F by comparing every boundary pixel with every other; tolerance ceil(0.008 * diagonal)."""
    reach = np.ceil(0.008 * np.hypot(HEIGHT, WIDTH))

    def edge(mask):
        padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
        down, right = padded[1:, :-1], padded[:-1, 1:]
        return np.argwhere((mask != down) | (mask != right) | (mask != padded[1:, 1:]))

    ours, theirs = edge(predicted), edge(truth)
    if not len(ours) or not len(theirs):
        return float(len(ours) == len(theirs))
    distance = np.sqrt(((ours[:, None] - theirs[None]) ** 2).sum(-1))
    precision, recall = (distance.min(1) <= reach).mean(), (distance.min(0) <= reach).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def test_video_metrics(tmp_path, videos):
    clip_a = [block(0, 0, 6, 6), EMPTY, block(0, 4, 6, 10)]  # object 7, absent from frame 1
    both = [
        block(0, 0, 6, 6) | block(10, 20, 16, 26),
        block(10, 18, 16, 24),
        block(0, 4, 6, 12),
    ]
    clip_b = [block(2, 2, 8, 8), block(2, 4, 8, 10)]
    shifted = [np.roll(mask, 2, axis=1) for mask in both]
    said = {
        "clip_a/0": [clip_a[0], EMPTY, EMPTY],
        "clip_a/1": shifted,
        "clip_b/0": None,
    }
    truth = {"clip_a/0": clip_a, "clip_a/1": both, "clip_b/0": clip_b}
    labels = {key: {"uses": ["motion"] if key == "clip_a/1" else ["shape"]} for key in said}
    benchmark = ReferVideoBenchmark(rows=videos, respond=Says(said), labels=labels)
    scores = run_benchmark("mevis", benchmark, None, tmp_path / "out")
    region, boundary = [], []
    for key, frames in truth.items():
        predicted = said[key] or [EMPTY] * len(frames)
        pairs = list(zip(predicted, frames, strict=True))
        region.append(np.mean([naive_region(*pair) for pair in pairs]))
        boundary.append(np.mean([naive_boundary(*pair) for pair in pairs]))
    assert region[0] == pytest.approx(2 / 3)  # right, both empty, missed
    assert 0 < region[1] < 1 and 0 < boundary[1] < 1
    assert scores["mevis/J"] == pytest.approx(np.mean(region))
    assert scores["mevis/F"] == pytest.approx(np.mean(boundary))
    assert scores["mevis/J&F"] == pytest.approx((np.mean(region) + np.mean(boundary)) / 2)
    assert scores["mevis/J&F[motion]"] == pytest.approx((region[1] + boundary[1]) / 2)
    assert scores["mevis/answered"] == pytest.approx(2 / 3)
    assert named(scores) == set(ReferVideoBenchmark.metrics) - {"R"}  # asks for a foreground
    record = read_records(tmp_path / "out" / "mevis.jsonl")[1]
    assert record["video"].endswith("clip_a") and record["frames"][2] == "00002.jpg"
    for name, masks in (("pred", shifted), ("gt", both)):
        for mask, stored in zip(masks, record[name], strict=True):
            np.testing.assert_array_equal(decoded(stored), mask)
    json.dumps(record)


def scores_of(rows, kind, tmp_path):
    many = rows[0].frames is not None
    benchmark = (ReferVideoBenchmark if many else ReferImageBenchmark)(
        rows=rows, respond=Trivial(kind=kind)
    )
    run_benchmark(kind, benchmark, None, tmp_path)
    return read_records(tmp_path / f"{kind}.jsonl")


def test_trivial_baselines(tmp_path, images, videos):
    everything = scores_of(images[:1], "everything", tmp_path)
    for record in everything:
        np.testing.assert_array_equal(decoded(record["pred"]), LEFT | RIGHT)
    largest = scores_of(images[:1], "largest", tmp_path)
    assert [record["iou"] for record in largest] == [0.0, 0.0, 1.0]  # RIGHT is the larger one
    random = scores_of(images[:1], "random", tmp_path)
    assert all(record["iou"] in (0.0, 1.0) for record in random)
    assert scores_of(images[:1], "random", tmp_path) == random
    tracked = scores_of(videos[:1], "largest", tmp_path)
    # object 10 has 36 + 36 + 48 pixels, object 7 has 36 + 36
    np.testing.assert_array_equal(decoded(tracked[0]["pred"][1]), block(10, 18, 16, 24))
    with pytest.raises(ValueError, match="everything, largest, random"):
        Trivial(kind="smallest")


def test_baselines_do_not_pick_groups(tmp_path, images):
    group = StillMask(rle(LEFT | RIGHT), HEIGHT, WIDTH, "test", group=True)
    row = images[0]
    grouped = Row(row.name, row.source, None, row.size, (*row.objects, group), row.expressions)
    assert [r["iou"] for r in scores_of([grouped], "largest", tmp_path)] == [0.0, 0.0, 1.0]


def test_the_model_is_asked_and_repeats_itself(tmp_path, images, videos):
    model, inputs = toy_model(tmp_path / "tokenizer")
    ask = AskModel(inputs=inputs, templates=TEMPLATES, frames=UniformFrames(num=2))
    forced = AskModel(inputs=inputs, templates=TEMPLATES, answer="template")
    Script(model, "sure it is [SEG] .", "sure it is .", "it is [SEG]")
    benchmark = ReferImageBenchmark(rows=images[:1], respond=ask)
    records = benchmark.predict(model, 0)
    assert [record["answer"] for record in records] == [
        "sure it is [SEG] .",
        "sure it is .",
        "it is [SEG]",
    ]
    assert [record["seg_tokens"] for record in records] == [1, 0, 1]
    templated = ReferImageBenchmark(rows=images[:1], respond=forced).predict(model, 0)
    assert templated[0]["pred"] == records[0]["pred"]
    assert [record["seg_tokens"] for record in templated] == [1, 1, 1]
    Script(model, "sure it is [SEG] .", "sure it is [SEG] .")
    tracked = ReferVideoBenchmark(rows=videos[:1], respond=ask).predict(model, 0)
    assert [len(record["pred"]) for record in tracked] == [3, 3]


def test_fingerprints_follow_the_questions_and_the_settings(tmp_path, images, videos):
    _, inputs = toy_model(tmp_path / "tokenizer")
    settings = dict(inputs=inputs, templates=TEMPLATES)

    def of(rows, **changes):
        respond = AskModel(**(settings | changes))
        return ReferImageBenchmark(rows=rows, respond=respond).fingerprint()

    base = of(images)
    assert base == of(images)
    others = [
        of(images[:1]),
        of(images, answer="template"),
        of(images, use_visual=False),
        of(images, frames=UniformFrames(num=3)),
        of(images, templates=Templates(questions=["{expression}"])),
        ReferImageBenchmark(rows=images, respond=Trivial(kind="random")).fingerprint(),
        ReferImageBenchmark(rows=images, respond=Trivial(kind="largest")).fingerprint(),
    ]
    assert len({base, *others}) == len(others) + 1


def test_wrong_calls(images, videos):
    with pytest.raises(ValueError, match=r"takes images; clip_a is a video"):
        ReferImageBenchmark(rows=videos, respond=Trivial(kind="random"))
    with pytest.raises(ValueError, match=r"takes videos; im_1\.jpg is an image"):
        ReferVideoBenchmark(rows=images, respond=Trivial(kind="random"))
    with pytest.raises(ValueError, match=r"3 of 4 expressions have no labels, e\.g\. key '11'"):
        ReferImageBenchmark(
            rows=images, respond=Trivial(kind="random"), labels={"10": {"uses": []}}
        )


def test_parts_of_unlabelled_records_do_not_exist():
    assert by_uses([{"v": 1.0}, {"v": 2.0, "uses": []}], lambda r: {"m": 1.0}) == {}
    track = RleTrack([None], where="x")
    assert track.read(0) is None and not track.group
