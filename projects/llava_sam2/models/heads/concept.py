"""[SEG] as a concept: the frame's features attend to it, and a mask is decoded that nobody prompts.

    hidden at [SEG] [K, D] ──► text_hidden_fcs ──► [K, C] ──► [R, C/64, 64] ──┐ like the tokens of
    target frames ──► SAM 2: encode_frames ──► features ──► token_attn ◄──────┘ an object pointer
                                                                │
                       masks [R, M, 4h, 4w] ◄── SAM 2: decode_masks, nothing asked

SeC's concept guidance (Zhang et al., 2025, stage 2). The language model sees earlier frames with an
object's contour, then the target frame; its [SEG] stands for the object. Shapes: K expressions of
all samples together, R rows (expression, frame), M candidates, C channels, 64 those of a memory.
"""

from __future__ import annotations

from dataclasses import fields

from torch import Tensor, nn

from projects.common.partition import copied
from projects.llava_sam2.models.adapter import LanguageAdapter
from projects.llava_sam2.models.seg_rows import Rows, decode_rows, rows_of
from projects.llava_sam2.structures import GroundingBatch
from projects.sam2_video.losses import MultiStepMaskLoss, Step
from projects.sam2_video.modeling import FrameFeatures, MaskCandidates, Sam2
from projects.sam2_video.modeling.memory_attention import attend


def attend_concept(
    token_attn: nn.Module, grounding: Sam2, embed: Tensor, concepts: Tensor
) -> Tensor:
    """Condition raw features on concepts, as memory attention does on object pointers alone.

    The tokens have no place and no time: their position codes are zero, and RoPE passes them by.

    Args:
        token_attn: a module of memory attention's shape.
        embed: ``[R, C, h, w]``, raw.
        concepts: ``[R, C]`` from :meth:`ConceptHead.project`.

    Returns:
        ``[R, C, h, w]``.
    """
    tokens = concepts.to(embed.dtype).unflatten(1, (-1, grounding.memory_width))
    position = 0.1 * grounding.frame_position[:, 0].to(embed.dtype)
    fused = attend(
        token_attn,
        embed.flatten(2).transpose(1, 2) + position,
        tokens,
        tokens.new_zeros(tokens.shape[1], 1, tokens.shape[2]),
        grounding.rope,
        tokens.shape[1],
    )  # [R, h * w, C]
    return fused.transpose(1, 2).reshape(embed.shape)


class ConceptHead(nn.Module):
    """Language loss, and SAM 2's losses on the candidate masks of what a concept conditions.

    Mask losses are means over the rows of the global batch. A sample without masks adds no row; a
    rank without any runs one row with the weight zero, so that every rank runs the same modules.

    Args:
        projector: hidden size to SAM 2's width, see :func:`seg_projector`.
        token_attn: a module of memory attention's shape; None: a copy of SAM 2's own, taken when
            the model is put together (:meth:`start_from`).
        mask_loss: None: SAM 2's, with its published weights.
        language_weight: of the language loss.
        multimask: three candidate masks instead of one; None follows SAM 2's rule for a frame that
            nothing prompts, which inference follows too: three in the released models.
        hide_absent: blank the masks of objects whose score says absent, as SAM 2's training does;
            off while a model learns from scratch, because a blank mask has no gradient.
        rows_per_chunk: condition and decode this many rows at a time and recompute them in
            backward, to bound memory; None does all at once.
    """

    def __init__(
        self,
        *,
        projector: nn.Module,
        token_attn: nn.Module | None = None,
        mask_loss: MultiStepMaskLoss | None = None,
        language_weight: float = 1.0,
        multimask: bool | None = None,
        hide_absent: bool = True,
        rows_per_chunk: int | None = None,
    ) -> None:
        super().__init__()
        self.text_hidden_fcs = projector  # the names in released checkpoints
        self.token_attn = token_attn
        self.mask_loss = mask_loss or MultiStepMaskLoss()
        self.language_weight = language_weight
        self.multimask = multimask
        self.hide_absent = hide_absent
        self.rows_per_chunk = rows_per_chunk

    def start_from(self, grounding: Sam2) -> None:
        """Take a copy of SAM 2's memory attention for ``token_attn``, where there is none."""
        if self.token_attn is None:
            self.token_attn = copied(grounding.blocks.memory_attention)

    def project(self, seg_hidden: Tensor) -> Tensor:
        """Hidden states at [SEG] ``[K, D]`` to concepts ``[K, C]``."""
        dtype = next(self.text_hidden_fcs.parameters()).dtype  # the language model's may be less
        return self.text_hidden_fcs(seg_hidden.to(dtype))

    def condition(self, grounding: Sam2, features: FrameFeatures, concepts: Tensor) -> Tensor:
        """Embed ``[R, C, h, w]`` of R rows, conditioned on their concepts ``[R, C]``."""
        return attend_concept(self.token_attn, grounding, features.embed, concepts)

    def loss(
        self, batch: GroundingBatch, *, mllm: LanguageAdapter, grounding: Sam2
    ) -> dict[str, Tensor]:
        """``loss_language`` and ``loss_concept_{mask, dice, iou, class}``.

        Raises:
            ValueError: naming the sample, if [SEG] tokens and expressions differ in number.
        """
        hidden = mllm(
            batch.input_ids, batch.attention_mask, batch.pixel_values, regions=batch.regions
        )
        rows = rows_of(batch, hidden, seg_id=mllm.seg_id, grounding=grounding)
        features = grounding.encode_frames(rows.frames)
        candidates = self._decode(grounding, features, self.project(rows.seg_hidden), rows)
        losses = self._mask_losses(candidates, rows.targets)
        language = self.language_weight * mllm.language_loss(
            hidden, batch.labels, mean_count=batch.mean_counts.get("tokens")
        )
        return {"loss_language": language} | {
            key: rows.weight * value for key, value in losses.items()
        }

    def _decode(
        self, grounding: Sam2, features: FrameFeatures, concepts: Tensor, rows: Rows
    ) -> MaskCandidates:
        def decode(expression: Tensor, frame: Tensor) -> tuple[Tensor, ...]:
            seen = features.rows(frame)
            embed = self.condition(grounding, seen, concepts[expression])
            found = grounding.decode_masks(
                seen.with_embed(embed),
                None,
                multimask=self.multimask,
                hide_absent=self.hide_absent,
            )
            return tuple(getattr(found, field.name) for field in fields(MaskCandidates))

        return MaskCandidates(*decode_rows(decode, rows, self.rows_per_chunk))

    def _mask_losses(self, candidates: MaskCandidates, targets: Tensor) -> dict[str, Tensor]:
        """Losses of R rows with targets ``[R, h', w']``, summed over the rows."""
        targets = targets[None]  # one frame of R objects
        present = targets.flatten(2).any(2)
        sums = self.mask_loss.sums([Step(0, candidates)], targets, present)
        return {f"loss_concept_{name.removeprefix('loss_')}": part for name, part in sums.items()}
