"""Folders of masks with known scores, in both layouts, whole and with gaps."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from projects.common.masks import write_binary_png, write_palette_png
from projects.sam2_video.evaluation.folders import score_folders
from projects.sam2_video.evaluation.results import (
    read_scene_list,
    scene_scores,
    write_csv,
    write_json,
)
from projects.sam2_video.evaluation.scorer import VideoScorer
from tools.bench.vos_scores import plain_folder_scores, plain_scores

SIZE = (60, 80)


def rectangle(top, left, height=20, width=24):
    mask = np.zeros(SIZE, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def random_masks(rng, frames, objects, *, late=0):
    """{object: [mask per frame]} that do not overlap; absent here and there."""
    found = {}
    for key in range(1, objects + 1):
        found[key] = []
        for frame in range(frames):
            band = 60 // objects
            mask = rectangle(band * (key - 1), int(rng.integers(0, 50)), band - 2)
            gone = frame < late * (key - 1) or rng.random() < 0.2
            found[key].append(mask & (not gone))
    return found


def write_per_object(root, video, masks, frames=None):
    for key, of_object in masks.items():
        folder = root / video / f"{key:03d}"
        folder.mkdir(parents=True)
        for frame, mask in enumerate(of_object):
            if frames is None or frame in frames:
                write_binary_png(folder / f"{4 * frame:05d}.png", mask)


def write_palette(root, video, masks):
    (root / video).mkdir(parents=True)
    for frame in range(len(next(iter(masks.values())))):
        ids = np.zeros(SIZE, np.uint8)
        for key, of_object in masks.items():
            ids[of_object[frame]] = key
        write_palette_png(root / video / f"{4 * frame:05d}.png", ids)


WRITERS = {"per_object": write_per_object, "palette": write_palette}


def test_scores_by_hand(tmp_path):
    """One object; the first and the last frame, which are hopeless, do not count."""
    whole, half = rectangle(10, 10), rectangle(10, 10, height=10)
    nothing = np.zeros(SIZE, bool)
    truth = {1: [whole, whole, whole, whole, whole]}
    predicted = {1: [nothing, whole, half, nothing, nothing]}
    write_per_object(tmp_path / "truth", "a", truth)
    write_per_object(tmp_path / "predicted", "a", predicted)
    scores = score_folders(tmp_path / "truth", tmp_path / "predicted", workers=1)
    score = scores.objects["a", "001"]
    # radius 1; the halves share three sides of the contour: of the lower edge nothing is matched
    _, boundary = plain_scores(half, whole)
    assert score.region == pytest.approx((1 + 0.5 + 0) / 3)
    assert score.boundary == pytest.approx((1 + boundary + 0) / 3) and 0.5 < boundary < 0.9
    assert score.frames == 3
    everything = score_folders(
        tmp_path / "truth", tmp_path / "predicted", skip_first_and_last=False, workers=1
    )
    assert everything.objects["a", "001"].region == pytest.approx(1.5 / 5)


def test_the_score_is_the_mean_over_objects_not_videos(tmp_path):
    whole, nothing = rectangle(10, 10), np.zeros(SIZE, bool)
    write_per_object(tmp_path / "t", "a", {1: [whole] * 3, 2: [rectangle(35, 10)] * 3})
    write_per_object(tmp_path / "p", "a", {1: [whole] * 3, 2: [rectangle(35, 10)] * 3})
    write_per_object(tmp_path / "t", "b", {1: [whole] * 3})
    write_per_object(tmp_path / "p", "b", {1: [nothing] * 3})
    summary = score_folders(tmp_path / "t", tmp_path / "p", workers=1).summary()
    assert summary == {key: pytest.approx(2 / 3) for key in ("J", "F", "J&F")}


@pytest.mark.parametrize("layout", ["per_object", "palette"])
def test_random_folders_score_as_by_the_straightforward_evaluator(tmp_path, layout):
    rng = np.random.default_rng(5)
    for video in ("a", "b", "c"):
        write = WRITERS[layout]
        write(tmp_path / "t", video, random_masks(rng, 7, 3, late=2))
        write(tmp_path / "p", video, random_masks(rng, 7, 3))
    for skip in (True, False):
        expected = plain_folder_scores(tmp_path / "t", tmp_path / "p", skip=skip)
        found = score_folders(
            tmp_path / "t", tmp_path / "p", skip_first_and_last=skip, strict=True, workers=1
        )
        assert {key: score[:2] for key, score in found.objects.items()} == {
            key: pytest.approx(value, abs=1e-9) for key, value in expected.items()
        }
        assert len(expected) == 9
    parallel = score_folders(
        tmp_path / "t", tmp_path / "p", skip_first_and_last=False, strict=True, workers=2
    )
    assert list(parallel.objects.items()) == list(found.objects.items())


def test_layouts_can_be_mixed(tmp_path):
    """The same masks as palette PNGs and as a folder per object have the same scores."""
    rng = np.random.default_rng(6)
    truth, predicted = random_masks(rng, 6, 2), random_masks(rng, 6, 2)
    for name, write in WRITERS.items():
        write(tmp_path / "t" / name, "a", truth)
        write(tmp_path / "p" / name, "a", predicted)
    found = [
        score_folders(tmp_path / "t" / one, tmp_path / "p" / other, strict=True, workers=1)
        for one in WRITERS
        for other in WRITERS
    ]
    assert len(found) == 4
    assert all(scores.objects == found[0].objects for scores in found)
    assert 0 < found[0].summary()["J"] < 1


def test_an_object_counts_from_where_something_shows_it(tmp_path):
    """Late objects: frames before them do not flatter; an early false alarm counts."""
    nothing, whole = np.zeros(SIZE, bool), rectangle(10, 10)
    truth = {1: [nothing, nothing, nothing, whole, whole, whole]}
    write_palette(tmp_path / "t", "a", {2: [rectangle(40, 10)] * 6} | truth)
    write_palette(tmp_path / "late", "a", {1: [nothing, nothing, nothing, whole, nothing, whole]})
    write_palette(tmp_path / "early", "a", {1: [nothing, nothing, whole, whole, nothing, whole]})
    late = score_folders(tmp_path / "t", tmp_path / "late", workers=1).objects["a", "001"]
    assert (late.region, late.frames) == (pytest.approx(1 / 2), 2)
    early = score_folders(tmp_path / "t", tmp_path / "early", workers=1).objects["a", "001"]
    assert (early.region, early.frames) == (pytest.approx(1 / 3), 3)


def test_objects_of_skipped_frames_alone_have_no_score(tmp_path):
    nothing, whole = np.zeros(SIZE, bool), rectangle(10, 10)
    masks = {1: [whole, nothing, nothing, whole], 2: [rectangle(40, 10)] * 4}
    write_per_object(tmp_path / "t", "a", masks)
    write_per_object(tmp_path / "p", "a", masks)
    scores = score_folders(tmp_path / "t", tmp_path / "p", workers=1)
    assert set(scores.objects) == {("a", "002")}
    write_per_object(tmp_path / "only", "a", {1: masks[1]})
    with pytest.raises(ValueError, match="none of 1 videos has an object to score"):
        score_folders(tmp_path / "only", tmp_path / "p", workers=1)


def test_gaps_are_empty_masks_or_named(tmp_path):
    masks = {1: [rectangle(10, 10)] * 5, 2: [rectangle(35, 10)] * 5}
    write_per_object(tmp_path / "t", "a", masks)
    write_per_object(tmp_path / "t", "b", masks)
    write_per_object(tmp_path / "p", "a", {1: masks[1]}, frames=[0, 1, 3])
    scores = score_folders(tmp_path / "t", tmp_path / "p", workers=1)
    assert scores.left_out == ["b"]
    assert scores.objects["a", "001"].region == pytest.approx(2 / 3)  # frame 2 is missing
    assert scores.objects["a", "002"].region == 0
    assert len(scores.missing_files) == 4 and scores.missing_files[0].endswith("a/001/00008.png")
    with pytest.raises(FileNotFoundError, match=r"(?s)1 predicted videos missing.*/p/b"):
        score_folders(tmp_path / "t", tmp_path / "p", strict=True, workers=1)
    with pytest.raises(FileNotFoundError, match=r"p/a/001/00008.png: no prediction"):
        score_folders(tmp_path / "t", tmp_path / "p", videos=["a"], strict=True, workers=2)
    write_per_object(tmp_path / "p", "b", masks)
    write_per_object(tmp_path / "p", "c", masks)
    with pytest.raises(ValueError, match="1 videos are not annotated.*'c'"):
        score_folders(tmp_path / "t", tmp_path / "p", strict=True, workers=1)


def test_a_predicted_object_that_nobody_annotated(tmp_path):
    masks = {1: [rectangle(10, 10)] * 5, 2: [rectangle(35, 10)] * 5}
    write_per_object(tmp_path / "t", "a", {1: masks[1]})
    write_per_object(tmp_path / "p", "a", masks)
    scores = score_folders(tmp_path / "t", tmp_path / "p", workers=1)
    assert list(scores.objects) == [("a", "001")] and scores.summary()["J&F"] == 1
    with pytest.raises(ValueError, match="p/a: objects 002 are not annotated, .*/t/a has 001"):
        score_folders(tmp_path / "t", tmp_path / "p", strict=True, workers=1)


def test_a_missing_palette_frame(tmp_path):
    masks = {1: [rectangle(10, 10)] * 5}
    write_palette(tmp_path / "t", "a", masks)
    write_palette(tmp_path / "p", "a", masks)
    (tmp_path / "p" / "a" / "00004.png").unlink()
    scores = score_folders(tmp_path / "t", tmp_path / "p", workers=1)
    assert scores.objects["a", "001"].region == pytest.approx(2 / 3)
    with pytest.raises(FileNotFoundError, match="p/a/00004.png"):
        score_folders(tmp_path / "t", tmp_path / "p", strict=True, workers=1)
    (tmp_path / "p" / "a" / "00000.png").unlink()  # does not count, so nobody asks for it
    (tmp_path / "t" / "a" / "00004.png").unlink()
    assert score_folders(tmp_path / "t", tmp_path / "p", strict=True, workers=1).summary()["J"] == 1


def test_folders_that_do_not_fit_are_named(tmp_path):
    masks = {1: [rectangle(10, 10)] * 3}
    write_per_object(tmp_path / "t", "a", masks)
    small = {1: [mask[:30] for mask in masks[1]]}
    write_per_object(tmp_path / "p", "a", small)
    with pytest.raises(ValueError, match=r"p/a/001/00004.png is \(30, 80\).*\(60, 80\)"):
        score_folders(tmp_path / "t", tmp_path / "p", workers=1)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        score_folders(tmp_path / "t", tmp_path / "nowhere", workers=1)
    with pytest.raises(FileNotFoundError, match="holds none of the 1 annotated videos"):
        score_folders(tmp_path / "t", tmp_path / "p" / "a", workers=1)
    with pytest.raises(FileNotFoundError, match="1 annotated videos missing"):
        score_folders(tmp_path / "t", tmp_path / "p", videos=["x"], workers=1)
    write_palette_png(tmp_path / "t" / "a" / "00000.png", np.zeros(SIZE, np.uint8))
    with pytest.raises(ValueError, match="both PNG files and numbered folders"):
        score_folders(tmp_path / "t", tmp_path / "p", workers=1)


def test_void_pixels_count_for_nobody(tmp_path):
    ids = rectangle(10, 10).astype(np.uint8)
    ids[50:] = 255
    for root in ("t", "p"):
        (tmp_path / root / "a").mkdir(parents=True)
        for frame in range(3):
            write_palette_png(tmp_path / root / "a" / f"{frame}.png", ids)
    scores = score_folders(tmp_path / "t", tmp_path / "p", workers=1)
    assert set(scores.objects) == {("a", "001")}


def test_frames_are_in_the_order_of_their_numbers(tmp_path):
    """Without leading zeros 10 comes after 9: it is the last one, which is skipped."""
    whole, nothing = rectangle(10, 10), np.zeros(SIZE, bool)
    for root, last in (("t", whole), ("p", nothing)):
        (tmp_path / root / "a").mkdir(parents=True)
        for frame in (8, 9, 10):
            mask = last if frame == 10 else whole
            write_palette_png(tmp_path / root / "a" / f"{frame}.png", mask.astype(np.uint8))
    assert score_folders(tmp_path / "t", tmp_path / "p", workers=1).summary()["J"] == 1


def test_the_scorer_keeps_scores_only():
    scorer = VideoScorer()
    for _ in range(3):
        scorer.add(1, rectangle(0, 0), rectangle(0, 0))
    assert scorer.scores()[1] == (1.0, 1.0, 3)
    kept = [value for values in vars(scorer).values() for value in values]
    assert not any(isinstance(value, np.ndarray) for value in kept)


# ---- files --------------------------------------------------------------------------------------


@pytest.fixture
def scores(tmp_path):
    whole, half = rectangle(10, 10), rectangle(10, 10, height=10)
    for video, predicted in (("a", whole), ("longer_name", half), ("c", whole)):
        write_per_object(tmp_path / "t", video, {0: [whole] * 3})
        write_per_object(tmp_path / "p", video, {0: [predicted] * 3})
    return score_folders(tmp_path / "t", tmp_path / "p", workers=1)


def test_csv_is_that_of_savs_evaluator(scores, tmp_path):
    write_csv(scores, tmp_path / "results.csv")
    rows = [[cell.strip() for cell in row] for row in csv.reader((tmp_path / "results.csv").open())]
    half = scores.objects["longer_name", "000"]
    assert rows[0] == ["sequence", "obj", "J&F", "J", "F"]
    assert rows[1][:2] == ["Global score", ""] and rows[1][3] == f"{100 * 2.5 / 3:.1f}"
    assert rows[2] == ["a", "000", "100.0", "100.0", "100.0"]
    assert rows[4][:2] == ["longer_name", "000"] and rows[4][3] == "50.0"
    assert rows[4][4] == f"{100 * half.boundary:.1f}"


def test_json_says_how_the_numbers_came_about(scores, tmp_path):
    write_json(
        scores,
        tmp_path / "m.json",
        settings={"strict": False},
        scenes={"a": 1, "c": 5, "longer_name": 3},
    )
    content = json.loads((tmp_path / "m.json").read_text())
    assert content["J"] == pytest.approx(2.5 / 3) and content["settings"] == {"strict": False}
    assert content["J&F"] == pytest.approx((content["J"] + content["F"]) / 2)
    assert content["scenes"]["1"]["J"] == 1 and content["scenes"]["3+"]["J"] == pytest.approx(0.75)
    assert (content["scenes"]["3+"]["objects"], content["videos"], content["objects"]) == (2, 3, 3)
    rows = {(row["video"], row["object"]): row for row in content["per_object"]}
    assert rows["longer_name", "000"]["J"] == pytest.approx(0.5)
    assert rows["a", "000"]["frames"] == 1
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_scene_lists(scores, tmp_path):
    path = tmp_path / "scenes.txt"
    path.write_text("a 1\nlonger_name, 2\n\nc 4\n")
    scenes = read_scene_list(path)
    assert scenes == {"a": 1, "longer_name": 2, "c": 4}
    assert set(scene_scores(scores, scenes)) == {"1", "2", "3+"}
    with pytest.raises(ValueError, match="lacks 1 of 3 scored videos, first: c"):
        scene_scores(scores, {"a": 1, "longer_name": 2})
    path.write_text("a 1\nb many\n")
    with pytest.raises(ValueError, match="scenes.txt, line 2: 'b many'"):
        read_scene_list(path)
    with pytest.raises(FileNotFoundError, match="nowhere.txt"):
        read_scene_list(tmp_path / "nowhere.txt")
