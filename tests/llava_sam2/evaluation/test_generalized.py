"""gRefCOCO's metrics against the confusion counts of GRES, made another way."""

from __future__ import annotations

import numpy as np
import pytest

from projects.common.evaluation import read_records, run_benchmark
from projects.common.masks import encode_rle
from projects.llava_sam2.datasets.refcoco import grefcoco_rows
from projects.llava_sam2.datasets.templates import Templates
from projects.llava_sam2.evaluation.refer_image import GeneralizedReferBenchmark
from projects.llava_sam2.evaluation.responders import AskModel, Trivial
from projects.llava_sam2.predictor import Answer
from tests.llava_sam2.datasets.tiny import HEIGHT, LEFT, RIGHT, WIDTH, block
from tests.llava_sam2.datasets.tiny_images import write_grefcoco
from tests.llava_sam2.evaluation.tiny_model import Script, toy_model

EMPTY = np.zeros((HEIGHT, WIDTH), bool)
DOT = block(0, 0, 1, 3)  # 3 pixels


class Says:
    """Answers with given masks: expression key -> masks of its [SEG] tokens."""

    def __init__(self, masks):
        self.masks = masks

    def answer(self, model, row):
        return [
            Answer("so", [[encode_rle(mask)] for mask in self.masks[e.key]])
            for e in row.expressions
        ]

    def describe(self):
        return "says"


@pytest.fixture
def rows(tmp_path):
    return grefcoco_rows(**write_grefcoco(tmp_path), split="train")


def by_hand(rows, predictions, least):
    """gIoU, cIoU, N-acc and T-acc from GRES's definitions, expression by expression."""
    counts = dict.fromkeys(("tp", "fn", "tn", "fp"), 0)
    ious, intersections, unions = [], 0, 0
    for row in rows:
        for expression in row.expressions:
            truth = row.read_mask(expression.objects, 0, row.size)
            predicted = np.logical_or.reduce([EMPTY, *predictions[expression.key]])
            says_nothing = predicted.sum() < least
            if not expression.objects:
                counts["tp" if says_nothing else "fn"] += 1
                ious.append(1.0 if says_nothing else 0.0)
                unions += 0 if says_nothing else predicted.sum()
                continue
            counts["fp" if says_nothing else "tn"] += 1
            hit = 0 if says_nothing else (predicted & truth).sum()
            either = truth.sum() if says_nothing else (predicted | truth).sum()
            ious.append(hit / either)
            intersections += hit
            unions += either
    return {
        "gIoU": np.mean(ious),
        "cIoU": intersections / unions,
        "N-acc": counts["tp"] / (counts["tp"] + counts["fn"]),
        "T-acc": counts["tn"] / (counts["tn"] + counts["fp"]),
    }


@pytest.mark.parametrize("least", [1, 3, 4, 50])
def test_metrics_are_those_of_gres(rows, tmp_path, least):
    half = block(4, 2, 12, 6)
    predictions = {
        "10": [half],  # the left square: IoU 0.5
        "20": [LEFT, RIGHT],  # both, each by its own [SEG]
        "30": [],  # nothing, and said so
        "31": [DOT],  # nothing, but 3 pixels
        "32": [RIGHT],  # nothing, but a mask
        "40": [EMPTY],  # something, but an empty mask
        "50": [],  # something, but said to be nothing
    }
    benchmark = GeneralizedReferBenchmark(rows=rows, respond=Says(predictions), least_pixels=least)
    scores = run_benchmark("g", benchmark, None, tmp_path / "out")
    for metric, value in by_hand(rows, predictions, least).items():
        assert scores[f"g/{metric}"] == pytest.approx(value), metric
    assert scores["g/N-acc"] == pytest.approx(1 / 3 if least <= 3 else 2 / 3)
    assert scores["g/answered"] == pytest.approx(5 / 7)
    assert set(scores) == {f"g/{name}" for name in benchmark.metrics}
    records = {record["key"]: record for record in read_records(tmp_path / "out" / "g.jsonl")}
    assert [records[k]["no_target"] for k in ("10", "20", "30", "31", "32")] == [
        *(False, False, True, True, True)
    ]
    assert records["20"]["iou"] == 1.0


def test_what_cannot_be_measured_is_left_out(rows, tmp_path):
    only = [row for row in rows if all(e.objects for e in row.expressions)]
    assert only
    everything = Trivial(kind="everything")
    scores = run_benchmark(
        "g", GeneralizedReferBenchmark(rows=only, respond=everything), None, tmp_path
    )
    assert "g/N-acc" not in scores and scores["g/T-acc"] == 1.0
    one = GeneralizedReferBenchmark(rows=only, respond=everything, least_pixels=1)
    other = GeneralizedReferBenchmark(rows=only, respond=everything, least_pixels=2)
    assert one.fingerprint() != other.fingerprint()


def test_a_model_that_writes_no_seg_says_that_there_is_nothing(rows, tmp_path):
    templates = Templates(questions=["segment {expression} ."], answers=["it is [SEG] ."])
    model, inputs = toy_model(tmp_path)
    respond = AskModel(inputs=inputs, templates=templates, max_new_tokens=6)
    benchmark = GeneralizedReferBenchmark(rows=rows[:1], respond=respond, least_pixels=0)
    Script(model, "it is [SEG] .", "dog .", "dog .", "it is [SEG] .", "the dog .")
    scores = run_benchmark("g", benchmark, model, tmp_path / "out")
    records = read_records(tmp_path / "out" / "g.jsonl")
    assert [record["seg_tokens"] for record in records] == [1, 0, 0, 1, 0]
    assert scores["g/answered"] == pytest.approx(2 / 5)
    denied = [record for record in records if record["no_target"] and not record["seg_tokens"]]
    assert len(denied) == 2 and all(record["iou"] == 1.0 for record in denied)
    assert records[1]["predicted"] == 0 and records[1]["iou"] == 0.0
