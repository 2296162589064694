"""Concept samples: which frames, what is drawn on them, and what is asked."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from projects.common.conversation import IGNORE_INDEX
from projects.common.samplers import Draw
from projects.llava_sam2.datasets.concept import ConceptDataset, frames_of
from projects.llava_sam2.datasets.concept_draw import ConceptDraw, Shown
from projects.llava_sam2.datasets.concept_inputs import RELEASED_QUESTION, ConceptInputs
from projects.llava_sam2.datasets.pixels import SingleTile, resize_masks
from projects.llava_sam2.structures import collate_grounding
from projects.sam2_video.data.sav import SavSource
from projects.toy_world.generate import generate
from projects.toy_world.world import World
from tests.llava_sam2.datasets.tiny import HEIGHT, WIDTH, block, picture, rle, tiny_inputs
from tools import make_sav_lists

ASK = dict(questions=["segment it"], answers=["sure [SEG] ."])
GONE = np.zeros((HEIGHT, WIDTH), dtype=bool)


def seeds(count):
    return [np.random.default_rng(seed) for seed in range(count)]


# ---- which frames ------------------------------------------------------------------------------


def test_the_target_follows_a_visible_frame_within_the_gap():
    visible, annotated = [2, 3, 8, 9], list(range(12))
    draws = [ConceptDraw(max_gap=3).target(visible, annotated, rng) for rng in seeds(200)]
    assert {start for start, _ in draws} == {2, 3, 8, 9}
    assert {target - start for start, target in draws} == {1, 2, 3}
    assert {target for _, target in draws} > {4, 5, 10, 11}  # also where it is not to be seen
    sparse = [ConceptDraw(max_gap=2).target([0, 4], [0, 4, 8], rng) for rng in seeds(50)]
    assert set(sparse) == {(0, 4), (0, 8), (4, 8)}  # gaps count annotated frames


def test_a_video_shorter_than_the_gap_has_targets_all_over():
    draw = ConceptDraw(max_gap=15)
    targets = Counter(draw.target([1, 2], list(range(4)), rng) for rng in seeds(60))
    assert set(targets) == {(1, 2), (1, 3), (2, 3)} and min(targets.values()) > 5
    for visible in ([], [3]):
        with pytest.raises(ValueError, match="on no frame before the last"):
            draw.target(visible, list(range(4)), np.random.default_rng(0))


def test_references_are_earlier_sights_in_order_or_any():
    visible = list(range(0, 40, 2))
    earlier = [ConceptDraw().of_object(visible, 20, 25, rng) for rng in seeds(300)]
    assert {len(frames) for frames in earlier} == set(range(1, 8))
    assert all(frames == sorted(set(frames)) and max(frames) <= 24 for frames in earlier)
    assert {frame for frames in earlier for frame in frames} == set(range(0, 25, 2))
    published = ConceptDraw(references="any")
    anywhere = [published.of_object(visible, 20, 24, rng) for rng in seeds(300)]
    seen = {frame for frames in anywhere for frame in frames}
    assert seen == set(visible) - {20, 24} and any(f != sorted(f) for f in anywhere)
    assert ConceptDraw().of_object([3], 3, 4, np.random.default_rng(0)) == [3]
    assert published.of_object([3], 3, 4, np.random.default_rng(0)) == [3]


@pytest.mark.parametrize("references", range(1, 8))
def test_noise_replaces_fewer_than_half_and_never_the_first(references):
    own = [Shown(frame, 0) for frame in range(references)]
    others = {1: [0, 1, 2, 50], 2: [3, 4], 3: [], 4: [60]}
    replaced, objects = set(), set()
    for rng in seeds(300):
        noisy = ConceptDraw().with_noise(own, others, 10, rng)
        assert len(noisy) == references and noisy[0] == own[0]
        strange = [place for place, shown in enumerate(noisy) if shown.key != 0]
        assert all(noisy[place].frame in others[noisy[place].key] for place in strange)
        assert all(noisy[place].frame < 10 for place in strange)
        assert all(noisy[p] == own[p] for p in range(references) if p not in strange)
        replaced.add(len(strange))
        objects |= {frozenset(noisy[place].key for place in strange)}
    assert max(replaced) == (references - 1) // 2 and 0 in replaced
    assert objects <= {frozenset(), frozenset({1}), frozenset({2}), frozenset({1, 2})}
    quiet = ConceptDraw(max_noise_objects=0)
    assert quiet.with_noise(own, others, 10, np.random.default_rng(1)) == own


def test_there_is_as_much_noise_as_published():
    """Among 7 references: none, one or two objects lend 1 to 7 frames each, at most 3 are taken."""
    shares = np.zeros(4)
    for objects in range(3):
        for lent in itertools.product(range(1, 8), repeat=objects):
            most = min(3, sum(lent))
            shares[1 : most + 1] += 1 / 3 / 7**objects / max(most, 1)
    shares[0] = 1 - shares.sum()
    own, others = [Shown(frame, 0) for frame in range(7)], {1: range(9), 2: range(9)}
    draws = [ConceptDraw().with_noise(own, others, 10, rng) for rng in seeds(4000)]
    counts = Counter(sum(shown.key != 0 for shown in draw) for draw in draws)
    np.testing.assert_allclose([counts[n] / 4000 for n in range(4)], shares, atol=0.02)


def test_numbers_that_cannot_be_are_refused():
    for wrong in (dict(max_references=0), dict(max_gap=0), dict(max_noise_objects=-1)):
        with pytest.raises(ValueError, match="at least"):
            ConceptDraw(**wrong)
    with pytest.raises(ValueError, match="'earlier' or 'any', got 'late'"):
        ConceptDraw(references="late")


# ---- what is drawn and asked -------------------------------------------------------------------


def test_the_contour_is_green_two_pixels_wide_and_outside_only(tmp_path):
    inputs = ConceptInputs(inputs=tiny_inputs(tmp_path), **ASK)
    mask = block(4, 6, 15, 20)
    mask[8:11, 11:14] = False  # a hole has no contour
    mask[17:19, 28:30] = True  # a second part has
    frame = np.full((HEIGHT, WIDTH, 3), 90, dtype=np.uint8)
    drawn = inputs.outline(frame, mask)
    green = (drawn == (0, 255, 0)).all(axis=-1)
    assert set(map(tuple, drawn.reshape(-1, 3))) == {(90, 90, 90), (0, 255, 0)}
    assert (frame == 90).all()  # a copy
    ring = block(4, 6, 15, 20)
    ring[5:14, 7:19] = False
    assert green[ring].all()  # the border pixels of the object, and at most one on either side
    assert not green[~block(3, 5, 16, 21) & ~block(16, 27, 20, 31)].any()
    assert not green[6:13, 8:18].any() and green[17, 28]
    assert (inputs.outline(frame, GONE) == frame).all()


def test_what_is_supervised(tmp_path):
    inputs = ConceptInputs(inputs=tiny_inputs(tmp_path), **ASK)
    encoded = inputs.conversation(inputs.first(), pictures=3, name="x")
    tokenizer = inputs.inputs.tokenizer
    words = tokenizer.convert_ids_to_tokens(encoded.input_ids)
    assert words.count("<IMG_CONTEXT>") == 12 and words.count("<img>") == 3
    supervised = encoded.input_ids[encoded.labels != IGNORE_INDEX]
    assert tokenizer.convert_ids_to_tokens(supervised) == ["sure", "[SEG]", ".", "<|im_end|>"]


def test_one_seg_in_question_and_answer_together(tmp_path):
    inputs = tiny_inputs(tmp_path)
    released = ConceptInputs(inputs=inputs, questions=[RELEASED_QUESTION], answers=[""])
    encoded = released.conversation(released.first(), pictures=2, name="x")
    words = inputs.tokenizer.convert_ids_to_tokens(encoded.input_ids)
    assert words.index("[SEG]") < words.index("assistant")  # as SeC's inference asks
    for wrong in (
        dict(questions=["a [SEG]"], answers=["[SEG]"]),
        dict(questions=["a"], answers=["b"]),
    ):
        with pytest.raises(ValueError, match=r"must hold one \[SEG\] together"):
            ConceptInputs(inputs=inputs, **wrong)
    with pytest.raises(ValueError, match="at least one question"):
        ConceptInputs(inputs=inputs, questions=[])
    with pytest.raises(ValueError, match="more than one <image>"):
        ConceptInputs(inputs=inputs, questions=["<image> <image>"], answers=["[SEG]"])


# ---- samples -----------------------------------------------------------------------------------


def write_sav(root, videos):
    """``{name: objects x annotated frames of masks or None}``; every 4th frame is annotated."""
    for name, tracks in videos.items():
        steps = len(tracks[0])
        (root / name).mkdir(parents=True)
        for frame in range(4 * steps):
            Image.fromarray(picture(frame)).save(root / name / f"{frame:05d}.png")
        masklet = [
            [None if track[step] is None else rle(track[step]) for track in tracks]
            for step in range(steps)
        ]
        (root / f"{name}_manual.json").write_text(json.dumps({"masklet": masklet}))


@pytest.fixture
def tracks():
    moving = [block(2, 2 + 2 * t, 12, 10 + 2 * t) for t in range(6)]
    other = [block(10, 20 - t, 18, 28 - t) for t in range(6)]
    late = [GONE] * 5 + [block(1, 1, 3, 3)]
    return moving[:4] + [GONE, GONE], other, late


@pytest.fixture
def build(tmp_path, tracks):
    write_sav(tmp_path / "sav", {"sav_000001": tracks, "sav_000002": tracks[1:2]})
    inputs = tiny_inputs(tmp_path / "words", tiles=SingleTile(size=32), tokens_per_tile=4)

    def build(**changes):
        root = tmp_path / "sav"
        source = SavSource(annotation_root=root, frame_root=root, rm_unannotated=False)
        settings = dict(source=source, inputs=ConceptInputs(inputs=inputs, **ASK), mask_size=24)
        return ConceptDataset(**(settings | changes))

    return build


def outlined(mask, frame):
    """The picture of an annotated frame with a contour, drawn by other means than the dataset."""
    image = picture(4 * frame).copy()
    padded = np.pad(mask, 1)
    inside = np.ones_like(mask)
    for shift in ((0, 1), (2, 1), (1, 0), (1, 2)):
        inside &= padded[shift[0] : shift[0] + HEIGHT, shift[1] : shift[1] + WIDTH]
    border = mask & ~inside
    image[border] = (0, 255, 0)
    return image, border


def test_a_sample_shows_the_object_then_asks_for_it(build, tracks):
    data = build(frames=ConceptDraw(max_gap=3, max_noise_objects=0))
    assert data.rows == [(0, 0), (0, 1), (1, 0)]  # the late one cannot be shown before
    targets = set()
    for seed in range(30):
        sample = data[Draw(0, 0, seed)]
        assert sample.task == "concept" and sample.masks.shape == (1, 1, 24, 24)
        frames = np.stack([picture(4 * step) for step in range(6)])
        small = data.inputs.inputs.grounding_frames(frames)
        (target,) = [t for t in range(6) if torch.equal(small[t], sample.grounding_frames[0])]
        targets.add(target)
        assert torch.equal(sample.masks[0, 0], resize_masks(tracks[0][target], 24))
        plain = data.inputs.pictures(frames[target][None])[0]
        assert torch.equal(sample.pixel_values[-1], plain)
        seen = []
        for shown in sample.pixel_values[:-1]:
            for step in range(min(target, 4)):
                image, border = outlined(tracks[0][step], step)
                drawn = data.inputs.outline(picture(4 * step), tracks[0][step])
                assert (drawn[border] == (0, 255, 0)).all()
                if torch.equal(data.inputs.pictures(drawn[None])[0], shown):
                    seen.append(step)
        assert len(seen) == len(sample.pixel_values) - 1 and seen == sorted(set(seen))
        collate_grounding([sample])
    assert targets == {1, 2, 3, 4, 5}  # also frames that it has left


def test_noise_outlines_another_object_of_the_video(build, tracks):
    data = build()
    strange = 0
    for seed in range(60):
        sample = data[Draw(0, 0, seed)]
        pictures = {
            key: [
                data.inputs.pictures(data.inputs.outline(picture(4 * t), tracks[key][t])[None])[0]
                for t in range(6)
                if tracks[key][t].any()
            ]
            for key in (0, 1)
        }
        kinds = [
            next(k for k in pictures if any(torch.equal(shown, p) for p in pictures[k]))
            for shown in sample.pixel_values[:-1]
        ]
        assert kinds[0] == 0 and 2 * sum(kinds) < len(kinds)
        strange += sum(kinds)
    assert strange > 5


def test_a_sample_is_a_function_of_its_draw(build):
    data = build()
    first, again, other = data[Draw(0, 1, 4)], data[Draw(0, 1, 4)], data[Draw(0, 1, 5)]
    assert torch.equal(first.pixel_values, again.pixel_values)
    assert first.pixel_values.shape != other.pixel_values.shape or not torch.equal(
        first.pixel_values, other.pixel_values
    )


def test_frames_without_an_annotation_are_never_the_target(build, tmp_path, tracks):
    holes = [mask if step in (0, 3) else None for step, mask in enumerate(tracks[1])]
    write_sav(tmp_path / "more", {"sav_000003": [holes, tracks[1]]})
    root = tmp_path / "more"
    source = SavSource(annotation_root=root, frame_root=root, rm_unannotated=False)
    assert frames_of(source[0], 0) == ([0, 3], [0, 3])
    data = build(source=source)
    frames = data.inputs.inputs.grounding_frames(np.stack([picture(4 * t) for t in range(6)]))
    for seed in range(20):
        assert torch.equal(data[Draw(0, 0, seed)].grounding_frames[0], frames[3])


def test_lists_are_read_and_their_mistakes_told(build, tmp_path, caplog):
    file = tmp_path / "sav_video_obj_ids.txt"
    file.write_text("sav_000002 0\nsav_000001 1\n")
    assert build(objects_file=file).rows == [(1, 0), (0, 1)]
    file.write_text("sav_000002 0\nsav_000009 1\nsav_000008 0\n")
    with pytest.raises(ValueError, match="2 bad records(.|\n)*sav_000009: no annotation"):
        build(objects_file=file)
    with caplog.at_level(logging.WARNING):
        assert build(objects_file=file, on_bad_row="skip").rows == [(1, 0)]
    assert "sav_000008" in caplog.text
    file.write_text("sav_000001 2\nsav_000001 7\n")
    data = build(objects_file=file)
    with pytest.raises(ValueError, match="sav_000001_manual.json object 2: .*--min-frames 2"):
        data[0]
    with pytest.raises(ValueError, match="object 7: it has 3 objects; is the list its own"):
        data[1]
    with pytest.raises(FileNotFoundError, match="tools/make_sav_lists.py writes it"):
        build(objects_file=tmp_path / "none.txt")


def test_the_toy_worlds_sa_v_from_frames_and_from_mp4(tmp_path, monkeypatch):
    """With the list that the tool writes; the mp4 gives the same frames, but for its coding."""
    world, lists = tmp_path / "toy", tmp_path / "lists"
    generate(World(seed=2, sizes={"sav_train": 3}), world)
    root = world / "SA-V" / "train"
    command = ["make_sav_lists", root, root, lists, "--objects-only", "--min-frames", 2]
    monkeypatch.setattr(sys, "argv", [*map(str, command), "--workers", "1"])
    assert make_sav_lists.main() == 0
    inputs = tiny_inputs(tmp_path / "words", tiles=SingleTile(size=64), tokens_per_tile=16)
    samples = []
    for folder in ("frames", "mp4"):
        if folder == "mp4":
            for path in filter(Path.is_dir, list(root.iterdir())):
                shutil.rmtree(path)
        data = ConceptDataset(
            source=SavSource(annotation_root=root, frame_root=root, rm_unannotated=False),
            objects_file=lists / "sav_video_obj_ids.txt",
            inputs=ConceptInputs(inputs=inputs, **ASK),
            mask_size=128,
        )
        samples.append(data[Draw(0, 1, 3)])
        number, key = data.rows[1]
        masks = [data.source[number].read_masks(t, [key])[key] for t in range(8)]
        assert any(np.array_equal(samples[-1].masks[0, 0], mask) for mask in masks)
    first, second = samples
    apart = (first.pixel_values.float() - second.pixel_values.float()).abs()
    assert first.pixel_values.shape == second.pixel_values.shape and apart.mean() < 6
    assert torch.equal(first.masks, second.masks)
