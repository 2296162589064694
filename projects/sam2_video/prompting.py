"""Simulated users: which frames of a clip are prompted, how, and which are corrected.

Follows the prompt simulation of SAM 2's training (Ravi et al., 2024). A plan is drawn once for all
rows (objects); a row whose object is not visible everywhere follows it as far as it can: it starts
on its first visible frame, and only frames that show it become conditioning frames. Where objects
are visible on all frames, the plans are SAM 2's. Where clicks and boxes fall: ``points.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from projects.sam2_video.points import RowRandom, sample_boxes, sample_clicks


@dataclass(frozen=True)
class PromptPlan:
    """What some rows receive on which frames of their clip."""

    conditioning: tuple[int, ...]  # prompted first, decoded without memory; tracking starts there
    mask_prompts: bool = False  # the true mask is given, else a click or a box
    box_frames: frozenset[int] = frozenset()  # those that start with a box
    correction: frozenset[int] = frozenset()  # frames that get more clicks
    true_clicks: frozenset[tuple[int, int]] = frozenset()  # (frame, click): not from the error
    given: frozenset[int] = frozenset()  # their true mask is remembered, nothing is predicted
    rows: tuple[int, ...] | None = None  # the rows that it is for; None: all

    def order(self, num_frames: int) -> list[int]:
        """Frames in the order of visits: conditioning ones, then the others from the start on."""
        start = min(self.conditioning)
        order = [*self.conditioning]
        order += [frame for frame in range(start, num_frames) if frame not in self.conditioning]
        while order[-1] in self.given:  # no frame is left that would read its memory
            order.pop()
        return order


@dataclass(frozen=True)
class _Draw:
    """What is drawn once for all rows, whichever frames their objects are visible on."""

    use_points: bool
    conditioning: int  # frames
    correction: int  # frames
    prompted: list[int]  # order in which frames after the first become conditioning frames
    corrected: list[int]  # order in which other frames are corrected
    box_frames: frozenset[int]
    true_clicks: frozenset[tuple[int, int]]


class PromptSimulator:
    """Draws plans and prompts; each probability of the recipe is an argument.

    Args:
        point_prob: points (clicks or a box) rather than the mask; a one-frame clip always uses
            points, and so does an object that appears on the last frame only.
        box_prob: of those, a box rather than a click.
        max_conditioning_frames: 1 to n initial conditioning frames, the first among them.
        max_correction_frames: at most this many frames receive correction clicks, conditioning
            frames first; only where points are used.
        num_correction_clicks: clicks per such frame.
        gt_click_prob: a correction click comes from the ground truth, not from the error region.
        per_object: each object has conditioning frames that show it, and starts on the first of
            them. Else all objects share theirs, which must show every object of the batch, on all
            ranks, as SAM 2's training assumes. ZeRO-3 always shares them: its ranks must run the
            same modules in the same order.
        mix_rows: each object of a batch draws for itself whether it starts with a box or a click
            (SAM 2 draws once for all). Steadier gradients where a model learns from scratch. Not
            with ZeRO-3: the decoder runs once per kind, and ranks may draw unlike kinds.
        box_noise, max_box_noise: jitter of a box's sides, as a share of its size and in pixels.
    """

    def __init__(
        self,
        *,
        point_prob: float = 0.5,
        box_prob: float = 0.5,
        max_conditioning_frames: int = 2,
        max_correction_frames: int = 2,
        num_correction_clicks: int = 7,
        gt_click_prob: float = 0.1,
        per_object: bool = True,
        mix_rows: bool = False,
        box_noise: float = 0.1,
        max_box_noise: float = 20.0,
    ) -> None:
        shares = dict(point_prob=point_prob, box_prob=box_prob, gt_click_prob=gt_click_prob)
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise ValueError(f"PromptSimulator: {name} must be in 0..1, got {value}")
        if max_conditioning_frames < 1 or max_correction_frames < 0 or num_correction_clicks < 0:
            raise ValueError(
                "PromptSimulator wants max_conditioning_frames >= 1, max_correction_frames and "
                f"num_correction_clicks >= 0, got {max_conditioning_frames}, "
                f"{max_correction_frames}, {num_correction_clicks}"
            )
        self.point_prob = point_prob
        self.box_prob = box_prob
        self.max_conditioning_frames = max_conditioning_frames
        self.max_correction_frames = max_correction_frames
        self.num_correction_clicks = num_correction_clicks
        self.gt_click_prob = gt_click_prob
        self.per_object = per_object
        self.mix_rows = mix_rows
        self.box_noise = box_noise
        self.max_box_noise = max_box_noise

    def plan(self, visible: np.ndarray, rng: np.random.Generator) -> list[PromptPlan]:
        """Plans for all rows; rows with the same frames share one.

        Args:
            visible: bool ``[T, O]``, which object is visible on which frame.

        Raises:
            ValueError: an object is visible on no frame.
        """
        draw = self._draw(len(visible), rng)
        by_plan: dict[PromptPlan, list[int]] = {}
        for row, seen in enumerate(visible.T):
            by_plan.setdefault(self._plan_row(seen, row, draw), []).append(row)
        return [replace(plan, rows=tuple(rows)) for plan, rows in by_plan.items()]

    def _draw(self, num_frames: int, rng: np.random.Generator) -> _Draw:
        use_points = num_frames == 1 or rng.random() < self.point_prob
        conditioning = int(rng.integers(1, min(self.max_conditioning_frames, num_frames) + 1))
        most = min(self.max_correction_frames, num_frames)
        correction = int(rng.integers(min(conditioning, most), most + 1))
        clicks = self.num_correction_clicks
        prompted = (1 + rng.permutation(num_frames - 1)).tolist()
        corrected = rng.permutation(num_frames).tolist()
        boxes = rng.random(num_frames) < self.box_prob
        from_truth = rng.random((num_frames, clicks)) < self.gt_click_prob
        return _Draw(
            use_points=use_points,
            conditioning=conditioning,
            correction=correction if clicks else 0,
            prompted=prompted,
            corrected=corrected,
            box_frames=frozenset(np.flatnonzero(boxes).tolist()),
            true_clicks=frozenset(map(tuple, np.argwhere(from_truth).tolist())),
        )

    def _plan_row(self, seen: np.ndarray, row: int, draw: _Draw) -> PromptPlan:
        if not seen.any():
            raise ValueError(f"object {row} of the batch is visible on no frame of its clip")
        start, left = int(seen.argmax()), len(seen) - int(seen.argmax())
        use_points = draw.use_points or left == 1
        # a clip whose frames are all given as masks has nothing left to predict
        most = draw.conditioning if use_points else min(draw.conditioning, left - 1)
        extra = [frame for frame in draw.prompted if frame > start and seen[frame]][: most - 1]
        conditioning = (start, *sorted(extra))
        if not use_points:
            return PromptPlan(conditioning=conditioning, mask_prompts=True)
        return self._with_points(conditioning, draw)

    def _with_points(self, conditioning: tuple[int, ...], draw: _Draw) -> PromptPlan:
        """Conditioning frames are corrected first; what is left goes to other frames."""
        others = [f for f in draw.corrected if f > conditioning[0] and f not in conditioning]
        correction = [*conditioning, *others][: draw.correction]
        return PromptPlan(
            conditioning=conditioning,
            box_frames=draw.box_frames.intersection(conditioning),
            correction=frozenset(correction),
            true_clicks=frozenset(c for c in draw.true_clicks if c[0] in correction),
        )

    def first_points(self, masks: Tensor, *, box: bool, random: RowRandom) -> tuple[Tensor, Tensor]:
        """The first points of a conditioning frame: a positive click or two corners of a box.

        Args:
            masks: bool ``[B, S, S]``, none empty.
            box: what the plan says for all rows; with ``mix_rows`` every row draws.

        Returns:
            points float ``[B, P, 2]``, labels int64 ``[B, P]``; P is 1 or 2. Among rows that start
            with a box, a click is filled up by a padding point (label -1).
        """
        if self.mix_rows:
            return self._mixed_points(masks, random)
        if box:
            return self._boxes(masks, random)
        return sample_clicks(masks, None, random=random)

    def _boxes(self, masks: Tensor, random: RowRandom) -> tuple[Tensor, Tensor]:
        return sample_boxes(
            masks, noise=self.box_noise, max_noise=self.max_box_noise, random=random
        )

    def _mixed_points(self, masks: Tensor, random: RowRandom) -> tuple[Tensor, Tensor]:
        """A box or a click per row.

        Every row draws both, so that what it gets does not depend on its neighbours' draws.
        """
        boxed = random.uniform() < self.box_prob
        points, labels = self._boxes(masks, random)
        click, label = sample_clicks(masks, None, random=random)
        if not boxed.any():
            return click, label
        click = torch.cat([click, torch.zeros_like(click)], dim=1)
        label = torch.cat([label, torch.full_like(label, -1)], dim=1)
        return (
            torch.where(boxed[:, None, None], points, click),
            torch.where(boxed[:, None], labels, label),
        )

    def correction_click(
        self, masks: Tensor, predicted: Tensor, *, from_truth: bool, random: RowRandom
    ) -> tuple[Tensor, Tensor]:
        """One more click per row; ``predicted`` is bool ``[B, S, S]`` like ``masks``.

        Args:
            from_truth: on the object, wherever the error is (what the plan says of this click).
        """
        return sample_clicks(masks, None if from_truth else predicted, random=random)


class SecSimulator(PromptSimulator):
    """SeC's stage 1: the mask on the first frame, a few frames tracked, the others given.

    ``tracked_frames`` random frames of a clip are predicted from the memory alone; on all others
    the true mask goes into the memory, so that it is long and right. Images (one-frame clips) get
    points as in :class:`PromptSimulator`, whose arguments the others are.
    """

    def __init__(
        self,
        *,
        tracked_frames: int = 8,
        box_prob: float = 0.5,
        num_correction_clicks: int = 7,
        gt_click_prob: float = 0.1,
        per_object: bool = True,
        box_noise: float = 0.1,
        max_box_noise: float = 20.0,
    ) -> None:
        if tracked_frames < 1:
            raise ValueError(f"SecSimulator wants tracked_frames >= 1, got {tracked_frames}")
        super().__init__(
            point_prob=0.0,
            box_prob=box_prob,
            max_conditioning_frames=1,
            max_correction_frames=1,
            num_correction_clicks=num_correction_clicks,
            gt_click_prob=gt_click_prob,
            per_object=per_object,
            box_noise=box_noise,
            max_box_noise=max_box_noise,
        )
        self.tracked_frames = tracked_frames

    def _plan_row(self, seen: np.ndarray, row: int, draw: _Draw) -> PromptPlan:
        plan = super()._plan_row(seen, row, draw)
        if not plan.mask_prompts:
            return plan
        later = [frame for frame in draw.prompted if frame > plan.conditioning[0]]
        return replace(plan, given=frozenset(later[self.tracked_frames :]))
