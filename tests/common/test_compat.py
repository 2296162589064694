from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
import transformers.utils

from projects.common import compat

ROOT = Path(__file__).resolve().parents[2]


def test_torchvision_and_its_operators_are_known_after_the_import():
    import torchvision.transforms.v2  # noqa: F401

    assert hasattr(torch.ops.torchvision, "nms") and hasattr(torch.ops.torchvision, "qnms")


def test_apply_twice_changes_nothing():
    before = (list(compat._SCHEMAS), transformers.utils.is_safetensors_available)
    compat.apply()
    assert (list(compat._SCHEMAS), transformers.utils.is_safetensors_available) == before


def test_pinned_libraries_import_in_a_fresh_process_after_projects():
    code = (
        "import projects, torchvision.transforms.v2, timm\n"
        "from transformers import InternVLForConditionalGeneration, Sam2VideoModel\n"
        "from xtuner.utils import PROMPT_TEMPLATE\n"
        "assert PROMPT_TEMPLATE.internlm2_chat.SUFFIX\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=900)


def test_the_text_of_a_config_is_laid_out_once(monkeypatch):
    from mmengine.config import Config
    from yapf.yapflib import reformatter

    calls = []
    original = reformatter.Reformat
    monkeypatch.setattr(reformatter, "Reformat", lambda *a: calls.append(1) or original(*a))
    cfg = Config({"test_compat": {"numbers": list(range(40))}})
    first = cfg.pretty_text
    assert len(calls) == 1 and cfg.pretty_text == first and len(calls) == 1
    cfg.test_compat.numbers[7] = -1
    assert cfg.pretty_text == first.replace(" 7,", " -1,", 1) and len(calls) == 2
