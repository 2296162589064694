"""ZeRO-3 reads a folder of weights without any rank holding the whole model."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from projects.common.engine.checkpoints import frozen_fingerprints
from projects.common.partition import cutting, is_cut, whole
from projects.llava_sam2.hf import sa2va_from_folder
from tests.engine import processes
from tests.engine.processes import train
from tests.llava_sam2.hf.test_grounded import write_release
from tests.llava_sam2.scale import parts

CONFIG = "tests/llava_sam2/scale/config.py"
HIDDEN = 512
FLOAT = 4
LORA = dict(rank=2, alpha=4, targets=["q_proj"])
ZERO_3 = ("--deepspeed", "deepspeed_zero3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("internvl")
    parts.write_folder(folder, hidden=HIDDEN, layers=6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(parts.FOLDER, str(folder))
        yield folder


def options(note, *further) -> tuple[str, ...]:
    return (
        "model.mllm.type=tests.llava_sam2.scale.parts.measured_mllm",
        f"model.mllm.note={note}",
        f"model.heads.segment.projector.hidden={HIDDEN}",
        f"model.heads.temporal.projector.out={HIDDEN}",
        "train_cfg.max_steps=2",
        "checkpoint.interval=2",
        *further,
    )


def run(tmp_path, name, *arguments, processes=1, further=()):
    work_dir = tmp_path / name
    done = train(
        work_dir,
        *arguments,
        processes=processes,
        config=CONFIG,
        options=options(tmp_path / f"{name}_peak", *further),
    )
    peaks = [tmp_path / f"{name}_peak.{rank}" for rank in range(processes)]
    return done, work_dir, [int(peak.read_text()) for peak in peaks if peak.is_file()]


def losses(work_dir) -> list[float]:
    lines = (work_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def stored(folder) -> int:
    """Numbers in the tensors of a folder."""
    count = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="np") as opened:
            shapes = [opened.get_slice(name).get_shape() for name in opened.keys()]
            count += sum(int(np.prod(shape)) for shape in shapes)
    return count


def test_two_ranks_hold_half_each_and_train_as_one(folder, tmp_path):
    batch = ("train_dataloader.batch_size=2",)
    done, alone, peak_alone = run(tmp_path, "alone", further=batch)
    assert done.exit_codes == [0], done.output
    done, zero3, peaks = run(tmp_path, "zero3", *ZERO_3, processes=2)
    assert done.exit_codes == [0, 0], done.output

    all_bytes = FLOAT * stored(folder)
    assert 0.95 * all_bytes < peak_alone[0]  # the measure sees a model that is held whole
    for peak in peaks:
        assert peak < 0.6 * all_bytes  # half, a tensor or two, and what building takes itself

    np.testing.assert_allclose(losses(zero3), losses(alone), rtol=1e-4)
    gathered, expected = (load_file(d / "model.safetensors") for d in (zero3, alone))
    assert gathered.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(gathered[name], value, rtol=1e-3, atol=2e-5, err_msg=name)


def test_a_missing_tensor_ends_all_ranks_before_any_is_read(folder, tmp_path, monkeypatch):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in folder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    index = broken / "model.safetensors.index.json"
    places = json.loads(index.read_text())
    lost = next(name for name in places["weight_map"] if "language_model.model.layers" in name)
    file = broken / places["weight_map"].pop(lost)
    index.write_text(json.dumps(places))
    state = load_file(file)
    del state[lost]
    save_file(state, file, metadata={"format": "pt"})
    monkeypatch.setenv(parts.FOLDER, str(broken))
    done, work_dir, peaks = run(tmp_path, "run", *ZERO_3, processes=2)
    assert 0 not in done.exit_codes and not peaks
    assert "1 missing" in done.output and "Nothing was loaded" in done.output
    assert not (work_dir / "metrics.jsonl").is_file()


def load_release(rank: int, port: int, folder: str) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", DS_ACCELERATOR="cpu")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    from projects.common.engine.zero import complete_config, make_cutter, named_config

    config = complete_config(
        named_config("deepspeed_zero3"), batch_size=1, accumulate=1, max_norm=0.0
    )
    options = dict(path=folder, trainable=["mllm.model.lm_head"], lora=LORA)
    torch.manual_seed(1)
    expected = sa2va_from_folder(**options)
    torch.manual_seed(1)
    try:
        with cutting(make_cutter(config)):
            model = sa2va_from_folder(**options)
        for name, parameter in model.named_parameters():
            from_folder = name.startswith("mllm.") and ".lora_" not in name
            assert is_cut(parameter) == from_folder, name
            with whole([parameter]):
                plain = expected.get_parameter(name)
                assert parameter.dtype == plain.dtype and torch.equal(parameter, plain), name
        assert frozen_fingerprints(model) == frozen_fingerprints(expected)
    finally:
        dist.destroy_process_group()


def test_a_released_grounded_model_is_cut_as_it_is_read(tmp_path):
    write_release(tmp_path, "sa2va")
    processes.run(load_release, processes.free_port(), str(tmp_path))
