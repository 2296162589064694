"""What SAM 2's verbs take and give.

Shape legend: N images, B rows (an object of a video), S input side in pixels, h = w the top
level's grid (S/16 as released), C its channels, M candidate masks, P points, K language tokens.
Low-resolution masks have the side 4h (S/4 as released).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

ABSENT_LOGIT = -1024.0  # mask logit of an object that is not in the frame (Meta's NO_OBJ_SCORE)
POSITIVE, NEGATIVE, BOX_START, BOX_END, PADDING = 1, 0, 2, 3, -1  # labels of points


@dataclass
class FrameFeatures:
    """Features of images, encoded once and gathered by row.

    ``embed`` is raw: neither memory nor the no-memory embedding is in it.
    """

    embed: Tensor  # [N, C, h, w]
    high_res: tuple[Tensor, Tensor]  # [N, C/8, 4h, 4w], [N, C/4, 2h, 2w], for the mask decoder
    propagation_high_res: tuple[Tensor, Tensor] | None = None  # the same for the kept decoder

    def __len__(self) -> int:
        return self.embed.shape[0]

    def rows(self, index: Tensor) -> FrameFeatures:
        """Features of the images ``index`` [B] (any order, repeats allowed)."""
        kept = self.propagation_high_res
        return FrameFeatures(
            embed=self.embed[index],
            high_res=(self.high_res[0][index], self.high_res[1][index]),
            propagation_high_res=None if kept is None else (kept[0][index], kept[1][index]),
        )

    def with_embed(self, embed: Tensor) -> FrameFeatures:
        """The same images with another top level, such as the one that has read the memory."""
        return replace(self, embed=embed)


@dataclass
class Prompt:
    """What is asked of B rows on one frame.

    Points and boxes are pixels of the square input, ``(x, y)`` in 0..S; a box is its two corners
    with the labels 2 and 3. Rows may have different numbers of points: fill up with the label -1
    at the end; such rows are decoded apart, because a padding token changes SAM's answer. A row of
    -1 alone is the empty point. ``previous`` are the low-resolution logits that clicks correct.
    """

    points: Tensor | None = None  # [B, P, 2] float
    labels: Tensor | None = None  # [B, P] int: 1, 0, 2, 3 or -1
    mask: Tensor | None = None  # [B, 1, S, S] bool or 0..1: becomes the output
    tokens: Tensor | None = None  # [B, K, C] language
    previous: Tensor | None = None  # [B, 1, 4h, 4w] logits

    def __post_init__(self) -> None:
        if (self.points is None) != (self.labels is None):
            raise ValueError("a prompt has points and labels together, or neither")
        if self.points is not None and self.points.shape != (*self.labels.shape, 2):
            raise ValueError(
                f"points [B, P, 2] and labels [B, P] do not line up: "
                f"{tuple(self.points.shape)} and {tuple(self.labels.shape)}"
            )
        if self.mask is not None and any(
            part is not None for part in (self.points, self.tokens, self.previous)
        ):
            raise ValueError("a mask prompt is the output itself: give it without points or tokens")
        counts = {field.name: len(part) for field, part in self._parts()}
        if not counts:
            raise ValueError("an empty prompt: pass prompt=None for rows without one")
        if len(set(counts.values())) > 1:
            raise ValueError(f"the parts of a prompt have different numbers of rows: {counts}")

    def _parts(self):
        for field in fields(self):
            part = getattr(self, field.name)
            if part is not None:
                yield field, part

    def __len__(self) -> int:
        return len(next(self._parts())[1])

    def rows(self, index: Tensor) -> Prompt:
        """The prompts of the rows ``index``."""
        return Prompt(**{field.name: part[index] for field, part in self._parts()})

    def by_point_count(self) -> list[tuple[int, Tensor, Prompt]]:
        """Split into ``(points, rows, prompt)`` of rows that have equally many real points.

        The prompts that come back carry no padding; a group without points keeps the other parts
        (or one empty point).
        """
        if self.labels is None:
            return [(0, torch.arange(len(self)), self)]
        real = self.labels != PADDING
        if bool((real[:, 1:] & ~real[:, :-1]).any()):
            raise ValueError("padding points (label -1) must come after the real ones in each row")
        counts = real.sum(1)
        groups = []
        for count in sorted(set(counts.tolist())):
            rows = (counts == count).nonzero()[:, 0]
            part = self if len(rows) == len(self) else self.rows(rows)
            keep = max(count, 1)
            part = replace(part, points=part.points[:, :keep], labels=part.labels[:, :keep])
            groups.append((count, rows, part))
        return groups


@dataclass
class MixedPrompt:
    """Prompts of different kinds on one frame: each part with the rows that it speaks for.

    Rows that no part names have no prompt.
    """

    size: int  # B
    parts: list[tuple[Tensor, Prompt]]  # rows [b] long, prompt of b rows

    def __post_init__(self) -> None:
        for rows, prompt in self.parts:
            if len(rows) != len(prompt):
                raise ValueError(f"{len(rows)} row numbers for a prompt of {len(prompt)} rows")
        named = [row for rows, _ in self.parts for row in rows.tolist()]
        if len(set(named)) != len(named) or any(not 0 <= row < self.size for row in named):
            raise ValueError(f"rows of a mixed prompt must be distinct and in 0..{self.size - 1}")
        # a part that covers all rows is decoded without gathering them
        self.parts = [_ascending(rows, prompt) for rows, prompt in self.parts]

    def __len__(self) -> int:
        return self.size


def _ascending(rows: Tensor, prompt: Prompt) -> tuple[Tensor, Prompt]:
    order = rows.argsort()
    if bool((order.diff() == 1).all()):
        return rows, prompt
    return rows[order], prompt.rows(order)


@dataclass
class MaskCandidates:
    """What the mask decoder proposes.

    ``object_logits`` say whether the object is in the frame; for a mask prompt the mask itself says
    it, and ``pointer_logits``, which gate the object pointer, are the lesser of both answers.
    """

    masks: Tensor  # [B, M, 4h, 4w] logits
    iou: Tensor  # [B, M] in 0..1
    tokens: Tensor  # [B, M, C]
    object_logits: Tensor  # [B, 1]
    pointer_logits: Tensor  # [B, 1]

    def widen(self, candidates: int) -> MaskCandidates:
        """Repeat a single candidate; min and mean over the candidates stay what they were."""
        if self.masks.shape[1] == candidates:
            return self
        return replace(
            self,
            masks=self.masks.expand(-1, candidates, -1, -1),
            iou=self.iou.expand(-1, candidates),
            tokens=self.tokens.expand(-1, candidates, -1),
        )

    def best(self) -> MaskCandidates:
        """Of each row the candidate with the highest predicted IoU, alone."""
        rows = torch.arange(len(self.iou), device=self.iou.device)
        chosen = rows, self.iou.argmax(dim=1)
        return replace(
            self,
            masks=self.masks[chosen][:, None],
            iou=self.iou[chosen][:, None],
            tokens=self.tokens[chosen][:, None],
        )

    def hide_absent(self) -> MaskCandidates:
        """Masks of rows whose object is absent become ``ABSENT_LOGIT``, without gradient."""
        present = (self.object_logits > 0)[:, :, None, None]
        return replace(self, masks=torch.where(present, self.masks, ABSENT_LOGIT))


def merge_rows(parts: list[tuple[Tensor, MaskCandidates]], rows: int) -> MaskCandidates:
    """Put candidates of disjoint rows back into one batch of ``rows``."""
    if len(parts) == 1 and len(parts[0][0]) == rows:
        return parts[0][1]
    candidates = max(part.masks.shape[1] for _, part in parts)
    wide = [part.widen(candidates) for _, part in parts]
    device = wide[0].masks.device
    order = torch.argsort(torch.cat([index.to(device) for index, _ in parts]))
    merged = {
        field.name: torch.cat([getattr(part, field.name) for part in wide])[order]
        for field in fields(MaskCandidates)
    }
    return MaskCandidates(**merged)


@dataclass
class FrameOutput:
    """One frame's answer for B rows."""

    masks: Tensor  # [B, 1, 4h, 4w] logits of the candidate with the highest predicted IoU
    candidates: MaskCandidates
    pointer: Tensor  # [B, C]
    object_logits: Tensor  # [B, 1]
    iou: Tensor  # [B] predicted IoU of the chosen mask
