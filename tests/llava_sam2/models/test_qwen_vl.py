"""Qwen2.5-VL and Qwen3-VL behind the adapter, against transformers' own models."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from projects.common.conversation import (
    encode_conversation,
    prompt_ids,
    token_id,
)
from projects.llava_sam2.datasets.frame_samplers import UniformFrames
from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.datasets.native import NativeResolution
from projects.llava_sam2.hf.qwen_vl import qwen_vl_from_folder
from projects.llava_sam2.models.heads import SegmentHead, decode_language
from projects.llava_sam2.models.qwen2_5_vl import Qwen2_5VL
from projects.llava_sam2.models.qwen3_vl import Qwen3VL
from projects.llava_sam2.models.sa2va import Sa2VA
from projects.llava_sam2.models.visual_tokens import grid_positions, square_grids
from projects.llava_sam2.predictor import GroundedPredictor
from projects.llava_sam2.structures import GroundingSample, collate_grounding
from tests.llava_sam2.models.toy_parts import segment_head, toy_sam2, word_tokenizer

MARKS = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"]
TEXT = dict(
    hidden_size=96,
    intermediate_size=128,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    tie_word_embeddings=False,
)
KINDS = {"2.5": "qwen2_5_vl_chat", "3": "qwen3_vl_chat"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return word_tokenizer(tmp_path_factory.mktemp("qwen"), MARKS)


def special(tokenizer):
    names = dict(
        image_token_id=MARKS[3], vision_start_token_id=MARKS[2], vision_end_token_id=MARKS[4]
    )
    ids = {key: token_id(tokenizer, token) for key, token in names.items()}
    return ids | {"video_token_id": len(tokenizer) + 5}


def build(kind, tokenizer, **options):
    """A tiny model of either kind; all its weights are random, also those that start alike."""
    torch.manual_seed(0)
    vocabulary = len(tokenizer) + 8
    if kind == "2.5":
        rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 4, 6]}
        config = Qwen2_5_VLConfig(
            text_config=dict(**TEXT, vocab_size=vocabulary, rope_parameters=rope),
            vision_config=dict(
                depth=3,
                hidden_size=32,
                intermediate_size=48,
                num_heads=2,
                patch_size=4,
                window_size=16,  # 2 x 2 visual tokens; a tile has more
                out_hidden_size=96,
                fullatt_block_indexes=[1],
            ),
            **special(tokenizer),
        )
        model = Qwen2_5_VLForConditionalGeneration(config)
        adapter = Qwen2_5VL
    else:
        rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 4, 6]}
        config = Qwen3VLConfig(
            text_config=dict(**TEXT, head_dim=24, vocab_size=vocabulary, rope_parameters=rope),
            vision_config=dict(
                depth=3,
                hidden_size=32,
                intermediate_size=48,
                num_heads=2,
                patch_size=4,
                out_hidden_size=96,
                num_position_embeddings=16,
                deepstack_visual_indexes=[0, 2],
            ),
            **special(tokenizer),
        )
        model = Qwen3VLForConditionalGeneration(config)
        adapter = Qwen3VL
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    options = {"tile_size": 40} | options  # 10 x 10 patches, 5 x 5 visual tokens
    return adapter(model=model, tokenizer=tokenizer, template=KINDS[kind], **options).eval()


@pytest.fixture(params=KINDS)
def mllm(request, tokenizer):
    return build(request.param, tokenizer)


def make_sample(mllm, seed, expressions=("red circle",), *, pictures=1):
    draw = torch.Generator().manual_seed(seed)
    places = " ".join(["<image>"] * pictures)
    turns = [
        (f"{places if i == 0 else ''} segment the {e} .", f"sure it is [SEG] {e} .")
        for i, e in enumerate(expressions)
    ]
    encoded = encode_conversation(
        mllm.tokenizer,
        turns,
        mllm.template,
        image_tokens=mllm.image_tokens_per_tile if pictures else 0,
    )

    def pixels(side):
        return torch.randint(0, 256, (pictures, 3, side, side), dtype=torch.uint8, generator=draw)

    return GroundingSample(
        task="segment",
        name=f"sample {seed}",
        input_ids=encoded.input_ids,
        labels=encoded.labels,
        pixel_values=pixels(40) if pictures else None,
        grounding_frames=pixels(96) if pictures else None,
        masks=torch.rand(len(expressions), pictures, 24, 24, generator=draw) > 0.6
        if pictures
        else None,
    )


def processed(mllm, tiles):
    """Patches and grids by transformers' own image processor."""
    processor = Qwen2VLImageProcessor(
        patch_size=4,
        merge_size=2,
        temporal_patch_size=2,
        do_resize=False,
        image_mean=list(mllm.image_mean),
        image_std=list(mllm.image_std),
    )
    images = [Image.fromarray(tile.permute(1, 2, 0).numpy()) for tile in tiles]
    return processor(images=images, return_tensors="pt")


def reference(mllm, sample):
    """Hidden states [L, D] and logits of one sample by transformers' whole model."""
    further = {}
    if sample.pixel_values is not None:
        given = processed(mllm, sample.pixel_values)
        further = dict(
            pixel_values=given["pixel_values"],
            image_grid_thw=given["image_grid_thw"],
            mm_token_type_ids=(sample.input_ids == mllm.image_id).int()[None],
        )
    mllm.model.model.rope_deltas = None
    outputs = mllm.model(input_ids=sample.input_ids[None], output_hidden_states=True, **further)
    return outputs.hidden_states[-1][0], outputs.logits[0]


@torch.no_grad()
def test_hidden_states_are_those_of_transformers_whatever_the_padding(mllm):
    samples = [
        make_sample(mllm, 1, ["red circle", "blue square"], pictures=3),
        make_sample(mllm, 2),
        make_sample(mllm, 3, pictures=0),
    ]
    batch = collate_grounding(samples)
    hidden = mllm(batch.input_ids, batch.attention_mask, batch.pixel_values)
    for row, sample in enumerate(samples):
        expected, logits = reference(mllm, sample)
        got = hidden[row, : len(sample.input_ids)]
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mllm.model.lm_head(got), logits, rtol=1e-3, atol=1e-3)


def native_sample(mllm, seed, side=(50, 90), *, frames=1):
    """An image (or the frames of a video) at its own size, through the inputs that training and
    inference use."""
    inputs = GroundingInputs(
        tokenizer=mllm.tokenizer,
        template=mllm.template,
        tiles=NativeResolution(size=40, token=8, min_tokens=9, max_tokens=80, frame_tokens=(4, 20)),
        tokens_per_tile=25,
        grounding_size=96,
        max_length=512,
    )
    clip = np.random.default_rng(seed).integers(0, 256, (frames, *side, 3), dtype=np.uint8)
    pixel_values = inputs.pixel_values(clip, video=frames > 1)
    turn = ("segment the red circle .", "sure it is [SEG] red circle .")
    encoded = inputs.conversation([turn], tiles=pixel_values, video=frames > 1, name="image")
    return (
        inputs,
        clip[0],
        GroundingSample(
            task="segment",
            name=f"image {seed}",
            input_ids=encoded.input_ids,
            labels=encoded.labels,
            pixel_values=pixel_values,
            grounding_frames=inputs.grounding_frames(clip),
            masks=torch.rand(1, frames, 24, 24) > 0.6,
        ),
    )


@torch.no_grad()
def test_images_of_any_size_are_seen_as_transformers_sees_them(mllm):
    _, _, wide = native_sample(mllm, 1, (50, 90))
    _, _, high = native_sample(mllm, 2, (170, 30))  # scaled down
    _, _, video = native_sample(mllm, 5, (50, 90), frames=3)
    samples = [wide, make_sample(mllm, 3, pictures=2), video, high]
    samples.append(make_sample(mllm, 4, pictures=0))
    shapes = [tuple(s.pixel_values.shape[2:]) for s in (wide, high, video)]
    assert shapes == [(48, 88), (168, 24), (24, 48)]
    batch = collate_grounding(samples)
    assert [len(part) for part in batch.pixel_values] == [1, 2, 3, 1]
    hidden = mllm(batch.input_ids, batch.attention_mask, batch.pixel_values)
    for row, sample in enumerate(samples):
        expected, _ = reference(mllm, sample)
        got = hidden[row, : len(sample.input_ids)]
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        pixels = sample.pixel_values
        alone = mllm(sample.input_ids[None], torch.ones(1, len(got)).bool(), pixels)[0]
        torch.testing.assert_close(alone, got, rtol=1e-4, atol=1e-4)
    turned = [wide.pixel_values.mT]  # as many tokens on another grid
    ids, mask = wide.input_ids[None], torch.ones(1, len(wide.input_ids)).bool()
    assert not torch.allclose(mllm(ids, mask, turned), mllm(ids, mask, wide.pixel_values))


def test_the_segment_head_trains_on_images_of_any_size(mllm):
    batch = collate_grounding([native_sample(mllm, 1)[2], native_sample(mllm, 2, (80, 60))[2]])
    moved = batch.to("cpu")
    assert isinstance(moved.pixel_values, list)
    losses = segment_head().loss(moved, mllm=mllm.train(), grounding=toy_sam2())
    sum(losses.values()).backward()
    assert all(part.isfinite() for part in losses.values())
    assert mllm.model.model.visual.patch_embed.proj.weight.grad.any()


@torch.no_grad()
def test_the_predictor_answers_about_an_image_of_any_size_as_training_computes(mllm):
    inputs, image, sample = native_sample(mllm, 5)
    head = segment_head()
    model = Sa2VA(mllm=mllm, grounding=toy_sam2(), heads={"segment": head}, trainable=["heads"])
    predictor = GroundedPredictor(model=model.eval(), inputs=inputs)
    turn = ("segment the red circle .", "sure it is [SEG] red circle .")
    other = ("segment it .", "it is [SEG] .")
    answers = predictor.image(image, [turn[0], other[0]], forced=[turn[1], other[1]])
    mask = torch.ones(1, len(sample.input_ids)).bool()
    hidden = mllm(sample.input_ids[None], mask, sample.pixel_values)[0]
    token = head.project(hidden[sample.input_ids == mllm.seg_id])
    features = model.grounding.encode_frames(sample.grounding_frames)
    logits = decode_language(model.grounding, features, token).masks
    for size in ((96, 96), image.shape[:2]):
        logits = torch.nn.functional.interpolate(logits, size, mode="bilinear")
    assert np.array_equal(answers[0].decoded()[0], (logits[0, 0] > 0).numpy())
    written = predictor.image(image, [turn[0]])[0].text
    prompt = inputs.prompt(turn[0], tiles=sample.pixel_values, video=False, name="image")
    (alone,) = mllm.generate([prompt], sample.pixel_values, max_new_tokens=32)
    assert written == alone.text


@torch.no_grad()
def test_the_predictor_sees_frames_of_any_size_as_training_does(mllm):
    inputs, _, sample = native_sample(mllm, 7, (70, 50), frames=3)
    clip = np.random.default_rng(7).integers(0, 256, (3, 70, 50, 3), dtype=np.uint8)
    assert sample.pixel_values.shape == (3, 3, 40, 24)  # 5 x 3 tokens each

    class Video(list):
        def read(self, indices):
            return np.stack([self[index] for index in indices])

    head = segment_head()
    model = Sa2VA(mllm=mllm, grounding=toy_sam2(), heads={"segment": head}, trainable=["heads"])
    seen = []
    head.project = lambda states: seen.append(states) or SegmentHead.project(head, states)
    turn = ("segment the red circle .", "sure it is [SEG] red circle .")
    predictor = GroundedPredictor(model=model.eval(), inputs=inputs, frames=UniformFrames(num=3))
    (answer,) = predictor.video(Video(clip), [turn[0]], forced=[turn[1]])
    ids, mask = sample.input_ids[None], torch.ones(1, len(sample.input_ids)).bool()
    hidden = mllm(ids, mask, sample.pixel_values)
    torch.testing.assert_close(seen[0], hidden[ids == mllm.seg_id], rtol=1e-4, atol=1e-5)
    assert answer.decoded().shape == (3, 70, 50)


def test_regions_lie_on_the_grid_of_an_image_of_any_size(mllm):
    inputs, image, sample = native_sample(mllm, 6)
    grid = inputs.grid(sample.pixel_values)
    assert grid == (6, 11)
    region = torch.zeros(1, *grid, dtype=torch.bool)
    region[0, 1, 9:] = region[0, 5, 0] = True
    encoded = inputs.conversation(
        [("segment <region> .", "it is [SEG] .")],
        tiles=sample.pixel_values,
        video=False,
        name="image",
        regions=region,
    )
    ids = encoded.input_ids[None]
    embedded = mllm.embed(ids, sample.pixel_values, regions=[region])[0]
    visual = mllm.visual_features(sample.pixel_values)[0, :, :96]
    expected = torch.cat([visual, visual[[20, 21, 55]]])
    torch.testing.assert_close(embedded[encoded.input_ids == mllm.image_id], expected)
    with pytest.raises(ValueError, match=r"last tile's grid, \[regions, 6, 11\]"):
        mllm.embed(ids, sample.pixel_values, regions=[region.mT])


def test_pictures_that_tokens_do_not_cover_are_refused(mllm):
    with pytest.raises(ValueError, match="sides that are multiples of 8"):
        mllm.visual_features(torch.zeros(1, 3, 44, 40, dtype=torch.uint8))


@torch.no_grad()
def test_positions_are_those_of_transformers_and_matter(mllm):
    sample = make_sample(mllm, 1, ["red circle", "blue square"], pictures=2)
    ids = sample.input_ids[None]
    grids = processed(mllm, sample.pixel_values)["image_grid_thw"]
    pictures = ids == mllm.image_id
    expected, _ = mllm.model.model.get_rope_index(
        ids, mm_token_type_ids=pictures.int(), image_grid_thw=grids
    )
    mask = torch.ones_like(ids, dtype=torch.bool)
    assert torch.equal(grid_positions(mask, pictures, square_grids(2, 25)), expected)
    assert len(expected[:, 0, :40].unique(dim=0)) == 3  # rows and columns differ


@torch.no_grad()
@pytest.mark.parametrize("left", [False, True])
def test_positions_of_images_and_videos_of_odd_sizes_are_those_of_transformers(mllm, left):
    """In one batch. A frame is to transformers a video of one temporal patch."""
    samples = [
        native_sample(mllm, 1, (50, 90))[2],
        native_sample(mllm, 2, (90, 50), frames=3)[2],
        native_sample(mllm, 3, (170, 30))[2],
        native_sample(mllm, 4, (31, 77), frames=2)[2],
    ]
    batch = collate_grounding(samples)
    ids, mask = batch.input_ids, batch.attention_mask
    if left:
        lengths = mask.sum(1).tolist()
        ids = torch.stack([row.roll(-n) for row, n in zip(ids, lengths, strict=True)])
        mask = mask.flip(1)
    pictures = (ids == mllm.image_id) & mask
    video = torch.tensor([False, True, False, True])[:, None]
    grids = [processed(mllm, sample.pixel_values)["image_grid_thw"] for sample in samples]
    expected, _ = mllm.model.model.get_rope_index(
        ids,
        mm_token_type_ids=(pictures & ~video).int() + 2 * (pictures & video).int(),
        image_grid_thw=torch.cat(grids[0::2]),
        video_grid_thw=torch.cat(grids[1::2]),
        attention_mask=mask,
    )
    found = grid_positions(mask, pictures, mllm.grids(batch.pixel_values))
    assert torch.equal(found[:, mask], expected[:, mask])
    assert len({grid[1:] for grid in map(tuple, torch.cat(grids).tolist())}) == 4


def test_positions_count_from_the_first_token_that_is_not_padding():
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1]]).bool()
    pictures = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 0, 0]]).bool()
    positions = grid_positions(mask, pictures, [(2, 2)])[:, 0, 2:]
    assert positions.tolist() == [
        [0, 1, 1, 1, 1, 3, 4],
        [0, 1, 1, 2, 2, 3, 4],
        [0, 1, 2, 1, 2, 3, 4],
    ]
    # tiles of one picture stand side by side without text between: each is a grid of its own
    tiles = torch.tensor([[0] + [1] * 8]).bool()
    two = grid_positions(torch.ones(1, 9).bool(), tiles, [(2, 2)] * 2)
    assert two[1, 0].tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4]
    # features of frames are one token each and count on like words
    frames = torch.tensor([[0, 1, 1, 0]]).bool()
    single = grid_positions(torch.ones(1, 4).bool(), frames, [(1, 1)] * 2)
    assert (single == torch.arange(4)).all()
    with pytest.raises(ValueError, match="6 visual tokens a tile do not make a square"):
        square_grids(1, 6)


@torch.no_grad()
def test_deepstack_reaches_the_first_layers_and_a_heads_features_do_not_need_it(tokenizer):
    mllm = build("3", tokenizer)
    sample = make_sample(mllm, 1)
    visual = mllm.visual_features(sample.pixel_values)
    assert visual.shape == (1, 25, 3 * 96)
    ids, mask = sample.input_ids[None], torch.ones(1, len(sample.input_ids)).bool()
    full = mllm(ids, mask, visual=visual)
    shallow = mllm(ids, mask, visual=visual[..., :96])
    assert not torch.allclose(full, shallow, atol=1e-2)
    visual[..., 96:] = 0
    torch.testing.assert_close(mllm(ids, mask, visual=visual), shallow)


@torch.no_grad()
def test_generation_is_greedy_decoding_and_reads_seg_as_training_does(mllm):
    mllm.model.lm_head.weight[mllm.image_id] = 0  # never said: a picture would have to follow
    mllm.stop_words = ()
    draw = torch.Generator().manual_seed(0)
    tiles = torch.randint(0, 256, (3, 3, 40, 40), dtype=torch.uint8, generator=draw)
    questions = ["<image> segment the red circle .", "<image> <image> segment it .", "segment it ."]
    prompts = [
        prompt_ids(mllm.tokenizer, q, mllm.template, image_tokens=25 * ("<image>" in q))
        for q in questions
    ]
    first = int(mllm.generate(prompts, tiles, max_new_tokens=1)[0].token_ids)
    words = mllm.model.lm_head.weight
    words[[first, mllm.seg_id]] = words[[mllm.seg_id, first]]  # so that [SEG] is said
    answers = mllm.generate(prompts, tiles, max_new_tokens=8)
    found = 0
    for prompt, pixels, answer in zip(prompts, (tiles[:1], tiles[1:], None), answers, strict=True):
        ids = prompt
        for _ in range(8):  # whole forwards without a cache
            mask = torch.ones(1, len(ids), dtype=torch.bool)
            hidden = mllm(ids[None], mask, pixels)[0]
            ids = torch.cat([ids, mllm.model.lm_head(hidden[-1]).argmax()[None]])
        assert answer.token_ids.tolist() == ids[len(prompt) :].tolist()
        mask = torch.ones(1, len(ids), dtype=torch.bool)
        expected = mllm(ids[None], mask, pixels)[0][ids == mllm.seg_id]
        torch.testing.assert_close(answer.seg_hidden, expected, rtol=1e-3, atol=1e-3)
        found += len(expected)
    assert found


def test_the_segment_head_trains_it(mllm):
    head = segment_head()
    batch = collate_grounding([make_sample(mllm, 1, pictures=2), make_sample(mllm, 2)])
    losses = head.loss(batch, mllm=mllm.train(), grounding=toy_sam2())
    sum(losses.values()).backward()
    still = [name for name, p in mllm.named_parameters() if p.grad is None or not p.grad.any()]
    # the keys' biases move all attention scores alike
    assert not [name for name in still if "bias" not in name], still
    assert losses["loss_bce"].item() > 0


def test_a_frozen_vision_tower_keeps_no_activations(mllm):
    mllm.requires_grad_(False)
    mllm.model.lm_head.requires_grad_(True)
    visual = mllm.visual_features(make_sample(mllm, 1).pixel_values)
    assert visual.grad_fn is None


@torch.no_grad()
def test_regions_stand_for_tokens_of_the_last_tile(mllm):
    grid = torch.zeros(2, 5, 5, dtype=torch.bool)
    grid[0, 1, 2:4] = True
    grid[1, 4, 0] = True
    encoded = encode_conversation(
        mllm.tokenizer,
        [("<image> <image> segment <region> the <region> .", "it is [SEG] .")],
        mllm.template,
        image_tokens=25,
        region_tokens=[2, 1],
    )
    tiles = make_sample(mllm, 4, pictures=2).pixel_values
    ids = encoded.input_ids[None]
    embedded = mllm.embed(ids, tiles, regions=[grid])[0]
    visual = mllm.visual_features(tiles)[..., :96]
    expected = torch.cat([visual.flatten(0, 1), visual[1, [7, 8, 20]]])
    torch.testing.assert_close(embedded[encoded.input_ids == mllm.image_id], expected)
    mask = torch.ones_like(ids, dtype=torch.bool)
    assert mllm(ids, mask, tiles, regions=[grid]).isfinite().all()
    with pytest.raises(ValueError, match="3 tokens within <vp> </vp>.*cover 2 visual tokens"):
        mllm.embed(ids, tiles, regions=[grid[:1]])
    with pytest.raises(ValueError, match="3 tokens within <vp> </vp>.*cover 0 visual tokens"):
        mllm.embed(ids, tiles)


def test_tile_sizes_that_do_not_fit(tokenizer):
    with pytest.raises(ValueError, match="tile_size 44 is no multiple of 8"):
        build("3", tokenizer, tile_size=44)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(path=None), "give path .* or size"),
        (dict(path="x", size="Qwen3-VL-2B"), "give path .* or size"),
        (dict(path=None, size="3B"), "unknown Qwen-VL size '3B'; choose one of Qwen2.5-VL-3B"),
        (dict(path=None, size="Qwen3-VL-2B", dtype="auto"), "dtype 'auto'"),
    ],
)
def test_a_folder_or_a_released_size(options, message):
    with pytest.raises(ValueError, match=message):
        qwen_vl_from_folder(**options)


def test_numpy_frames_are_what_the_processor_would_see(mllm):
    tile = torch.from_numpy(np.arange(40 * 40 * 3, dtype=np.int64).reshape(1, 3, 40, 40) % 251)
    tile = tile.to(torch.uint8)
    mean = torch.tensor(mllm.image_mean).view(1, 3, 1, 1)
    std = torch.tensor(mllm.image_std).view(1, 3, 1, 1)
    patches = mllm._patches((tile / 255 - mean) / std)
    torch.testing.assert_close(patches, processed(mllm, tile)["pixel_values"], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_released_folder_loads_whole_or_not_at_all(mllm, tmp_path):
    folder = tmp_path / "qwen"
    mllm.model.save_pretrained(folder)
    mllm.tokenizer.save_pretrained(folder)
    loaded = qwen_vl_from_folder(path=folder, tile_size=40, dtype="float32").eval()
    assert (type(loaded), loaded.template) == (type(mllm), mllm.template)
    sample = make_sample(mllm, 1)
    ids, mask = sample.input_ids[None], torch.ones(1, len(sample.input_ids)).bool()
    torch.testing.assert_close(
        loaded(ids, mask, sample.pixel_values), mllm(ids, mask, sample.pixel_values)
    )
    state = load_file(folder / "model.safetensors")
    lost = next(key for key in state if key.endswith("layers.1.mlp.up_proj.weight"))
    del state[lost]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="layers.1.mlp.up_proj.weight"):
        qwen_vl_from_folder(path=folder, tile_size=40, dtype="float32")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    with pytest.raises(ValueError, match="is of a 'llama'; wanted is one of qwen2_5_vl, qwen3_vl"):
        qwen_vl_from_folder(path=folder)
    (folder / "config.json").write_text(json.dumps(config | {"image_token_id": 3}))
    with pytest.raises(ValueError, match="and 3 of the weights"):
        qwen_vl_from_folder(path=folder)
