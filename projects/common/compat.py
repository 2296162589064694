"""The few lines that let the pinned libraries live together.

``apply()`` runs once, when ``projects`` is imported. Each entry says why it is there and which
version makes it unnecessary; nothing here changes results.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from typing import Any

import torch

_SCHEMAS: list[torch.library.Library] = []  # a Library must outlive its definitions


def declare_torchvision_operators() -> None:
    """Let torchvision import beside a torch that its C++ library was not built for.

    torchvision's wheel is built for CUDA. Beside a CPU-only torch its library cannot load and the
    import stops at two operators that it registers fake kernels for. Declaring their schemas is
    enough for transforms v2, timm and transformers; the C++ operators themselves stay absent.
    Unnecessary once torchvision publishes a CPU wheel on the same index.
    """
    if importlib.util.find_spec("torchvision") is None or _torchvision_library_loads():
        return
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _SCHEMAS.append(library)


def _torchvision_library_loads() -> bool:
    """Whether torchvision's C++ library matches this torch: a CUDA build needs a CUDA torch."""
    if hasattr(torch.ops, "torchvision") and hasattr(torch.ops.torchvision, "nms"):
        return True
    spec = importlib.util.find_spec("torchvision")
    for folder in (spec and spec.submodule_search_locations) or ():
        for name in ("_C.so", "_C_pybind11.so"):
            path = f"{folder}/{name}"
            try:
                torch.ops.load_library(path)
            except OSError:
                continue
            return True
    return False


def provide_safetensors_probe() -> None:
    """xtuner 0.2.0 imports a name that transformers 5 dropped (safetensors is required now)."""
    import transformers.utils as utils

    if not hasattr(utils, "is_safetensors_available"):
        setattr(utils, "is_safetensors_available", lambda: True)  # noqa: B010


def format_a_config_once() -> None:
    """mmengine 0.11.0rc3 lays out a config's text by yapf whenever it is asked for it, which takes
    seconds: for three of its logs, for the copy in the work dir, and for every checkpoint. The same
    text is laid out once. Unnecessary once ``Config.pretty_text`` is cached."""
    from yapf.yapflib import yapf_api

    if hasattr(yapf_api.FormatCode, "known_texts"):
        return
    original = yapf_api.FormatCode
    known: dict[tuple[str, str], Any] = {}

    @functools.wraps(original)
    def format_code(unformatted_source: str, *args: Any, **options: Any) -> Any:
        key = (unformatted_source, repr((args, sorted(options.items()))))
        if key not in known:
            known[key] = original(unformatted_source, *args, **options)
        return known[key]

    format_code.known_texts = known  # type: ignore[attr-defined]
    yapf_api.FormatCode = format_code


def apply() -> None:
    """Apply every line above; safe to call more than once."""
    if not _SCHEMAS:
        declare_torchvision_operators()
    provide_safetensors_probe()
    format_a_config_once()
