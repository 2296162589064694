"""Images at their own size: transformers' rule, and what becomes of too narrow ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.datasets.native import NativeResolution
from projects.llava_sam2.hf.placeholder import byte_tokenizer

SIZES = [
    (480, 640),
    (640, 480),
    (100, 90),
    (2160, 3840),
    (427, 641),
    (56, 3000),
    (700, 701),
    (1, 1),
]


@pytest.mark.parametrize("token", [28, 32])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_sides_are_those_of_transformers(token, height, width):
    native = NativeResolution(size=4 * token, token=token, min_tokens=64, max_tokens=1000)
    rows, columns = native.grid(height, width)
    pixels = dict(min_pixels=64 * token**2, max_pixels=1000 * token**2)
    assert (rows * token, columns * token) == smart_resize(height, width, token, **pixels)
    assert native.count(height, width) * 16 == rows * columns


def test_an_image_is_one_picture_and_a_frame_a_square():
    native = NativeResolution(size=56, min_tokens=4, max_tokens=64)
    image = np.zeros((100, 200, 3), dtype=np.uint8)
    image[:, 100:] = 200
    pixels = native.image(image)
    assert pixels.shape == (1, 3, 112, 196) and pixels.dtype == torch.uint8
    assert pixels[..., :90].max() == 0 and pixels[..., 106:].min() == 200
    clip = np.stack([image, image // 2, image])
    assert native.frames(clip).shape == (3, 3, 56, 56)
    native = NativeResolution(size=56, min_tokens=4, max_tokens=64, frame_tokens=[2, 20])
    shown = native.frames(clip)
    assert shown.shape == (3, 3, 84, 140 + 28) and native.most_frame == 5


@pytest.mark.parametrize("frame_tokens", [None, (2, 20)])
@pytest.mark.parametrize("video", [False, True])
def test_lengths_are_those_of_the_conversation(video, frame_tokens):
    inputs = GroundingInputs(
        tokenizer=byte_tokenizer(),
        template="qwen_chat",
        tiles=NativeResolution(size=56, min_tokens=4, max_tokens=64, frame_tokens=frame_tokens),
        tokens_per_tile=4,
        grounding_size=32,
        max_length=512,
    )
    frames = np.zeros((3 if video else 1, 90, 200, 3), dtype=np.uint8)
    pixels = inputs.pixel_values(frames, video=video)
    turns = [("where ?", "there .")]
    encoded = inputs.conversation(turns, tiles=pixels, video=video, name="x")
    seen = dict(frames=3) if video else {}
    assert inputs.length(turns, name="x", size=(90, 200), **seen) == len(encoded.input_ids)
    if video:  # of unknown size: as large as they come
        more = 0 if frame_tokens is None else 3 * (20 - 18)
        assert inputs.length(turns, name="x", frames=3) == len(encoded.input_ids) + more
    context = inputs.tokenizer.get_vocab()["<IMG_CONTEXT>"]
    of_frame = 4 if frame_tokens is None else 18
    assert (encoded.input_ids == context).sum() == (3 * of_frame if video else 3 * 7)
    prompt = inputs.prompt("where ?", tiles=pixels, video=video, name="x")
    assert torch.equal(encoded.input_ids[: len(prompt)], prompt)


def test_bounds():
    with pytest.raises(ValueError, match="size 450 is no multiple of 28"):
        NativeResolution(size=450)
    with pytest.raises(ValueError, match="got 9 to 8"):
        NativeResolution(min_tokens=9, max_tokens=8)
    with pytest.raises(ValueError, match=r"tokens of a frame .*, got 20 to 4"):
        NativeResolution(frame_tokens=(20, 4))
    with pytest.raises(ValueError, match="frame_tokens are the fewest and the most"):
        NativeResolution(frame_tokens=[20])
    with pytest.raises(ValueError, match="1 x 74 visual tokens, and 20 to 20 are"):
        NativeResolution(min_tokens=20, max_tokens=20).grid(2, 540)
    with pytest.raises(ValueError, match="may take 8 tiles of 256 tokens"):
        GroundingInputs(
            tokenizer=byte_tokenizer(),
            template="qwen_chat",
            tiles=NativeResolution(),
            tokens_per_tile=256,
            grounding_size=32,
            max_length=2048,
        )
