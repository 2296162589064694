"""Videos against Sa2VA and Sa2VA-i, on PyPI's ``sam2``: words prompt some frames, memory the rest.

Sa2VA      one decoder; its tokens and scores on prompted frames are what memory holds
Sa2VA-i    the tuned decoder makes masks, which the original one gets as prompts of a user
"""

from __future__ import annotations

import contextlib
import copy
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from projects.common.video import FrameFolder
from projects.llava_sam2.datasets.frame_samplers import FirstFrames, UniformFrames
from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.datasets.pixels import SingleTile
from projects.llava_sam2.models.heads import SegmentHead, seg_projector
from projects.llava_sam2.models.sa2va import Sa2VA
from projects.llava_sam2.models.toy import toy_internvl
from projects.llava_sam2.predictor import GroundedPredictor
from projects.sam2_video.modeling import TrackingPolicy
from tests.llava_sam2.models import toy_parts
from tests.sam2_video.meta_predictor import predictor_pair, write_clip
from tests.sam2_video.meta_reference import MetaTrack, encode_meta

SIZE, FRAMES = 128, 7
WORDS = ("segment the red circle .", "sure it is [SEG] .")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model with a tuned decoder beside its original one, and Meta's with one of them each."""
    folder = tmp_path_factory.mktemp("released")
    tokenizer = toy_parts.word_tokenizer(folder / "tokenizer")
    torch.manual_seed(4)
    head = SegmentHead(projector=seg_projector(hidden=96, out=256))
    with torch.no_grad():
        head.text_hidden_fcs[2].weight.mul_(60)  # words that say something
    original, grounding = predictor_pair(image_size=SIZE)
    model = Sa2VA(
        mllm=toy_internvl(tokenizer=tokenizer, seed=1),
        grounding=grounding,
        heads={"segment": head},
        trainable=["*"],
        propagation_decoder="original",
    )
    tuned = copy.deepcopy(original)
    with torch.no_grad():
        for decoder in (tuned.sam_mask_decoder, grounding.blocks.mask_decoder):
            for parameter in decoder.parameters():
                parameter.mul_(1.1)
    inputs = GroundingInputs(
        tokenizer=tokenizer,
        template="qwen_chat",
        tiles=SingleTile(size=toy_parts.TILE),
        tokens_per_tile=toy_parts.TOKENS,
        grounding_size=SIZE,
    )
    return model.eval(), inputs, original, tuned


@contextlib.contextmanager
def prompted_by(meta, token):
    """Sa2VA's ``_forward_sam_heads``: a language token stands behind the points of a prompt, and
    masks of objects that are absent by their score stay."""
    encoder, decoder = meta.sam_prompt_encoder, meta.sam_mask_decoder
    encode, decode = encoder.forward, decoder.forward

    def with_token(**prompts):
        sparse, dense = encode(**prompts)
        return torch.cat([sparse, token.view(1, 1, -1)], dim=1), dense

    def always_there(**inputs):
        *found, score = decode(**inputs)
        return *found, score.clamp(min=1)

    encoder.forward, decoder.forward = with_token, always_there
    try:
        yield
    finally:
        del encoder.forward, decoder.forward


def language_token(model, inputs, frames):
    pixels = inputs.pixel_values(frames, video=True)
    encoded = inputs.conversation([WORDS], tiles=len(frames), video=True, name="x")
    ids = encoded.input_ids[None]
    hidden = model.mllm(ids, torch.ones_like(ids, dtype=torch.bool), pixels)
    return model.heads["segment"].text_hidden_fcs(hidden[ids == model.mllm.seg_id])


def at_size(logits, size):
    """By way of SAM 2's input size, which Sa2VA gives as that of the video, to the frame's."""
    for side in ((SIZE, SIZE), size):
        logits = F.interpolate(logits, side, mode="bilinear", align_corners=False)
    return logits[0, 0] > 0


def with_words(meta, encoded, token, indices):
    """Tracks with the prompted frames in memory, and their low-resolution masks."""
    track = MetaTrack(meta, encoded)
    with prompted_by(meta, token):
        outputs = {
            index: track.step(index, torch.tensor([0]), initial=True, conditioning=True)
            for index in indices
        }
    return track, {index: output["pred_masks"] for index, output in outputs.items()}


def sa2va(tuned, frames, token, indices):
    track, masks = with_words(tuned, encode_meta(tuned, frames), token, indices)
    for index in range(len(frames)):
        if index not in masks:
            masks[index] = track.step(index, torch.tensor([0]))["pred_masks"]
    return masks


def sa2va_i(tuned, original, frames, token, indices, folder):
    _, masks = with_words(tuned, encode_meta(tuned, frames), token, indices)
    with torch.inference_mode():
        state = original.init_state(str(folder))
        for index in indices:
            drawn = F.interpolate(masks[index], (SIZE, SIZE), mode="bilinear") > 0
            original.add_new_mask(state, index, 1, drawn[0, 0])
        for _ in original.propagate_in_video(state):
            pass
    tracked = state["output_dict_per_obj"][0]["non_cond_frame_outputs"]
    return masks | {index: output["pred_masks"] for index, output in tracked.items()}


@torch.no_grad()
@pytest.mark.parametrize("size", [(SIZE, SIZE), (90, 150)])
@pytest.mark.parametrize("decoder", ["tuned", "original"])
@pytest.mark.parametrize("sampler", [FirstFrames(num=3), UniformFrames(num=3)])
def test_masks_are_those_of_the_release(made, tmp_path, request, size, decoder, sampler):
    model, inputs, original, tuned = made
    height, width = size
    folder = write_clip(tmp_path / "clip", frames=FRAMES, height=height, width=width)
    video = FrameFolder(folder)
    indices = sampler(FRAMES, np.random.default_rng(0))
    frames = inputs.grounding_frames(video.read(range(FRAMES)))
    token = language_token(model, inputs, video.read(indices))
    if decoder == "tuned":
        tracking = TrackingPolicy(past_pointers_only=True)
        expected = sa2va(tuned, frames[:, None], token, indices)
    else:  # nothing but masks passes from the tuned decoder to the original one
        tracking = None
        for head in (
            tuned.sam_mask_decoder.pred_obj_score_head.layers[-1],
            model.grounding.blocks.mask_decoder.pred_obj_score_head.proj_out,
        ):
            head.bias.sub_(20)
            request.addfinalizer(partial(head.bias.data.add_, 20))
        expected = sa2va_i(tuned, original, frames[:, None], token, indices, folder)
    predictor = GroundedPredictor(
        model=model,
        inputs=inputs,
        frames=sampler,
        propagation_decoder=decoder,
        tracking=tracking,
    )
    (answer,) = predictor.video(video, WORDS[:1], forced=WORDS[1:])
    found = answer.decoded()
    wanted = np.stack([at_size(expected[index], size).numpy() for index in range(FRAMES)])
    assert (0.02 < wanted.mean((1, 2))).all() and (wanted.mean((1, 2)) < 0.98).all()
    np.testing.assert_array_equal(found[indices], wanted[indices])
    assert (found != wanted).mean() < 0.0005  # Pillow resizes frames for Meta's predictor
