"""An exported folder, ready to be asked, in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.hf.config_file import buildable, read_config
from projects.llava_sam2.hf.described import build_frames, build_inputs
from projects.llava_sam2.hf.grounded import sa2va_from_folder
from projects.llava_sam2.predictor import GroundedPredictor


def load(
    folder: str | Path,
    *,
    device: str | None = None,
    dtype: str = "auto",
    inputs: GroundingInputs | None = None,
    **options: Any,
) -> GroundedPredictor:
    """The model of an exported folder, which answers by ``.image(...)`` and ``.video(...)``.

    Args:
        device: None: a GPU where there is one.
        dtype: of the language model; ``auto``: as stored.
        inputs: how it is asked; None: as the folder says. Releases of others do not say it.
        options: further arguments of :func:`projects.llava_sam2.hf.grounded.sa2va_from_folder`.

    Raises:
        FileNotFoundError, ValueError: as there, or a folder that does not say how it is asked.
    """
    said = read_config(Path(folder)).get("grounded", {}).get("ask") or {}
    if inputs is None and not (isinstance(said, dict) and "inputs" in said):
        raise ValueError(
            f"{folder} does not say how its model is asked (its config did not, "
            "or it is no export of this project): give inputs=GroundingInputs(...)"
        )
    model = sa2va_from_folder(path=folder, dtype=dtype, **options)
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
    mllm, where = model.mllm, str(folder)
    with buildable(folder):
        frames = build_frames(said.get("frames"), where=where)
        if inputs is None:
            words = dict(tokenizer=mllm.tokenizer, template=mllm.template)
            inputs = build_inputs(said["inputs"], **words, where=where)
    return GroundedPredictor(
        model=model,
        inputs=inputs,
        frames=frames,
        propagation_decoder=said.get("propagation_decoder"),
        max_new_tokens=said.get("max_new_tokens", 32),
        use_visual=said.get("use_visual", True),
    )
