"""The model card of an export: what it is, its data, its scores, and how to ask it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from projects.common.freezing import trainable_table
from projects.llava_sam2.models.sa2va import Sa2VA

_NAMES = ("type", "root", "path", "image_root", "split", "repeat", "batch_size")


def model_card(
    model: Sa2VA,
    *,
    name: str,
    config: str,
    tree: Mapping[str, Any],
    scores: Mapping[str, float] | None,
    ask: Mapping[str, Any] | None,
    lora: str,
    track: Mapping[str, Any] | None = None,
) -> str:
    """Markdown with a head of plain yaml, as model hubs read it.

    Args:
        name: of the folder.
        config: file name of the config.
        tree: the config.
        scores: ``{"<benchmark>/<metric>": value}`` of this very checkpoint; None if there are none.
        ask, track: see :func:`projects.llava_sam2.hf.writing.export`.
        lora: what became of it, in words.
    """
    text = model.mllm.model.config.text_config
    sam2 = model.grounding
    parts = [
        "---\nlibrary_name: transformers\npipeline_tag: image-text-to-text\n---",
        f"# {name}",
        "A grounded language model (Sa2VA, Yuan et al., 2025): it answers in words, and each "
        "`[SEG]` of an answer is a mask in the image or through the video.",
        "## Use",
        _use(name, ask, track),
        "## Model",
        _table(
            ("part", "what"),
            [
                (
                    "language model",
                    f"{text.model_type}, {text.num_hidden_layers} layers of "
                    f"{text.hidden_size}, {text.vocab_size} tokens",
                ),
                ("chat template", model.mllm.template),
                ("tiles", f"{model.mllm.tile_size} px, {model.mllm.image_tokens_per_tile} tokens"),
                ("SAM 2", f"{sam2.image_size} px, {sam2.num_maskmem} memory slots"),
                ("heads", ", ".join(model.heads)),
                ("LoRA", lora),
            ],
        ),
        "## Training",
        f"Config: `{config}`. Parameters by part, as they were trained:",
        f"```\n{trainable_table(model)}\n```",
        "### Data",
        _data(tree),
        "## Scores",
        _scores(scores),
    ]
    return "\n\n".join(parts) + "\n"


def _use(name: str, ask: Mapping[str, Any] | None, track: Mapping[str, Any] | None) -> str:
    if ask is None and track is not None:
        return (
            "```python\nfrom projects.llava_sam2.sec.loading import sec_from_folder\n\n"
            f'model, recipe = sec_from_folder("{name}")\n'
            "predictor = recipe.predictor(model)  # follows a mask through a video\n```"
        )
    if ask is None:
        return (
            "Its config has neither a benchmark that asks it nor a dataset with templates, so "
            "nothing here says how it is asked."
        )
    question = ask.get("question", "{expression}").format(expression="the red circle")
    return (
        "```python\nfrom projects.llava_sam2.hf import load\n\n"
        f'predictor = load("{name}")\n'
        f'(answer,) = predictor.image(image, ["{question}"])  # image: uint8 [H, W, 3], RGB\n'
        "answer.text, answer.mask(0)\n```"
    )


def _data(tree: Mapping[str, Any]) -> str:
    entries = tree.get("train_dataloader", {}).get("datasets", [])
    rows = []
    for entry in entries:
        dataset = entry.get("dataset", {})
        inner = dataset.get("rows", dataset.get("source", {}))
        where = ", ".join(
            f"{key} {_short(value)}"
            for key, value in (inner.items() if isinstance(inner, Mapping) else ())
            if key in _NAMES and key != "type"
        )
        kind = _short(inner.get("type") if isinstance(inner, Mapping) else None)
        rows.append((_short(dataset.get("type")), kind, where, str(entry.get("repeat", 1.0))))
    return _table(("dataset", "rows", "where", "repeat"), rows) if rows else "Not in the config."


def _scores(scores: Mapping[str, float] | None) -> str:
    if not scores:
        return "None were found beside the checkpoint (`scores.json`, made by `tools/test.py`)."
    rows = [(key, f"{value:.4f}") for key, value in sorted(scores.items()) if "[" not in key]
    return _table(("benchmark/metric", "score"), rows)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in r) + " |" for r in lines
    )


def _short(value: Any) -> str:
    """A class or function by its name; of a path the last two parts, not this machine's folders."""
    if value is None:
        return "-"
    if callable(value):
        return getattr(value, "__name__", str(value))
    if isinstance(value, (str, Path)) and "/" in str(value):
        return "/".join(Path(value).parts[-2:])
    return str(value)
