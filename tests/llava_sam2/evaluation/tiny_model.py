"""A toy grounded model with random weights that can be made to say what a test wants."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.datasets.pixels import SingleTile
from projects.llava_sam2.models.heads import SegmentHead, seg_projector
from projects.llava_sam2.models.sa2va import Sa2VA
from projects.llava_sam2.models.toy import toy_internvl
from projects.sam2_video.modeling import build_sam2, toy_config
from projects.sam2_video.modeling.init import apply_scratch_init
from tests.llava_sam2.datasets.tiny import tiny_inputs


def toy_model(
    folder: Path, *, propagation_decoder: str = "tuned", image_size: int = 32
) -> tuple[Sa2VA, GroundingInputs]:
    """The model in eval mode and the inputs that fit it (tiles of 32 px, SAM 2 at 96 px)."""
    torch.manual_seed(0)
    inputs = tiny_inputs(
        folder,
        tiles=SingleTile(size=image_size),
        tokens_per_tile=(image_size // 16) ** 2,
        grounding_size=96,
    )
    grounding = build_sam2(toy_config(image_size=96))
    apply_scratch_init(grounding, seed=13)
    head = SegmentHead(projector=seg_projector(hidden=32, out=grounding.hidden), num_points=None)
    mllm = toy_internvl(
        tokenizer=inputs.tokenizer, hidden=32, vision_hidden=32, image_size=image_size, heads=2
    )
    model = Sa2VA(
        mllm=mllm,
        grounding=grounding,
        heads={"segment": head},
        trainable=["*"],
        propagation_decoder=propagation_decoder,
    )
    return model.eval(), inputs


class Script(nn.Module):
    """Stands in for lm_head: the r-th answer says the r-th list of words, then stops."""

    def __init__(self, model: Sa2VA, *answers: str) -> None:
        super().__init__()
        vocabulary = model.mllm.tokenizer.get_vocab()
        lines = [answer.split() + ["<|im_end|>"] for answer in answers]
        self.lines = [[vocabulary[word] for word in line] for line in lines]
        self.size = len(vocabulary)
        self.weight = torch.zeros(1)  # whose dtype hidden states are cast to
        self.step = 0
        model.mllm.model.lm_head = self

    def forward(self, hidden: Tensor) -> Tensor:
        logits = torch.zeros(len(hidden), self.size)
        for row, line in enumerate(self.lines):
            logits[row, line[min(self.step, len(line) - 1)]] = 1.0
        self.step += 1
        return logits
