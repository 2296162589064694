"""The numbers of the released Qwen2.5-VL and Qwen3-VL, to build one without a folder."""

from __future__ import annotations

from typing import Any

_TEXT = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)
# The ids of the visual tokens are those of the tokenizer that a model is built with.


def _qwen2_5(*numbers: int, vocabulary: int, tied: bool) -> dict[str, Any]:
    text = dict(zip(_TEXT, numbers, strict=True))
    rope = {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [16, 24, 24]}
    return dict(
        model_type="qwen2_5_vl",
        text_config=dict(
            text,
            vocab_size=vocabulary,
            max_position_embeddings=128_000,
            rms_norm_eps=1e-6,
            rope_parameters=rope,
            tie_word_embeddings=tied,
        ),
        vision_config=dict(
            depth=32,
            hidden_size=1280,
            intermediate_size=3420,
            num_heads=16,
            patch_size=14,
            window_size=112,
            fullatt_block_indexes=[7, 15, 23, 31],
            tokens_per_second=2,
            out_hidden_size=text["hidden_size"],
        ),
        tie_word_embeddings=tied,
    )


def _qwen3(*numbers: int, tied: bool) -> dict[str, Any]:
    text = dict(zip(_TEXT, numbers, strict=True))
    rope = dict(
        rope_type="default",
        rope_theta=5_000_000.0,
        mrope_section=[24, 20, 20],
        mrope_interleaved=True,
    )
    large = text["hidden_size"] >= 4096
    return dict(
        model_type="qwen3_vl",
        text_config=dict(
            text,
            head_dim=128,
            vocab_size=151_936,
            max_position_embeddings=262_144,
            rms_norm_eps=1e-6,
            rope_parameters=rope,
            tie_word_embeddings=tied,
        ),
        vision_config=dict(
            depth=27 if large else 24,
            hidden_size=1152 if large else 1024,
            intermediate_size=4304 if large else 4096,
            num_heads=16,
            patch_size=16,
            num_position_embeddings=2304,
            deepstack_visual_indexes=[8, 16, 24] if large else [5, 11, 17],
            out_hidden_size=text["hidden_size"],
        ),
        tie_word_embeddings=tied,
    )


QWEN_VL: dict[str, dict[str, Any]] = {  # as in the config.json of each folder
    "Qwen2.5-VL-3B": _qwen2_5(2048, 11008, 36, 16, 2, vocabulary=151_936, tied=True),
    "Qwen2.5-VL-7B": _qwen2_5(3584, 18944, 28, 28, 4, vocabulary=152_064, tied=False),
    "Qwen3-VL-2B": _qwen3(2048, 6144, 28, 16, 8, tied=True),
    "Qwen3-VL-4B": _qwen3(2560, 9728, 36, 32, 8, tied=True),
    "Qwen3-VL-8B": _qwen3(4096, 12288, 36, 32, 8, tied=False),
}
