"""Temporal rows, and samples whose features say which frame they are."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch

from projects.common.conversation import FRAME_DIGITS, load_shared_tokenizer, load_tokenizer
from projects.common.samplers import Draw
from projects.llava_sam2.datasets import temporal_rows
from projects.llava_sam2.datasets.collate import collate
from projects.llava_sam2.datasets.feature_files import FeatureNote, load_features
from projects.llava_sam2.datasets.frame_samplers import RandomFrames, UniformFrames
from projects.llava_sam2.datasets.temporal import (
    TemporalDataset,
    TemporalInputs,
    parse_span,
    span_text,
    with_frames,
)
from projects.llava_sam2.datasets.temporal_row import TemporalRow, read_features
from projects.llava_sam2.datasets.temporal_rows import charades_rows, time_token_rows
from projects.llava_sam2.structures import GroundingSample
from tests.llava_sam2.datasets import tiny
from tests.llava_sam2.datasets.tiny import write_tokenizer

QUESTION = "<TEMPORAL> {query} <image> describe {query} ."
GOOD = "AAAAA 1.3 6.0##the dog.\n\nBBBBB 0.0 11.96##red circle.\nAAAAA 9.0 24.0##big dog.\n"


def save_features(root, video, frames, width=3):
    """Frame number and ones: a sample's features say which frames they are."""
    root.mkdir(parents=True, exist_ok=True)
    rows = torch.ones(frames, width)
    rows[:, 0] = torch.arange(frames)
    torch.save(rows, root / f"{video}.pt")


@pytest.fixture
def charades(tmp_path):
    save_features(tmp_path / "features", "AAAAA", 240)
    save_features(tmp_path / "features", "BBBBB", 119)
    (tmp_path / "sta.txt").write_text(GOOD)
    (tmp_path / "v1.csv").write_text('id,script,length\nAAAAA,"a, b",24.0\nBBBBB,x,11.9\n')
    return dict(
        file=tmp_path / "sta.txt",
        durations=tmp_path / "v1.csv",
        feature_root=tmp_path / "features",
    )


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_shared_tokenizer(write_tokenizer(tmp_path_factory.mktemp("words")))


@pytest.fixture
def make_inputs(tokenizer):
    def make(**changes):
        settings = dict(tokenizer=tokenizer, template="qwen_chat", questions=[QUESTION])
        return TemporalInputs(**(settings | changes))

    return make


# ---- rows


def test_charades_lines(charades):
    rows = charades_rows(**charades)
    assert [(r.key, r.query, r.start, r.end, r.duration) for r in rows] == [
        ("AAAAA/0", "the dog.", 1.3, 6.0, 24.0),
        ("BBBBB/0", "red circle.", 0.0, 11.9, 11.9),  # 0.06 s too long: moved to the end
        ("AAAAA/1", "big dog.", 9.0, 24.0, 24.0),
    ]
    assert rows[0].features == charades["feature_root"] / "AAAAA.pt"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("AAAAA 1.3 6.0 the dog.", "expected 'VIDEO start end##sentence.'"),
        ("AAAAA 1.3##the dog.", "expected 'VIDEO start end##sentence.'"),
        ("CCCCC 1.3 6.0##the dog.", "video CCCCC is not in .*v1.csv"),
        ("DDDDD 1.3 6.0##the dog.", "no features .*DDDDD.pt"),
        ("AAAAA 6.1 6.0##the dog.", "starts at 6.1 s, after its end at 6.0 s"),
        ("AAAAA 1.3 25.1##the dog.", "1.3 to 25.1 s lies outside of the video's 24.0 s"),
        ("AAAAA 24.5 24.8##the dog.", "outside of the video's 24.0 s"),
        ("AAAAA 1,3 6.0##the dog.", "'1,3' is no time"),
        ("AAAAA nan 6.0##the dog.", "'nan' is no time"),
        ("AAAAA -1 6.0##the dog.", "'-1' is no time"),
        ("AAAAA 1.3 6.0## ", "empty query"),
    ],
)
def test_bad_lines_are_named_and_may_be_skipped(charades, line, reason, caplog):
    with charades["durations"].open("a") as table:
        table.write("DDDDD,x,20\n")
    charades["file"].write_text(f"{line}\n{GOOD}")
    with pytest.raises(ValueError, match=rf"sta\.txt: 1 bad records:\n  line 1: .*{reason}"):
        charades_rows(**charades)
    assert len(charades_rows(**charades, on_bad_row="skip")) == 3
    assert "1 bad records" in caplog.text


def test_skipped_lines_rename_no_others(charades):
    charades["file"].write_text("AAAAA 9 2##big.\n" + GOOD)
    assert charades_rows(**charades, on_bad_row="skip")[0].key == "AAAAA/1"


def test_missing_and_foreign_files(charades, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.txt"):
        charades_rows(**charades | {"file": tmp_path / "no.txt"})
    with pytest.raises(FileNotFoundError, match=r"no\.csv"):
        charades_rows(**charades | {"durations": tmp_path / "no.csv"})
    charades["durations"].write_text("id,len\nAAAAA,3\n")
    with pytest.raises(ValueError, match="columns 'id' and 'length'"):
        charades_rows(**charades)
    charades["durations"].write_text("id,length\nAAAAA,3\nBBBBB,long\n")
    with pytest.raises(ValueError, match=r"v1\.csv line 3: length: 'long'"):
        charades_rows(**charades)


def tokens(text):
    names = dict(zip("0123456789.", [*temporal_rows._DIGITS, "DOT"], strict=True))
    return "".join(f"<TIME_{names[character]}>" for character in text)


def write_time_tokens(path, *pairs, video="Charades/videos/AAAAA.mp4"):
    path.write_text(json.dumps([{"video": video, "QA": [dict(q=q, a=a) for q, a in pairs]}]))
    return path


def test_time_tokens(charades, tmp_path):
    root = charades["feature_root"]
    first = "<TIME_ZERO><TIME_ZERO><TIME_ZERO><TIME_ONE><TIME_DOT><TIME_THREE>"
    path = write_time_tokens(
        tmp_path / "time_token.json",
        ("When is 'the person's dog sits.' seen?", f"{first} - {tokens('0016.0')} seconds, so."),
        ("When 'it'?", f"{tokens('0009.0')}-{tokens('0010.5')}"),
    )
    rows = time_token_rows(file=path, feature_root=root)
    assert [(r.video, r.key, r.query, r.start, r.end, r.duration) for r in rows] == [
        ("AAAAA", "AAAAA/0", "the person's dog sits.", 1.3, 16.0, None),
        ("AAAAA", "AAAAA/1", "it", 9.0, 10.5, None),
    ]


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("When is it?", tokens("0001.0") + " - " + tokens("0002.0"), "no query between"),
        ("When 'it'?", "from 3 to 4 seconds", "expected one interval, found 0"),
        ("When 'it'?", ", ".join([f"{tokens('0001.0')} - {tokens('0002.0')}"] * 2), "found 2"),
        ("When 'it'?", tokens("0001.0") + " - <TIME_TEN>", "unknown time tokens"),
        ("When 'it'?", tokens("0.0.1") + " - " + tokens("0002.0"), "'0.0.1' is no time of four"),
        ("When 'it'?", tokens("001.0") + " - " + tokens("0002.0"), "'001.0' is no time of four"),
        ("When 'it'?", tokens("0001.0") + " - " + tokens("0002"), "'0002' is no time of four"),
        ("When ' '?", tokens("0001.0") + " - " + tokens("0002.0"), "empty query"),
        (None, tokens("0001.0") + " - " + tokens("0002.0"), "needs 'q' and 'a', as text"),
        ("When 'it'?", tokens("0003.0") + " - " + tokens("0002.0"), "after its end"),
    ],
)
def test_bad_questions_are_named(charades, tmp_path, question, answer, reason):
    path = write_time_tokens(tmp_path / "time_token.json", (question, answer))
    with pytest.raises(ValueError, match=rf"record 0 \(AAAAA\) QA 0: .*{reason}"):
        time_token_rows(file=path, feature_root=charades["feature_root"])


# ---- features


def row_of(path, start=1.0, end=2.0, duration=24.0):
    return TemporalRow(path.stem, f"{path.stem}/0", path, "the dog.", start, end, duration)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil-was-here",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([torch.ones(240, 3)], "expected one float tensor .*found list"),
        (torch.ones(240), r"found \(240,\)"),
        (torch.ones(240, 3, dtype=torch.int64), "expected one float tensor"),
        (torch.full((240, 3), float("nan")), "not finite"),
        (torch.ones(0, 3), "no frames"),
        (torch.ones(288, 3), r"288 frames at 10.0 a second are 28.8 s, .* says 24.0 s"),
        (torch.ones(200, 3), "20.0 s"),
        (Evil(), "not a file of one tensor"),
    ],
)
def test_broken_features_are_named_and_nothing_runs(
    tmp_path, monkeypatch, make_inputs, content, reason
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "AAAAA.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=rf"AAAAA\.pt: .*{reason}"):
        make_inputs().features(row_of(path))
    assert not (tmp_path / "evil-was-here").exists()


def test_a_cut_feature_file_is_named(tmp_path):
    save_features(tmp_path, "AAAAA", 240)
    path = tmp_path / "AAAAA.pt"
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(ValueError, match=r"AAAAA\.pt: not a file of one tensor"):
        read_features(row_of(path), fps=10, tolerance=2)


@pytest.mark.parametrize("zipped", [True, False])
def test_feature_files_that_are_cut_or_spoilt_anywhere(tmp_path, zipped):
    path = tmp_path / "AAAAA.pt"
    torch.save(torch.ones(12, 8), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 23):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"AAAAA\.pt: not a file of one tensor"):
            load_features(path)
    for place in range(0, len(whole), 17):  # of the numbers, any is one; nothing else gets by
        path.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
        try:
            assert load_features(path).ndim == 2
        except ValueError as error:
            assert str(path) in str(error)


def test_features_of_another_width(tmp_path):
    save_features(tmp_path, "AAAAA", 240)
    row = row_of(tmp_path / "AAAAA.pt")
    width = read_features(row, fps=10).shape[1]
    FeatureNote(10.0, "another one", width + 1, {"AAAAA": 240}).write(tmp_path)
    with pytest.raises(ValueError, match=rf"AAAAA\.pt: features {width} wide, .* {width + 1}"):
        read_features(row, fps=10)
    ids = torch.ones(3, dtype=torch.int64)
    samples = [
        GroundingSample("temporal", name, ids, ids, features=torch.ones(4, width))
        for name, width in (("a", 8), ("b", 8), ("c", 9))
    ]
    with pytest.raises(ValueError, match="a has features 8 wide, c 9; they belong to different"):
        collate(samples)


def test_without_a_duration_the_event_must_lie_within(tmp_path):
    save_features(tmp_path, "AAAAA", 240)
    path = tmp_path / "AAAAA.pt"
    assert len(read_features(row_of(path, 1, 25, None), fps=10, tolerance=2)) == 240
    with pytest.raises(ValueError, match="another rate"):
        read_features(row_of(path, 1, 65, None), fps=10, tolerance=2)


# ---- samples


def answer_of(tokenizer, sample):
    """Positions in the supervised part of a sample, read off the ids."""
    supervised = sample.labels[sample.labels != -100].tolist()
    text = [tokenizer.convert_ids_to_tokens(token) for token in supervised]
    assert text[2] == "-" and text[5] == "<|im_end|>" and len(text) == 6
    digits = [FRAME_DIGITS.index(text[place]) for place in (0, 1, 3, 4)]
    return 10 * digits[0] + digits[1], 10 * digits[2] + digits[3]


@pytest.mark.parametrize("frames", [UniformFrames(num=100), RandomFrames(num=20)])
def test_the_positions_of_the_answer_are_start_and_end(charades, make_inputs, tokenizer, frames):
    dataset = TemporalDataset(rows=charades_rows(**charades), inputs=make_inputs(frames=frames))
    expected = [(13, 60), (0, 118), (90, 239)]  # seconds times 10; the last frame for the end
    for index in range(3):
        for seed in range(5):
            sample = dataset[Draw(0, index, seed)]
            shown = sample.features[:, 0]
            assert len(shown) == frames.num and torch.all(shown.diff() > 0)
            first, last = answer_of(tokenizer, sample)
            assert (int(shown[first]), int(shown[last])) == expected[index]


def test_lengths_are_those_of_samples(charades, make_inputs):
    dataset = TemporalDataset(rows=charades_rows(**charades), inputs=make_inputs())
    assert [dataset.length_of(n) for n in range(3)] == [len(dataset[n].input_ids) for n in range(3)]
    save_features(charades["feature_root"], "CCCCC", 30)
    row = row_of(charades["feature_root"] / "CCCCC.pt", 0.5, 2.1, None)
    short = TemporalDataset(rows=[row], inputs=make_inputs())
    assert short.length_of(0) == len(short[0].input_ids) < dataset.length_of(0)


def test_a_short_video_is_seen_whole(tmp_path, make_inputs, tokenizer):
    save_features(tmp_path, "AAAAA", 30)
    dataset = TemporalDataset(
        rows=[row_of(tmp_path / "AAAAA.pt", 0.5, 2.1, 3.0)], inputs=make_inputs()
    )
    sample = dataset[0]
    assert sample.features[:, 0].tolist() == list(range(30))
    assert answer_of(tokenizer, sample) == (5, 21)


def test_another_rate_moves_the_answer(tmp_path, make_inputs, tokenizer):
    save_features(tmp_path, "AAAAA", 48)
    rows = [row_of(tmp_path / "AAAAA.pt", 3.0, 10.0, 24.0)]
    sample = TemporalDataset(rows=rows, inputs=make_inputs(fps=2.0))[0]
    assert answer_of(tokenizer, sample) == (6, 20)


def test_the_conversation(charades, make_inputs, tokenizer):
    """One visual token a frame, none of <img> and </img>, the query on both sides."""
    sample = TemporalDataset(rows=charades_rows(**charades), inputs=make_inputs())[0]
    text = tokenizer.convert_ids_to_tokens(sample.input_ids.tolist())
    visual = ["<IMG_CONTEXT>"] * 100
    query = ["the", "dog", "."]
    question = ["<TEMPORAL>", *query, *visual, "describe", *query, "."]
    answer = ["<frame_0>", "<frame_5>", "-", "<frame_2>", "<frame_5>", "<|im_end|>"]
    ask = ["<|im_start|>", "user", *question, "<|im_end|>", "<|im_start|>", "assistant"]
    assert text == [*ask, *answer]
    assert (sample.labels != -100).sum() == len(answer)
    dataset_inputs = make_inputs()
    prompt = dataset_inputs.prompt(charades_rows(**charades)[0], frames=100)
    assert torch.equal(prompt, sample.input_ids[: len(ask)])


def test_a_sample_reads_its_features_once(charades, make_inputs, monkeypatch):
    calls = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: calls.append(k) or load(*a, **k))
    dataset = TemporalDataset(rows=charades_rows(**charades), inputs=make_inputs())
    assert calls == []
    dataset[0]
    assert [call["weights_only"] for call in calls] == [True]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (dict(questions=["when is it <image> ?"]), "needs {query}"),
        (dict(questions=["{query} <image> <image>"]), "one <image>"),
        (dict(questions=[]), "at least one question"),
        (dict(fps=0.0), "fps=0.0"),
    ],
)
def test_wrong_settings_raise(make_inputs, changes, reason):
    with pytest.raises(ValueError, match=reason):
        make_inputs(**changes)


def test_a_tokenizer_must_spell_the_answers(make_inputs, tmp_path, monkeypatch):
    plain = load_tokenizer(write_tokenizer(tmp_path / "plain"))
    with pytest.raises(ValueError, match="no token '<TEMPORAL>'"):
        make_inputs(tokenizer=plain)
    monkeypatch.setattr(tiny, "WORDS", [word for word in tiny.WORDS if word != "-"])
    with pytest.raises(ValueError, match="cannot spell '-'"):
        make_inputs(tokenizer=load_shared_tokenizer(write_tokenizer(tmp_path / "dashless")))


def test_two_digits_say_a_hundred_positions(make_inputs, tokenizer):
    with pytest.raises(ValueError, match="101 frames, but two digits say 100"):
        make_inputs(frames=UniformFrames(num=101)).sample(200, np.random.default_rng(0))


def test_with_frames():
    assert with_frames([0, 10, 20, 30], [9, 22]) == [0, 9, 22, 30]
    assert with_frames([0, 10, 20], [10, 11]) == [0, 10, 11]  # never at another kept one's cost
    assert with_frames([0, 10, 20], []) == [0, 10, 20]
    assert with_frames([5], [5, 5]) == [5]
    with pytest.raises(ValueError, match="cannot hold"):
        with_frames([5], [1, 2])


# ---- answers


def test_spans_round_trip():
    for first in range(0, 100, 7):
        for last in range(first, 100, 3):
            assert parse_span(span_text(first, last), 100) == (first, last)
    assert span_text(7, 63) == "<frame_0><frame_7>-<frame_6><frame_3>"
    with pytest.raises(ValueError, match="position 100"):
        span_text(7, 100)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7-63",
        "<frame_0><frame_7>-<frame_6>",
        "<frame_0><frame_7> <frame_6><frame_3>",
        "<frame_0><frame_7>-<frame_6><frame_3>-<frame_9><frame_9>",
        "<frame_0><frame_7>-<frame_6><frame_3> or <frame_0><frame_1>-<frame_0><frame_2>",
        "<frame_0><frame_7>-<frame_6><frame_3><frame_3>",  # a digit too many: which two are meant?
        "<frame_6><frame_3>-<frame_0><frame_7>",  # ends before it starts
        "<frame_0><frame_7>-<frame_8><frame_0>",  # behind the 80 frames that were seen
    ],
)
def test_what_is_no_span(text):
    assert parse_span(text, 80) is None


@pytest.mark.parametrize(
    "text",
    [
        "<frame_0> <frame_7> - <frame_6> <frame_3>",
        "<frame_0><frame_7>-<frame_6><frame_3>.",
        "It happens from <frame_0><frame_7> to <frame_6><frame_3>, I think.",
        "<frame_0><frame_7>\u2013<frame_6><frame_3>",
        "<frame_0><frame_7>-<frame_6><frame_3>, so <frame_0><frame_7>-<frame_6><frame_3>",
    ],
)
def test_words_around_a_span_do_not_count(text):
    assert parse_span(text, 80) == (7, 63)
