"""A small grounded model on a folder of weights, and samples of all kinds, for several ranks."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from transformers import InternVLForConditionalGeneration

from projects.common.conversation import encode_conversation, load_tokenizer
from projects.common.samplers import Draw
from projects.llava_sam2.hf.internvl import internvl_from_folder, model_config, read_config
from projects.llava_sam2.hf.random_start import random_model
from projects.llava_sam2.models.mllm import InternVL
from projects.llava_sam2.structures import GroundingSample
from projects.sam2_video.modeling import build_sam2, toy_config
from projects.sam2_video.modeling.init import apply_scratch_init
from tests.llava_sam2.hf import original

FOLDER = "SCALE_FOLDER"  # environment: where the weights are
SIDE, TOKENS, FRAME, MASK, WIDTH = 56, 4, 96, 24, 6
HEADS, KEY_HEADS = 4, 2
CONFIG = "tests/llava_sam2/scale/config.py"
BOTH = "train_dataloader.batch_size=2"  # what two ranks read, in one process


def write_folder(folder: Path, *, hidden: int = 32, layers: int = 2) -> None:
    """InternVL2.5's original layout in four shards, bfloat16."""
    config = original.numbers("qwen2", "300m")
    config["llm_config"] |= {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_HEADS,
        "max_position_embeddings": 512,
        "vocab_size": original.write_qwen2_tokenizer(folder),
    }
    state = original.random_state(config, seed=4)
    state = {name: tensor.bfloat16() for name, tensor in state.items()}
    original.write_folder(folder, config, state, shards=4)


def mllm(*, dtype: str = "float32", gradient_checkpointing: bool = True) -> InternVL:
    return internvl_from_folder(
        path=os.environ[FOLDER], dtype=dtype, gradient_checkpointing=gradient_checkpointing
    )


def random_mllm() -> InternVL:
    """The same without the folder's weights."""
    folder = Path(os.environ[FOLDER])
    config = model_config(read_config(folder), where=str(folder))
    model = random_model(InternVLForConditionalGeneration, config, dtype=torch.float32)
    return InternVL(model=model, tokenizer=load_tokenizer(folder), template="qwen_chat")


def grounding():
    sam2 = build_sam2(toy_config(image_size=FRAME))
    apply_scratch_init(sam2, seed=13)
    return sam2


class Samples:
    """Samples of one kind: "image" (one frame, up to 3 tiles), "video" (3 frames, 2 expressions),
    "words" (neither picture nor mask, beside those), "seen" (a picture without [SEG]), "empty" (an
    image whose mask is), "features" (of frames, for the time task)."""

    def __init__(self, *, kind: str, length: int) -> None:
        self.kind, self.length = kind, length
        self.task = "temporal" if kind == "features" else "segment"
        self.tokenizer = load_tokenizer(os.environ[FOLDER])

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, draw: Draw) -> GroundingSample:
        generator = torch.Generator().manual_seed(draw.index)
        return getattr(self, f"_{self.kind}")(f"{self.kind} {draw.index}", draw.index, generator)

    def _image(self, name, index, generator) -> GroundingSample:
        tiles = 1 + index % 3
        question = "<image> please segment the red circle"
        return self._grounded(name, [(question, "it is [SEG]")], tiles, tiles, 1, 1, generator)

    def _video(self, name, index, generator) -> GroundingSample:
        turns = [
            ("<image> <image> <image> the circle", "[SEG]"),
            ("the blue square", "it is [SEG]"),
        ]
        return self._grounded(name, turns, 1, 3, 3, 2, generator)

    def _words(self, name, index, generator) -> GroundingSample:
        return self._encoded(name, [("what moves to the right", "the red circle it is")])

    def _seen(self, name, index, generator) -> GroundingSample:
        turns = [("<image> what moves to the right", "the red circle")]
        sample = self._grounded(name, turns, 1, 1, 1, 1, generator)
        sample.grounding_frames = sample.masks = None
        return sample

    def _empty(self, name, index, generator) -> GroundingSample:
        sample = self._image(name, index, generator)
        sample.masks = torch.zeros_like(sample.masks)
        return sample

    def _features(self, name, index, generator) -> GroundingSample:
        frames = 5 + index % 4
        sample = self._encoded(
            name, [("<image> where", "to the right")], image_tokens=frames, image_ends=False
        )
        sample.features = torch.randn(frames, WIDTH, generator=generator)
        return sample

    def _grounded(self, name, turns, per_image, tiles, frames, expressions, generator):
        sample = self._encoded(name, turns, image_tokens=per_image * TOKENS)
        size = dict(dtype=torch.uint8, generator=generator)
        sample.pixel_values = torch.randint(0, 256, (tiles, 3, SIDE, SIDE), **size)
        sample.grounding_frames = torch.randint(0, 256, (frames, 3, FRAME, FRAME), **size)
        masks = torch.rand(expressions, frames, MASK, MASK, generator=generator)
        sample.masks = masks > 0.6
        return sample

    def _encoded(self, name, turns, **options) -> GroundingSample:
        encoded = encode_conversation(self.tokenizer, turns, "qwen_chat", name=name, **options)
        return GroundingSample(
            task=self.task, name=name, input_ids=encoded.input_ids, labels=encoded.labels
        )
