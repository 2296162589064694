"""Scores of boxes against hand-made numbers, and a head that learns to say them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from projects.common.conversation import load_shared_tokenizer
from projects.common.evaluation import read_records, run_benchmark
from projects.llava_sam2.datasets.box_text import box_text
from projects.llava_sam2.datasets.boxes import BoxDataset
from projects.llava_sam2.datasets.mevis import mevis_rows
from projects.llava_sam2.datasets.pixels import SingleTile
from projects.llava_sam2.datasets.refcoco import refcoco_rows
from projects.llava_sam2.evaluation.boxes import (
    AskForBoxes,
    BoxBenchmark,
    TrivialBoxes,
    box_iou,
    frame_score,
)
from projects.llava_sam2.models.heads import BoxHead, ChatHead
from projects.llava_sam2.models.sa2va import Sa2VA
from projects.llava_sam2.models.toy import toy_internvl
from projects.llava_sam2.structures import collate_grounding
from projects.sam2_video.modeling import build_sam2, toy_config
from projects.toy_world.tokenizer import write_tokenizer
from tests.llava_sam2.datasets import tiny
from tests.llava_sam2.datasets.tiny import HEIGHT, WIDTH, tiny_inputs
from tests.llava_sam2.evaluation.tiny_model import Script

QUESTION = "<SPATIAL> where is {expression} ?"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    write_tokenizer(folder)
    return load_shared_tokenizer(folder)


@pytest.fixture
def inputs(tokenizer, tmp_path):
    return tiny_inputs(
        tmp_path / "unused", tokenizer=tokenizer, tiles=SingleTile(size=32), grounding_size=96
    )


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    mllm = toy_internvl(tokenizer=tokenizer, hidden=32, vision_hidden=32, image_size=32, heads=2)
    grounding = build_sam2(toy_config(image_size=96))
    return Sa2VA(
        mllm=mllm, grounding=grounding, heads={"box": BoxHead()}, trainable=["mllm.*"]
    ).eval()


@pytest.fixture
def images(tmp_path):
    return refcoco_rows(**tiny.write_refcoco(tmp_path / "refcoco"), split="train")


def spell(*frames, video=False):
    """An answer as the words of the toy tokenizer."""
    text = box_text([[box] if box else [] for box in frames], video=video)
    for mark in ("<box>", "</box>", "<next>", "<no_box>", "<single_img>"):
        text = text.replace(mark, f" {mark} ")
    return " ".join(part if part.startswith("<") else " ".join(part) for part in text.split())


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((0, 0, 0.5, 0.5), (0, 0, 0.5, 0.5), 1),
        ((0, 0, 0.5, 0.5), (0.25, 0, 0.75, 0.5), 1 / 3),
        ((0, 0, 1, 1), (0.5, 0.5, 1, 1), 0.25),
        ((0, 0, 0.5, 0.5), (0.5, 0, 1, 0.5), 0),
        ((0, 0, 0.2, 0.2), (0.5, 0.5, 1, 1), 0),
    ],
)
def test_box_iou(one, other, expected):
    assert box_iou(one, other) == pytest.approx(expected) == box_iou(other, one)


def test_box_iou_is_that_of_the_pixels():
    draw = np.random.default_rng(0)
    for _ in range(20):
        masks = np.zeros((2, 40, 60), dtype=bool)
        boxes = []
        for mask in masks:
            x1, y1 = draw.integers(0, (50, 30))
            x2, y2 = draw.integers((x1 + 1, y1 + 1), (61, 41))
            mask[y1:y2, x1:x2] = True
            boxes.append((x1 / 60, y1 / 40, x2 / 60, y2 / 40))
        expected = (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()
        assert box_iou(*boxes) == pytest.approx(expected)


def test_scores_of_a_frame():
    one, two, half = (0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1), (0, 0, 0.25, 0.5)
    assert frame_score([], []) == 1 and frame_score(None, []) == 0
    assert frame_score([one], []) == 0 == frame_score([], [one])
    assert frame_score([two, one], [one, two]) == 1  # in any order
    assert frame_score([one], [one, two]) == 0.5 == frame_score([one, two], [one])
    assert frame_score([half, two], [one, two]) == pytest.approx(0.75)
    assert frame_score([one, one], [one]) == 0.5  # saying it twice is no better


def test_images(model, inputs, images, tmp_path):
    """Two sentences for the left square, one for the right circle; then the crowd."""
    benchmark = BoxBenchmark(
        rows=images,
        respond=AskForBoxes(inputs=inputs, questions=[QUESTION]),
        labels={
            "10": {"uses": ["shape"], "needs": []},
            "11": {"uses": ["colour"]},
            "20": {"uses": ["shape"]},
            "30": {"uses": ["colour"]},
        },
    )
    left = (2 / WIDTH, 4 / HEIGHT, 10 / WIDTH, 12 / HEIGHT)
    Script(model, spell(left), "it is", spell((0.0, 0.0, 1.0, 1.0)))
    first, second, third = benchmark.predict(model, 0)
    assert first["iou"] == pytest.approx(1, abs=0.02) and first["whole"]
    assert (first["expression"], first["key"], first["frames"]) == ("the left square", "10", [])
    assert second["iou"] == 0 and second["predicted"] == [None] and not second["whole"]
    assert third["iou"] == pytest.approx(10 * 12 / (WIDTH * HEIGHT))
    Script(model, spell((12 / WIDTH, 0.0, 15 / WIDTH, 5 / HEIGHT)))
    (fourth,) = benchmark.predict(model, 1)
    assert fourth["iou"] == pytest.approx(0.5, abs=0.02)
    records = [first, second, third, fourth | {"iou": 0.5}]
    assert json.loads(json.dumps(records)) is not None
    summary = benchmark.summarise(records)
    assert summary["Acc@0.5"] == 0.5 and summary["parse_failures"] == 0.25
    assert summary["mIoU"] == pytest.approx((first["iou"] + third["iou"] + 0.5) / 4)
    assert {key for key in summary if "[" not in key} == set(benchmark.metrics)
    assert summary["Acc@0.5[colour]"] == 0.5 and summary["mIoU[colour]"] == 0.25


def test_videos(model, inputs, tmp_path):
    """Object 7 is absent from frame 1; 3 frames are seen of 3, 2 of 2."""
    rows = mevis_rows(root=tiny.write_mevis(tmp_path / "mevis"))
    benchmark = BoxBenchmark(rows=rows, respond=AskForBoxes(inputs=inputs, questions=[QUESTION]))
    here, there = (0.0, 0.0, 6 / WIDTH, 0.3), (4 / WIDTH, 0.0, 10 / WIDTH, 0.3)
    Script(model, spell(here, None, there, video=True), spell(here, None, video=True))
    first, second = benchmark.predict(model, 0)
    assert first["iou"] == pytest.approx(1, abs=0.02) and first["whole"]
    assert first["frames"] == ["00000.jpg", "00001.jpg", "00002.jpg"]
    # of two things one is said; then "none" of one; the last frame has no answer
    assert second["iou"] == pytest.approx((0.5 + 0 + 0) / 3, abs=0.01) and not second["whole"]
    assert second["predicted"][2] is None and len(second["truth"][0]) == 2


def test_a_run_writes_records_and_the_fingerprint_follows(model, inputs, images, tmp_path):
    def benchmark(rows=images, **options):
        ask = AskForBoxes(inputs=inputs, questions=[QUESTION], **{"max_new_tokens": 4} | options)
        return BoxBenchmark(rows=rows, respond=ask)

    scores = run_benchmark("boxes", benchmark(), model, tmp_path / "out")
    assert scores["boxes/parse_failures"] == 1.0  # random weights
    assert len(read_records(tmp_path / "out/boxes.jsonl")) == 4
    others = [benchmark(images[:1]), benchmark(max_new_tokens=5), benchmark(use_visual=False)]
    assert len({b.fingerprint() for b in (benchmark(), *others)}) == 4
    assert benchmark().fingerprint() == benchmark().fingerprint()


def test_baselines(images):
    whole, largest = (
        BoxBenchmark(rows=images, respond=TrivialBoxes(kind=kind)).predict(None, 0)
        for kind in TrivialBoxes.KINDS
    )
    areas = [8 * 8, 8 * 8, 10 * 12]
    assert [r["iou"] for r in whole] == pytest.approx([a / (WIDTH * HEIGHT) for a in areas])
    assert [r["iou"] for r in largest] == pytest.approx([0, 0, 1])
    with pytest.raises(ValueError, match="whole_frame, largest; got 'all'"):
        TrivialBoxes(kind="all")
    with pytest.raises(ValueError, match="4 of 4 expressions have no labels"):
        BoxBenchmark(rows=images, respond=TrivialBoxes(kind="largest"), labels={})


# ---- the head


def test_the_loss_is_that_of_chat_and_needs_pictures(model, inputs, images):
    dataset = BoxDataset(rows=images, inputs=inputs, questions=[QUESTION])
    batch = collate_grounding([dataset[0], dataset[1]])
    loss = model.loss(batch)
    chat = ChatHead().loss(batch, mllm=model.mllm, grounding=None)
    assert loss.keys() == {"loss_language"} and torch.equal(
        *(x["loss_language"] for x in (loss, chat))
    )
    blind = replace(dataset[1], pixel_values=None)
    with pytest.raises(ValueError, match=r"no pictures in im_2\.jpg; boxes are of something"):
        model.loss(collate_grounding([dataset[0], blind]))


def test_boxes_are_learned_and_read_back(model, inputs, images):
    """One image by heart: what training writes is what evaluation reads."""
    dataset = BoxDataset(rows=images[1:], inputs=inputs, questions=[QUESTION])
    batch = collate_grounding([dataset[0]])
    optimizer = torch.optim.AdamW(model.mllm.parameters(), lr=5e-3)
    model.train()
    for _ in range(40):
        optimizer.zero_grad()
        model.loss(batch)["loss_language"].backward()
        optimizer.step()
    respond = AskForBoxes(inputs=inputs, questions=[QUESTION], max_new_tokens=40)
    (record,) = BoxBenchmark(rows=images[1:], respond=respond).predict(model.eval(), 0)
    assert record["iou"] > 0.98 and record["whole"], record["answer"]
