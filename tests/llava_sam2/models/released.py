"""Sa2VA's masks of language tokens on the modules of PyPI's ``sam2``: a reference for tests."""

from __future__ import annotations

import torch

from tests.sam2_video.meta_reference import encode_meta

SIZE = 128


def rows_of_language(rows):
    draw = torch.Generator().manual_seed(rows)
    frames = torch.randint(0, 256, (rows, 3, SIZE, SIZE), dtype=torch.uint8, generator=draw)
    return frames, 10 * torch.randn(rows, 256, generator=draw)


@torch.no_grad()
def undecided(meta):
    """Bias the scores so that now one and now another mask is best, and half of the objects absent;
    they would hardly depend on a random prompt."""
    decoder = meta.sam_mask_decoder
    for head in (decoder.iou_prediction_head, decoder.pred_obj_score_head):
        seen = []
        hook = head.layers[-1].register_forward_hook(lambda *of, seen=seen: seen.append(of[-1]))
        released(meta, *rows_of_language(9))
        hook.remove()
        head.layers[-1].bias -= seen[0].median(0).values


def released(meta, frames, tokens):
    """Masks [R, h, w] and pointers [R, C] of a language token on a frame each, as Sa2VA decodes."""
    encoded = encode_meta(meta, frames[None])[0]
    _, features, _, sizes = meta._prepare_backbone_features(encoded)
    stride4, stride8, embed = [
        f.permute(1, 2, 0).unflatten(2, size) for f, size in zip(features, sizes, strict=True)
    ]
    point, label = torch.zeros(len(frames), 1, 2), -torch.ones(len(frames), 1, dtype=torch.int32)
    sparse, dense = meta.sam_prompt_encoder(points=(point, label), boxes=None, masks=None)
    masks, iou, out, score = meta.sam_mask_decoder(
        image_embeddings=embed + meta.no_mem_embed.view(1, -1, 1, 1),
        image_pe=meta.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=torch.cat([sparse, tokens[:, None]], dim=1),
        dense_prompt_embeddings=dense,
        multimask_output=meta._use_multimask(is_init_cond_frame=True, point_inputs=None),
        repeat_image=False,
        high_res_features=[stride4, stride8],
    )
    assert masks.shape[1] == 3
    rows, best = torch.arange(len(frames)), iou.argmax(1)
    there = (score > 0).float()
    pointers = there * meta.obj_ptr_proj(out[rows, best]) + (1 - there) * meta.no_obj_ptr
    return masks[rows, best], pointers, best, there
