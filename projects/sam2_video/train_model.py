"""SAM 2's training: clips in, losses out.

              plans (which rows get what on which frames)
                                  │
    frames ─ encode once ─► rows ─┴► conditioning frames, then the others in order:
                                       condition ─► decode ─► Step
                                                      ▲ │
                                  click in the error ─┘ └─► remember (MemoryBank)
    steps, masks ─► mask loss ─► loss_mask, loss_dice, ...

The verbs are those of inference (``modeling.Tracker``); only the unroll knows about prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from projects.common.engine.model import TrainableModel
from projects.common.freezing import keep_frozen_in_eval, set_trainable
from projects.sam2_video.data.clip import ClipBatch
from projects.sam2_video.losses import MaskLoss, Step
from projects.sam2_video.modeling.blocks import Sam2
from projects.sam2_video.modeling.memory import MemoryBank
from projects.sam2_video.modeling.tracker import Tracker, TrackingPolicy
from projects.sam2_video.modeling.typed import FrameFeatures, FrameOutput, Prompt
from projects.sam2_video.points import RowRandom, join_points
from projects.sam2_video.predictor import VideoPredictor
from projects.sam2_video.prompting import PromptPlan, PromptSimulator


@dataclass
class _Clips:
    """What every frame of one unroll needs."""

    tracker: Tracker
    features: FrameFeatures  # of V * T images
    masks: Tensor  # bool [T, O, S, S]
    first_image: Tensor  # int64 [O], image of the row's video at frame 0
    videos: Tensor  # int64 [O]
    random: RowRandom


@dataclass
class _Group:
    """Rows that follow one plan, with what they remember."""

    clips: _Clips
    plan: PromptPlan
    rows: tuple[int, ...] | None  # None: all
    memory: MemoryBank
    random: RowRandom

    def features(self, frame: int) -> FrameFeatures:
        return self.clips.features.rows(self._own(self.clips.first_image) + frame)

    def masks(self, frame: int) -> Tensor:
        return self._own(self.clips.masks[frame])

    def _own(self, values: Tensor) -> Tensor:
        return values if self.rows is None else values[list(self.rows)]


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
        checkpoint_clicks: recompute the decodes of correction clicks in backward.
        object_chunk: rows that are tracked at a time; each chunk is recomputed in backward, so that
            no more than one is held. None: all rows at once.
    """

    def __init__(
        self,
        *,
        simulator: PromptSimulator,
        loss: MaskLoss,
        policy: TrackingPolicy | None = None,
        loss_resolution: Literal["full", "logits"] = "full",
        encode_split: int | None = None,
        checkpoint_clicks: bool = False,
        object_chunk: int | None = None,
    ) -> None:
        if loss_resolution not in ("full", "logits"):
            raise ValueError(f"loss_resolution must be 'full' or 'logits', got {loss_resolution!r}")
        for name, value in (("encode_split", encode_split), ("object_chunk", object_chunk)):
            if value is not None and value < 1:
                raise ValueError(f"TrainingUnroll: {name} must be None or at least 1, got {value}")
        self.simulator = simulator
        self.mask_loss = loss
        self.policy = policy or TrackingPolicy()
        self.loss_resolution = loss_resolution
        self.encode_split = encode_split
        self.checkpoint_clicks = checkpoint_clicks
        self.object_chunk = object_chunk

    def __call__(self, sam2: Sam2, batch: ClipBatch) -> dict[str, Tensor]:
        """Losses of a batch: the weighted parts that the loss gives, ``loss_...``.

        Raises:
            ValueError: an object that no frame of its clip shows, or prompts that the parallel
                engine cannot run.
        """
        present = batch.masks.flatten(2).any(2)  # [T, O]
        targets = batch.masks
        if self.loss_resolution == "logits":
            targets = shrink_masks(targets, sam2.mask_size)
        plans = self._plans(sam2, batch, present)
        clips = self._start(sam2, batch)
        judge = partial(self._sums, clips=clips, targets=targets, present=present)
        if self.object_chunk is not None:
            plans = [part for plan in plans for part in _split(plan, self.object_chunk)]
            judge = partial(checkpoint, judge, use_reentrant=False)
        sums = [judge(plan) for plan in plans]
        total = {name: torch.stack([part[name] for part in sums]).sum() for name in sums[0]}
        return _with_gradient(self.mask_loss.average(total, batch.num_objects), sam2)

    def steps(self, sam2: Sam2, batch: ClipBatch) -> list[Step]:
        """Every decode of the clips with the frame and the rows that it is of.

        A frame that is given as a mask is no step: nothing is predicted there.
        """
        plans = self._plans(sam2, batch, batch.masks.flatten(2).any(2))
        clips = self._start(sam2, batch)
        return [step for plan in plans for step in self._track(clips, plan)]

    def _plans(self, sam2: Sam2, batch: ClipBatch, present: Tensor) -> list[PromptPlan]:
        """Which rows get what; drawn alike on all ranks."""
        _require_visible(present, batch)
        cut = any(hasattr(parameter, "ds_id") for parameter in sam2.parameters())  # by ZeRO-3
        if cut and self.simulator.mix_rows:
            raise ValueError(
                "PromptSimulator(mix_rows=True) does not go with ZeRO-3, whose ranks must decode "
                "alike: set mix_rows=False, or train with deepspeed_zero2 or without DeepSpeed"
            )
        shared, seed = _agree(present.all(1), min(batch.seeds))
        visible = present.cpu().numpy()
        if cut or not self.simulator.per_object:
            if not shared.any():
                raise ValueError(
                    "no frame shows every object of the batch (on all ranks), and conditioning "
                    "frames are shared: draw objects that the first frame shows, or use "
                    "per_object=True without ZeRO-3"
                )
            visible = np.repeat(shared[:, None], batch.num_objects, axis=1)
        return self.simulator.plan(visible, np.random.default_rng([seed, 1]))

    def _start(self, sam2: Sam2, batch: ClipBatch) -> _Clips:
        random = RowRandom.of_clips(batch.seeds, batch.objects_per_video(), batch.masks.device)
        return _Clips(
            tracker=Tracker(sam2, policy=self.policy),
            features=sam2.encode_frames(batch.frames.flatten(0, 1), split=self.encode_split),
            masks=batch.masks,
            first_image=batch.object_to_video * batch.num_frames,
            videos=batch.object_to_video,
            random=random,
        )

    def _sums(
        self, plan: PromptPlan, *, clips: _Clips, targets: Tensor, present: Tensor
    ) -> dict[str, Tensor]:
        return self.mask_loss.sums(self._track(clips, plan), targets, present)

    def _track(self, clips: _Clips, plan: PromptPlan) -> list[Step]:
        """The steps of one plan's rows, frame by frame."""
        rows = None if plan.rows is None or len(plan.rows) == len(clips.videos) else plan.rows
        num_frames = len(clips.masks)
        group = _Group(
            clips=clips,
            plan=plan,
            rows=rows,
            memory=clips.tracker.new_memory(
                num_frames=num_frames,
                videos=clips.videos if rows is None else clips.videos[list(rows)],
            ),
            random=clips.random.rows(plan.rows or range(len(clips.videos))),
        )
        order = plan.order(num_frames)
        return [
            step
            for frame in order
            # nothing would read the last one's memory
            for step in self._frame(group, frame, remember=frame != order[-1])
        ]

    def _frame(self, group: _Group, frame: int, *, remember: bool) -> list[Step]:
        plan, tracker, features = group.plan, group.clips.tracker, group.features(frame)
        starts = frame in plan.conditioning
        given = frame in plan.given or (starts and plan.mask_prompts)
        prompt = self._first_prompt(group, frame) if starts or given else None
        conditioned = tracker.condition(
            features, frame, group.memory, prompt=prompt, use_memory=not starts
        )
        output = tracker.decode(conditioned, prompt)
        steps = [] if given else [Step(frame, output.candidates, group.rows)]
        if frame in plan.correction:
            for number in range(self.simulator.num_correction_clicks):
                prompt = self._add_click(group, frame, number, prompt, output)
                output = tracker.decode(conditioned, prompt, recompute=self.checkpoint_clicks)
                steps.append(Step(frame, output.candidates, group.rows))
        if remember:
            conditioning = starts or frame in plan.correction
            tracker.remember(
                features, frame, output, group.memory, prompt=prompt, conditioning=conditioning
            )
        return steps

    def _first_prompt(self, group: _Group, frame: int) -> Prompt:
        masks = group.masks(frame)
        if group.plan.mask_prompts:
            return Prompt(mask=masks[:, None])
        points, labels = self.simulator.first_points(
            masks, box=frame in group.plan.box_frames, random=group.random
        )
        return Prompt(points=points, labels=labels)

    def _add_click(
        self, group: _Group, frame: int, number: int, prompt: Prompt | None, output: FrameOutput
    ) -> Prompt:
        """The points so far and one more where the prediction is wrong, beside its logits."""
        predicted = group.clips.tracker.model.full_size(output.masks.detach())[:, 0] > 0
        points, labels = self.simulator.correction_click(
            group.masks(frame),
            predicted,
            from_truth=(frame, number) in group.plan.true_clicks,
            random=group.random,
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
        trainable: patterns of what trains (``projects.common.freezing``), such as
            ``["sam2.blocks.memory_attention"]``; None leaves the choice to ``sam2``. What is frozen
            stays in eval mode.
    """

    def __init__(
        self,
        *,
        sam2: Sam2,
        unroll: TrainingUnroll,
        inference_policy: TrackingPolicy | None = None,
        trainable: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.sam2 = sam2
        self.unroll = unroll
        self.inference_policy = inference_policy
        if trainable is not None:
            set_trainable(self, trainable)

    def train(self, mode: bool = True) -> Sam2VideoTraining:
        super().train(mode)
        keep_frozen_in_eval(self)
        return self

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


def _split(plan: PromptPlan, size: int) -> list[PromptPlan]:
    """The same plan for ``size`` rows at a time."""
    starts = range(0, len(plan.rows), size)
    return [replace(plan, rows=plan.rows[start : start + size]) for start in starts]


def _require_visible(present: Tensor, batch: ClipBatch) -> None:
    """Raise for an object that cannot be prompted anywhere."""
    missing = (~present.any(0)).nonzero()[:, 0].tolist()
    if missing:
        names = sorted({batch.names[batch.object_to_video[row]] for row in missing})
        raise ValueError(
            f"clips {names}: {len(missing)} objects are visible on no frame; leave such objects "
            "out when the clip is drawn"
        )


def _with_gradient(losses: dict[str, Tensor], sam2: Sam2) -> dict[str, Tensor]:
    """A path to what trains, of weight zero, where a batch trained nothing.

    With the decoder frozen, clips that need no memory have no gradient; backward must still run.
    """
    trained = [parameter for parameter in sam2.parameters() if parameter.requires_grad]
    reached = any(part.requires_grad for part in losses.values())
    if reached or not trained or not torch.is_grad_enabled():
        return losses
    name = next(iter(losses))
    return losses | {name: losses[name] + sum(0 * parameter.sum() for parameter in trained)}


def _agree(shown: Tensor, seed: int) -> tuple[np.ndarray, int]:
    """Frames, bool ``[T]``, that show every object on every rank, and one seed for all ranks.

    Ranks draw the same plan: parameters that only some of them use would leave the others waiting
    for gradients, or add unlike ones.
    """
    shared = torch.cat([shown.long(), shown.new_tensor([seed], dtype=torch.long)])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(shared, op=dist.ReduceOp.MIN)
    *flags, seed = shared.tolist()
    return np.asarray(flags, dtype=bool), seed
