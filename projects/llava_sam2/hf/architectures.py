"""Configurations: InternVL's original ``config.json`` to transformers', and back.

``RELEASED`` has the numbers of the five InternVL2.5 sizes, to build one without a folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import (
    InternVLConfig,
    InternVLVisionConfig,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
)

QWEN2, INTERNLM2, LLAMA = "Qwen2ForCausalLM", "InternLM2ForCausalLM", "LlamaForCausalLM"
# architectures and model_type of original folders
INTERNVL = frozenset({"InternVLChatModel", "internvl_chat"})
SA2VA = frozenset({"Sa2VAChatModel", "sa2va_chat"})
SEC = frozenset({"SeCModel", "sec"})
DOWNSAMPLE = 0.5  # pixel shuffle: a token for 2 x 2 patches

_SHARED = (  # keys that mean the same in all language models here
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "initializer_range",
    "attention_dropout",
)
_NEEDED = _SHARED[:6]
_WINDOW = ("use_sliding_window", "sliding_window", "max_window_layers")
_THETA = {QWEN2: 1_000_000.0, INTERNLM2: 1_000_000.0, LLAMA: 10_000.0}

_VIT_300M = dict(
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    norm_type="layer_norm",
    qk_normalization=False,
    qkv_bias=True,
)
_VIT_6B = dict(
    hidden_size=3200,
    num_hidden_layers=45,
    num_attention_heads=25,
    intermediate_size=12800,
    norm_type="rms_norm",
    qk_normalization=True,
    qkv_bias=False,
)


def _llm(architecture: str, vocabulary: int, *numbers: int) -> dict[str, Any]:
    sizes = dict(zip(_NEEDED[1:], numbers, strict=True))
    is_qwen = architecture == QWEN2
    return dict(
        architectures=[architecture],
        vocab_size=vocabulary,
        **sizes,
        hidden_act="silu",
        max_position_embeddings=32768,
        rms_norm_eps=1e-6 if is_qwen else 1e-5,
        rope_theta=1_000_000.0,
        rope_scaling=None if is_qwen else {"type": "dynamic", "factor": 2.0},
        tie_word_embeddings=False,
    )


def _released(vision: dict[str, Any], llm: dict[str, Any]) -> dict[str, Any]:
    return dict(
        architectures=["InternVLChatModel"],
        model_type="internvl_chat",
        downsample_ratio=DOWNSAMPLE,
        force_image_size=448,
        ps_version="v2",
        select_layer=-1,
        template="internvl2_5",
        vision_config=dict(vision, image_size=448, patch_size=14, hidden_act="gelu"),
        llm_config=llm,
    )


RELEASED: dict[str, dict[str, Any]] = {  # as in the config.json of each folder
    "1B": _released(_VIT_300M, _llm(QWEN2, 151674, 896, 4864, 24, 14, 2)),
    "2B": _released(_VIT_300M, _llm(INTERNLM2, 92553, 2048, 8192, 24, 16, 8)),
    "4B": _released(_VIT_300M, _llm(QWEN2, 151674, 2048, 11008, 36, 16, 2)),
    "8B": _released(_VIT_300M, _llm(INTERNLM2, 92553, 4096, 14336, 32, 32, 8)),
    "26B": _released(_VIT_6B, _llm(INTERNLM2, 92553, 6144, 16384, 48, 48, 8)),
}


def is_original(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is of InternVL's own code, or of Sa2VA's and SeC's on top of it."""
    named = {*(config.get("architectures") or ()), config.get("model_type")}
    return bool(named & (INTERNVL | SA2VA | SEC))


def from_original(config: Mapping[str, Any], *, where: str) -> InternVLConfig:
    """An original ``config.json`` as transformers' configuration.

    Raises:
        ValueError: a part is missing, or asks for what transformers' InternVL does not do.
    """
    sections = ("vision_config", "llm_config")
    lacking = [key for key in sections if not isinstance(config.get(key), Mapping)]
    if lacking and "text_config" in config:
        raise ValueError(f"{where} is of a Sa2VA on Qwen-VL, not InternVL: see sa2va_from_folder")
    if lacking:
        raise ValueError(f"{where} lacks {' and '.join(lacking)}: no config.json of InternVL")
    vision = vision_from_original(config["vision_config"], where=where)
    _refuse(config, vision, where)
    text = text_from_original(config["llm_config"], where=where)
    side = vision.image_size[0] // vision.patch_size[0]
    return InternVLConfig(
        vision_config=vision,
        text_config=text,
        image_seq_length=int(side * DOWNSAMPLE) ** 2,
        downsample_ratio=DOWNSAMPLE,
        tie_word_embeddings=text.tie_word_embeddings,
    )


def vision_from_original(config: Mapping[str, Any], *, where: str) -> InternVLVisionConfig:
    """InternViT's configuration; its stochastic depth is left out (transformers has none)."""
    side, patch = config.get("image_size", 448), config.get("patch_size", 14)
    return InternVLVisionConfig(
        hidden_size=_need(config, "hidden_size", where),
        num_hidden_layers=_need(config, "num_hidden_layers", where),
        num_attention_heads=_need(config, "num_attention_heads", where),
        intermediate_size=_need(config, "intermediate_size", where),
        norm_type=config.get("norm_type", "layer_norm"),
        use_qk_norm=config.get("qk_normalization", False),
        attention_bias=config.get("qkv_bias", True),
        hidden_act=config.get("hidden_act", "gelu"),
        layer_norm_eps=config.get("layer_norm_eps", 1e-6),
        layer_scale_init_value=float(config.get("initializer_factor", 0.1)),
        image_size=[side, side],
        patch_size=[patch, patch],
    )


def text_from_original(config: Mapping[str, Any], *, where: str) -> PreTrainedConfig:
    """The language model's configuration: Qwen2's, or Llama's for InternLM2."""
    architecture = (config.get("architectures") or ["none"])[0]
    if architecture not in _THETA:
        raise ValueError(
            f"{where}: the language model {architecture} is not known; known are "
            f"{', '.join(_THETA)}"
        )
    for key in _NEEDED:
        _need(config, key, where)
    known = {key: config[key] for key in _SHARED if key in config}
    known["rope_parameters"] = _rope(config, _THETA[architecture])
    known["tie_word_embeddings"] = config.get("tie_word_embeddings", False)
    if architecture == QWEN2:
        window = {key: config[key] for key in _WINDOW if config.get(key) is not None}
        return Qwen2Config(**known, **window)
    return LlamaConfig(**known, attention_bias=config.get("bias", False))


def to_original(config: InternVLConfig) -> dict[str, Any]:
    """The parts of an original ``config.json`` that say how the model is built.

    Raises:
        ValueError: a language model that InternVL's own code has no name for.
    """
    vision, text = config.vision_config, config.text_config
    architecture = {"qwen2": QWEN2, "llama": INTERNLM2}.get(text.model_type)
    if architecture is None:
        raise ValueError(
            f"InternVL's own layout has no place for a {text.model_type} language model: write the "
            "transformers layout"
        )
    rope = dict(text.rope_parameters)
    theta, kind = rope.pop("rope_theta"), rope.pop("rope_type", "default")
    llm = {key: getattr(text, key) for key in _SHARED}
    llm |= dict(
        architectures=[architecture],
        model_type="qwen2" if architecture == QWEN2 else "internlm2",
        rope_theta=theta,
        rope_scaling=None if kind == "default" else {"type": kind, **rope},
        tie_word_embeddings=config.tie_word_embeddings,
    )
    if architecture == QWEN2:
        llm |= {key: getattr(text, key) for key in _WINDOW}
    else:
        llm["bias"] = text.attention_bias
    return dict(
        downsample_ratio=config.downsample_ratio,
        force_image_size=vision.image_size[0],
        ps_version="v2",
        select_layer=-1,
        tie_word_embeddings=config.tie_word_embeddings,
        llm_config=llm,
        vision_config=dict(
            architectures=["InternVisionModel"],
            model_type="intern_vit_6b",
            hidden_size=vision.hidden_size,
            num_hidden_layers=vision.num_hidden_layers,
            num_attention_heads=vision.num_attention_heads,
            intermediate_size=vision.intermediate_size,
            norm_type=vision.norm_type,
            qk_normalization=vision.use_qk_norm,
            qkv_bias=vision.attention_bias,
            hidden_act=vision.hidden_act,
            layer_norm_eps=vision.layer_norm_eps,
            initializer_factor=vision.layer_scale_init_value,
            image_size=vision.image_size[0],
            patch_size=vision.patch_size[0],
        ),
    )


def _rope(config: Mapping[str, Any], theta: float) -> dict[str, Any]:
    scaling = dict(config.get("rope_scaling") or {})
    kind = scaling.pop("type", None)
    kind = scaling.pop("rope_type", kind) or "default"
    scaling = {key: float(value) if key == "factor" else value for key, value in scaling.items()}
    return {"rope_type": kind, "rope_theta": float(config.get("rope_theta", theta)), **scaling}


def _refuse(config: Mapping[str, Any], vision: InternVLVisionConfig, where: str) -> None:
    """Settings of the original code under which transformers' classes would compute otherwise."""
    side = vision.image_size[0]
    wanted = dict(
        ps_version="v2",
        select_layer=-1,
        downsample_ratio=DOWNSAMPLE,
        force_image_size=side,
    )
    wrong = [
        f"{key}={config[key]!r} (wanted: {value!r})"
        for key, value in wanted.items()
        if config.get(key, value) not in (value, None)
    ]
    for key in ("use_backbone_lora", "use_llm_lora"):
        if config.get(key):
            wrong.append(f"{key}={config[key]!r} (merge it first)")
    if wrong:
        raise ValueError(
            f"{where}: {', '.join(wrong)} cannot be computed by transformers' InternVL"
        )


def _need(config: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in config:
        raise ValueError(f"{where} lacks {key} in its vision_config or llm_config")
    return config[key]
