"""Rows are looked through: counts are exact, and what is broken is named."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from projects.common.inspection import inspect_dataset
from projects.llava_sam2.datasets.chat import ChatDataset, ChatRow
from projects.llava_sam2.datasets.grounded_captions import CaptionRow, GroundedCaptionDataset
from projects.llava_sam2.datasets.grounding import GroundingDataset
from projects.llava_sam2.datasets.inspection import RowsInspection
from projects.llava_sam2.datasets.mevis import mevis_rows
from projects.llava_sam2.datasets.refcoco import refcoco_rows
from projects.llava_sam2.datasets.regions import RegionRow
from projects.llava_sam2.datasets.rows import Expression, Row, StillMask
from projects.llava_sam2.datasets.templates import Templates
from projects.llava_sam2.datasets.temporal_row import TemporalRow
from tests.llava_sam2.datasets.tiny import (
    HEIGHT,
    LEFT,
    RIGHT,
    WIDTH,
    rle,
    save_jpeg,
    tiny_inputs,
    write_mevis,
    write_refcoco,
    write_tokenizer,
)
from tools import check_dataset

TEMPLATES = Templates(questions=["segment {expression} ."], answers=["it is [SEG] ."])


def test_counts_of_videos_and_of_samples(tmp_path):
    rows = mevis_rows(root=write_mevis(tmp_path / "mevis"))
    plain = inspect_dataset("mevis", RowsInspection(rows))
    assert plain.clean and plain.records == 2
    expected = dict(videos=2, frames=5, objects=3, expressions=3, empty_frames=0, unreadable=0)
    assert {key: plain.counts[key] for key in expected} == expected
    inputs = tiny_inputs(tmp_path / "tokenizer")
    dataset = GroundingDataset(rows=rows, inputs=inputs, templates=TEMPLATES, mask_size=16)
    drawn = inspect_dataset("mevis", RowsInspection(rows, dataset))
    samples = [dataset[index] for index in range(2)]
    assert drawn.counts["tokens"] == sum(len(sample.input_ids) for sample in samples)
    assert drawn.counts["supervised"] == sum(int((s.labels >= 0).sum()) for s in samples)


def test_a_broken_frame_and_a_vanished_mask_are_named(tmp_path):
    root = write_mevis(tmp_path / "mevis")
    rows = mevis_rows(root=root)
    frame = next((root / "JPEGImages" / "clip_a").iterdir())
    frame.write_bytes(frame.read_bytes()[:-300])
    report = inspect_dataset("mevis", RowsInspection(rows))
    assert report.bad_records == 1 and report.counts["unreadable"] == 1
    assert str(frame) in report.problems[0]


def test_images_and_features(tmp_path):
    rows = refcoco_rows(**write_refcoco(tmp_path / "refcoco"), split="train")
    report = inspect_dataset("refcoco", RowsInspection(rows))
    assert report.clean and report.counts["images"] == 2 and report.counts["expressions"] == 4
    torch.save(torch.ones(30, 4), tmp_path / "A.pt")
    row = TemporalRow("A", "A/0", tmp_path / "A.pt", "a dog", 0.0, 1.0, 3.0)
    lost = TemporalRow("B", "B/0", tmp_path / "B.pt", "a dog", 0.0, 1.0, 3.0)
    times = inspect_dataset("times", RowsInspection([row, lost]))
    assert times.counts["queries"] == 1 and times.counts["frames"] == 30
    assert times.bad_records == 1 and "B.pt" in times.problems[0]


def test_captions_regions_and_conversations_are_read_whole(tmp_path):
    for name in ("a", "b"):
        save_jpeg(tmp_path / f"{name}.jpg", 0)
    half = tmp_path / "b.jpg"
    objects = tuple(StillMask(rle(mask), HEIGHT, WIDTH, "here") for mask in (LEFT, RIGHT))
    phrases = (Expression("a dog", (0,), "1"), Expression("a cat", (1,), "2"))
    whole, cut = (
        Row(name, tmp_path / f"{name}.jpg", None, (HEIGHT, WIDTH), objects, phrases)
        for name in ("a", "b")
    )
    turns = (("what is <image> ?", "a dog"), ("and ?", "no"))
    rows = {
        "captions": [CaptionRow(row, "a dog a cat", ((0, 5), (6, 11))) for row in (whole, cut)],
        "regions": [RegionRow(row, turns) for row in (whole, cut)],
        "chat": [ChatRow(name, turns, tmp_path / f"{name}.jpg") for name in ("a", "b")],
    }
    reports = {name: inspect_dataset(name, RowsInspection(data)) for name, data in rows.items()}
    assert all(report.clean for report in reports.values())
    both = dict(images=2, objects=4, expressions=4, frames=2, empty_frames=0, unreadable=0)
    assert reports["captions"].counts == both
    assert reports["regions"].counts == both | {"turns": 4}
    assert reports["chat"].counts == dict(images=2, turns=4)
    half.write_bytes(half.read_bytes()[:-100])
    inputs = tiny_inputs(tmp_path / "tokenizer")
    datasets = {
        "captions": GroundedCaptionDataset(rows=rows["captions"], inputs=inputs, mask_size=8),
        "regions": None,
        "chat": ChatDataset(rows=rows["chat"], inputs=inputs),
    }
    for name, dataset in datasets.items():
        report = inspect_dataset(name, RowsInspection(rows[name], dataset))
        assert report.bad_records == 1 and str(half) in report.problems[0]


CONFIG = """
from projects.llava_sam2.datasets.collate import collate
from projects.llava_sam2.datasets.grounding import GroundingDataset
from projects.llava_sam2.datasets.refcoco import refcoco_rows
from projects.llava_sam2.datasets.templates import Templates
from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.datasets.pixels import SingleTile
from projects.common.conversation import load_tokenizer
from projects.llava_sam2.evaluation.refer_image import ReferImageBenchmark

_rows = dict(type=refcoco_rows, root="{root}/refcoco", image_root="{root}/refcoco/images")
train_dataloader = dict(
    datasets=[
        dict(
            name="refcoco",
            dataset=dict(
                type=GroundingDataset,
                rows=dict(**_rows, split="train"),
                inputs=dict(
                    type=GroundingInputs,
                    tokenizer=dict(type=load_tokenizer, path="{root}/tokenizer"),
                    template="qwen_chat",
                    tiles=dict(type=SingleTile, size=16),
                    tokens_per_tile=4,
                    grounding_size=24,
                ),
                templates=dict(type=Templates, questions=["segment {expression} ."]),
                mask_size=16,
            ),
        )
    ],
    batch_size=1,
    collate=collate,
)
benchmarks = dict(
    val=dict(type=ReferImageBenchmark, rows=dict(**_rows, split="val"), respond=None),
    val_again=dict(type=ReferImageBenchmark, rows=dict(**_rows, split="val"), respond=None),
)
"""


def test_the_command_reads_names_and_each_benchmarks_data_once(tmp_path, monkeypatch, capsys):
    write_refcoco(tmp_path / "refcoco")
    write_tokenizer(tmp_path / "tokenizer")
    config = tmp_path / "config.py"
    config.write_text(CONFIG.replace("{root}", str(tmp_path)))
    report = tmp_path / "report.json"
    monkeypatch.setattr(sys, "argv", ["check_dataset.py", str(config), "--json", str(report)])
    assert check_dataset.main() == 0
    rows = {row["name"]: row for row in json.loads(report.read_text())}
    assert list(rows) == ["refcoco", "val"]
    assert rows["refcoco"]["counts"]["images"] == 2 and rows["refcoco"]["samples_per_second"] > 0
    assert rows["val"]["counts"]["expressions"] == 2
    said = capsys.readouterr().out
    assert "refcoco, not as published:\n  2 images, published are 16994\n" in said
    head = said.splitlines()[0].split()
    assert head[:5] == ["dataset", "type", "records", "images", "frames"] and "tokens" in head
    picture = tmp_path / "refcoco" / "images" / "im_3.jpg"
    picture.write_bytes(picture.read_bytes()[:100])
    assert check_dataset.main() == 1
    assert "im_3.jpg" in capsys.readouterr().out


@pytest.mark.parametrize("empty", [[], None])
def test_a_command_without_data_says_so(empty):
    with pytest.raises(ValueError, match="there is none"):
        check_dataset.chosen_rows({}, empty)
