"""A toy model with a concept head, and videos of moving squares with scene changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from projects.llava_sam2.datasets.concept_inputs import ConceptInputs
from projects.llava_sam2.datasets.pixels import SingleTile
from projects.llava_sam2.models.heads import ConceptHead, seg_projector
from projects.llava_sam2.models.sa2va import Sa2VA
from projects.llava_sam2.models.toy import toy_internvl
from projects.llava_sam2.sec.predictor import SecInference
from projects.sam2_video.predictor import ObjectPrompt
from projects.sam2_video.toy import toy_sam2
from tests.llava_sam2.datasets.tiny import tiny_inputs

HEIGHT, WIDTH = 72, 96
ASK = dict(questions=["segment it"], answers=["it is [SEG] ."])


def concept_model(folder: Path) -> tuple[Sa2VA, ConceptInputs]:
    """In eval mode, with objects that count as present (score about 3)."""
    torch.manual_seed(0)
    inputs = tiny_inputs(folder, tiles=SingleTile(size=32), tokens_per_tile=4, grounding_size=96)
    mllm = toy_internvl(
        tokenizer=inputs.tokenizer, hidden=32, vision_hidden=32, image_size=32, heads=2
    )
    head = ConceptHead(projector=seg_projector(hidden=32, out=64), hide_absent=False)
    model = Sa2VA(mllm=mllm, grounding=toy_sam2(seed=1), heads={"concept": head}, trainable=["*"])
    with torch.no_grad():
        model.grounding.blocks.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(3.0)
        for parameter in head.text_hidden_fcs.parameters():  # concepts that differ from each other
            parameter.mul_(4.0)
    return model.eval(), ConceptInputs(inputs=inputs, **ASK)


def predictor(model, inputs, **settings):
    settings = dict(reliable_memory=False) | settings
    return SecInference(inputs=inputs, **settings).predictor(model)


def square(frame: int, top: int = 10, side: int = 24) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    left = 6 + 3 * (frame % 20)
    mask[top : top + side, left : left + side] = True
    return mask


def video(frames: int, changes: tuple[int, ...] = ()) -> np.ndarray:
    """Noise around a colour; at each frame of ``changes`` another colour begins."""
    draw = np.random.default_rng(5)
    colours = [(90, 40, 30), (20, 90, 60), (40, 30, 110), (100, 100, 20)]
    clip = []
    for frame in range(frames):
        scene = sum(frame >= change for change in changes)
        image = np.array(colours[scene % 4]) + draw.integers(0, 12, (HEIGHT, WIDTH, 3))
        for top, colour in ((10, (220, 60, 50)), (40, (60, 90, 230))):
            image[square(frame, top)] = colour
        clip.append(image.astype(np.uint8))
    return np.stack(clip)


def prompt(key: int = 1, frame: int = 0, top: int = 10) -> ObjectPrompt:
    return ObjectPrompt(object_id=key, frame=frame, mask=square(frame, top))


def count_calls(monkeypatch, model) -> dict[str, list[int]]:
    """Rows and tokens of each pass of the language model, and pictures of the vision tower."""
    seen: dict[str, list[int]] = {"asked": [], "tokens": [], "pictures": []}
    forward, look = type(model.mllm).forward, type(model.mllm).visual_features

    def counted_forward(self, input_ids, *args, **kwargs):
        seen["asked"].append(len(input_ids))
        seen["tokens"].append(input_ids.numel())
        return forward(self, input_ids, *args, **kwargs)

    def counted_look(self, pixel_values):
        seen["pictures"].append(len(pixel_values))
        return look(self, pixel_values)

    monkeypatch.setattr(type(model.mllm), "forward", counted_forward)
    monkeypatch.setattr(type(model.mllm), "visual_features", counted_look)
    return seen
