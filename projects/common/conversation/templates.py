"""Chat templates by name.

The strings are those that the public models were trained with (InternLM2, Qwen2.5, Phi-3, Llama 3
and Vicuna chat formats).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from projects.common.conversation.tokens import IMAGE_CONTEXT, IMAGE_END, IMAGE_START


@dataclass(frozen=True)
class ChatTemplate:
    """Strings around the texts of a chat.

    ``system`` holds ``{system}`` and ``user`` holds ``{input}``; ``end`` closes an answer and is
    supervised; ``separator`` stands between turns and is not. ``default_system`` is used when no
    system text is given; None leaves the system part out. ``image_context`` is where visual tokens
    go, between ``image_start`` and ``image_end``.
    """

    system: str
    user: str
    end: str
    separator: str = "\n"
    stop_words: tuple[str, ...] = ()
    default_system: str | None = None
    image_start: str = IMAGE_START
    image_context: str = IMAGE_CONTEXT
    image_end: str = IMAGE_END


_CHATML = ChatTemplate(
    system="<|im_start|>system\n{system}<|im_end|>\n",
    user="<|im_start|>user\n{input}<|im_end|>\n<|im_start|>assistant\n",
    end="<|im_end|>",
    stop_words=("<|im_end|>",),
)

_QWEN_VL = dataclasses.replace(
    _CHATML,
    stop_words=("<|im_end|>", "<|endoftext|>"),
    image_start="<|vision_start|>",
    image_context="<|image_pad|>",
    image_end="<|vision_end|>",
)

TEMPLATES: dict[str, ChatTemplate] = {
    "internlm2_chat": _CHATML,
    "qwen_chat": dataclasses.replace(_CHATML, stop_words=("<|im_end|>", "<|endoftext|>")),
    "qwen2_5_vl_chat": dataclasses.replace(_QWEN_VL, default_system="You are a helpful assistant."),
    "qwen3_vl_chat": _QWEN_VL,
    "phi3_chat": ChatTemplate(
        system="<|system|>\n{system}<|end|>\n",
        user="<|user|>\n{input}<|end|>\n<|assistant|>\n",
        end="<|end|>",
        stop_words=("<|end|>",),
    ),
    "llama3_chat": ChatTemplate(
        system="<|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>",
        user=(
            "<|start_header_id|>user<|end_header_id|>\n\n{input}<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n"
        ),
        end="<|eot_id|>",
        separator="",
        stop_words=("<|eot_id|>",),
    ),
    "vicuna": ChatTemplate(
        system="{system} ",
        user="USER: {input} ASSISTANT:",  # sentencepiece puts the space before the answer
        end="</s>",
        separator="",
        stop_words=("</s>",),
        default_system=(
            "A chat between a curious user and an artificial intelligence assistant. The assistant "
            "gives helpful, detailed, and polite answers to the user's questions."
        ),
    ),
}


def chat_template(name: str) -> ChatTemplate:
    """The template called ``name``.

    Raises:
        ValueError: listing the known names.
    """
    if name not in TEMPLATES:
        raise ValueError(f"no chat template {name!r}; there are {', '.join(sorted(TEMPLATES))}")
    return TEMPLATES[name]
