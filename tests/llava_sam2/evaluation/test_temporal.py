"""Temporal scores against hand-made numbers, and answers turned into seconds."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from projects.common.conversation import load_shared_tokenizer
from projects.common.evaluation import read_records, run_benchmark
from projects.llava_sam2.datasets.frame_samplers import UniformFrames
from projects.llava_sam2.datasets.segments import Segments
from projects.llava_sam2.datasets.temporal import TemporalInputs
from projects.llava_sam2.datasets.temporal_row import TemporalRow
from projects.llava_sam2.evaluation.temporal import (
    AskForTimes,
    TemporalBenchmark,
    TrivialTimes,
    interval_iou,
)
from projects.llava_sam2.models.heads import FeatureProjector, TemporalHead
from projects.llava_sam2.models.toy import toy_internvl
from tests.llava_sam2.datasets.tiny import write_tokenizer
from tests.llava_sam2.evaluation.tiny_model import Script

ANSWER = "<frame_0> <frame_{}> - <frame_0> <frame_{}>"


class Model(nn.Module):
    """What the benchmark needs of Sa2VA."""

    def __init__(self, tokenizer) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mllm = toy_internvl(tokenizer=tokenizer, hidden=32, heads=2, vision_hidden=32)
        projector = FeatureProjector(features=3, out=32, hidden=8, expanded=8, positions=1.0)
        self.heads = nn.ModuleDict({"temporal": TemporalHead(projector=projector)})
        self.eval()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_shared_tokenizer(write_tokenizer(tmp_path_factory.mktemp("words")))


@pytest.fixture
def inputs(tokenizer):
    return TemporalInputs(
        tokenizer=tokenizer,
        template="qwen_chat",
        questions=["<TEMPORAL> {query} <image> describe {query}"],
        frames=UniformFrames(num=9),
    )


@pytest.fixture
def rows(tmp_path):
    """Two queries about a video of 16 s, one about a video of 8 s, features at 10 a second."""
    for name, frames in (("A", 160), ("B", 80)):
        torch.manual_seed(frames)
        torch.save(torch.randn(frames, 3), tmp_path / f"{name}.pt")

    def row(video, number, query, start, end, duration):
        path = tmp_path / f"{video}.pt"
        return TemporalRow(video, f"{video}/{number}", path, query, start, end, duration)

    return [
        row("A", 0, "the dog", 4.0, 8.0, 16.0),
        row("B", 0, "red circle", 0.0, 3.0, 8.0),
        row("A", 1, "big dog", 0.0, 16.0, 16.0),
    ]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((0, 10), (0, 10), 1),
        ((0, 10), (5, 15), 1 / 3),
        ((2, 4), (0, 10), 0.2),
        ((0, 1), (1, 2), 0),
        ((0, 1), (5, 6), 0),
        ((3, 3), (0, 10), 0),
        ((3, 3), (3, 3), 0),
    ],
)
def test_interval_iou(one, other, expected):
    assert interval_iou(one, other) == pytest.approx(expected)
    assert interval_iou(other, one) == pytest.approx(expected)


def test_answers_become_seconds_and_scores(rows, inputs, tokenizer):
    """9 of the 160 frames are seen: 0, 20 (19.875 rounded), 40, ... 159."""
    model = Model(tokenizer)
    benchmark = TemporalBenchmark(
        rows=rows,
        respond=AskForTimes(inputs=inputs),
        labels={"A/0": {"uses": [], "needs": ["event"]}, "A/1": {"uses": []}, "B/0": {"uses": []}},
    )
    assert len(benchmark) == 2
    Script(model, ANSWER.format(2, 5), ANSWER.format(0, 9))  # there is no tenth frame
    first, second = benchmark.predict(model, 0)
    assert first["predicted"] == [4.0, 9.9] and first["truth"] == [4.0, 8.0]
    assert first["iou"] == pytest.approx(4 / 5.9)
    assert (first["query"], first["key"], first["duration"]) == ("the dog", "A/0", 16.0)
    assert second["predicted"] is None and second["iou"] == 0.0
    assert second["answer"].split() == ANSWER.format(0, 9).split()
    Script(model, ANSWER.format(0, 8))
    (third,) = benchmark.predict(model, 1)
    assert third["predicted"] == [0.0, 7.9] and third["iou"] == pytest.approx(3 / 7.9)
    summary = benchmark.summarise([first, second, third])
    assert summary == pytest.approx(
        {
            "R1@0.3": 2 / 3,
            "R1@0.5": 1 / 3,
            "R1@0.7": 0.0,
            "mIoU": (4 / 5.9 + 3 / 7.9) / 3,
            "parse_failures": 1 / 3,
            "R1@0.5[needs event]": 1.0,
            "mIoU[needs event]": 4 / 5.9,
        }
    )


def test_baselines(rows):
    whole, middle = (
        TemporalBenchmark(rows=rows, respond=TrivialTimes(kind=kind))
        for kind in ("whole_video", "middle_half")
    )
    records = [record for index in range(2) for record in whole.predict(None, index)]
    assert [(r["key"], r["iou"]) for r in records] == [("A/0", 0.25), ("A/1", 1), ("B/0", 0.375)]
    records = [record for index in range(2) for record in middle.predict(None, index)]
    assert [r["predicted"] for r in records] == [[4, 12], [4, 12], [2, 6]]
    assert middle.summarise(records)["R1@0.5"] == pytest.approx(2 / 3)  # at least so much
    with pytest.raises(ValueError, match="whole_video, middle_half; got 'all'"):
        TrivialTimes(kind="all")


def test_annotators_of_segments(inputs, tokenizer, tmp_path):
    """A video of 65 s whose first 30 were shown, and one of 28 s: 9 frames are seen of each."""
    rows = []
    for name, frames, chosen in (
        ("long", 650, ((1, 1), (1, 1), (1, 1), (4, 5))),
        ("short", 280, ((5, 5), (5, 5), (4, 5), (4, 5))),
    ):
        torch.save(torch.randn(frames, 3), tmp_path / f"{name}.pt")
        segments = Segments(chosen, 6, 5.0)
        start, end = segments.best()
        path = tmp_path / f"{name}.pt"
        rows.append(TemporalRow(name, f"{name}/0", path, "dog", start, end, None, segments))
    model = Model(tokenizer)
    benchmark = TemporalBenchmark(rows=rows, respond=AskForTimes(inputs=inputs))
    Script(model, ANSWER.format(3, 4))  # of the 30 s that are looked at
    (first,) = benchmark.predict(model, 0)
    assert first["duration"] == 30.0 and first["predicted"] == [11.2, 15.0]
    assert (first["annotators_right"], first["annotators_iou"]) == (False, 0.0)
    Script(model, ANSWER.format(7, 8))  # 24.4 to 27.9 s: the last segment, which ends at 28
    (second,) = benchmark.predict(model, 1)
    assert second["truth"] == [25.0, 28.0] and second["duration"] == 28.0
    assert second["iou"] == pytest.approx(2.9 / 3.6)
    # two chose it, the next best chose the last two
    assert second["annotators_right"] is False
    assert second["annotators_iou"] == pytest.approx((1 + 1 + 0.5) / 3)
    Script(model, ANSWER.format(1, 3))
    right = benchmark.predict(model, 0)[0]
    assert right["predicted"] == [3.7, 11.2] and right["annotators_right"] is True
    summary = benchmark.summarise([right, second])
    assert set(summary) == set(benchmark.metrics)
    assert summary["R@1_annotators"] == 0.5
    assert summary["mIoU_annotators"] == pytest.approx((1 + 2.5 / 3) / 2)
    Script(model, "dog")
    (nothing,) = benchmark.predict(model, 0)
    assert nothing["annotators_iou"] == 0.0 and nothing["annotators_right"] is False


def test_features_are_read_once_for_all_queries_about_a_video(rows, inputs, tokenizer, monkeypatch):
    bare = [TemporalRow(**{**vars(row), "duration": None}) for row in rows]
    calls = []
    load = torch.load
    monkeypatch.setattr(
        torch, "load", lambda *a, **k: calls.append(k.get("mmap", False)) or load(*a, **k)
    )
    benchmark = TemporalBenchmark(rows=bare, respond=AskForTimes(inputs=inputs))
    records = benchmark.predict(Model(tokenizer), 0)
    assert [record["duration"] for record in records] == [16.0, 16.0]
    assert calls.count(False) == 1  # the others look at the shape alone


def test_a_baseline_needs_to_know_how_long_a_video_is(rows):
    bare = [TemporalRow(**{**vars(row), "duration": None}) for row in rows]
    with pytest.raises(ValueError, match="A/0: its annotation has no duration.* at which fps"):
        TrivialTimes(kind="whole_video").answer(None, bare)
    found = TrivialTimes(kind="whole_video", fps=10.0).answer(None, bare)
    assert [interval for _, interval in found] == [(0, 16), (0, 8), (0, 16)]


def test_an_answer_does_not_depend_on_what_is_asked_beside_it(rows, inputs, tokenizer):
    model = Model(tokenizer)
    ask = AskForTimes(inputs=inputs)
    both = ask.answer(model, [rows[0], rows[2]])
    alone = [ask.answer(model, [row])[0] for row in (rows[0], rows[2])]
    assert both == alone and both[0][0]


def test_the_frames_are_looked_at_unless_told_not_to(rows, inputs, tokenizer):
    """Reading another video's features changes the answer; without visual tokens it does not."""
    model = Model(tokenizer)
    other = TemporalRow("A", "A/0", rows[1].features, rows[0].query, 4.0, 8.0, 8.0)
    seen = [AskForTimes(inputs=inputs).answer(model, [row]) for row in (rows[0], other)]
    blind = [
        AskForTimes(inputs=inputs, use_visual=False).answer(model, [row])
        for row in (rows[0], other)
    ]
    assert seen[0] != seen[1]
    assert blind[0] == blind[1]


def test_records_and_scores_of_a_run(rows, inputs, tokenizer, tmp_path):
    model = Model(tokenizer)
    benchmark = TemporalBenchmark(rows=rows, respond=AskForTimes(inputs=inputs))
    scores = run_benchmark("charades_test", benchmark, model, tmp_path / "out")
    assert scores["charades_test/parse_failures"] == 1.0  # random weights
    records = read_records(tmp_path / "out/charades_test.jsonl")
    assert [record["key"] for record in records] == ["A/0", "A/1", "B/0"]
    assert json.loads(json.dumps(records)) == records


def test_the_fingerprint_follows_the_questions_and_the_recipe(rows, inputs):
    def fingerprint(rows, **options):
        return TemporalBenchmark(
            rows=rows, respond=AskForTimes(inputs=inputs, **options)
        ).fingerprint()

    seen = {
        fingerprint(rows),
        fingerprint(rows[:2]),
        fingerprint(rows, use_visual=False),
        fingerprint(rows, max_new_tokens=3),
    }
    assert len(seen) == 4 and fingerprint(rows) in seen


def test_labels_of_another_data_set_are_refused(rows):
    with pytest.raises(ValueError, match="3 of 3 queries have no labels, e.g. key 'A/0'"):
        TemporalBenchmark(rows=rows, respond=TrivialTimes(kind="whole_video"), labels={})
