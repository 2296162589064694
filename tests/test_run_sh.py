from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tools.check_scores import shortfalls

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "run.sh", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_help_names_every_verb():
    text = run("help").stdout
    for verb in ("setup", "train CONFIG GPUS", "eval CONFIG CHECKPOINT", "test", "check", "smoke"):
        assert f"bash run.sh {verb}" in text


@pytest.mark.parametrize("arguments", [("trian",), ("--smal",), ("eval", "config.py")])
def test_wrong_calls_end_with_a_word(arguments):
    result = run(*arguments)
    assert result.returncode == 1 and result.stderr.startswith("error: ")


def test_without_python_311_it_says_what_to_install(tmp_path):
    """On a PATH that has the shell's tools and a Python of another version."""
    for name in ("run.sh", "requirements.txt", "requirements-nodeps.txt", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "sha256sum", "cut", "cat", "mkdir", "flock"):
        (tools / name).symlink_to(shutil.which(name))
    other = tools / "python3"
    other.write_text("#!/bin/bash\nexit 1\n")
    other.chmod(0o755)
    result = run("setup", folder=tmp_path, PATH=str(tools), PYTHON="")
    assert result.returncode == 1
    assert "no Python 3.11 was found" in result.stderr and "python3.11-venv" in result.stderr
    assert not (tmp_path / ".venv" / ".installed").exists()


def test_pip_s_own_words_reach_the_user_when_it_fails(tmp_path):
    for name in ("run.sh", "requirements.txt", "requirements-nodeps.txt", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(  # is a Python 3.11, and its pip fails
        '#!/bin/bash\n[[ "$*" == *"pip install"* ]] && { echo "no room on disk" >&2; exit 1; }\n'
    )
    python.write_text(python.read_text() + "exit 0\n")
    python.chmod(0o755)
    result = run("setup", folder=tmp_path)
    assert result.returncode == 1
    assert "no room on disk" in result.stderr and "pip failed" in result.stderr
    assert not (tmp_path / ".venv" / ".installed").exists()


def test_it_runs_in_its_own_environment_although_another_is_active(tmp_path):
    """conda activates its base in every shell; what run.sh installs lies in .venv."""
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    for name in ("run.sh", "requirements.txt", "requirements-nodeps.txt", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for folder in (".venv", "conda"):
        python = tmp_path / folder / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f"#!/bin/bash\necho {folder}\n")
        python.chmod(0o755)
    names = ("requirements.txt", "requirements-nodeps.txt", "constraints.txt")
    content = b"".join((tmp_path / name).read_bytes() for name in names)
    (tmp_path / ".venv" / ".installed").write_text(hashlib.sha256(content).hexdigest())
    conda = tmp_path / "conda"
    result = run(
        *("train", "config.py", "1"),
        folder=tmp_path,
        CONDA_PREFIX=str(conda),
        PATH=f"{conda / 'bin'}:{os.environ['PATH']}",
        CUDA_VISIBLE_DEVICES="",
        PORT="1",
    )
    assert (result.returncode, result.stdout) == (0, ".venv\n"), result.stderr


@pytest.mark.parametrize(
    ("active", "expected"),
    [
        ({}, ".venv"),
        ({"CONDA_PREFIX": "/conda", "CONDA_DEFAULT_ENV": "base"}, ".venv"),
        ({"CONDA_PREFIX": "/conda", "CONDA_DEFAULT_ENV": "mine"}, "active"),
        ({"VIRTUAL_ENV": "/mine"}, "active"),
    ],
)
def test_the_launchers_take_the_chosen_environment(tmp_path, active, expected):
    """In folders whose names have spaces."""
    root = tmp_path / "a clone"
    for folder in (root / ".venv" / "bin", tmp_path / "active"):
        folder.mkdir(parents=True)
        (folder / "python").touch(mode=0o755)
    (root / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "python.sh", root / "tools")
    environment = {"PATH": f"{tmp_path / 'active'}:{os.environ['PATH']}", **active}
    command = 'set -euo pipefail; source tools/python.sh; echo "$PYTHON"'
    told = subprocess.run(
        ["bash", "-c", command], cwd=root, env=environment, capture_output=True, text=True
    )
    assert told.returncode == 0 and f"/{expected}/" in told.stdout, told


@pytest.mark.parametrize(("devices", "count"), [("", 0), ("-1", 0), ("0", 1), ("0,3", 2)])
def test_visible_gpus_are_counted(devices, count):
    command = f'source "{ROOT}/tools/python.sh" && count_gpus'
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": devices}
    told = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True)
    assert told.stdout.strip() == str(count)


def test_scores_below_their_minima_are_named():
    scores = {"a/J&F": 0.7, "b/cIoU": 0.5, "c/cIoU": float("nan")}
    assert shortfalls(scores, {"a/J&F": 0.7}) == []
    found = shortfalls(scores, {"b/cIoU": 0.6, "c/cIoU": 0.1, "d/R1": 0.9})
    assert [line.split(",")[0] for line in found] == [
        "b/cIoU is 0.5000",
        "c/cIoU is nan",
        "d/R1 is missing",
    ]


def test_the_requirements_pin_exact_versions_and_no_machine():
    for path in ROOT.glob("requirements*.txt"):
        for line in path.read_text().splitlines():
            if line and not line.startswith("#"):
                assert line.count("==") == 1 and "+" not in line and "/" not in line, line
    constraints = (ROOT / "constraints.txt").read_text()
    assert "+" not in constraints and "file:" not in constraints and "nvidia" not in constraints
    json.loads((ROOT / ".ci" / "minima.json").read_text())
