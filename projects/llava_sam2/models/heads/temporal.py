"""When something happens: a row of frame features becomes a row of visual tokens.

    features [P', C] ──► projector ──► + position of the frame ──► visual tokens [P', D]
                                                                        │ one a frame
    input_ids [B, L] ──► mllm ◄─────────────────────────────────────────┘
                          └──► language loss: the answer is two positions in digit tokens

Shapes: P' frames of all samples together, C the width of their features, D the language model's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from projects.llava_sam2.models.mllm import InternVL
from projects.llava_sam2.structures import GroundingBatch
from projects.sam2_video.modeling import Sam2

_HALF_TURN = 100  # frames in half a period of the slowest sinusoid


class FeatureProjector(nn.Module):
    """Features to visual tokens: widen, residual blocks, expand, project.

    C -> hidden -> ``blocks`` residual blocks -> expanded -> out, each with LayerNorm and GELU.

    Args:
        features: C, width of the features.
        out: D, width of the language model.
        hidden, expanded: inner widths; 2048 and 4096 in the full-size recipe.
        blocks: residual blocks.
        positions: scale of a fixed sinusoidal position that is added to each token; 0 leaves it to
            the language model to count tokens, which a small one trained from scratch cannot.
    """

    def __init__(
        self,
        *,
        features: int,
        out: int,
        hidden: int = 2048,
        expanded: int = 4096,
        blocks: int = 3,
        positions: float = 0.0,
    ) -> None:
        super().__init__()
        if out % 2:
            raise ValueError(f"sinusoids come in pairs: out must be even, got {out}")
        self.enter = nn.Sequential(nn.Linear(features, hidden), nn.LayerNorm(hidden), nn.GELU())
        self.blocks = nn.ModuleList(_residual(hidden) for _ in range(blocks))
        self.leave = nn.Sequential(
            nn.Linear(hidden, expanded),
            nn.LayerNorm(expanded),
            nn.GELU(),
            nn.Linear(expanded, out),
            nn.LayerNorm(out),
        )
        self.out = out
        self.positions = positions

    def forward(self, features: Tensor, lengths: Sequence[int]) -> Tensor:
        """Features ``[P', C]`` of samples of ``lengths`` frames each to tokens ``[P', D]``.

        Raises:
            ValueError: features of another width, or lengths that do not add up to P'.
        """
        self._check(features, lengths)
        tokens = self.enter(features.to(self.enter[0].weight.dtype))
        for block in self.blocks:
            tokens = tokens + block(tokens)
        tokens = self.leave(tokens)
        if not self.positions:
            return tokens
        places = torch.cat([torch.arange(length) for length in lengths]).to(features.device)
        return tokens + self.positions * sinusoids(places, self.out).to(tokens.dtype)

    def _check(self, features: Tensor, lengths: Sequence[int]) -> None:
        width = self.enter[0].in_features
        if features.ndim != 2 or features.shape[1] != width:
            raise ValueError(
                f"features of shape {tuple(features.shape)}, but the projector takes [frames, "
                f"{width}]; features and model belong to different encoders"
            )
        if sum(lengths) != len(features):
            raise ValueError(f"{len(features)} features for samples of {sum(lengths)} frames")


class TemporalHead(nn.Module):
    """The language loss of answers about time, and the visual tokens that they rest on.

    Args:
        projector: features to visual tokens.
        language_weight: of the language loss.
    """

    def __init__(self, *, projector: FeatureProjector, language_weight: float = 1.0) -> None:
        super().__init__()
        self.projector = projector
        self.language_weight = language_weight

    def visual(self, features: Tensor, lengths: Sequence[int]) -> Tensor:
        """What the language model sees, ``[P', 1, D]``: one token a frame. See the projector."""
        return self.projector(features, lengths)[:, None]

    def loss(self, batch: GroundingBatch, *, mllm: InternVL, grounding: Sam2) -> dict[str, Tensor]:
        """``{"loss_language"}``, averaged over the supervised tokens of the batch.

        Raises:
            ValueError: naming the samples that bring no features.
        """
        lacking = [n for n, c in zip(batch.names, batch.features_per_sample, strict=True) if not c]
        if batch.features is None or lacking:
            raise ValueError(f"no features in {', '.join(lacking)}; the temporal head needs them")
        visual = self.visual(batch.features, batch.features_per_sample)
        hidden = mllm(batch.input_ids, batch.attention_mask, visual=visual)
        loss = mllm.language_loss(hidden, batch.labels, mean_count=batch.mean_counts.get("tokens"))
        return {"loss_language": self.language_weight * loss}


def sinusoids(places: Tensor, width: int) -> Tensor:
    """Positions ``[P]`` as ``[P, width]``: sines, then cosines.

    Their frequencies are the multiples of a half turn over 100 frames, and not the geometric series
    of Vaswani et al. (2017): digits are read off a position, and those are steps of 10 and of 1.
    """
    frequencies = math.pi / _HALF_TURN * torch.arange(1, width // 2 + 1, device=places.device)
    angles = places[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _residual(width: int) -> nn.Sequential:
    """What a residual block adds; little at first, so that a deep stack starts as a shallow one."""
    leave = nn.Linear(width, width)
    with torch.no_grad():
        leave.weight.mul_(0.1)
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), leave)
