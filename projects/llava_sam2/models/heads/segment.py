"""[SEG] to masks: one language token beside an empty point, decoded without memory.

    hidden at [SEG] [K, D] ──► text_hidden_fcs ──► tokens [K, C] ─┐ one row for each
    frames [F, 3, S, S] ──► SAM 2: encode_frames ──► features ────┤ (expression, frame)
                                                                  ▼
          masks [R, 4h, 4w] ◄── the best of three ◄── SAM 2: decode_masks

Sa2VA's segmentation path (Yuan et al., 2025). Shapes: K expressions and F frames of all samples
together; R rows; every expression is decoded on every frame of its sample, in the order
(sample, expression, frame). Any number of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from projects.common.losses import dice_loss, mask_iou, point_sample, sample_uncertain_points
from projects.llava_sam2.models.adapter import LanguageAdapter
from projects.llava_sam2.models.language_unroll import LanguageUnroll
from projects.llava_sam2.models.normalise import most_over_ranks
from projects.llava_sam2.models.seg_rows import Rows, decode_rows, rows_of
from projects.llava_sam2.structures import GroundingBatch
from projects.sam2_video.modeling import FrameFeatures, MaskCandidates, Prompt, Sam2


def seg_projector(*, hidden: int, out: int) -> nn.Sequential:
    """The MLP from the language model's width to SAM 2's, as in Sa2VA's ``text_hidden_fcs``."""
    return nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, out))


def decode_language(
    grounding: Sam2, features: FrameFeatures, tokens: Tensor, *, decoder: nn.Module | None = None
) -> MaskCandidates:
    """Masks of R rows from one language token each, without memory; training and inference alike.

    SAM 2's rule for a frame without points holds, as in the released models: its decoder makes
    three masks, of which the one with the highest predicted IoU is taken; the toy one makes one.

    Args:
        features: of R rows, raw.
        tokens: ``[R, C]`` from :meth:`SegmentHead.project`.
        decoder: None, or ``grounding.propagation_decoder``.

    Returns:
        The best candidate of each row, raw: an absent object is not blanked out.
    """
    conditioned = features.with_embed(grounding.add_no_memory(features.embed))
    prompt = Prompt(tokens=tokens[:, None])  # decode_masks puts the empty point beside it
    return grounding.decode_masks(conditioned, prompt, decoder=decoder).best()


class SegmentHead(nn.Module):
    """Language loss and mask losses of referring segmentation.

    BCE and dice are averaged over the points (or pixels) of a row, then over the rows of the global
    batch. A sample without masks adds no row; a rank without any runs one row with the weight zero,
    so that every rank runs the same modules.

    Args:
        projector: hidden size to SAM 2's width, see :func:`seg_projector`.
        language_weight, bce_weight, dice_weight: of the losses.
        iou_weight: of the squared error of the predicted IoU.
        object_weight: of the cross entropy of the object score against "mask not empty".
        align_weight: of :meth:`align_loss`, which teaches words to a SAM 2 that starts from
            scratch; a pretrained one does without.
        num_points: points a row, sampled as in PointRend; None compares all pixels at the targets'
            resolution.
        rows_per_chunk: decode this many rows at a time and recompute them in backward, to bound
            memory; None decodes all at once.
        train_with_memory: None decodes every frame without memory. An unroll prompts the first
            frames of a clip and tracks through the others, as inference does, so that one decoder
            learns both.
        frames_per_chunk: the same for the image encoder, without recomputing.
    """

    def __init__(
        self,
        *,
        projector: nn.Module,
        language_weight: float = 1.0,
        bce_weight: float = 2.0,
        dice_weight: float = 0.5,
        iou_weight: float = 0.0,
        object_weight: float = 0.0,
        align_weight: float = 0.0,
        num_points: int | None = 12544,
        rows_per_chunk: int | None = None,
        frames_per_chunk: int | None = None,
        train_with_memory: LanguageUnroll | None = None,
    ) -> None:
        super().__init__()
        if train_with_memory is not None and rows_per_chunk is not None:
            raise ValueError(
                "rows_per_chunk decodes rows one by one, which train_with_memory cannot: its "
                "frames follow one another; leave one of them out"
            )
        self.text_hidden_fcs = projector  # the name in released checkpoints
        self.language_weight = language_weight
        self.bce_weight = bce_weight
        self.dice_weight = dice_weight
        self.iou_weight = iou_weight
        self.object_weight = object_weight
        self.align_weight = align_weight
        self.num_points = num_points
        self.rows_per_chunk = rows_per_chunk
        self.frames_per_chunk = frames_per_chunk
        self.unroll = train_with_memory

    def project(self, seg_hidden: Tensor) -> Tensor:
        """Hidden states at [SEG] ``[K, D]`` to language tokens ``[K, C]``."""
        dtype = next(self.text_hidden_fcs.parameters()).dtype  # the language model's may be less
        return self.text_hidden_fcs(seg_hidden.to(dtype))

    def loss(
        self, batch: GroundingBatch, *, mllm: LanguageAdapter, grounding: Sam2
    ) -> dict[str, Tensor]:
        """``loss_language``, ``loss_bce``, ``loss_dice`` and, where weighted, ``loss_iou``,
        ``loss_object`` and ``loss_align``.

        Raises:
            ValueError: naming the sample, if [SEG] tokens and expressions differ in number.
        """
        hidden = mllm(
            batch.input_ids, batch.attention_mask, batch.pixel_values, regions=batch.regions
        )
        rows = rows_of(batch, hidden, seg_id=mllm.seg_id, grounding=grounding)
        features = self._encode(grounding, rows.frames)
        tokens = self.project(rows.seg_hidden)
        if self.unroll is None:
            candidates = self._decode(grounding, features, tokens, rows)
        else:
            candidates = self.unroll(grounding, features, tokens, rows.expression, rows.frame)
        losses = self.mask_losses(*candidates, rows.targets)
        if self.align_weight:
            embed = features.embed[rows.frame]
            losses["loss_align"] = self.align_loss(embed, tokens[rows.expression], rows.targets)
        language = self.language_weight * mllm.language_loss(
            hidden, batch.labels, mean_count=batch.mean_counts.get("tokens")
        )
        return {"loss_language": language} | {
            key: rows.weight * row.sum() for key, row in losses.items()
        }

    def _encode(self, grounding: Sam2, frames: Tensor) -> FrameFeatures:
        """Features of the frames; behind them, there may be some of repeated frames."""
        size, number = self.frames_per_chunk, len(frames)
        if size is None:
            return grounding.encode_frames(frames)
        # ZeRO-3 gathers the encoder in each call: ranks with images make as many as one with videos
        chunks = -(-most_over_ranks(number, frames.device) // size)
        split = -(-number // chunks)
        fewest = split * (chunks - 1) + 1  # that are split into so many
        place = torch.arange(max(number, fewest), device=frames.device) % number
        return grounding.encode_frames(frames[place], split=split)

    def _decode(
        self, grounding: Sam2, features: FrameFeatures, tokens: Tensor, rows: Rows
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mask logits ``[R, 4h, 4w]``, predicted IoU ``[R]``, object logits ``[R]``."""

        def decode(expression: Tensor, frame: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            out = decode_language(grounding, features.rows(frame), tokens[expression])
            return out.masks[:, 0], out.iou[:, 0], out.object_logits[:, 0]

        masks, iou, object_logits = decode_rows(decode, rows, self.rows_per_chunk)
        return masks, iou, object_logits

    def mask_losses(
        self, masks: Tensor, iou: Tensor, object_logits: Tensor, targets: Tensor
    ) -> dict[str, Tensor]:
        """Weighted losses of R rows, each ``[R]``.

        Args:
            masks: ``[R, 4h, 4w]`` logits.
            iou: ``[R]`` predicted, in 0..1.
            object_logits: ``[R]``.
            targets: ``[R, h', w']`` bool, at any resolution.
        """
        logits, truth = self._compare_at(masks, targets)
        bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        losses = {
            "loss_bce": self.bce_weight * bce.mean(1),
            "loss_dice": self.dice_weight * dice_loss(logits, truth),
        }
        if self.iou_weight:
            achieved = mask_iou(_resize(masks, targets).flatten(1), targets.flatten(1))
            losses["loss_iou"] = self.iou_weight * (iou - achieved) ** 2
        if self.object_weight:
            present = targets.flatten(1).any(1).to(object_logits.dtype)
            losses["loss_object"] = self.object_weight * F.binary_cross_entropy_with_logits(
                object_logits, present, reduction="none"
            )
        return losses

    def align_loss(self, embed: Tensor, tokens: Tensor, targets: Tensor) -> Tensor:
        """Weighted BCE and dice of what tokens and image features say without a decoder, ``[R]``.

        Their dot products are the logits of a coarse mask, as in language-driven segmentation
        (LSeg, Li et al., 2022). Features then lie near the words that name them, where the
        decoder's attention finds them.

        Args:
            embed: ``[R, C, h, w]``, raw image features.
            tokens: ``[R, C]``.
            targets: ``[R, h', w']`` bool; a cell's target is the share that the object covers.
        """
        logits = torch.einsum("rc,rchw->rhw", tokens, embed).float() / embed.shape[1] ** 0.5
        share = F.adaptive_avg_pool2d(targets[:, None].float(), embed.shape[-2:])
        logits, share = logits.flatten(1), share.flatten(1)
        bce = F.binary_cross_entropy_with_logits(logits, share, reduction="none").mean(1)
        return self.align_weight * (self.bce_weight * bce + dice_loss(logits, share))

    def _compare_at(self, masks: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and targets ``[R, P]`` at sampled points, or at every pixel of the targets."""
        masks = masks.float()
        if self.num_points is None:
            return _resize(masks, targets).flatten(1), targets.flatten(1).float()
        points = sample_uncertain_points(masks.detach()[:, None], num_points=self.num_points)
        logits = point_sample(masks[:, None], points)[:, 0]
        return logits, point_sample(targets[:, None].float(), points)[:, 0]


def _resize(masks: Tensor, targets: Tensor) -> Tensor:
    """Logits ``[R, a, b]`` at the resolution of ``targets``."""
    if masks.shape[1:] == targets.shape[1:]:
        return masks
    size = tuple(targets.shape[1:])
    return F.interpolate(masks[:, None], size, mode="bilinear", align_corners=False)[:, 0]
