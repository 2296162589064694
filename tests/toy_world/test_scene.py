"""Scenes: what is drawn is what the things say, and the mix of scenes is as documented."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageDraw

from projects.toy_world import scene as scene_module
from projects.toy_world.drawing import COLOURS, SHAPES, stamp
from projects.toy_world.scene import DIRECTIONS, SIZES, Scene, SceneSpec, sample_scene


def scenes(spec: SceneSpec, count: int, seed: int = 0) -> list[Scene]:
    return [sample_scene(np.random.default_rng([seed, i]), spec) for i in range(count)]


@pytest.fixture(scope="module")
def videos() -> list[Scene]:
    return scenes(SceneSpec(frames=6), 80)


@pytest.fixture(scope="module")
def images() -> list[Scene]:
    return scenes(SceneSpec(), 400)


def corners(shape: str, radius: float) -> list[tuple[float, float]]:
    """Corner points (x, y), y down: written down by hand for upright figures."""
    if shape == "square":
        half = 1.22 * radius / np.sqrt(2)
        return [(-half, -half), (half, -half), (half, half), (-half, half)]
    tips, notch = {"triangle": (3, None), "star": (5, 0.58)}[shape]
    reach = {"triangle": 1.38, "star": 1.36}[shape] * radius
    points = []
    for k in range(tips):
        angle = 2 * np.pi * k / tips
        points.append((reach * np.sin(angle), -reach * np.cos(angle)))
        if notch is not None:
            angle += np.pi / tips
            points.append((notch * radius * np.sin(angle), -notch * radius * np.cos(angle)))
    return points


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "circle"])
def test_shapes_match_their_polygons(shape: str) -> None:
    centre, radius, scale = np.array([40.3, 37.8]), 18.0, 8
    drawn = np.zeros((80, 90), bool)
    one = stamp(shape, centre, radius, 0.0, 80, 90)
    drawn[one.rows, one.columns] = one.inside
    canvas = Image.new("1", (90 * scale, 80 * scale))
    points = [((centre[0] + x) * scale, (centre[1] + y) * scale) for x, y in corners(shape, radius)]
    ImageDraw.Draw(canvas).polygon(points, fill=1)
    cover = np.array(canvas, dtype=float).reshape(80, scale, 90, scale).mean(axis=(1, 3))
    assert (drawn & (cover > 0.7)).sum() == (cover > 0.7).sum()
    assert not (drawn & (cover < 0.3)).any()


def test_circle_and_its_clipping() -> None:
    one = stamp("circle", np.array([5.0, 60.0]), 10.0, 0.3, 64, 64)
    drawn = np.zeros((64, 64), bool)
    drawn[one.rows, one.columns] = one.inside
    y, x = np.mgrid[:64, :64] + 0.5
    np.testing.assert_array_equal(drawn, np.hypot(x - 5, y - 60) <= 10)
    outside = stamp("circle", np.array([-40.0, 20.0]), 10.0, 0.0, 64, 64)
    assert outside.inside.size == 0


def test_same_generator_same_scene() -> None:
    spec = SceneSpec(frames=3)
    a, b, c = (sample_scene(np.random.default_rng(seed), spec) for seed in (5, 5, 6))
    np.testing.assert_array_equal(a.frames, b.frames)
    np.testing.assert_array_equal(a.masks, b.masks)
    assert not np.array_equal(a.frames, c.frames)


def test_masks_show_the_colour_that_the_thing_says(videos: list[Scene]) -> None:
    names, palette = list(COLOURS), np.array(list(COLOURS.values()))
    for scene in videos[:30]:
        assert scene.frames.dtype == np.uint8 and scene.masks.dtype == bool
        assert not (scene.masks.sum(axis=1) > 1).any(), "visible masks overlap"
        for t, n in zip(*np.nonzero(scene.masks.sum(axis=(2, 3)) > 40), strict=True):
            colour = np.median(scene.frames[t][scene.masks[t, n]].astype(float), axis=0)
            nearest = names[int(np.abs(palette - colour).sum(axis=1).argmin())]
            assert nearest == scene.things[n].colour
        empty = ~scene.masks.any(axis=1)
        spread = scene.frames[empty].astype(float).std(axis=0)
        assert 3 < spread.mean() < 25, "the background is textured, with low contrast"


def test_hidden_counts_what_the_front_thing_takes(videos: list[Scene]) -> None:
    found = 0
    for scene in videos:
        for t, front, back in zip(*np.nonzero(scene.hidden), strict=True):
            assert front > back
            thing = scene.things[back]
            one = stamp(thing.shape, thing.path[t], thing.radius, thing.angle, 128, 128)
            whole = np.zeros((128, 128), bool)
            whole[one.rows, one.columns] = one.inside
            missing = whole & ~scene.masks[t, back]
            assert missing.sum() == scene.hidden[t, :, back].sum()
            found += 1
    assert found > 50


def test_things_move_as_they_say(videos: list[Scene]) -> None:
    checked: Counter[str] = Counter()
    rows, columns = np.mgrid[:128, :128] + 0.5
    for scene in videos:
        for n, thing in enumerate(scene.things):
            areas = scene.masks[:, n].sum(axis=(1, 2))
            whole = np.flatnonzero(areas > 0.98 * areas.max())
            if len(whole) < 4 or scene.hidden[whole][:, :, n].any():
                continue
            centres = np.array(
                [[columns[scene.masks[t, n]].mean(), rows[scene.masks[t, n]].mean()] for t in whole]
            )
            moved = centres[-1] - centres[0]
            steps = whole[-1] - whole[0]
            if thing.motion in DIRECTIONS:
                along = moved @ DIRECTIONS[thing.motion]
                assert 3.7 * steps < along < 6.3 * steps
                assert np.abs(moved).sum() - along < 1.5
            elif thing.motion == "still":
                assert np.abs(moved).max() < 0.5
            elif steps == 5:
                radius = np.hypot(*(centres - centres.mean(axis=0)).T)
                assert radius.max() < 12 and np.hypot(*moved) < 17
            checked[thing.motion] += 1
    assert set(checked) == {*DIRECTIONS, "still", "around"} and min(checked.values()) >= 5


def test_the_rate_slows_motion_down() -> None:
    for scene in scenes(SceneSpec(frames=9, rate=0.25), 10):
        for thing in scene.things:
            if thing.motion in DIRECTIONS:
                assert 8 <= np.hypot(*(thing.path[8] - thing.path[0])) <= 12  # two steps of 4 to 6


def test_sizes_stay_in_their_ranges(images: list[Scene]) -> None:
    for scene in images:
        assert 2 <= len(scene.things) <= 4
        for thing in scene.things:
            assert SIZES[thing.size][0] <= thing.radius <= SIZES[thing.size][1]
    assert SIZES["small"] == (9, 12) and SIZES["large"] == (17, 21)


def test_combinations_are_uniform(images: list[Scene]) -> None:
    counts = Counter((t.shape, t.colour) for scene in images for t in scene.things)
    mean = sum(counts.values()) / (len(SHAPES) * len(COLOURS))
    assert len(counts) == len(SHAPES) * len(COLOURS)
    assert 0.55 * mean < min(counts.values()) and max(counts.values()) < 1.5 * mean


def test_twins_are_as_frequent_as_asked(images: list[Scene]) -> None:
    same = [len({t.colour for t in s.things}) < len(s.things) for s in images]
    assert 0.5 < np.mean(same) < 0.7
    none = scenes(SceneSpec(twins=(0, 0, 0)), 60)
    assert all(len({t.colour for t in s.things}) == len(s.things) for s in none)
    for scene in scenes(SceneSpec(frames=6, twins=(0, 0, 1)), 15):
        looks = Counter((t.shape, t.colour, t.size) for t in scene.things)
        twins = [t for t in scene.things if looks[t.shape, t.colour, t.size] > 1]
        assert len({t.motion for t in twins}) == 2


def test_everything_is_seen_and_some_things_leave(videos: list[Scene]) -> None:
    seen = [scene.masks.any(axis=(2, 3)) for scene in videos]
    assert all((s.sum(axis=0) > 3).all() for s in seen)
    assert sum((~s).any() for s in seen) >= 3, "some things are out of the frame for a while"
    assert np.mean([(scene.hidden > 0).any() for scene in videos]) > 0.2
    for scene in scenes(SceneSpec(frames=8, seen_at_start=True), 20):
        assert (scene.masks[0].sum(axis=(1, 2)) >= 30).all()


def test_impossible_specs_say_so(monkeypatch) -> None:
    with pytest.raises(ValueError, match="2 to 4 things, not 2 to 9"):
        SceneSpec(things=(2, 9))
    with pytest.raises(ValueError, match="32 pixels are too small"):
        SceneSpec(size=32)
    monkeypatch.setattr(scene_module, "_SEEN", 2.0)  # no mask is twice its own area
    monkeypatch.setattr(scene_module, "_MAX_TRIES", 20)
    with pytest.raises(ValueError, match="20 plans, and none in which everything is seen"):
        sample_scene(np.random.default_rng(0), SceneSpec())
