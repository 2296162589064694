"""Videos to frames."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from projects.common.video import VideoFile, decode_frames, write_mp4
from projects.sam2_video.data import extract
from projects.sam2_video.data.extract import Extraction, extract_video, find_videos

ROOT = Path(__file__).resolve().parents[2]


def write_video(path, count=13, fps=24):
    """The n-th frame is grey 10 n, with a dot that moves."""
    frames = [np.full((64, 96, 3), 10 * number, np.uint8) for number in range(count)]
    for number, frame in enumerate(frames):
        frame[20:30, 5 * number : 5 * number + 10] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mp4(path, frames, fps)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".json")


def broken_copy(path, target):
    """The same video with the bytes in its middle overwritten."""
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) * 2 // 3] = bytes(
        len(content) * 2 // 3 - len(content) // 3
    )
    target.write_bytes(content)


def test_sequential_decoding_gives_the_pixels_of_seeking(tmp_path):
    write_video(tmp_path / "a.mp4")
    video = VideoFile(tmp_path / "a.mp4")
    decoded = list(decode_frames(tmp_path / "a.mp4", lambda index, fps: index % 3 == 1))
    assert [index for index, _ in decoded] == [1, 4, 7, 10]
    assert all(np.array_equal(frame, video[index]) for index, frame in decoded)


def test_frames_keep_their_numbers(tmp_path):
    write_video(tmp_path / "videos" / "sav_000" / "a.mp4")
    (video,) = find_videos(tmp_path / "videos")
    assert extract_video(video, tmp_path / "out", Extraction(every=4)) == 4
    folder = tmp_path / "out" / "a"
    assert names(folder) == ["00000.jpg", "00004.jpg", "00008.jpg", "00012.jpg"]
    shown = np.array(Image.open(folder / "00008.jpg"))
    assert np.abs(shown.astype(int) - VideoFile(video)[8]).mean() < 3
    assert json.loads((folder / "extraction.json").read_text())["frames"] == 4


@pytest.mark.parametrize(
    ("extraction", "expected"),
    [
        (Extraction(every=6, renumber=True), ["00000.jpg", "00001.jpg", "00002.jpg"]),
        (Extraction(fps=6), ["00000.jpg", "00004.jpg", "00008.jpg", "00012.jpg"]),
        (
            Extraction(fps=10),
            ["00000.jpg", "00002.jpg", "00005.jpg", "00007.jpg", "00010.jpg", "00012.jpg"],
        ),
        (Extraction(fps=48, every=1), [f"{number:05d}.jpg" for number in range(13)]),
        (Extraction(every=12, suffix=".png"), ["00000.png", "00012.png"]),
    ],
)
def test_rates_and_names(tmp_path, extraction, expected):
    write_video(tmp_path / "a.mp4")
    extract_video(tmp_path / "a.mp4", tmp_path, extraction)
    assert names(tmp_path / "a") == expected


def test_png_is_exact(tmp_path):
    write_video(tmp_path / "a.mp4")
    extract_video(tmp_path / "a.mp4", tmp_path, Extraction(every=5, suffix=".png"))
    shown = np.array(Image.open(tmp_path / "a" / "00005.png"))
    assert np.array_equal(shown, VideoFile(tmp_path / "a.mp4")[5])


def test_a_finished_video_is_left_alone_and_a_changed_wish_is_refused(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4")
    extract_video(tmp_path / "a.mp4", tmp_path, Extraction(every=4))
    monkeypatch.setattr(extract, "decode_frames", None)  # decoding again would fail
    assert extract_video(tmp_path / "a.mp4", tmp_path, Extraction(every=4)) == 4
    with pytest.raises(ValueError, match="made with another every;"):
        extract_video(tmp_path / "a.mp4", tmp_path, Extraction(every=2))
    (tmp_path / "a" / "00004.jpg").unlink()
    with pytest.raises(ValueError, match="3 of 4 frames are left"):
        extract_video(tmp_path / "a.mp4", tmp_path, Extraction(every=4))
    (tmp_path / "a" / "extraction.json").unlink()
    with pytest.raises(ValueError, match="was not made by this tool"):
        extract_video(tmp_path / "a.mp4", tmp_path, Extraction(every=4))


def test_an_interrupted_video_leaves_nothing_and_is_done_again(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4")

    def interrupted(*args):
        for step, decoded in enumerate(decode_frames(*args)):
            if step == 2:
                raise KeyboardInterrupt
            yield decoded

    with monkeypatch.context() as patch:
        patch.setattr(extract, "decode_frames", interrupted)
        with pytest.raises(KeyboardInterrupt):
            extract_video(tmp_path / "a.mp4", tmp_path / "out", Extraction(every=4))
    assert list((tmp_path / "out").iterdir()) == []
    # a killed process cannot tidy up: what it leaves is not taken for a result
    (tmp_path / "out" / ".tmp_a").mkdir()
    (tmp_path / "out" / ".tmp_a" / "00099.jpg").write_bytes(b"")
    assert extract_video(tmp_path / "a.mp4", tmp_path / "out", Extraction(every=4)) == 4
    assert names(tmp_path / "out" / "a") == ["00000.jpg", "00004.jpg", "00008.jpg", "00012.jpg"]
    assert names(tmp_path / "out") == ["a"]


def test_a_video_that_breaks_off_is_no_result(tmp_path):
    write_video(tmp_path / "a.mp4", count=25)
    broken_copy(tmp_path / "a.mp4", tmp_path / "b.mp4")
    with pytest.raises(ValueError, match=r"b.mp4: breaks off, \d+ of 25 frames decode"):
        extract_video(tmp_path / "b.mp4", tmp_path / "out", Extraction())
    (tmp_path / "c.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:2000])
    with pytest.raises(ValueError, match="c.mp4: does not decode"):
        extract_video(tmp_path / "c.mp4", tmp_path / "out", Extraction())
    assert list((tmp_path / "out").iterdir()) == []


def test_what_cannot_be_meant_is_refused(tmp_path):
    for options in (dict(every=0), dict(fps=0), dict(fps=2, every=2), dict(quality=0)):
        with pytest.raises(ValueError):
            Extraction(**options)
    with pytest.raises(ValueError, match="no videos"):
        find_videos(tmp_path)
    with pytest.raises(FileNotFoundError):
        find_videos(tmp_path / "nowhere")
    for folder in ("a", "b"):
        write_video(tmp_path / folder / "same.mp4", count=2)
    with pytest.raises(ValueError, match=r"several videos of one name.*\['same'\]"):
        find_videos(tmp_path)


def test_the_command(tmp_path):
    for name in "abc":
        write_video(tmp_path / "videos" / f"{name}.mp4", count=25)
    broken_copy(tmp_path / "videos" / "a.mp4", tmp_path / "videos" / "bad.mp4")
    command = [sys.executable, "tools/extract_frames.py", tmp_path / "videos", tmp_path / "out"]
    command += ["--every", "8", "--workers", "2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert result.returncode == 1
    assert "12 frames of 3 videos" in result.stderr and "bad.mp4: breaks off" in result.stderr
    assert names(tmp_path / "out") == ["a", "b", "c"]
    assert names(tmp_path / "out" / "c") == [f"{n:05d}.jpg" for n in (0, 8, 16, 24)]
