"""Runs PyPI's ``SAM2VideoPredictor`` on the prompts that our predictor takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sam2.sam2_video_predictor import SAM2VideoPredictor
from torch import Tensor

from projects.common.video import write_jpeg
from projects.sam2_video.modeling import Sam2, build_sam2, sam2_config
from projects.sam2_video.modeling.meta_weights import load_meta_state
from projects.sam2_video.predictor import ObjectPrompt
from tests.sam2_video.meta_reference import build_meta, randomise

POSTPROCESSING = dict(  # what build_sam2_video_predictor adds by default, but the holes
    binarize_mask_from_pts_for_mem_enc=True,
    sam_mask_decoder_extra_args=dict(
        dynamic_multimask_via_stability=True,
        dynamic_multimask_stability_delta=0.05,
        dynamic_multimask_stability_thresh=0.98,
    ),
)


def predictor_pair(
    size: str = "tiny",
    *,
    image_size: int,
    num_maskmem: int = 7,
    version: str = "2.1",
    seed: int = 0,
    object_bias: float = 3.0,
    **switches,
) -> tuple[SAM2VideoPredictor, Sam2]:
    """Meta's predictor and our network with the same random weights, objects present."""
    meta = build_meta(
        size,
        image_size=image_size,
        num_maskmem=num_maskmem,
        version=version,
        model_class=SAM2VideoPredictor,
        **(POSTPROCESSING | switches),
    )
    randomise(meta, seed, object_bias=object_bias)
    config = sam2_config(size, image_size=image_size, num_maskmem=num_maskmem, version=version)
    ours = build_sam2(config)
    load_meta_state(ours, meta.state_dict(), where="the reference")
    return meta.eval(), ours.eval()


def write_clip(folder: Path, *, frames: int, height: int, width: int, seed: int = 0) -> Path:
    """Blobs that move over a textured ground, as the JPEG folder that Meta's predictor reads."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(0, 120, (height // 8 + 1, width // 8 + 1, 3))
    ground = np.kron(ground, np.ones((8, 8, 1)))[:height, :width]
    colours = rng.integers(130, 255, (4, 3))
    folder.mkdir(parents=True, exist_ok=True)
    for frame in range(frames):
        image = ground + rng.integers(-15, 15, ground.shape)
        for number, colour in enumerate(colours):
            top = 5 + number * height // 5
            left = (10 + number * width // 6 + 3 * frame) % (width - width // 4)
            image[top : top + height // 4, left : left + width // 5] = colour
        write_jpeg(folder / f"{frame:05d}.jpg", image.clip(0, 255).astype(np.uint8), quality=90)
    return folder


def add_to_meta(meta: SAM2VideoPredictor, state: dict, prompt: ObjectPrompt) -> None:
    if prompt.mask is not None:
        meta.add_new_mask(state, prompt.frame, prompt.object_id, prompt.mask)
        return
    meta.add_new_points_or_box(
        state,
        prompt.frame,
        prompt.object_id,
        points=prompt.points,
        labels=prompt.labels,
        box=prompt.box,
    )


@torch.inference_mode()
def run_meta(
    meta: SAM2VideoPredictor, folder: Path, prompts: Sequence[ObjectPrompt], **options
) -> dict[int, Tensor]:
    """Frame to logits [O, 1, H, W] at the size of the video."""
    state = meta.init_state(str(folder))
    for prompt in prompts:
        add_to_meta(meta, state, prompt)
    return {frame: logits for frame, _, logits in meta.propagate_in_video(state, **options)}
