"""The arrows of docs/architecture.md, read off the import statements."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

ALLOWED = {  # package: what it may import besides itself
    "common": set(),
    "sam2_video": {"common"},
    "llava_sam2": {"sam2_video", "common"},
    "sav_finetune": {"sam2_video", "common"},
    "toy_world": {"common"},
}
NEVER = {  # inside a project: a folder, and what it must not import
    "models": {"datasets", "data", "evaluation", "demo", "predictor"},
    "modeling": {"datasets", "data", "evaluation", "demo", "predictor"},
    "datasets": {"models", "modeling", "evaluation", "demo", "predictor"},
    "data": {"models", "modeling", "evaluation", "demo", "predictor"},
}


def imported_modules(path: Path, root: Path = ROOT) -> set[str]:
    """Full names of all modules under ``projects``, ``tools`` or ``tests`` that a file imports,
    wherever in the file; ``from a import b`` counts as ``a.b``."""
    found = set()
    package = path.relative_to(root).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            found |= {f"{source}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("projects", "tools", "tests")}


def violations(root: Path) -> list[str]:
    found = []
    for path in sorted((root / "projects").rglob("*.py")):
        relative = path.relative_to(root)
        for name in sorted(imported_modules(path, root)):
            problem = _problem(relative.with_suffix("").parts, name.split("."))
            if problem:
                found.append(f"{relative} imports {name}: {problem}")
    return found


def _problem(parts: tuple[str, ...], target: list[str]) -> str | None:
    if target[0] != "projects":
        return "projects import neither tools nor tests"
    if len(target) < 2 or len(parts) < 3:
        return None
    here, there = parts[1], target[1]
    if there in ALLOWED and there != here and there not in ALLOWED[here]:
        return f"{here} may import {sorted(ALLOWED[here]) or 'no other project'}"
    if "configs" in target[2:3] and parts[2] != "configs":
        return "configs are imported by configs only"
    if there == here and len(target) > 2 and target[2] in NEVER.get(parts[2], ()):
        return f"{parts[2]} never import {target[2]}"
    return None


def test_the_layers_hold():
    assert violations(ROOT) == []


def test_every_project_has_its_rule():
    packages = {
        path.name for path in (ROOT / "projects").iterdir() if (path / "__init__.py").exists()
    }
    assert packages == set(ALLOWED)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("projects/common/a.py", "from projects.sam2_video import predictor"),
        ("projects/common/a.py", "def f():\n    import projects.llava_sam2.models.sa2va"),
        ("projects/toy_world/a.py", "from projects.sam2_video.data import clip"),
        ("projects/sam2_video/modeling/a.py", "from ..data.clip import Clip"),
        ("projects/sam2_video/modeling/a.py", "from projects.sam2_video import data"),
        ("projects/llava_sam2/datasets/a.py", "from projects.llava_sam2.models.mllm import x"),
        ("projects/llava_sam2/models/a.py", "from projects.sam2_video.configs.toy import model"),
        ("projects/sam2_video/losses.py", "from tools.train import main"),
    ],
)
def test_a_broken_layer_is_found(tmp_path, file, line):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert len(violations(tmp_path)) == 1


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("projects/llava_sam2/models/a.py", "from projects.sam2_video.modeling import blocks"),
        ("projects/llava_sam2/configs/b.py", "from .a import *"),
        ("projects/sam2_video/evaluation/a.py", "from projects.sam2_video.data import png"),
        ("projects/toy_world/a.py", "from projects import common"),
    ],
)
def test_an_allowed_arrow_passes(tmp_path, file, line):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert violations(tmp_path) == []
