"""Language-prompted clips with the memory in the loop: what inference does, as a training unroll.

    frame  0      1      2      3      4        of each clip, as sampled
           [SEG]  [SEG]                          prompted: decoded without memory, remembered
             └──────┴──► memory ──► ──► ──►      the rest: SAM 2's own tracking

Without it a decoder is tuned on frames that never read the memory, and propagation with it suffers
(Sa2VA-i, arXiv 2509.19082). Shapes: K expressions, R rows = their frames in the order (expression,
frame).
"""

from __future__ import annotations

import torch
from torch import Tensor

from projects.llava_sam2.models.normalise import most_over_ranks
from projects.sam2_video.modeling import FrameFeatures, FrameOutput, Prompt, Sam2
from projects.sam2_video.modeling.tracker import Tracker, TrackingPolicy


class LanguageUnroll:
    """Prompts the first frames of every clip with language and tracks through the others.

    Args:
        prompted_frames: how many frames at the start are prompted.
        policy: how the others are tracked. The default leaves the masks of objects whose score says
            absent as they are: a blank mask has no gradient.

    Raises:
        ValueError: no prompted frame.
    """

    def __init__(self, *, prompted_frames: int = 2, policy: TrackingPolicy | None = None) -> None:
        if prompted_frames < 1:
            raise ValueError(f"at least 1 frame is prompted, got {prompted_frames}")
        self.prompted_frames = prompted_frames
        self.policy = policy or TrackingPolicy(hide_absent=False)

    def __call__(
        self,
        grounding: Sam2,
        features: FrameFeatures,
        tokens: Tensor,
        expression: Tensor,
        frame: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mask logits ``[R, 4h, 4w]``, predicted IoU ``[R]``, object logits ``[R]``.

        Args:
            features: of all frames, raw.
            tokens: ``[K', C]``, one language token an expression.
            expression: ``[R]`` which token, rows of one expression side by side.
            frame: ``[R]`` which frame.
        """
        _, lengths = expression.unique_consecutive(return_counts=True)
        starts = lengths.cumsum(0) - lengths
        prompter = Tracker(grounding, policy=TrackingPolicy(hide_absent=False))
        tracker = Tracker(grounding, policy=self.policy)
        memory = tracker.new_memory()
        alive = torch.arange(len(lengths), device=lengths.device)
        rows, outputs = [], []
        # all ranks take as many steps: their modules are called alike
        for step in range(most_over_ranks(int(lengths.max()), lengths.device)):
            going = (lengths[alive] > step).nonzero()[:, 0]
            counted = len(going) > 0
            if not counted:
                going = torch.zeros(1, dtype=torch.int64, device=lengths.device)
            if len(going) < len(alive):
                alive, memory = alive[going], memory.rows(going)
            row = (starts + torch.minimum(lengths - 1, torch.full_like(lengths, step)))[alive]
            prompt = None
            if step < self.prompted_frames:
                prompt = Prompt(tokens=tokens[expression[row]][:, None])
            output = (prompter if prompt is not None else tracker).step(
                features.rows(frame[row]),
                step,
                memory,
                prompt=prompt,
                use_memory=prompt is None,
            )
            rows.append(row if counted else row[:0])
            outputs.append(_parts(output, len(rows[-1])))
        order = torch.cat(rows).argsort()
        masks, iou, objects = (torch.cat(part)[order] for part in zip(*outputs, strict=True))
        return masks, iou, objects


def _parts(output: FrameOutput, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first rows of a step; none of it counts where it only keeps ranks alike."""
    return output.masks[:rows, 0], output.iou[:rows], output.object_logits[:rows, 0]
