"""One step of tracking, the same for training and for inference.

    features (raw) ─► condition ─► decode ─► FrameOutput ─► remember ─► MemoryBank
                          ▲          ▲ prompt                   │
                          └──────────┼─────── memory ◄──────────┘
                                     └ again for correction clicks, without conditioning anew

Which frames get which prompts is the caller's business (the training unroll, the predictor).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .blocks import MASK_BIAS, MASK_SCALE, Sam2
from .memory import MemoryBank
from .typed import FrameFeatures, FrameOutput, MixedPrompt, Prompt

AnyPrompt = Prompt | MixedPrompt | None


@dataclass(frozen=True)
class TrackingPolicy:
    """Where Meta's training and predictor differ. The defaults are the training's.

    Attributes:
        hide_absent: blank the masks of objects whose score says absent; off while a model learns
            from scratch, because a blank mask has no gradient.
        mask_memory: memory of a mask prompt from the ``full`` mask, or from its low-resolution
            ``round_trip``.
        binarise_prompted: memory of prompted rows from the hard mask instead of its sigmoid.
        non_overlapping: in memories, a pixel belongs to one object of a video at most.
        past_pointers_only: no pointers of conditioning frames that lie ahead.
        max_cond_frames: conditioning frames that are read at most, 2 or more; -1 for all.
        stability_fallback: an unstable single mask gives way to the best of three (in eval mode).
        memory_dtype: memories are stored in this type; None leaves them as they are.
    """

    hide_absent: bool = True
    mask_memory: Literal["full", "round_trip"] = "full"
    binarise_prompted: bool = False
    non_overlapping: bool = False
    past_pointers_only: bool = False
    max_cond_frames: int = -1
    stability_fallback: bool = False
    memory_dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.mask_memory not in ("full", "round_trip"):
            raise ValueError(f"mask_memory must be 'full' or 'round_trip', got {self.mask_memory}")
        if self.max_cond_frames != -1 and self.max_cond_frames < 2:
            raise ValueError(
                f"max_cond_frames must be -1 or at least 2, got {self.max_cond_frames}"
            )

    @classmethod
    def meta_predictor(cls) -> TrackingPolicy:
        """What Meta's video predictor does as it is built by default."""
        return cls(
            mask_memory="round_trip",
            binarise_prompted=True,
            past_pointers_only=True,
            stability_fallback=True,
            memory_dtype=torch.bfloat16,
        )


class Tracker:
    """Tracks B rows frame by frame; holds no state of its own beside the model.

    Args:
        model: SAM 2.
        policy: the switches in which inference differs from training.
    """

    def __init__(self, model: Sam2, *, policy: TrackingPolicy | None = None) -> None:
        self.model = model
        self.policy = policy or TrackingPolicy()

    def new_memory(
        self,
        *,
        num_frames: int | None = None,
        videos: Tensor | None = None,
        keep_all: bool = False,
    ) -> MemoryBank:
        """An empty bank for one set of rows; see ``MemoryBank``."""
        return MemoryBank(
            num_maskmem=self.model.num_maskmem,
            max_object_pointers=self.model.max_object_pointers,
            num_frames=num_frames,
            videos=videos,
            keep_all=keep_all,
        )

    def step(
        self,
        features: FrameFeatures,
        frame_index: int,
        memory: MemoryBank,
        *,
        prompt: AnyPrompt = None,
        use_memory: bool = True,
        multimask: bool | None = None,
        run_memory_encoder: bool = True,
        reverse: bool = False,
        conditioning: bool | None = None,
        decoder: nn.Module | None = None,
    ) -> FrameOutput:
        """Condition, decode and remember one frame.

        Args:
            features: raw, gathered to B rows.
            frame_index: place of the frame in its clip.
            memory: of these rows; the frame is added to it.
            prompt: for the B rows; rows with a mask take the mask for the answer.
            use_memory: read the memory (a first prompted frame never has any to read).
            multimask: three candidates; None follows the model's rule.
            run_memory_encoder: False leaves no trace of the frame in the memory.
            reverse: tracking runs backwards in time.
            conditioning: whether the frame is remembered as a conditioning one; None: if prompted.
            decoder: None, or the model's ``propagation_decoder``.

        Raises:
            ValueError: neither a prompt nor a memory, or rows that do not line up.
        """
        conditioned = self.condition(
            features, frame_index, memory, prompt=prompt, use_memory=use_memory, reverse=reverse
        )
        output = self.decode(conditioned, prompt, multimask=multimask, decoder=decoder)
        if run_memory_encoder:
            self.remember(
                features, frame_index, output, memory, prompt=prompt, conditioning=conditioning
            )
        return output

    def condition(
        self,
        features: FrameFeatures,
        frame_index: int,
        memory: MemoryBank,
        *,
        prompt: AnyPrompt = None,
        use_memory: bool = True,
        reverse: bool = False,
    ) -> FrameFeatures:
        """Features that the decoder sees; rows with a mask prompt stay raw."""
        given = mask_rows(prompt, len(features))
        if given.all():
            return features
        if use_memory and memory.is_empty and prompt is None:
            raise ValueError(
                f"frame {frame_index} has neither a prompt nor a memory: prompt the first frame"
            )
        if not given.any():
            return features.with_embed(
                self._condition(features.embed, frame_index, memory, use_memory, reverse)
            )
        rest = (~given).nonzero()[:, 0].to(features.embed.device)
        conditioned = self._condition(
            features.embed[rest], frame_index, memory, use_memory, reverse, rest
        )
        embed = features.embed.to(conditioned.dtype).index_copy(0, rest, conditioned)
        return features.with_embed(embed)

    def _condition(
        self,
        embed: Tensor,
        frame_index: int,
        memory: MemoryBank,
        use_memory: bool,
        reverse: bool,
        rows: Tensor | None = None,
    ) -> Tensor:
        if not use_memory or memory.is_empty:
            return self.model.add_no_memory(embed)
        read = memory.read(
            frame_index,
            max_cond_frames=self.policy.max_cond_frames,
            past_pointers_only=self.policy.past_pointers_only,
            reverse=reverse,
        )
        if rows is not None:
            read = read.rows(rows)
        return self.model.attend_memory(embed, read.memories, read.pointers, span=read.span)

    def decode(
        self,
        conditioned: FrameFeatures,
        prompt: AnyPrompt,
        *,
        multimask: bool | None = None,
        decoder: nn.Module | None = None,
        recompute: bool = False,
    ) -> FrameOutput:
        """Candidates, the best of them by predicted IoU, and the object pointer.

        Args:
            recompute: keep no activations of the decoder, make them anew in backward.
        """
        candidates = self.model.decode_masks(
            conditioned,
            prompt,
            multimask=multimask,
            decoder=decoder,
            hide_absent=self.policy.hide_absent,
            stability_fallback=self.policy.stability_fallback,
            recompute=recompute,
        )
        best = candidates.best()
        return FrameOutput(
            masks=best.masks,
            candidates=candidates,
            pointer=self.model.object_pointer(best.tokens[:, 0], best.pointer_logits),
            object_logits=best.object_logits,
            iou=best.iou[:, 0],
        )

    def remember(
        self,
        features: FrameFeatures,
        frame_index: int,
        output: FrameOutput,
        memory: MemoryBank,
        *,
        prompt: AnyPrompt = None,
        conditioning: bool | None = None,
    ) -> None:
        """Encode the frame with its masks and add it to the memory.

        Args:
            features: raw, as given to ``condition``.
            prompt: what the frame was last decoded with.
            conditioning: None means: if any row is prompted.
        """
        policy = self.policy
        masks = self.model.full_size(output.masks)
        if policy.mask_memory == "full":
            masks = paste_masks(masks, prompt)
        if policy.non_overlapping:
            masks = non_overlapping(masks, memory.videos)
        encoded = self.model.encode_memory(
            features,
            masks,
            output.object_logits,
            binarise=policy.binarise_prompted
            and prompted_rows(prompt, len(masks)).to(masks.device),
        )
        if policy.memory_dtype is not None:
            encoded = encoded.to(policy.memory_dtype)
        memory.add(
            frame_index,
            memory=encoded,
            pointer=output.pointer,
            conditioning=prompt is not None if conditioning is None else conditioning,
        )


def _prompt_parts(prompt: AnyPrompt) -> list[tuple[Tensor, Prompt]]:
    if prompt is None:
        return []
    if isinstance(prompt, MixedPrompt):
        return [(rows.cpu(), part) for rows, part in prompt.parts]
    return [(torch.arange(len(prompt)), prompt)]


def mask_rows(prompt: AnyPrompt, rows: int) -> Tensor:
    """Which rows [B] have a mask prompt."""
    given = torch.zeros(rows, dtype=torch.bool)
    for index, part in _prompt_parts(prompt):
        if part.mask is not None:
            given[index] = True
    return given


def prompted_rows(prompt: AnyPrompt, rows: int) -> Tensor:
    """Which rows [B] have a prompt of any kind."""
    given = torch.zeros(rows, dtype=torch.bool)
    for index, _ in _prompt_parts(prompt):
        given[index] = True
    return given


def paste_masks(masks: Tensor, prompt: AnyPrompt) -> Tensor:
    """Full-resolution logits with the rows of mask prompts replaced by the masks as given."""
    for index, part in _prompt_parts(prompt):
        if part.mask is not None:
            given = part.mask.to(masks) * MASK_SCALE + MASK_BIAS
            if len(index) == len(masks):
                return given
            masks = masks.index_copy(0, index.to(masks.device), given)
    return masks


def non_overlapping(masks: Tensor, videos: Tensor | None) -> Tensor:
    """Leave each pixel to the object of a video that is surest of it; others get -10 at most.

    Args:
        masks: [B, 1, S, S] logits.
        videos: [B] number of each row's video; None: one video.
    """
    if videos is None:
        videos = torch.zeros(len(masks), dtype=torch.long)
    for video in videos.unique().tolist():
        rows = (videos == video).nonzero()[:, 0].to(masks.device)
        group = masks[rows]
        winner = group.argmax(dim=0, keepdim=True)
        mine = torch.arange(len(rows), device=masks.device)[:, None, None, None]
        kept = torch.where(winner == mine, group, group.clamp(max=-10.0))
        masks = masks.index_copy(0, rows, kept)
    return masks
