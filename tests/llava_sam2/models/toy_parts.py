"""A real but tiny grounded language model: word tokenizer, toy InternVL, toy SAM 2, samples."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from projects.common.conversation import encode_conversation, load_tokenizer
from projects.llava_sam2.models.heads import ChatHead, SegmentHead, TrackHead, seg_projector
from projects.llava_sam2.models.sa2va import Sa2VA
from projects.llava_sam2.models.toy import toy_internvl
from projects.llava_sam2.structures import GroundingSample
from projects.sam2_video.losses import MultiStepMaskLoss
from projects.sam2_video.modeling import build_sam2, toy_config
from projects.sam2_video.prompting import PromptSimulator
from projects.sam2_video.train_model import TrainingUnroll

WORDS = "segment the red blue circle square . sure it is user assistant describe image".split()
TILE, TOKENS, FRAME, MASK = 64, 16, 96, 48


def word_tokenizer(folder, marks=("<|im_start|>", "<|im_end|>")):
    """A tokenizer of :data:`WORDS` and marks, which also lies in the folder."""
    vocab = {word: i for i, word in enumerate(["<pad>", "<unk>", *WORDS])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens=list(marks),
    ).save_pretrained(folder)
    return load_tokenizer(folder)


def toy_sam2():
    """The same random weights each time; those that start at zero are drawn as well."""
    torch.manual_seed(3)
    sam2 = build_sam2(toy_config())
    with torch.no_grad():
        for parameter in sam2.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    return sam2


def segment_head(**options):
    torch.manual_seed(5)
    options = {"num_points": None} | options
    return SegmentHead(projector=seg_projector(hidden=96, out=64), **options)


def toy_model(tokenizer, *, trainable=("*",), head=None, **further):
    unroll = TrainingUnroll(simulator=PromptSimulator(), loss=MultiStepMaskLoss())
    return Sa2VA(
        mllm=toy_internvl(tokenizer=tokenizer, seed=1),
        grounding=toy_sam2(),
        heads={
            "segment": head or segment_head(),
            "chat": ChatHead(),
            "track": TrackHead(unroll=unroll, weight=0.5),
        },
        trainable=list(trainable),
        **further,
    )


def make_sample(
    tokenizer, seed, expressions=("red circle",), *, frames=1, task="segment", masks=True
):
    """A sample about random pixels: a turn with a [SEG] for each expression, or a plain one."""
    draw = torch.Generator().manual_seed(seed)
    pictures = " ".join(["<image>"] * frames)
    turns = [
        (f"{pictures if i == 0 else ''} segment the {e} .", f"sure it is [SEG] {e} .")
        for i, e in enumerate(expressions)
    ] or [(f"{pictures} describe the image .", f"the red square {'. ' * (seed % 3)}")]
    encoded = encode_conversation(tokenizer, turns, "qwen_chat", image_tokens=TOKENS)

    def pixels(count, side):
        return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=draw)

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
