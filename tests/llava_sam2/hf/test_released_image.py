"""An image through a whole Sa2VA folder, against its own computation from pixels to the mask.

The language model is plain torch on the folder's tensors, SAM 2.0 is PyPI's, pictures are Pillow's:
the folder is all that both sides share.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoTokenizer

from projects.common.conversation import GROUNDING_TOKENS
from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.datasets.pixels import DynamicTiles
from projects.llava_sam2.hf import sa2va_from_folder
from projects.llava_sam2.predictor import GroundedPredictor
from tests.llava_sam2.hf import original
from tests.llava_sam2.models.released import SIZE, released, undecided
from tests.sam2_video.meta_reference import build_meta, randomise

TILE = 56  # 448 in the release: 4 visual tokens a tile
QUESTION, ANSWER = "Please segment the red circle in this image.", "Sure, it is [SEG]."


def write(folder, template):
    """A small folder as Sa2VA is published, Qwen2 in it; its config, its tensors and Meta's SAM."""
    config = original.numbers("qwen2", "300m", template=template)
    config |= dict(architectures=["Sa2VAChatModel"], model_type="sa2va_chat", torch_dtype="float32")
    config["llm_config"]["vocab_size"] = original.write_qwen2_tokenizer(folder, GROUNDING_TOKENS)
    meta = randomise(build_meta(version="2.0")).eval()
    undecided(meta)
    state = original.random_state(config)
    draw = torch.Generator().manual_seed(2)
    for name, shape in (("0", (32, 32)), ("2", (256, 32))):
        state[f"text_hidden_fcs.{name}.weight"] = torch.randn(shape, generator=draw)
        state[f"text_hidden_fcs.{name}.bias"] = torch.randn(shape[0], generator=draw)
    sam2 = {
        "grounding_encoder.sam2_model." + name.replace(".gamma", ".g_weight"): tensor
        for name, tensor in meta.state_dict().items()
    }
    original.write_folder(folder, config, state | sam2)
    return config, state, meta


def picture(height, width):
    coarse = np.random.default_rng(height).integers(0, 256, (height // 9, width // 9, 3))
    return np.array(Image.fromarray(coarse.astype(np.uint8)).resize((width, height)))


def tiles_of(image, columns, rows):
    """InternVL's: the image stretched to the grid and cut row by row, then the whole of it."""
    whole = Image.fromarray(image)
    cut = whole.resize((columns * TILE, rows * TILE))
    boxes = [
        (TILE * column, TILE * row, TILE * column + TILE, TILE * row + TILE)
        for row in range(rows)
        for column in range(columns)
    ]
    tiles = [cut.crop(box) for box in boxes]
    return tiles if len(tiles) == 1 else [*tiles, whole.resize((TILE, TILE))]


def by_itself(folder, config, state, meta, image, grid, asked):
    """Language token [1, C] and logits [H, W] of the answer's [SEG]."""
    tiles = np.stack([np.array(tile) for tile in tiles_of(image, *grid)])
    seen = original.visual_tokens(state, config, torch.from_numpy(tiles).permute(0, 3, 1, 2))
    pictures = f"<img>{'<IMG_CONTEXT>' * seen.shape[0] * seen.shape[1]}</img>"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    said = json.loads((folder / "added_tokens.json").read_text())
    text = asked.format(f"{pictures}\n{QUESTION}") + ANSWER
    ids = torch.tensor(tokenizer.encode(text, add_special_tokens=False))
    embeddings = original.embedding_table(state)[ids]
    embeddings[ids == said["<IMG_CONTEXT>"]] = seen.flatten(0, 1)
    hidden, _ = original.language(state, config, embeddings)
    inner = F.relu(original.linear(state, "text_hidden_fcs.0", hidden[ids == said["[SEG]"]]))
    token = original.linear(state, "text_hidden_fcs.2", inner)
    frame = np.array(Image.fromarray(image).resize((SIZE, SIZE)))
    mask = released(meta, torch.from_numpy(frame).permute(2, 0, 1)[None], token)[0][None]
    for size in ((SIZE, SIZE), image.shape[:2]):
        mask = F.interpolate(mask, size, mode="bilinear", align_corners=False)
    return token, mask[0, 0]


@torch.no_grad()
@pytest.mark.parametrize(
    "template, asked",
    [
        ("phi3_chat", "<|user|>\n{}<|end|>\n<|assistant|>\n"),
        ("qwen_chat", "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"),
    ],
)
def test_the_mask_of_an_image(tmp_path, template, asked):
    config, state, meta = write(tmp_path, template)
    model = sa2va_from_folder(path=tmp_path, image_size=SIZE, dtype="float32").eval()
    inputs = GroundingInputs(
        tokenizer=model.mllm.tokenizer,
        template=model.mllm.template,
        tiles=DynamicTiles(size=TILE),
        tokens_per_tile=4,
        grounding_size=SIZE,
    )
    predictor, tokens = GroundedPredictor(model=model, inputs=inputs), []
    project = model.heads["segment"].project
    model.heads["segment"].project = lambda hidden: tokens.append(project(hidden)) or tokens[-1]
    for size, grid in (((90, 150), (3, 2)), ((45, 45), (1, 1)), ((200, 27), (1, 7))):
        image = picture(*size)
        token, expected = by_itself(tmp_path, config, state, meta, image, grid, asked)
        assert 0.02 < (expected > 0).float().mean() < 0.98
        (answer,) = predictor.image(image, [QUESTION], forced=[ANSWER])
        # Pillow's pixels differ by rounding; two tiles in each other's place make 6.7
        torch.testing.assert_close(tokens[-1], token, rtol=0, atol=0.1)
        wrong = answer.decoded()[0] != (expected > 0).numpy()
        assert wrong.mean() < 0.003, size
