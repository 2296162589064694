"""DiDeMo's annotators, lengths that come from the features, and the note on how those were made."""

from __future__ import annotations

import json
import os

import pytest
import torch

from projects.llava_sam2.datasets.feature_files import FeatureNote, count_frames, read_note
from projects.llava_sam2.datasets.segments import Segments, span_iou
from projects.llava_sam2.datasets.temporal_row import read_features
from projects.llava_sam2.datasets.temporal_rows import charades_rows, didemo_rows, time_token_rows

# as in the released files: an uploader and a number for a name, four annotators, six segments
RECORD = {
    "annotation_id": 4711,
    "video": "12090392@N02_13482799053_87ef417396.mov",
    "description": "the dog runs. out of view",
    "times": [[2, 2], [2, 3], [2, 3], [0, 0]],
    "num_segments": 6,
    "dl_link": "https://example.org/x.mov",
    "reference_description": "the dog runs",
}
VIDEO = "12090392@N02_13482799053_87ef417396"
TIME = "".join(f"<TIME_{name}>" for name in "ZERO ZERO ZERO THREE DOT FIVE".split())


def save(root, video, frames, width=3):
    root.mkdir(parents=True, exist_ok=True)
    torch.save(torch.ones(frames, width), root / f"{video}.pt")


def write(path, content):
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def root(tmp_path):
    save(tmp_path / "features", VIDEO, 300)
    return tmp_path / "features"


# ---- DiDeMo


def test_didemo_records(root, tmp_path):
    file = write(tmp_path / "train_data.json", [RECORD, {**RECORD, "times": [[5, 5]] * 3}])
    first, second = didemo_rows(file=file, feature_root=root)
    assert (first.video, first.key, first.query) == (VIDEO, f"{VIDEO}/0", RECORD["description"])
    assert (first.start, first.end) == (10.0, 20.0)  # [2, 3] agrees better than [2, 2] or [0, 0]
    assert first.segments.chosen == ((2, 2), (2, 3), (2, 3), (0, 0))
    assert (second.key, second.start, second.end) == (f"{VIDEO}/1", 25.0, 30.0)  # inclusive
    assert first.features == root / f"{VIDEO}.pt"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (dict(times=[[3, 2]]), "starts at segment 3, after its end at 2"),
        (dict(times=[[4, 6]]), "segments 4 to 6 of a video that has 6"),
        (dict(times=[[-1, 2]]), "segments -1 to 2"),
        (dict(times=[[0.5, 2]]), "pairs of whole numbers"),
        (dict(times=[[1, 2, 3]]), "pairs of whole numbers"),
        (dict(times=[]), "pairs of whole numbers"),
        (dict(times=None), "pairs of whole numbers, found None"),
        (dict(num_segments=0), "num_segments is a positive number"),
        (dict(num_segments="6"), "num_segments is a positive number"),
        (dict(description=" "), "empty query"),
        (dict(description=7), "needs 'video' and 'description', as text"),
        (dict(video="other.avi"), r"no features .*other\.pt"),
    ],
)
def test_bad_records_are_named_and_may_be_skipped(root, tmp_path, caplog, change, reason):
    file = write(tmp_path / "val_data.json", [RECORD, {**RECORD, **change}, RECORD])
    with pytest.raises(ValueError, match=rf"val_data\.json: 1 bad records:\n  record 1.*{reason}"):
        didemo_rows(file=file, feature_root=root)
    assert len(didemo_rows(file=file, feature_root=root, on_bad_row="skip")) == 2
    assert "1 bad records" in caplog.text


def test_what_follows_the_annotated_part_is_not_looked_at(tmp_path):
    """A video of 65 s of which 30 s were shown; one of 28.8 s; one that ends before the moment."""
    file = write(tmp_path / "data.json", [{**RECORD, "times": [[4, 5]] * 4}])
    expected = {650: 300, 288: 288, 252: 252, 300: 300}
    for frames, used in expected.items():
        save(tmp_path / "features", VIDEO, frames)
        (row,) = didemo_rows(file=file, feature_root=tmp_path / "features", fps=10)
        assert len(read_features(row, fps=10)) == used
    save(tmp_path / "features", VIDEO, 200)
    (row,) = didemo_rows(file=file, feature_root=tmp_path / "features")
    with pytest.raises(ValueError, match=r"200 frames at 10 a second are 20\.0 s, .* says 30\.0 s"):
        read_features(row, fps=10)
    with pytest.raises(ValueError, match=r"20\.0 to 30\.0 s lies outside of the 20\.0 s"):
        didemo_rows(file=file, feature_root=tmp_path / "features", fps=10)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((0, 0), (0, 0), 1),
        ((0, 1), (1, 2), 1 / 3),
        ((0, 5), (2, 2), 1 / 6),
        ((0, 0), (5, 5), 0),
        ((0, 0), (1, 1), 0),
    ],
)
def test_overlap_of_inclusive_segments(one, other, expected):
    assert span_iou(one, other) == pytest.approx(expected) == span_iou(other, one)


def test_scores_are_those_of_the_three_that_agree_best():
    segments = Segments(((1, 1), (1, 1), (1, 1), (5, 5)), 6, 5.0)
    assert segments.score((1, 1)) == (True, 1.0)
    assert segments.score((1, 2)) == (False, 0.5)
    assert segments.score((5, 5)) == (False, pytest.approx(1 / 3))
    two = Segments(((1, 1), (1, 1), (2, 2), (5, 5)), 6, 5.0)
    assert two.score((1, 1)) == (False, pytest.approx(2 / 3))  # two agree, the third does not
    assert two.best() == (5.0, 10.0)


@pytest.mark.parametrize(
    ("interval", "span"),
    [
        ((5.0, 10.0), (1, 1)),
        ((4.0, 11.0), (1, 1)),
        ((2.6, 12.6), (0, 2)),
        ((7.5, 11.2), (1, 1)),
        ((27.0, 27.0), (5, 5)),
        ((0.0, 1.0), (0, 0)),
        ((29.0, 29.9), (5, 5)),
        ((28.0, 70.0), (5, 5)),
        ((0.0, 29.9), (0, 5)),
    ],
)
def test_an_interval_becomes_the_nearest_segments(interval, span):
    assert Segments(((0, 0),), 6, 5.0).nearest(*interval) == span


# ---- lengths and rates


def test_times_behind_the_features_are_counted_where_the_rate_is_known(tmp_path):
    save(tmp_path / "features", "a", 30)
    file = write(
        tmp_path / "time_token.json",
        [{"video": "QueryD/videos/a.mp4", "QA": [dict(q="When 'it'?", a=f"{TIME} - {TIME} s")]}],
    )
    settings = dict(file=file, feature_root=tmp_path / "features")
    assert len(time_token_rows(**settings)) == 1  # who knows?
    with pytest.raises(ValueError, match=r"3\.5 to 3\.5 s lies outside of the 3\.0 s"):
        time_token_rows(**settings, fps=10)
    assert time_token_rows(**settings, fps=5)[0].end == 3.5
    FeatureNote(fps=10.0, encoder="x", width=3).write(tmp_path / "features")
    with pytest.raises(ValueError, match="record 0 .*outside of the 3.0 s"):
        time_token_rows(**settings)
    with pytest.raises(ValueError, match=r"made at 10 frames a second, the config says fps=5"):
        time_token_rows(**settings, fps=5)


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ({"video": "a"}, r"expected a list of videos, found dict"),
        ([{"video": 3, "QA": []}], "record 0: it needs 'video', as text"),
        ([{"video": "a.mp4"}], "record 0: it needs a list 'QA'"),
        ([{"video": "a.mp4", "QA": [7]}], "QA 0: it needs 'q' and 'a', as text"),
        (["a.mp4"], "record 0: it needs 'video', as text"),
    ],
)
def test_foreign_records_are_named(tmp_path, records, reason):
    (tmp_path / "features").mkdir()
    file = write(tmp_path / "time_token.json", records)
    with pytest.raises(ValueError, match=reason):
        time_token_rows(file=file, feature_root=tmp_path / "features")


def test_no_path_leaves_the_folder(tmp_path):
    save(tmp_path, "secret", 100)
    (tmp_path / "features").mkdir()
    (tmp_path / "sta.txt").write_text("../secret 1.0 2.0##it.\n")
    with pytest.raises(ValueError, match=r"'\.\./secret' is no name of a video"):
        charades_rows(file=tmp_path / "sta.txt", durations=None, feature_root=tmp_path / "features")


def test_charades_without_its_table_of_lengths(tmp_path):
    save(tmp_path / "features", "AAAAA", 100)
    (tmp_path / "sta.txt").write_text("AAAAA 1.0 10.5##it.\n")
    settings = dict(file=tmp_path / "sta.txt", durations=None, feature_root=tmp_path / "features")
    (row,) = charades_rows(**settings, fps=10)
    assert (row.start, row.end, row.duration) == (1.0, 10.5, None)
    with pytest.raises(ValueError, match="outside of the 5.0 s"):
        charades_rows(**settings, fps=20)


def test_another_cut_of_a_video_is_counted_where_the_rate_is_known(tmp_path, caplog):
    """DiDeMo's and Charades' downloads hold videos of other lengths than were annotated."""
    save(tmp_path / "features", "AAAAA", 288)
    save(tmp_path / "features", "BBBBB", 650)
    (tmp_path / "sta.txt").write_text("AAAAA 1.0 9.5##it.\nBBBBB 1.0 9.5##it.\n")
    (tmp_path / "v1.csv").write_text("id,length\nAAAAA,28.8\nBBBBB,28.8\n")
    settings = dict(
        file=tmp_path / "sta.txt",
        durations=tmp_path / "v1.csv",
        feature_root=tmp_path / "features",
    )
    assert len(charades_rows(**settings)) == 2  # who knows?
    FeatureNote(10.0, "x", 3, {"AAAAA": 288, "BBBBB": 650}).write(tmp_path / "features")
    with pytest.raises(ValueError, match="1 bad.*\n  line 2: its features cover 65.0 s, .* 28.8 s"):
        charades_rows(**settings)
    assert [r.video for r in charades_rows(**settings, on_bad_row="skip")] == ["AAAAA"]
    assert len(charades_rows(**settings, tolerance=40.0)) == 2


def test_the_note_goes_out_and_comes_back(tmp_path):
    assert read_note(tmp_path) is None
    note = FeatureNote(fps=10.0, encoder="clip", width=3, frames={"a": 7})
    note.write(tmp_path)
    assert read_note(tmp_path) == note and count_frames(tmp_path, "a") == 7
    save(tmp_path, "b", 5)
    assert count_frames(tmp_path, "b") == 5  # not in the note yet
    legacy = tmp_path / "c.pt"
    torch.save(torch.ones(4, 3), legacy, _use_new_zipfile_serialization=False)
    assert count_frames(tmp_path, "c") == 4
    changed = FeatureNote(fps=5.0, encoder="clip", width=3)
    changed.write(tmp_path)
    os.utime(tmp_path / "features.json", ns=(1, 1))
    assert read_note(tmp_path) == changed


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"fps": 0, "encoder": "x", "width": 3, "frames": {}}']
)
def test_a_broken_note_is_named(tmp_path, text):
    (tmp_path / "features.json").write_text(text)
    with pytest.raises(ValueError, match=r"features\.json: not a note on features"):
        read_note(tmp_path)


def test_another_rate_than_the_config_is_refused_when_read(root, tmp_path):
    FeatureNote(fps=5.0, encoder="x", width=3).write(root)
    (row,) = didemo_rows(file=write(tmp_path / "data.json", [RECORD]), feature_root=root)
    with pytest.raises(ValueError, match="made at 5 frames a second, the config says fps=10"):
        read_features(row, fps=10)
    assert len(read_features(row, fps=5)) == 150  # 30 s of what are 60 s at this rate
