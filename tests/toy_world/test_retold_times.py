"""Moments and boxes of the toy world in more formats: read back, trained on, evaluated."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from projects.common.conversation import load_shared_tokenizer
from projects.common.masks import mask_to_box
from projects.llava_sam2.datasets.box_rows import box_rows, object_boxes
from projects.llava_sam2.datasets.boxes import BoxDataset
from projects.llava_sam2.datasets.mevis import mevis_rows
from projects.llava_sam2.datasets.pixels import SingleTile
from projects.llava_sam2.datasets.ref_ytvos import ref_ytvos_rows
from projects.llava_sam2.datasets.revos import revos_rows
from projects.llava_sam2.datasets.temporal import TemporalDataset, TemporalInputs
from projects.llava_sam2.datasets.temporal_rows import (
    charades_rows,
    didemo_rows,
    time_token_rows,
)
from projects.llava_sam2.evaluation.temporal import AskForTimes, TemporalBenchmark, TrivialTimes
from projects.llava_sam2.extraction.boxes import recipes
from projects.llava_sam2.models.heads import BoxHead, FeatureProjector, TemporalHead
from projects.llava_sam2.models.sa2va import Sa2VA
from projects.llava_sam2.models.toy import toy_internvl
from projects.llava_sam2.structures import collate_grounding
from projects.sam2_video.modeling import build_sam2, toy_config
from projects.toy_world.events import WIDTH
from projects.toy_world.generate import generate
from projects.toy_world.retold import times
from projects.toy_world.world import World
from tests.llava_sam2.datasets.tiny import tiny_inputs

SIDE = 96
SIZES = {"charades_train": 130, "charades_test": 6, "mevis_train": 3, "mevis_valid_u": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    out = tmp_path_factory.mktemp("world") / "toy"
    generate(World(seed=5, sizes=SIZES, side=SIDE, clip_frames=4), out)
    return out


@pytest.fixture(scope="module")
def tokenizer(root):
    return load_shared_tokenizer(root / "tokenizer")


@pytest.fixture(scope="module")
def charades(root):
    """Every query of train, by video: sentence, start and end."""
    rows = charades_rows(
        file=root / "video_datas/charades/charades_sta_train.txt",
        durations=root / "video_datas/charades/Charades_v1_train.csv",
        feature_root=root / "clip_features/charades",
    )
    known = {}
    for row in rows:
        known.setdefault(row.video, []).append(row)
    return known


def token_rows(root, name, folder):
    return time_token_rows(
        file=root / "special_jsons/temporal" / name / "time_token.json",
        feature_root=root / "clip_features" / folder,
        fps=10.0,
    )


@pytest.mark.parametrize(("name", "first"), [("HiREST_grounding", 40), ("QueryD", 80)])
def test_tokens_say_what_charades_says(root, charades, name, first):
    rows = token_rows(root, name, {"HiREST_grounding": "hirest", "QueryD": "queryd"}[name])
    expected = [row for video in sorted(charades)[first : first + 40] for row in charades[video]]
    assert [(r.query, r.start, r.end) for r in rows] == [
        (r.query, r.start, r.end) for r in expected
    ]
    for row, other in zip(rows, expected, strict=True):
        assert row.video == f"{name[:4]}-_{other.video}"
        assert row.features.read_bytes() == other.features.read_bytes()


def test_didemo_chooses_the_segments_that_the_event_touches(root, charades):
    rows = didemo_rows(
        file=root / "video_datas/didemo/train_data.json",
        feature_root=root / "clip_features/didemo",
        fps=10.0,
    )
    tokens = token_rows(root, "DideMo", "didemo")
    expected = [row for video in sorted(charades)[: times.TRAIN] for row in charades[video]]
    assert len(rows) == len(tokens) == len(expected)
    for row, token, other in zip(rows, tokens, expected, strict=True):
        touched = [n for n in range(6) if n * 5 <= other.end and (n + 1) * 5 > other.start]
        assert (row.start, row.end) == (touched[0] * 5, touched[-1] * 5 + 5)
        assert (token.start, token.end) == (row.start, min(row.end, other.duration))
        assert row.segments.score((touched[0], touched[-1])) == (True, 1.0)
        assert len(row.segments.chosen) == 4 and row.segments.count * 5 >= other.duration
    test = json.loads((root / "video_datas/didemo/test_data.json").read_text())
    assert {len(record["times"]) for record in test} == {4}


def test_boxes_are_those_of_the_masks(root):
    videos, spatial = root / "video_datas", root / "special_jsons" / "spatial"
    for ours, others in (
        (
            box_rows(
                file=videos / "mevis/train/meta_expressions.json",
                boxes=spatial / "mevis/mevis_bbox.json",
                frame_root=videos / "mevis/train/JPEGImages",
            ),
            mevis_rows(root=videos / "mevis/train"),
        ),
        (
            box_rows(
                file=videos / "ReVOS/meta_expressions_train_.json",
                boxes=spatial / "revos/revos_bbox.json",
                frame_root=videos / "ReVOS/JPEGImages",
            ),
            revos_rows(root=videos / "ReVOS", split="train"),
        ),
        (
            box_rows(
                file=spatial / "refytvos/ref_ytvos_expressions.json",
                boxes=spatial / "refytvos/ref_ytvos_bbox.json",
                frame_root=videos / "rvos/train/JPEGImages",
            ),
            ref_ytvos_rows(root=videos / "rvos", split="train"),
        ),
    ):
        assert [row.name for row in ours] == [row.name for row in others] and len(ours) == 3
        for row, other in zip(ours, others, strict=True):
            assert [e.text for e in row.expressions] == [e.text for e in other.expressions]
            for one, two in zip(row.expressions, other.expressions, strict=True):
                for frame in range(len(row)):
                    found = object_boxes(row, one.objects, frame, (SIDE, SIDE))
                    masks = [other.objects[index].read(frame) for index in two.objects]
                    boxes = [mask_to_box(mask) for mask in masks if mask is not None]
                    expected = [np.array(box) / SIDE for box in boxes if box is not None]
                    assert np.allclose(np.array(found), np.array(expected))


def test_the_tool_makes_the_same_files(root, tmp_path):
    for recipe in recipes(root, tmp_path, workers=0).values():
        for path in recipe.make().files:
            written = root / "special_jsons/spatial" / path.relative_to(tmp_path)
            assert json.loads(path.read_text()) == json.loads(written.read_text()), path


# ---- trained on and evaluated


@pytest.fixture
def time_inputs(tokenizer):
    question = "<TEMPORAL> {query} <image> when ?"
    return TemporalInputs(tokenizer=tokenizer, template="qwen_chat", questions=[question])


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    projector = FeatureProjector(features=WIDTH, out=32, hidden=16, expanded=16, positions=1.0)
    return Sa2VA(
        mllm=toy_internvl(tokenizer=tokenizer, hidden=32, heads=2, vision_hidden=32),
        grounding=build_sam2(toy_config(image_size=96)),
        heads={"temporal": TemporalHead(projector=projector), "box": BoxHead()},
        trainable=["mllm.*", "heads.*"],
    )


def falls(model, dataset, steps=6):
    """Whether a few steps on a batch bring its loss down."""
    batch = collate_grounding([dataset[index] for index in range(3)])
    unknown = dataset.inputs.tokenizer.unk_token_id
    assert not (batch.input_ids == unknown).any()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = sum(model.loss(batch).values())
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses[-1] < 0.9 * losses[0]


def test_every_kind_of_time_trains(root, model, time_inputs):
    didemo = didemo_rows(
        file=root / "video_datas/didemo/train_data.json",
        feature_root=root / "clip_features/didemo",
    )
    for rows in (
        didemo,
        token_rows(root, "DideMo", "didemo"),
        token_rows(root, "HiREST_grounding", "hirest"),
        token_rows(root, "QueryD", "queryd"),
    ):
        assert falls(model, TemporalDataset(rows=rows, inputs=time_inputs))


def test_boxes_train(root, model, tokenizer, tmp_path):
    inputs = tiny_inputs(
        tmp_path,
        tokenizer=tokenizer,
        tiles=SingleTile(size=model.mllm.tile_size),
        tokens_per_tile=model.mllm.image_tokens_per_tile,
        max_length=1024,
    )
    rows = box_rows(
        file=root / "video_datas/mevis/train/meta_expressions.json",
        boxes=root / "special_jsons/spatial/mevis/mevis_bbox.json",
        frame_root=root / "video_datas/mevis/train/JPEGImages",
    )
    questions = ["<SPATIAL> where is {expression} ?"]
    assert falls(model, BoxDataset(rows=rows, inputs=inputs, questions=questions))


def test_didemo_is_evaluated_by_its_annotators(root, model, time_inputs):
    rows = didemo_rows(
        file=root / "video_datas/didemo/test_data.json",
        feature_root=root / "clip_features/didemo",
    )

    class Oracle(TrivialTimes):
        def answer(self, model, rows):
            return [("", (row.start, row.end)) for row in rows]

    def scores(respond):
        benchmark = TemporalBenchmark(rows=rows, respond=respond)
        return benchmark.summarise(
            [record for n in range(len(benchmark)) for record in benchmark.predict(model.eval(), n)]
        )

    oracle = scores(Oracle(kind="whole_video", fps=10.0))
    assert oracle["R@1_annotators"] == oracle["mIoU_annotators"] == 1.0 and oracle["mIoU"] > 0.95
    whole = scores(TrivialTimes(kind="whole_video", fps=10.0))
    assert whole["mIoU_annotators"] < 0.9
    assert scores(AskForTimes(inputs=time_inputs))["parse_failures"] == 1.0  # random weights
