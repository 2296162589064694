"""The gate on hand-made frames, with and without the released quirk; frames decoded once."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from projects.llava_sam2.sec.gate import RecentFrames, SceneGate, SceneWatch


def plain(*colours, side=64):
    """Vertical stripes of RGB colours."""
    image = np.zeros((side, side, 3), dtype=np.uint8)
    for number, colour in enumerate(colours):
        image[:, number * side // len(colours) :] = colour
    return image


def distance(first, second, *, swapped):
    """Bhattacharyya's distance of hue x saturation histograms, written out in numpy."""

    def histogram(image):
        counts = np.zeros((60, 80))
        for r, g, b in image.reshape(-1, 3) / 255:
            hue, saturation, _ = colorsys.rgb_to_hsv(*((b, g, r) if swapped else (r, g, b)))
            hue = int(np.rint(hue * 180)) % 180
            saturation = int(np.rint(saturation * 255))
            counts[hue // 3, saturation * 80 // 256] += 1
        return counts / counts.sum()

    overlap = np.sqrt(histogram(first) * histogram(second)).sum()
    return np.sqrt(max(1 - overlap, 0))


RED, BLUE, GREY = (200, 20, 20), (20, 20, 200), (90, 90, 90)


@pytest.mark.parametrize("colours", ["swapped", "rgb"])
def test_the_distance_is_bhattacharyyas(colours):
    gate = SceneGate(colours=colours)
    pairs = [
        (plain(RED), plain((200, 110, 20))),
        (plain(RED, GREY), plain(RED, BLUE)),
        (plain(RED, GREY, GREY, GREY), plain(BLUE, GREY, GREY, GREY)),
    ]
    for first, second in pairs:
        expected = distance(first, second, swapped=colours == "swapped")
        before, now = gate.histogram(first), gate.histogram(second)
        assert 0.3 < expected <= 1
        for margin in (-0.01, 0.01):
            told = SceneGate(threshold=expected + margin, colours=colours).opens(before, now)
            assert told == (margin < 0)


def test_the_threshold_is_strict_and_negative_means_always():
    gate = SceneGate()
    assert gate.threshold == 0.35
    assert not gate.opens(gate.histogram(plain(RED)), gate.histogram(plain(RED)))
    assert gate.opens(gate.histogram(plain(RED)), gate.histogram(plain(BLUE)))
    always = SceneGate(threshold=-1)
    assert always.opens(gate.histogram(plain(RED)), gate.histogram(plain(RED)))
    with pytest.raises(ValueError, match="'swapped' or 'rgb', got 'bgr'"):
        SceneGate(colours="bgr")


def test_the_released_quirk_takes_red_for_blue():
    """Two reds of neighbouring hues that share a bin, which red taken for blue tells apart."""
    first, second = plain((200, 110, 20)), plain((200, 116, 20))  # hues 15 and 16
    plainly, quirk = SceneGate(colours="rgb"), SceneGate(colours="swapped")
    assert not plainly.opens(plainly.histogram(first), plainly.histogram(second))
    assert quirk.opens(quirk.histogram(first), quirk.histogram(second))
    mirrored = quirk.histogram(plain(RED))
    np.testing.assert_array_equal(mirrored, plainly.histogram(plain(BLUE)))


def test_a_watch_looks_at_each_frame_once_and_at_no_frame_outside(monkeypatch):
    clip = np.stack([plain(RED), plain(RED), plain(BLUE), plain(BLUE), plain(GREY)])
    gate, looked = SceneGate(), []
    histogram = gate.histogram
    monkeypatch.setattr(gate, "histogram", lambda image: looked.append(1) or histogram(image))
    watch = SceneWatch(gate, clip)
    found = [watch.changes(frame - 1, frame) for frame in range(5)]
    assert found == [False, False, True, False, True] and len(looked) == 5
    backwards = SceneWatch(SceneGate(), clip)
    assert [backwards.changes(f + 1, f) for f in (4, 3, 2, 1, 0)] == [
        False,
        True,
        False,
        True,
        False,
    ]


def test_recent_frames_are_decoded_once():
    class Video:
        reads: list[int] = []

        def __len__(self):
            return 10

        def __getitem__(self, index):
            self.reads.append(index)
            return plain(RED, side=4) + np.uint8(index)

    video = RecentFrames(Video(), keep=3)
    assert len(video) == 10
    for index in (0, 1, 0, 1, 2, 1, 3):
        np.testing.assert_array_equal(video[index], plain(RED, side=4) + np.uint8(index))
    assert Video.reads == [0, 1, 2, 3]
    video[0]
    assert Video.reads[-1] == 0 and len(video._frames) == 3
