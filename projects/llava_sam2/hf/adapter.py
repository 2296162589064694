"""LoRA (Hu et al., 2021) in the files of peft: ``adapter/adapter_{config.json,model.safetensors}``.

The names are those of transformers' class (InternVL's or Qwen-VL's), so that peft itself puts the
adapter on it; here it goes into the same layers by :func:`projects.common.freezing.add_lora`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import nn

from projects.common.checkpoint import State, read_state, save_safetensors
from projects.llava_sam2.models.adapter import LanguageAdapter

ADAPTER = "adapter"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PEFT = "base_model.model."  # before every name in peft's files
_LANGUAGE = "model.language_model."
_NAME = "default"  # what peft calls the one adapter
_BASE = ".base_layer."


@dataclass
class Adapter:
    """An adapter that was read but not put anywhere yet."""

    file: Path
    rank: int
    alpha: int
    dropout: float
    targets: list[str]  # module names below the language model

    def settings(self) -> dict[str, Any]:
        """The arguments of ``add_lora``."""
        return dict(
            rank=self.rank, alpha=self.alpha, dropout=self.dropout, targets=list(self.targets)
        )


def read_adapter(folder: Path) -> Adapter | None:
    """The adapter of an exported folder; None if it has none.

    Raises:
        FileNotFoundError, ValueError: half an adapter, or one of another kind than ``add_lora``'s.
    """
    file = folder / ADAPTER / CONFIG
    if not file.is_file():
        return None
    try:
        said = dict(json.loads(file.read_text()))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} is not a json dictionary: {error}") from error
    if not (folder / ADAPTER / WEIGHTS).is_file():
        raise FileNotFoundError(f"{file} is there, and {WEIGHTS} beside it is not")
    targets = said.get("target_modules")
    plain = isinstance(targets, list) and all(name.startswith(_LANGUAGE) for name in targets)
    further = [key for key in ("use_dora", "use_rslora", "rank_pattern") if said.get(key)]
    if said.get("peft_type") != "LORA" or not plain or further:
        raise ValueError(
            f"{file} is no LoRA of this project (type {said.get('peft_type')}, "
            f"{', '.join(further) or 'other target modules'})"
        )
    sizes = [said.get(key) for key in ("r", "lora_alpha", "lora_dropout")]
    if not all(isinstance(size, (int, float)) and size >= 0 for size in sizes) or not sizes[0]:
        raise ValueError(f"{file}: r, lora_alpha and lora_dropout are {sizes}, wanted are numbers")
    return Adapter(
        file=folder / ADAPTER / WEIGHTS,
        rank=said["r"],
        alpha=said["lora_alpha"],
        dropout=said["lora_dropout"],
        targets=[name.removeprefix(_LANGUAGE) for name in targets],
    )


def load_adapter(mllm: LanguageAdapter, adapter: Adapter) -> None:
    """Copy the matrices into layers that ``add_lora`` has made.

    Raises:
        ValueError: matrices that do not line up.
    """
    state = {
        key.removeprefix(_PEFT)
        .replace(".lora_A.weight", f".lora_A.{_NAME}.weight")
        .replace(".lora_B.weight", f".lora_B.{_NAME}.weight"): tensor
        for key, tensor in read_state(adapter.file).items()
    }
    own = {key: value for key, value in mllm.model.state_dict().items() if ".lora_" in key}
    if state.keys() != own.keys():
        other = sorted(state.keys() ^ own.keys())
        raise ValueError(
            f"{adapter.file} has {len(state)} matrices and the model {len(own)}; "
            f"only one of them has {', '.join(other[:4])}"
        )
    with torch.no_grad():
        for key, value in own.items():
            if value.shape != state[key].shape:
                raise ValueError(
                    f"{adapter.file}: {key} is {tuple(state[key].shape)}, the model's "
                    f"{tuple(value.shape)}"
                )
            value.copy_(state[key])


def has_lora(module: nn.Module) -> bool:
    return any(isinstance(part, LoraLayer) for part in module.modules())


def split_lora(state: State) -> tuple[State, State]:
    """A state with LoRA beside its layers as (plain names of the base, peft's names)."""
    base = {k.replace(_BASE, "."): v for k, v in state.items() if ".lora_" not in k}
    lora = {
        _PEFT + k.replace(f".{_NAME}.weight", ".weight"): v
        for k, v in state.items()
        if ".lora_" in k
    }
    return base, lora


def write_adapter(folder: Path, model: nn.Module, lora: State) -> None:
    """Write ``adapter/`` of a model whose LoRA was made by ``add_lora``.

    Raises:
        ValueError: layers of different rank, alpha or dropout.
    """
    layers = {n: part for n, part in model.named_modules() if isinstance(part, LoraLayer)}
    kinds = {(part.r[_NAME], part.lora_alpha[_NAME], _dropout(part)) for part in layers.values()}
    if len(kinds) != 1:
        raise ValueError(f"the LoRA layers differ in (rank, alpha, dropout): {sorted(kinds)}")
    ((rank, alpha, dropout),) = kinds
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(layers), bias="none"
    )
    config.inference_mode = True
    (folder / ADAPTER).mkdir()
    said = config.to_dict() | {"target_modules": sorted(layers)}
    text = json.dumps(said, indent=1, sort_keys=True, default=str)
    (folder / ADAPTER / CONFIG).write_text(text + "\n")
    save_safetensors(lora, folder / ADAPTER / WEIGHTS, metadata={"format": "pt"})


def _dropout(layer: LoraLayer) -> float:
    return float(getattr(layer.lora_dropout[_NAME], "p", 0.0))
