"""SAM 2's training: clips in, losses out.

                       plan (which frames get what)
                                  │
    frames ─ encode once ─► rows ─┴► conditioning frames, then the others in order:
                                       condition ─► decode ─► Step
                                                      ▲ │
                                  click in the error ─┘ └─► remember (MemoryBank)
    steps, masks ─► MultiStepMaskLoss ─► loss_mask, loss_dice, loss_iou, loss_class

The verbs are those of inference (``modeling.Tracker``); only the unroll knows about prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from projects.common.engine.model import TrainableModel
from projects.sam2_video.data.clip import ClipBatch
from projects.sam2_video.losses import MultiStepMaskLoss, Step
from projects.sam2_video.modeling.blocks import Sam2
from projects.sam2_video.modeling.memory import MemoryBank
from projects.sam2_video.modeling.tracker import Tracker, TrackingPolicy
from projects.sam2_video.modeling.typed import FrameFeatures, FrameOutput, Prompt
from projects.sam2_video.predictor import VideoPredictor
from projects.sam2_video.prompting import (
    PromptPlan,
    PromptSimulator,
    RowRandom,
    join_points,
)


@dataclass
class _Clips:
    """What every frame of one unroll needs."""

    tracker: Tracker
    features: FrameFeatures  # of V * T images
    masks: Tensor  # bool [T, O, S, S]
    first_image: Tensor  # int64 [O], image of the row's video at frame 0
    plan: PromptPlan
    memory: MemoryBank
    rng: np.random.Generator
    random: RowRandom

    def rows(self, frame: int) -> FrameFeatures:
        return self.features.rows(self.first_image + frame)


class TrainingUnroll:
    """Runs clips through the tracker with simulated prompts, as SAM 2 is trained.

    It holds no weights: the model comes with the call, so that a larger model that contains a
    SAM 2 trains on clips with the same object.

    Args:
        simulator: draws plans and prompts.
        loss: judges the steps.
        policy: how the tracker remembers while training.
        loss_resolution: compare masks at the input's resolution (``full``, as Meta does) or at
            that of the logits (``logits``, faster).
        encode_split: images that are encoded at a time; None: all.
    """

    def __init__(
        self,
        *,
        simulator: PromptSimulator,
        loss: MultiStepMaskLoss,
        policy: TrackingPolicy | None = None,
        loss_resolution: Literal["full", "logits"] = "full",
        encode_split: int | None = None,
    ) -> None:
        if loss_resolution not in ("full", "logits"):
            raise ValueError(f"loss_resolution must be 'full' or 'logits', got {loss_resolution!r}")
        self.simulator = simulator
        self.mask_loss = loss
        self.policy = policy or TrackingPolicy()
        self.loss_resolution = loss_resolution
        self.encode_split = encode_split

    def __call__(self, sam2: Sam2, batch: ClipBatch) -> dict[str, Tensor]:
        """Losses of a batch: ``loss_mask, loss_dice, loss_iou, loss_class``."""
        present = batch.masks.flatten(2).any(2)  # [T, O]
        targets = batch.masks
        if self.loss_resolution == "logits":
            targets = shrink_masks(targets, sam2.mask_size)
        return self.mask_loss(self.steps(sam2, batch, present), targets, present)

    def steps(self, sam2: Sam2, batch: ClipBatch, present: Tensor | None = None) -> list[Step]:
        """Every decode of the clips with the frame it belongs to.

        A frame that is given as a mask is no step: nothing is predicted there.
        """
        if present is None:
            present = batch.masks.flatten(2).any(2)
        clips = self._start(sam2, batch, present)
        others = [t for t in range(batch.num_frames) if t not in clips.plan.conditioning]
        steps: list[Step] = []
        for frame in [*clips.plan.conditioning, *others]:
            steps += self._frame(clips, frame)
        return steps

    def _start(self, sam2: Sam2, batch: ClipBatch, present: Tensor) -> _Clips:
        promptable, seed = _agree(present.all(1), min(batch.seeds))
        rng = np.random.default_rng([seed, 1])
        tracker = Tracker(sam2, policy=self.policy)
        return _Clips(
            tracker=tracker,
            features=sam2.encode_frames(batch.frames.flatten(0, 1), split=self.encode_split),
            masks=batch.masks,
            first_image=batch.object_to_video * batch.num_frames,
            plan=self.simulator.plan(promptable, rng),
            memory=tracker.new_memory(num_frames=batch.num_frames, videos=batch.object_to_video),
            rng=rng,
            random=RowRandom(batch.seeds, batch.objects_per_video(), batch.masks.device),
        )

    def _frame(self, clips: _Clips, frame: int) -> list[Step]:
        plan, tracker = clips.plan, clips.tracker
        starts = frame in plan.conditioning
        features = clips.rows(frame)
        prompt = self._first_prompt(clips, frame) if starts else None
        conditioned = tracker.condition(
            features, frame, clips.memory, prompt=prompt, use_memory=not starts
        )
        output = tracker.decode(conditioned, prompt)
        given = starts and plan.mask_prompts
        steps = [] if given else [Step(frame, output.candidates)]
        if frame in plan.correction:
            for _ in range(self.simulator.num_correction_clicks):
                prompt = self._add_click(clips, frame, prompt, output)
                output = tracker.decode(conditioned, prompt)
                steps.append(Step(frame, output.candidates))
        if clips.masks.shape[0] > 1:
            tracker.remember(features, frame, output, clips.memory, prompt=prompt)
        return steps

    def _first_prompt(self, clips: _Clips, frame: int) -> Prompt:
        masks = clips.masks[frame]
        if clips.plan.mask_prompts:
            return Prompt(mask=masks[:, None])
        points, labels = self.simulator.first_points(
            masks, box=frame in clips.plan.box_frames, random=clips.random
        )
        return Prompt(points=points, labels=labels)

    def _add_click(
        self, clips: _Clips, frame: int, prompt: Prompt | None, output: FrameOutput
    ) -> Prompt:
        """The points so far and one more where the prediction is wrong, beside its logits."""
        predicted = clips.tracker.model.full_size(output.masks)[:, 0] > 0
        points, labels = self.simulator.correction_click(
            clips.masks[frame], predicted, rng=clips.rng, random=clips.random
        )
        if prompt is not None:
            points, labels = join_points((prompt.points, prompt.labels), (points, labels))
        return Prompt(points=points, labels=labels, previous=output.masks)


class Sam2VideoTraining(TrainableModel):
    """SAM 2 on clips and images.

    Args:
        sam2: the network.
        unroll: prompts, tracks and judges a batch.
        inference_policy: how :meth:`video_predictor` tracks; None: as Meta's predictor.
    """

    def __init__(
        self,
        *,
        sam2: Sam2,
        unroll: TrainingUnroll,
        inference_policy: TrackingPolicy | None = None,
    ) -> None:
        super().__init__()
        self.sam2 = sam2
        self.unroll = unroll
        self.inference_policy = inference_policy

    def loss(self, batch: ClipBatch) -> dict[str, Tensor]:
        return self.unroll(self.sam2, batch)

    def video_predictor(self) -> VideoPredictor:
        """Inference on the same weights."""
        return VideoPredictor(self.sam2, policy=self.inference_policy)


def shrink_masks(masks: Tensor, size: int) -> Tensor:
    """bool ``[T, O, S, S]`` to ``[T, O, size, size]``: a cell is object where half of it is."""
    if masks.shape[-1] == size:
        return masks
    return F.adaptive_avg_pool2d(masks.float(), size) >= 0.5


def _agree(promptable: Tensor, seed: int) -> tuple[list[bool], int]:
    """Frames ``[T]`` that can be prompted on every rank, and one seed for all ranks.

    Ranks must run the same plan: parameters that only some of them use would leave the others
    waiting for gradients, or add unlike ones.
    """
    shared = torch.cat([promptable.long(), promptable.new_tensor([seed], dtype=torch.long)])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(shared, op=dist.ReduceOp.MIN)
    *flags, seed = shared.tolist()
    return [bool(flag) for flag in flags], seed
