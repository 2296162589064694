"""Frames from folders and mp4: right frame, right channel order, errors that name the file."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from projects.common import video as video_module
from projects.common.video import (
    FrameFolder,
    VideoFile,
    decode_frames,
    image_size,
    open_video,
    read_image,
    write_jpeg,
    write_mp4,
)

COLOURS = [(200, 30, 30), (30, 180, 40), (40, 50, 210), (220, 200, 40), (120, 60, 160)]


def clip(frames: int = 20, height: int = 64, width: int = 96) -> np.ndarray:
    """Frame t: one of five colours, with a white column whose place says t."""
    result = np.empty((frames, height, width, 3), np.uint8)
    for t in range(frames):
        result[t] = COLOURS[t % 5]
        result[t, :, 4 * t : 4 * t + 4] = 255
    return result


def test_jpeg_is_rgb_and_whole_or_absent(tmp_path) -> None:
    image = np.zeros((32, 48, 3), np.uint8)
    image[:] = COLOURS[0]
    write_jpeg(tmp_path / "a.jpg", image)
    read = read_image(tmp_path / "a.jpg")
    assert read.dtype == np.uint8 and image_size(tmp_path / "a.jpg") == (32, 48) == read.shape[:2]
    assert np.abs(read.astype(int) - image).max() <= 3
    assert np.abs(np.array(Image.open(tmp_path / "a.jpg")).astype(int) - image).max() <= 3
    assert [p.name for p in tmp_path.iterdir()] == ["a.jpg"]
    with pytest.raises(ValueError, match=r"b\.jpg: expected RGB uint8"):
        write_jpeg(tmp_path / "b.jpg", image[..., 0])


def test_grey_and_transparent_images_become_rgb(tmp_path) -> None:
    Image.new("L", (4, 3), 77).save(tmp_path / "grey.png")
    Image.new("RGBA", (4, 3), (1, 2, 3, 128)).save(tmp_path / "alpha.png")
    assert (read_image(tmp_path / "grey.png") == 77).all()
    assert (read_image(tmp_path / "alpha.png") == (1, 2, 3)).all()


def test_truncated_jpeg_raises(tmp_path) -> None:
    path = tmp_path / "cut.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    write_jpeg(path, noise)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"cut\.jpg: does not decode \(.*truncated"):
        read_image(path)
    path.write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"cut\.jpg: does not decode"):
        image_size(path)
    with pytest.raises(FileNotFoundError, match=r"none\.jpg"):
        read_image(tmp_path / "none.jpg")


def test_folder_reads_in_number_order_with_any_suffix(tmp_path) -> None:
    for number, suffix in ((10, "png"), (9, "jpg"), (2, "PNG"), (100, "bmp")):
        Image.new("RGB", (6, 4), (number, 0, 0)).save(tmp_path / f"{number}.{suffix}", quality=100)
    (tmp_path / "notes.txt").write_text("no frame")
    folder = open_video(tmp_path)
    assert folder.names == ["2", "9", "10", "100"] and len(folder) == 4 and folder.size == (4, 6)
    assert [int(frame[0, 0, 0]) for frame in folder] == [2, 9, 10, 100]
    batch = folder.read([3, 0, 3])
    assert batch.shape == (3, 4, 6, 3) and batch[:, 0, 0, 0].tolist() == [100, 2, 100]
    assert FrameFolder(tmp_path, names=["10", "2"])[0][0, 0, 0] == 10


def test_folder_decodes_only_what_is_asked(tmp_path, monkeypatch) -> None:
    for t, frame in enumerate(clip(6)):
        write_jpeg(tmp_path / f"{t:05d}.jpg", frame)
    opened = []

    def counting(path):
        opened.append(path.name)
        return read_image(path)

    monkeypatch.setattr(video_module, "read_image", counting)
    FrameFolder(tmp_path).read([4, 1])
    assert opened == ["00004.jpg", "00001.jpg"]


def test_folder_errors(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        FrameFolder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no frames"):
        FrameFolder(tmp_path)
    Image.new("RGB", (6, 4)).save(tmp_path / "0.png")
    Image.new("RGB", (6, 5)).save(tmp_path / "1.png")
    folder = FrameFolder(tmp_path)
    with pytest.raises(ValueError, match=r"1\.png: this frame is \(5, 6\)"):
        folder.read([0, 1])
    for index in (2, -1):
        with pytest.raises(IndexError, match=f"frame {index} of 2 frames"):
            folder[index]
    with pytest.raises(FileNotFoundError, match="1 of 2 frames are missing, first '7'"):
        FrameFolder(tmp_path, names=["0", "7"])
    Image.new("RGB", (6, 4)).save(tmp_path / "1.jpg")
    with pytest.raises(ValueError, match=r"1\.jpg and 1\.png"):
        FrameFolder(tmp_path)


def test_mp4_round_trip_gives_the_frames_asked_for(tmp_path) -> None:
    frames = clip()
    write_mp4(tmp_path / "v.mp4", frames, 24)
    video = open_video(tmp_path / "v.mp4")
    assert isinstance(video, VideoFile)
    assert len(video) == 20 and video.fps == pytest.approx(24) and video.size == (64, 96)
    order = [13, 2, 19, 2, 0]
    read = video.read(order)
    assert read.shape == (5, 64, 96, 3) and read.dtype == np.uint8
    # Colours differ by over 100 from frame to frame, so another frame or BGR cannot pass.
    assert np.abs(read.astype(int) - frames[order]).mean(axis=(1, 2, 3)).max() < 6
    np.testing.assert_array_equal(video[13], read[0])
    assert video.read([]).shape == (0, 64, 96, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["v.mp4"]
    with pytest.raises(IndexError, match=r"v\.mp4: frame 20 of 20"):
        video.read([0, 20])


def with_size(mp4: bytes, height: int, width: int) -> bytes:
    """The MPEG-4 file with other sides in its stream header; OpenCV writes even ones only."""

    def bits(h: int, w: int) -> str:
        return f"1{w:013b}1{h:013b}1"

    start = mp4.index(b"\x00\x00\x01\x20") + 4  # of the video object layer
    header = "".join(f"{byte:08b}" for byte in mp4[start : start + 32])
    changed = header.replace(bits(64, 96), bits(height, width))
    assert changed != header
    whole = bytes(int(changed[i : i + 8], 2) for i in range(0, len(changed), 8))
    return mp4.replace(mp4[start : start + 32], whole)


@pytest.mark.parametrize("size", [(63, 95), (64, 95), (63, 96)])
def test_an_odd_mp4_keeps_its_last_row_and_column(tmp_path, size) -> None:
    frames = clip()
    write_mp4(tmp_path / "even.mp4", frames, 24)
    (tmp_path / "v.mp4").write_bytes(with_size((tmp_path / "even.mp4").read_bytes(), *size))
    video = open_video(tmp_path / "v.mp4")
    assert video.size == size
    read = video.read([0, 7])
    assert read.shape == (2, *size, 3)
    even = frames[[0, 7], : size[0], : size[1]].astype(int)
    assert np.abs(read - even).mean(axis=(1, 2, 3)).max() < 6
    assert np.abs(read[:, -1] - even[:, -1]).mean() < 12  # no black line
    decoded = np.stack([frame for index, frame in decode_frames(tmp_path / "v.mp4")])
    assert decoded.shape == (20, *size, 3)
    difference = np.abs(decoded[[0, 7]].astype(int) - read)
    assert difference.mean() < 2 if size[0] % 2 else difference.max() == 0


def test_mp4_errors(tmp_path) -> None:
    path = tmp_path / "v.mp4"
    with pytest.raises(FileNotFoundError, match=r"v\.mp4"):
        open_video(path)
    with pytest.raises(ValueError, match="even sides"):
        write_mp4(path, clip(2, 63, 96), 24)
    with pytest.raises(ValueError, match="at least one frame"):
        write_mp4(path, [], 24)
    with pytest.raises(ValueError, match="frame 1 is"):
        write_mp4(path, [clip(1)[0], clip(1, 32)[0]], 24)
    assert list(tmp_path.iterdir()) == []
    write_mp4(path, clip(), 24)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"v\.mp4: does not decode"):
        VideoFile(path)


@pytest.mark.parametrize(
    "options",
    [
        dict(quality=90),
        dict(quality=75, subsampling=0),
        dict(quality=60, subsampling=1),
        dict(quality=95, progressive=True),
        dict(quality=90, restart_marker_blocks=3),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_are_read_as_pillow_reads_them(tmp_path, options, mode):
    """Bit by bit, turned as stored; and never the half of one that is cut off."""
    noise = np.random.default_rng(0).integers(0, 256, (67, 45, 3), dtype=np.uint8)
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    smooth = Image.fromarray(noise).resize((130, 91), Image.Resampling.BICUBIC).convert(mode)
    smooth.save(path, exif=exif, **options)
    with Image.open(path) as image:
        expected = np.array(image.convert("RGB"))
    found = read_image(path)
    assert found.shape == (91, 130, 3) and np.array_equal(found, expected)
    whole = path.read_bytes()
    for kept in (len(whole) - 2, len(whole) - 40, len(whole) // 2):
        path.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match="a.jpg: does not decode"):
            read_image(path)
    path.write_bytes(whole + b"\0\0")  # padded: a picture all the same
    assert np.array_equal(read_image(path), expected)
