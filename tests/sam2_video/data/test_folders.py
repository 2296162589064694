"""Plain folders of images and masks."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from projects.common.video import write_mp4
from projects.sam2_video.data.folders import FolderSource, ImageFolderSource, read_ids
from projects.sam2_video.data.png import PaletteSource
from tests.sam2_video.data.files import square, write_frames, write_ids


def binary(path, mask):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)


@pytest.mark.parametrize("suffix", ["jpg", "JPG", "jpeg", "png", "webp", "bmp"])
def test_frames_of_any_suffix_beside_their_masks(tmp_path, suffix):
    write_frames(tmp_path / "cat" / "images", [f"f_{i}.{suffix}" for i in range(3)])
    for number in (0, 2):
        binary(tmp_path / "cat" / "masks" / f"f_{number}.png", square(number, 0))
    source = FolderSource(image_root=tmp_path)
    video = source[0]
    assert source.names == ["cat"] and video.num_frames == 2
    frames = video.read_frames([1, 0])[:, 4, 4, 0].tolist()
    assert frames == pytest.approx([20, 0], abs=2)
    assert video.visible_objects(1) == [1]
    assert np.array_equal(video.read_masks(1)[1], square(2, 0))


def test_videos_in_two_roots_and_a_video_file(tmp_path):
    write_frames(tmp_path / "frames" / "cat", ["0.png", "1.png"], (64, 96))
    frames = [np.full((64, 96, 3), 30 * i, np.uint8) for i in range(4)]
    write_mp4(tmp_path / "frames" / "dog.mp4", frames, 10)
    write_ids(tmp_path / "masks" / "cat" / "1.png", {2: square(0, 0, (64, 96))}, mode="L")
    write_ids(tmp_path / "masks" / "dog" / "00003.png", {1: square(9, 9, (64, 96))})
    source = FolderSource(image_root=tmp_path / "frames", annotation_root=tmp_path / "masks")
    assert source.names == ["cat", "dog"]
    assert source[0].visible_objects(0) == [2] and source[0].read_frames([0])[0, 0, 0, 0] == 10
    dog = source[1]
    assert dog.stems == ["00003"] and dog.read_frames([0]).mean() == pytest.approx(90, abs=6)
    assert np.array_equal(dog.read_masks(0)[1], square(9, 9, (64, 96)))
    palette = PaletteSource(image_root=tmp_path / "frames", annotation_root=tmp_path / "masks")
    assert palette[1].frame_indices == [3]  # a file serves every reader of folders


def test_single_images(tmp_path):
    write_frames(tmp_path / "images", ["a.jpg", "b.png", "c.png"])
    binary(tmp_path / "masks" / "a.png", square(0, 0))
    write_ids(tmp_path / "masks" / "b.png", {3: square(0, 0), 7: square(4, 4)})
    source = ImageFolderSource(image_root=tmp_path / "images", annotation_root=tmp_path / "masks")
    assert source.names == ["a", "b"]
    assert source[0].visible_objects(0) == [1] and source[1].visible_objects(0) == [3, 7]
    assert np.array_equal(source[1].read_masks(0, [7])[7], square(4, 4))
    assert source[1].read_frames([0]).shape == (1, 8, 10, 3)
    (tmp_path / "out.txt").write_text("b\n")
    kept = ImageFolderSource(
        image_root=tmp_path / "images",
        annotation_root=tmp_path / "masks",
        exclude_file=tmp_path / "out.txt",
    )
    assert kept.names == ["a"]
    (tmp_path / "images" / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 images .*every mask.*\n.*b.png"):
        ImageFolderSource(image_root=tmp_path / "images", annotation_root=tmp_path / "masks")


def test_two_images_of_one_name_are_refused(tmp_path):
    write_frames(tmp_path / "images", ["a.jpg", "a.PNG"])
    binary(tmp_path / "masks" / "a.png", square(0, 0))
    with pytest.raises(ValueError, match="images: a.PNG and a.jpg have one name"):
        ImageFolderSource(image_root=tmp_path / "images", annotation_root=tmp_path / "masks")


def test_what_the_values_of_a_mask_mean(tmp_path):
    path = tmp_path / "mask.png"
    values = np.zeros((8, 10), np.uint8)
    values[0], values[1] = 255, 4
    Image.fromarray(values).save(path)
    assert np.unique(read_ids(path, "auto")).tolist() == [0, 4, 255]  # ids, and 255 for nothing
    assert np.unique(read_ids(path, "binary")).tolist() == [0, 1]
    binary(path, square(0, 0))
    assert np.unique(read_ids(path, "auto")).tolist() == [0, 1]
    assert np.unique(read_ids(path, "index")).tolist() == [0, 255]
    for kind in (np.zeros((8, 10, 3), np.uint8), np.full((8, 10), 300, np.uint16)):
        Image.fromarray(kind).save(path)
        for values_mean in ("auto", "binary", "index"):
            with pytest.raises(ValueError, match="mask.png: a mask PNG holds ids.*8-bit grey ids"):
                read_ids(path, values_mean)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        FolderSource(image_root=tmp_path / "nowhere")
    (tmp_path / "cat").mkdir()
    with pytest.raises(ValueError, match="no video found: folders of .* that hold images/ and"):
        FolderSource(image_root=tmp_path)
    binary(tmp_path / "cat" / "masks" / "0.png", square(0, 0))
    with pytest.raises(FileNotFoundError, match="cat, of .*masks"):
        FolderSource(image_root=tmp_path)
    write_frames(tmp_path / "cat" / "images", ["1.png"])
    with pytest.raises(FileNotFoundError, match=r"annotated frames of video cat.*\n.*images/0"):
        FolderSource(image_root=tmp_path)[0]
    (tmp_path / "cat" / "masks" / "0.png").rename(tmp_path / "cat" / "masks" / "0.jpg")
    with pytest.raises(ValueError, match="1 mask folders hold no PNG.*cat/masks"):
        FolderSource(image_root=tmp_path)
    with pytest.raises(ValueError, match="mask_values must be"):
        FolderSource(image_root=tmp_path, mask_values="colour")
