"""Say what this machine and its Python have: ``python tools/env.py [--json]``.

Needs nothing but Python itself, so that it also works where an installation went wrong.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

LIBRARIES = (
    "torch",
    "torchvision",
    "transformers",
    "peft",
    "accelerate",
    "deepspeed",
    "mmengine",
    "xtuner",
    "timm",
    "numpy",
    "opencv-python",
    "opencv-python-headless",
    "pycocotools",
    "tensorboard",
)

# distribution -> (what it brings, what happens without it)
OPTIONAL_LIBRARIES = {
    "flash-attn": (
        "faster attention of the language model on GPUs since Ampere",
        "attention runs on PyTorch's own kernels: same results, slower on long sequences",
    ),
    "bitsandbytes": (
        "8-bit optimizers and 4-bit weights on GPUs",
        "configs that ask for 8-bit optimizers or 4-bit weights cannot run; none here does",
    ),
    "decord": (
        "frames are read from mp4 files",
        "video files cannot be read; install it (requirements.txt has it)",
    ),
    "liger-kernel": (
        "fused loss and normalisation kernels that save GPU memory",
        "the plain kernels are used: same results, more memory for large vocabularies",
    ),
    "open_clip_torch": (
        "CLIP features can be extracted from videos",
        "CLIP features have to be brought along (clip_features/README.md); nothing else needs it",
    ),
    "wandb": (
        "runs can be logged to Weights & Biases",
        "logs go to metrics.jsonl and TensorBoard only",
    ),
}


def collect() -> dict[str, Any]:
    """``{"python", "platform", "versions", "devices", "optional"}``, plain JSON.

    ``versions`` maps a library to its version or None. ``optional`` is a list of
    ``{"name", "present", "version", "meaning"}``.
    """
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": {name: version(name) for name in LIBRARIES},
        "devices": _devices(),
        "optional": [_optional_library(name) for name in OPTIONAL_LIBRARIES] + [_compiled_ops()],
    }


def version(distribution: str) -> str | None:
    """Installed version, or None; nothing is imported."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _optional_library(name: str) -> dict[str, Any]:
    found = version(name)
    with_it, without_it = OPTIONAL_LIBRARIES[name]
    meaning = without_it if found is None else with_it
    return {"name": name, "present": found is not None, "version": found, "meaning": meaning}


def _compiled_ops() -> dict[str, Any]:
    """DeepSpeed builds its own operators on first use; this says whether it could."""
    missing = [tool for tool in ("ninja", "nvcc", "c++") if _find_tool(tool) is None]
    if version("deepspeed") is None:
        meaning = "deepspeed itself is missing; tools/dist.sh train needs it"
    elif missing:
        meaning = (
            f"not found: {', '.join(missing)}; training uses PyTorch's AdamW, which needs none of "
            f"it; offloading the optimizer to the CPU would"
        )
    else:
        meaning = "the tools to build fused and offloaded optimizers on first use are there"
    present = version("deepspeed") is not None and not missing
    return {"name": "deepspeed ops", "present": present, "version": None, "meaning": meaning}


def _find_tool(name: str) -> str | None:
    """A program on the PATH, beside this Python, or in ``CUDA_HOME``."""
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    cuda = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    folders += [str(Path(cuda) / "bin")] if cuda else ["/usr/local/cuda/bin"]
    return shutil.which(name, path=os.pathsep.join(folders))


def _devices() -> list[dict[str, Any]]:
    cpu = {"name": "CPU", "cores": cpu_cores(), "memory_gb": round(cpu_memory() / 2**30, 1)}
    return [cpu, *_gpus()]


def cpu_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_memory() -> int:
    """Bytes of memory: the machine's, or the container's limit where that is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        path = Path(limit)
        text = path.read_text().strip() if path.is_file() else ""
        if text.isdigit():
            total = min(total, int(text))
    return total


def _gpus() -> list[dict[str, Any]]:
    try:
        import torch
    except (ImportError, OSError) as error:
        return [{"name": "GPU", "problem": f"unknown, torch does not import: {error}"}]
    if not torch.cuda.is_available():
        build = torch.version.cuda or torch.version.hip
        why = (
            f"none visible to torch (built for {build})" if build else "none: torch is a CPU build"
        )
        return [{"name": "GPU", "problem": why}]
    gpus = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = round(properties.total_memory / 2**30, 1)
        capability = f"{properties.major}.{properties.minor}"
        name = f"GPU {index}: {properties.name}"
        gpus.append({"name": name, "memory_gb": memory, "capability": capability})
    return gpus


def as_text(environment: dict[str, Any]) -> str:
    """The environment as aligned tables."""
    versions = [("python", environment["python"]), ("platform", environment["platform"])]
    versions += [(name, found or "absent") for name, found in environment["versions"].items()]
    optional = [(part["name"], _state(part), part["meaning"]) for part in environment["optional"]]
    devices = [(device["name"], device_words(device)) for device in environment["devices"]]
    sections = (("Versions", versions), ("Devices", devices), ("Optional parts", optional))
    return "\n\n".join(f"{title}\n{_aligned(rows)}" for title, rows in sections) + "\n"


def device_words(device: dict[str, Any]) -> str:
    """``2 cores, 8.0 GB``."""
    if "problem" in device:
        return device["problem"]
    words = [f"{device['cores']} cores"] if "cores" in device else []
    words.append(f"{device['memory_gb']} GB")
    if "capability" in device:
        words.append(f"compute capability {device['capability']}")
    return ", ".join(words)


def _state(part: dict[str, Any]) -> str:
    if not part["present"]:
        return "absent"
    return f"present {part['version']}" if part["version"] else "present"


def _aligned(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = (
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Versions, devices and optional parts.")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    options = parser.parse_args(arguments)
    environment = collect()
    text = json.dumps(environment, indent=2) + "\n" if options.json else as_text(environment)
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
