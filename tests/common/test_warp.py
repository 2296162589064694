"""Affine maps against torchvision's."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from torchvision.transforms import InterpolationMode

from projects.common.warp import affine_matrix, warp_frames, warp_masks

FILL = [124.0, 116.0, 104.0]
MAPS = [
    dict(angle=25.0, shear=0.0, translate=[0.0, 0.0], scale=1.0),
    dict(angle=-13.0, shear=20.0, translate=[0.0, 0.0], scale=1.0),
    dict(angle=7.0, shear=-11.0, translate=[5.0, -3.0], scale=1.3),
    dict(angle=0.0, shear=0.0, translate=[0.0, 0.0], scale=0.7),
]


@pytest.mark.parametrize("params", MAPS)
@pytest.mark.parametrize("size", [(61, 90), (64, 48)])
def test_frames_and_masks_go_where_torchvision_puts_them(params, size):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    frames = np.ascontiguousarray(np.stack([image, image[::-1]]).transpose(0, 3, 1, 2))
    masks = frames > 128
    reference = {**params, "shear": [params["shear"], 0.0]}
    matrix = affine_matrix(height=size[0], width=size[1], **params)

    expected = F.affine(torch.from_numpy(masks).to(torch.uint8), **reference, fill=[0.0]).bool()
    assert (warp_masks(masks, matrix) == expected.numpy()).mean() > 0.998

    expected = F.affine(
        torch.from_numpy(frames), **reference, interpolation=InterpolationMode.BILINEAR, fill=FILL
    ).numpy()
    difference = np.abs(warp_frames(frames, matrix, FILL).astype(int) - expected)
    # at the rim, where fill and picture mix, torchvision rounds its mask of what is inside
    inside = F.affine(torch.ones(1, *size, dtype=torch.uint8), **reference, fill=[0.0])[0].numpy()
    inside = cv2.erode(inside, np.ones((5, 5)), borderValue=0).astype(bool)
    assert inside.mean() > 0.3 and difference[..., inside].max() <= 2


def test_inputs_stay_as_they_are():
    frames = np.full((1, 3, 10, 12), 7, np.uint8)
    masks = np.ones((1, 2, 10, 12), bool)
    matrix = affine_matrix(height=10, width=12, angle=45, shear=0, translate=[0, 0], scale=1)
    warped = warp_frames(frames, matrix, FILL)
    assert (frames == 7).all() and masks.all()
    assert warped[0, :, 0, 0].tolist() == FILL and not warp_masks(masks, matrix)[..., 0, 0].any()
