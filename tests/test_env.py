"""``tools/env.py`` and ``tools/report.py`` as commands."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str, timeout: int = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=timeout, cwd=ROOT
    )


@pytest.fixture(scope="module")
def env_module():
    spec = importlib.util.spec_from_file_location("env_tool", ROOT / "tools" / "env.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def environment(env_module) -> dict:
    return env_module.collect()


def installed(name: str) -> str | None:
    found = [d for d in importlib.metadata.distributions() if d.metadata["Name"] == name]
    return found[0].version if found else None


def test_versions_are_those_installed(environment: dict) -> None:
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    for name in ("torch", "transformers", "mmengine", "deepspeed", "xtuner", "peft"):
        assert environment["versions"][name] == importlib.metadata.version(name)


def test_optional_parts_are_present_or_absent_with_what_that_means(env_module, environment) -> None:
    parts = {part["name"]: part for part in environment["optional"]}
    assert set(parts) == set(env_module.OPTIONAL_LIBRARIES) | {"deepspeed ops"}
    for name, (with_it, without_it) in env_module.OPTIONAL_LIBRARIES.items():
        expected = installed(name)
        assert parts[name]["version"] == expected
        assert parts[name]["present"] == (expected is not None)
        assert parts[name]["meaning"] == (with_it if expected else without_it)


def test_devices_name_the_cores_the_memory_and_each_gpu(environment: dict) -> None:
    import torch

    cpu, *gpus = environment["devices"]
    total_kb = next(
        int(line.split()[1])
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemTotal")
    )
    assert 1 <= cpu["cores"] and 0 < cpu["memory_gb"] <= total_kb / 2**20 + 0.1
    if torch.cuda.is_available():
        assert len(gpus) == torch.cuda.device_count() and all(g["memory_gb"] > 0 for g in gpus)
    else:
        assert len(gpus) == 1 and gpus[0]["problem"].startswith("none")


def test_columns_are_aligned(env_module, environment: dict) -> None:
    text = env_module.as_text(environment)
    optional = text.split("Optional parts\n")[1].splitlines()
    starts = {
        line.index(part["meaning"])
        for line, part in zip(optional, environment["optional"], strict=True)
    }
    assert len(starts) == 1
    assert all(len(line) == len(line.rstrip()) for line in text.splitlines())


def test_a_missing_compiler_is_named(env_module, monkeypatch) -> None:
    monkeypatch.setattr(env_module, "_find_tool", lambda name: None if name == "nvcc" else name)
    part = env_module._compiled_ops()
    assert not part["present"] and part["meaning"].startswith("not found: nvcc;")


def test_the_command_prints_json_or_a_table_even_without_any_library() -> None:
    bare = run("-S", "tools/env.py", "--json")
    assert bare.returncode == 0, bare.stderr
    found = json.loads(bare.stdout)
    assert set(found["versions"].values()) == {None}
    assert "torch does not import" in found["devices"][1]["problem"]
    table = run("-S", "tools/env.py")
    assert table.returncode == 0
    assert [line for line in table.stdout.splitlines() if line.split() == ["torch", "absent"]]


def test_the_report_command_prints_the_scores_and_the_path(tmp_path: Path) -> None:
    work_dir = tmp_path / "toy"
    work_dir.mkdir()
    (work_dir / "scores.json").write_text('{"refcoco_val/cIoU": 0.123456, "davis_val/J&F": 0.8}')
    done = run("tools/report.py", str(work_dir))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "  refcoco_val/cIoU  0.123" in lines and "  davis_val/J&F     0.800" in lines
    assert lines[-1] == f"Report: {work_dir / 'report.html'}"
    page = (work_dir / "report.html").read_text()
    assert importlib.metadata.version("torch") in page


def test_the_report_command_fails_with_one_line_when_there_is_nothing(tmp_path: Path) -> None:
    done = run("tools/report.py", str(tmp_path))
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("report: ") and "run the evaluation first" in done.stderr
    assert list(tmp_path.iterdir()) == []
