"""``config.json`` of a folder: what its model is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import InternVLConfig

from projects.llava_sam2.hf.architectures import from_original, is_original

CONFIG = "config.json"
_EXPERTS = ("num_experts", "num_local_experts")


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a folder.

    Raises:
        FileNotFoundError, ValueError: not there, or not what a folder of a model has.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no checkpoint folder at {folder}")
    file = folder / CONFIG
    if not file.is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG}: it is no folder of a model")
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not a json file: {error}") from error
    if not isinstance(said, dict):
        raise ValueError(f"{file} holds a {type(said).__name__}, not a dictionary")
    kinds = {"model_type": str, "architectures": list, "grounded": dict}
    for key, kind in kinds.items():
        if said.get(key) is not None and not isinstance(said[key], kind):
            raise ValueError(f"{file}: {key} is {said[key]!r}, wanted is a {kind.__name__}")
    return said


@contextmanager
def buildable(folder: str | Path) -> Iterator[None]:
    """What constructors trip over is a value of ``config.json`` that no model has.

    Raises:
        ValueError: in place of their errors, with the file's name.
    """
    try:
        yield
    except (
        StrictDataclassError,
        AttributeError,
        KeyError,
        RuntimeError,
        TypeError,
        ZeroDivisionError,
    ) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{Path(folder) / CONFIG} describes no model that can be built: "
            f"{type(error).__name__}: {reason}"
        ) from error


def model_config(said: Mapping[str, Any], *, where: str) -> InternVLConfig:
    """transformers' configuration of a ``config.json`` of either layout.

    Args:
        where: the folder.

    Raises:
        ValueError: a model of another kind, or one that would be computed otherwise here.
    """
    with buildable(where):
        if is_original(said):
            return from_original(said, where=f"{where}/{CONFIG}")
        if said.get("model_type") == InternVLConfig.model_type:
            plain = {key: value for key, value in said.items() if key != "grounded"}
            config = InternVLConfig.from_dict(plain)
            _refuse(config, f"{where}/{CONFIG}")
            return config
    raise ValueError(
        f"{where}/{CONFIG} is of a {said.get('model_type')!r} ({said.get('architectures')}); "
        "wanted is InternVL (InternVLChatModel, or InternVLForConditionalGeneration of "
        "transformers), Sa2VA or SeC"
    )


def _refuse(config: InternVLConfig, where: str) -> None:
    """The last layer's patches become tokens here, and language models have no experts."""
    layer, strategy = config.vision_feature_layer, config.vision_feature_select_strategy
    if layer != -1 or strategy != "default":
        raise ValueError(
            f"{where}: vision_feature_layer={layer} and vision_feature_select_strategy="
            f"{strategy!r} cannot be computed here (wanted: -1 and 'default')"
        )
    if any(hasattr(config.text_config, key) for key in _EXPERTS):
        raise ValueError(
            f"{where}: a language model of experts ({config.text_config.model_type}) is not "
            "known; take one of the dense sizes"
        )
