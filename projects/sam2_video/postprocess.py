"""What may be done to predicted masks, on any machine, and only when asked for.

Meta's predictor fills small holes with a CUDA extension and goes on without it where the extension
is missing, so that results differ between machines. This is the same rule on SciPy.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

FILLED_LOGIT = 0.1  # a filled hole is just foreground
REMOVED_LOGIT = -0.1
EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


def fill_holes(logits: Tensor, max_area: int) -> Tensor:
    """Turn small holes into foreground (Meta's ``fill_hole_area``).

    Args:
        logits: [B, 1, h, w]; background is at or below 0.
        max_area: pixels of the largest 8-connected background component that is filled with a
            logit of 0.1; a component that touches the border counts as well.
    """
    return _replace_small(logits, logits <= 0, max_area, FILLED_LOGIT)


def remove_specks(logits: Tensor, max_area: int) -> Tensor:
    """Turn 8-connected foreground components of at most ``max_area`` pixels into background."""
    return _replace_small(logits, logits > 0, max_area, REMOVED_LOGIT)


def _replace_small(logits: Tensor, where: Tensor, max_area: int, value: float) -> Tensor:
    small = [small_components(mask, max_area) for mask in where[:, 0].cpu().numpy()]
    if not any(mask.any() for mask in small):
        return logits
    chosen = torch.from_numpy(np.stack(small)).to(logits.device)[:, None]
    return torch.where(chosen, value, logits)


def small_components(mask: np.ndarray, max_area: int) -> np.ndarray:
    """Pixels of ``mask`` (bool [H, W]) whose 8-connected component has ``max_area`` at most."""
    labels, _ = ndimage.label(mask, structure=EIGHT_NEIGHBOURS)
    areas = np.bincount(labels.ravel())
    small = areas <= max_area
    small[0] = False  # what is not in the mask
    return small[labels]


def winners(logits: Tensor) -> Tensor:
    """Masks [O, H, W] bool in which no pixel belongs to two objects.

    Args:
        logits: [O, H, W]; a pixel goes to the object with the highest positive logit, to the first
            of equals.
    """
    owner = logits.argmax(dim=0, keepdim=True)
    rows = torch.arange(len(logits), device=logits.device)[:, None, None]
    return (owner == rows) & (logits > 0)
