"""The small files beside exported weights: tokenizer, generation settings, stock processors.

transformers' own processors read them, so that an export can be asked without this project.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import (
    GenerationConfig,
    GotOcr2ImageProcessor,
    InternVLProcessor,
    InternVLVideoProcessor,
    PreTrainedTokenizerBase,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from projects.common.conversation import (
    IMAGE_CONTEXT,
    IMAGE_END,
    IMAGE_START,
    ChatTemplate,
    chat_template,
)
from projects.llava_sam2.models.mllm import InternVL
from projects.llava_sam2.models.qwen3_vl import Qwen3VL
from projects.llava_sam2.models.qwen_vl import QwenVL

# How InternVLProcessor asks its tokenizer for the image tokens. It wants a token for whole videos
# too, which these models do not have (a video is a picture a frame): one that no question holds.
_SPOKEN = {
    "start_image_token": IMAGE_START,
    "end_image_token": IMAGE_END,
    "context_image_token": IMAGE_CONTEXT,
    "video_token": IMAGE_END,
}


def write_processor(
    folder: Path, mllm: InternVL | QwenVL, *, tiles: Mapping[str, Any] | None = None
) -> None:
    """Tokenizer, generation settings and transformers' processor.

    Args:
        tiles: how images are tiled, from :func:`describe_inputs`; None: as the model was released.
    """
    tokenizer = mllm.tokenizer
    template = chat_template(mllm.template)
    tokenizer.save_pretrained(str(folder))
    (folder / "chat_template.jinja").write_text(jinja(template, tokenizer), encoding="utf-8")
    _generation(template, tokenizer).save_pretrained(str(folder))
    if isinstance(mllm, QwenVL):
        write_json(folder / "processor_config.json", _qwen_vl(mllm, tiles or {}))
        return
    file = folder / "tokenizer_config.json"
    said = json.loads(file.read_text(encoding="utf-8"))
    write_json(file, said | {"model_specific_special_tokens": _SPOKEN})
    write_json(folder / "processor_config.json", _internvl(mllm, tiles or {}))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _internvl(mllm: InternVL, tiles: Mapping[str, Any]) -> dict[str, Any]:
    side = mllm.tile_size
    pixels = dict(size={"height": side, "width": side}, **_colours(mllm))
    image = GotOcr2ImageProcessor(
        **pixels,
        crop_to_patches=tiles.get("kind") != "SingleTile",
        min_patches=tiles.get("min_tiles", 1),
        max_patches=tiles.get("max_tiles", 12),
    )
    return {
        "processor_class": InternVLProcessor.__name__,
        "image_seq_length": mllm.image_tokens_per_tile,
        "image_processor": image.to_dict(),
        "video_processor": InternVLVideoProcessor(**pixels).to_dict(),
    }


def _qwen_vl(mllm: QwenVL, tiles: Mapping[str, Any]) -> dict[str, Any]:
    """Images at about their own size, or (the nearest to square tiles) as many pixels as a tile."""
    third = isinstance(mllm, Qwen3VL)
    area = tiles.get("token", mllm.patch * mllm.merge) ** 2
    tokens = mllm.image_tokens_per_tile
    bounds = {
        "shortest_edge": tiles.get("min_tokens", tokens) * area,  # transformers means pixels
        "longest_edge": tiles.get("max_tokens", tokens) * area,
    }
    patches = dict(
        patch_size=mllm.patch,
        merge_size=mllm.merge,
        temporal_patch_size=mllm.frames_per_patch,
        **_colours(mllm),
    )
    video = Qwen3VLVideoProcessor if third else Qwen2VLVideoProcessor
    return {
        "processor_class": (Qwen3VLProcessor if third else Qwen2_5_VLProcessor).__name__,
        "image_processor": Qwen2VLImageProcessor(**patches, size=bounds).to_dict(),
        "video_processor": video(**patches).to_dict(),
    }


def _colours(mllm: InternVL | QwenVL) -> dict[str, list[float]]:
    return {"image_mean": list(mllm.image_mean), "image_std": list(mllm.image_std)}


def _generation(template: ChatTemplate, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    vocabulary = tokenizer.get_vocab()
    stops = [vocabulary[word] for word in template.stop_words if word in vocabulary]
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in stops:
        stops.append(tokenizer.eos_token_id)
    return GenerationConfig(
        do_sample=False,
        eos_token_id=stops or None,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )


def jinja(template: ChatTemplate, tokenizer: PreTrainedTokenizerBase) -> str:
    """A chat template as transformers' tokenizers and processors take it.

    The same text that :func:`projects.common.conversation.encode_conversation` makes of turns.
    """
    picture = template.image_context + "\n"
    if template.image_context != IMAGE_CONTEXT:  # Qwen-VL's processor adds no ends to its pictures
        picture = template.image_start + template.image_context + template.image_end + "\n"
    before, after = template.user.split("{input}")
    opening, closing = template.system.split("{system}")
    bos = tokenizer.bos_token or ""
    default = template.default_system
    parts = [
        "{%- macro said(content) -%}{%- if content is string -%}{{ content }}{%- else -%}"
        "{%- for part in content -%}{%- if part.type == 'image' -%}",
        f"{{{{ {picture!r} }}}}",
        "{%- elif part.type == 'text' -%}{{ part.text }}{%- endif -%}{%- endfor -%}{%- endif -%}"
        "{%- endmacro -%}",
        f"{{{{ {bos!r} }}}}",
        "{%- if messages[0].role == 'system' -%}",
        f"{{{{ {opening!r} + said(messages[0].content) + {closing!r} }}}}",
        "" if default is None else f"{{%- else -%}}{{{{ {(opening + default + closing)!r} }}}}",
        "{%- endif -%}{%- for message in messages -%}{%- if message.role == 'user' -%}",
        f"{{{{ {before!r} + said(message.content) + {after!r} }}}}",
        "{%- elif message.role == 'assistant' -%}",
        f"{{{{ said(message.content) + {template.end!r} + {template.separator!r} }}}}",
        "{%- endif -%}{%- endfor -%}",
    ]
    return "".join(parts)
