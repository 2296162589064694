"""SAM's mask decoder, run on transformers' modules (Segment Anything, arXiv 2304.02643; SAM 2).

transformers' own forward makes all four masks, whichever are asked for, and copies the features of
every row once more; and a mask prompt needs the decoder's tokens only, none of its masks.

    tokens (score, IoU, masks, prompt) ─┐
    features + dense prompt ────────────┴► two-way attention ─► tokens ─► IoU, score, hypernetworks
                                                    │                            │
                                 high-res maps ─► upscale ───────────────────────┴► masks
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SCORE, IOU, FIRST_MASK = 0, 1, 2  # places of the decoder's own tokens


def decode_tokens(
    decoder: nn.Module, embed: Tensor, position: Tensor, sparse: Tensor, dense: Tensor
) -> tuple[Tensor, Tensor]:
    """Two-way attention between tokens and image.

    Args:
        decoder: transformers' mask decoder.
        embed: [B, C, h, w].
        position: [1, C, h, w] code of the places.
        sparse: [B, 1, n, C] tokens of the prompt.
        dense: [1 or B, C, h, w], or [1, C, 1, 1].

    Returns:
        tokens [B, 2 + masks + n, C] and image [B, C, h, w].
    """
    own = (decoder.obj_score_token, decoder.iou_token, decoder.mask_tokens)
    own = torch.cat([token.weight for token in own])
    own = own.expand(len(embed), 1, -1, -1)
    tokens, image = decoder.transformer(
        point_embeddings=torch.cat((own, sparse.to(own.dtype)), dim=2),
        image_embeddings=embed + dense,
        image_positional_embeddings=position,
        attention_similarity=None,
    )
    return tokens[:, 0], image[:, 0].transpose(1, 2).reshape(embed.shape)


def object_score(decoder: nn.Module, tokens: Tensor) -> Tensor:
    """Logits [B, 1] of the object being there."""
    return decoder.pred_obj_score_head(tokens[:, SCORE]).float()


def decode_masks(
    decoder: nn.Module,
    tokens: Tensor,
    image: Tensor,
    high_res: tuple[Tensor, Tensor],
    *,
    multimask: bool,
    stability_fallback: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Masks [B, M, 4h, 4w], predicted IoU [B, M] and mask tokens [B, M, C], from `decode_tokens`.

    Args:
        high_res: [B, C/8, 4h, 4w] and [B, C/4, 2h, 2w].
        multimask: the three candidates instead of the single mask.
        stability_fallback: an unstable single mask gives way to the best of the three.
    """
    count = decoder.num_mask_tokens
    if multimask:
        wanted = range(1, count)
    else:
        wanted = range(count) if stability_fallback else range(1)
    mask_tokens = tokens[:, FIRST_MASK : FIRST_MASK + count]
    upscaled = _upscale(decoder, image, high_res)
    heads = decoder.output_hypernetworks_mlps
    weights = torch.stack([heads[place](mask_tokens[:, place]) for place in wanted], dim=1)
    masks = (weights @ upscaled.flatten(2)).unflatten(2, upscaled.shape[-2:])
    iou = decoder.iou_prediction_head(tokens[:, IOU])[:, wanted.start : wanted.stop]
    if stability_fallback and not multimask:
        # transformers' rule, with an axis for the prompts of an image
        masks, iou = decoder._dynamic_multimask_via_stability(masks[:, None], iou[:, None])
        return masks[:, 0].float(), iou[:, 0].float(), mask_tokens[:, :1]
    return masks.float(), iou.float(), mask_tokens[:, wanted.start : wanted.stop]


def _upscale(decoder: nn.Module, image: Tensor, high_res: tuple[Tensor, Tensor]) -> Tensor:
    """[B, C/8, 4h, 4w]."""
    stride4, stride8 = high_res
    up = decoder.upscale_conv1(image) + stride8
    up = decoder.activation(decoder.upscale_layer_norm(up))
    return decoder.activation(decoder.upscale_conv2(up) + stride4)
