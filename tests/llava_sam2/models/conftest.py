"""A real but tiny grounded language model: word tokenizer, toy InternVL, toy SAM 2."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from projects.common.conversation import encode_conversation, load_tokenizer
from projects.llava_sam2.models.heads import ChatHead, SegmentHead, seg_projector
from projects.llava_sam2.models.sa2va import Sa2VA
from projects.llava_sam2.models.toy import toy_internvl
from projects.llava_sam2.structures import GroundingSample, collate_grounding
from projects.sam2_video.modeling import build_sam2, toy_config

WORDS = "segment the red blue circle square . sure it is user assistant describe image".split()
TILE, TOKENS, FRAME, MASK = 64, 16, 96, 48


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="package")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    raw = Tokenizer(
        models.WordLevel(
            {w: i for i, w in enumerate(["<pad>", "<unk>", *WORDS])}, unk_token="<unk>"
        )
    )
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens=["<|im_start|>", "<|im_end|>"],
    ).save_pretrained(folder)
    return load_tokenizer(folder)


@pytest.fixture
def mllm(tokenizer):
    return toy_internvl(tokenizer=tokenizer, seed=1).eval()


@pytest.fixture
def build_model(tokenizer):
    """Sa2VA with freshly drawn, always equal weights; SAM 2's constants at zero are drawn too."""

    def build(*, trainable=("*",), head=None, **further):
        torch.manual_seed(3)
        grounding = build_sam2(toy_config())
        with torch.no_grad():
            for parameter in grounding.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.02)
        head = head or SegmentHead(projector=seg_projector(hidden=96, out=64), num_points=None)
        return Sa2VA(
            mllm=toy_internvl(tokenizer=tokenizer, seed=1),
            grounding=grounding,
            heads={"segment": head, "chat": ChatHead()},
            trainable=list(trainable),
            **further,
        )

    return build


@pytest.fixture
def make_sample(tokenizer):
    """A sample about random pixels; one turn with a [SEG] for each expression."""

    def make(seed, expressions=("red circle",), *, frames=1, task="segment", masks=True):
        draw = torch.Generator().manual_seed(seed)
        pictures = " ".join(["<image>"] * frames)
        turns = [
            (f"{pictures if i == 0 else ''} segment the {e} .", f"sure it is [SEG] {e} .")
            for i, e in enumerate(expressions)
        ] or [(f"{pictures} describe the image .", f"the red square {'. ' * (seed % 3)}")]
        encoded = encode_conversation(tokenizer, turns, "qwen_chat", image_tokens=TOKENS)

        def pixels(count, side):
            size = (count, 3, side, side)
            return torch.randint(0, 256, size, dtype=torch.uint8, generator=draw)

        truth = torch.rand(len(expressions), frames, MASK, MASK, generator=draw) > 0.6
        has_masks = masks and len(expressions) > 0
        return GroundingSample(
            task=task,
            name=f"sample {seed}",
            input_ids=encoded.input_ids,
            labels=encoded.labels,
            pixel_values=pixels(frames, TILE),
            grounding_frames=pixels(frames, FRAME) if has_masks else None,
            masks=truth if has_masks else None,
        )

    return make


@pytest.fixture
def collate(tokenizer):
    return lambda *samples: collate_grounding(samples, pad_id=tokenizer.pad_token_id)
