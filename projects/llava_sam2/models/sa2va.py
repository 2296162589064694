"""The grounded language model: one language model, one SAM 2, a head for each task.

    batch (one task) ──► heads[batch.task] ──► weighted losses
                           │         │
                         mllm    grounding

Sa2VA (Yuan et al., 2025).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from projects.common.engine.model import TrainableModel
from projects.common.freezing import LORA_PATTERNS, add_lora, keep_frozen_in_eval, set_trainable
from projects.common.partition import cast, is_cut
from projects.llava_sam2.models.adapter import LanguageAdapter
from projects.llava_sam2.models.fit import misfits
from projects.sam2_video.modeling import Sam2, TrackingPolicy
from projects.sam2_video.predictor import VideoPredictor


class Sa2VA(TrainableModel):
    """Says what and shows where.

    What trains is kept in float32 whatever the precision of its checkpoint: steps of 4e-5 on
    weights of 0.02 are lost in bfloat16. Computation is in ``precision`` (autocast) all the same.

    Args:
        mllm: the language model.
        grounding: SAM 2.
        heads: task to head; a batch is trained by the head of its ``task``.
        trainable: patterns of :func:`projects.common.freezing.set_trainable` on this model's
            parameter names; everything else is frozen. LoRA matrices need no naming.
        lora: arguments of :func:`projects.common.freezing.add_lora` for the language model inside
            ``mllm`` (without vision tower and lm_head); None for no LoRA.
        propagation_decoder: ``original`` keeps a frozen copy of SAM 2's mask decoder, as it is at
            construction, for propagation while the first one is tuned without memory; ``tuned``
            uses the one that trains, for runs that also train with memory (arXiv 2509.19082).
        touch_all: give every trainable parameter a gradient, zero where the task does not use it.
            DistributedDataParallel without ``find_unused_parameters`` needs it; the optimizer then
            also decays and moves parameters that a step did not use.
        inference_policy: how :meth:`video_predictor` tracks (None: as Meta's predictor), and what
            lies between the frames that words prompt (None: see ``GroundedPredictor``).

    Raises:
        ValueError: for a pattern or a LoRA target that matches nothing, a head of another width
            than the models, or a segment head that trains with memory beside a decoder that is
            kept for propagation.
    """

    shares_sequences = True
    builds_without_weights = True

    def __init__(
        self,
        *,
        mllm: LanguageAdapter,
        grounding: Sam2,
        heads: Mapping[str, nn.Module],
        trainable: Sequence[str],
        lora: Mapping[str, Any] | None = None,
        propagation_decoder: Literal["original", "tuned"] = "tuned",
        touch_all: bool = False,
        inference_policy: TrackingPolicy | None = None,
    ) -> None:
        super().__init__()
        _check_decoder(propagation_decoder, heads)
        _check_widths(mllm, grounding, heads)
        _check_lora(lora)
        self.mllm = mllm
        self.grounding = grounding
        self.heads = nn.ModuleDict(heads)
        for head in heads.values():
            if hasattr(head, "start_from"):  # parts of a head that begin as copies of SAM 2's
                head.start_from(grounding)
        self.touch_all = touch_all
        self.inference_policy = inference_policy
        patterns = list(trainable)
        if lora is not None:
            add_lora(mllm.language_model, **lora)
            patterns += LORA_PATTERNS
        if propagation_decoder == "original":
            grounding.keep_propagation_decoder()
            patterns.append("!grounding.propagation_decoder")
        set_trainable(self, patterns)
        for parameter in self.parameters():
            if parameter.requires_grad:
                cast(parameter, torch.float32)

    def loss(self, batch: Any) -> dict[str, Tensor]:
        """Weighted losses of a task-pure batch.

        Raises:
            ValueError: for a task that no head is there for.
        """
        if batch.task not in self.heads:
            raise ValueError(
                f"no head for the task {batch.task!r}; the model has {', '.join(self.heads)}"
            )
        losses = self.heads[batch.task].loss(batch, mllm=self.mllm, grounding=self.grounding)
        if self.touch_all:
            first = next(key for key in losses if key.startswith("loss_"))
            losses[first] = losses[first] + self._touch_idle(losses)
        return losses

    def misfits(self, dataset: Any) -> list[str]:
        """Settings of a dataset that this model could not train on, in words."""
        if dataset.task not in self.heads:
            has = ", ".join(self.heads)
            return [f"no head for its task {dataset.task!r}; the model has {has}"]
        inputs = getattr(dataset, "inputs", None)
        inputs = getattr(inputs, "inputs", inputs)  # concepts are asked by others' inputs
        return [] if inputs is None else list(misfits(inputs, self.mllm, self.grounding))

    def video_predictor(self) -> VideoPredictor:
        """Clicks, boxes and masks through a video, on the same SAM 2, without language."""
        kept = self.grounding.propagation_decoder is not None
        decoder = "propagation" if kept else "own"
        return VideoPredictor(self.grounding, policy=self.inference_policy, decoder=decoder)

    def train(self, mode: bool = True) -> Sa2VA:
        """Train or eval mode; what is frozen stays in eval mode."""
        super().train(mode)
        keep_frozen_in_eval(self)
        return self

    def _touch_idle(self, losses: Mapping[str, Tensor]) -> Tensor | float:
        """Zero, with a path to each trainable parameter that the losses do not reach.

        ZeRO-3 asks no gradient of those that no module used: they are empty here, cut in parts.
        """
        reached = parameters_reached(losses.values())
        trained = [p for p in self.parameters() if p.requires_grad and not is_cut(p)]
        idle = [p for p in trained if p not in reached]
        return sum((p.sum() * 0 for p in idle), start=0.0)


def _check_widths(mllm: LanguageAdapter, grounding: Sam2, heads: Mapping[str, nn.Module]) -> None:
    """Projectors end where the models begin."""
    width, channels = mllm.hidden_size, grounding.hidden
    for task, head in heads.items():
        if hasattr(head, "text_hidden_fcs"):
            linear = [part for part in head.text_hidden_fcs if isinstance(part, nn.Linear)]
            found = linear[0].in_features, linear[-1].out_features
            if found != (width, channels):
                raise ValueError(
                    f"the projector of head {task!r} leads from {found[0]} to {found[1]} channels; "
                    f"the language model has {width}, SAM 2 {channels}: say hidden={width}, "
                    f"out={channels}"
                )
        out = getattr(getattr(head, "projector", None), "out", width)
        if out != width:
            raise ValueError(
                f"the projector of head {task!r} gives tokens of {out} channels; the language "
                f"model takes {width}: say out={width}"
            )


def _check_lora(lora: Mapping[str, Any] | None) -> None:
    try:
        inspect.signature(add_lora).bind(None, **(lora or dict(rank=1, alpha=1, targets=())))
    except TypeError as error:
        raise ValueError(f"lora: {error}; it takes rank, alpha, targets and dropout") from error


def _check_decoder(choice: str, heads: Mapping[str, nn.Module]) -> None:
    if choice not in ("original", "tuned"):
        raise ValueError(f"propagation_decoder is 'original' or 'tuned', not {choice!r}")
    unrolled = [task for task, head in heads.items() if getattr(head, "unroll", None) is not None]
    if choice == "original" and "segment" in unrolled:
        raise ValueError(
            "the segment head trains with memory, so that its decoder learns to propagate, but "
            "propagation_decoder='original' would not use it: say 'tuned'"
        )


def parameters_reached(losses: Any) -> set[Tensor]:
    """The leaves of the autograd graph behind the losses: a walk over nodes, no arithmetic."""
    pending = [loss.grad_fn for loss in losses if loss.grad_fn is not None]
    seen, leaves = set(pending), set()
    while pending:
        node = pending.pop()
        if hasattr(node, "variable"):
            leaves.add(node.variable)
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                pending.append(following)
    return leaves
