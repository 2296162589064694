"""Shards of real ZeRO runs and of made ones, put together without running anything in them."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import load_file

from projects.llava_sam2.hf.zero_shards import Inert, find_shards, merge_shards, open_shards
from tests.engine.processes import train
from tools import convert_zero_checkpoint

OPTIONS = ("train_cfg.max_steps=3", "checkpoint.interval=3", "train_dataloader.batch_size=2")


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_real_run_of_two_processes(tmp_path, stage):
    """Against the weights that the engine gathers itself and writes beside the shards."""
    work_dir = tmp_path / "run"
    run = train(work_dir, "--deepspeed", f"deepspeed_zero{stage}", processes=2, options=OPTIONS)
    assert run.exit_codes == [0, 0], run.output
    out = tmp_path / "out.safetensors"
    assert convert_zero_checkpoint.main([str(work_dir), str(out)]) == 0
    found, wanted = load_file(out), load_file(work_dir / "iter_3.pth" / "model.safetensors")
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


# ---- made by hand, as DeepSpeed's documentation of the files says ------------------------------

SHAPES = [
    OrderedDict(a=torch.Size([3, 5]), b=torch.Size([7])),
    OrderedDict(c=torch.Size([2, 2, 2]), d=torch.Size([1])),
]


def values():
    draw = torch.Generator().manual_seed(0)
    return {n: torch.randn(s, generator=draw) for group in SHAPES for n, s in group.items()}


def write(folder, stage, ranks, *, prefix="", extra=None):
    """A DeepSpeed folder of ``ranks`` processes; returns what it should give."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = values()
    names = ["zero_pp_rank_0_mp_rank_00" if stage == 3 else "mp_rank_00"]
    model = {
        "module": {"table": torch.arange(4.0), "a": torch.zeros(3, 5)},
        "buffer_names": ["table"],
        "param_shapes": SHAPES,
        "shared_params": {"twin": "b"},
        "extra": extra,
    }
    torch.save(model, folder / f"{names[0]}_model_states.pt")
    for rank in range(ranks):
        inner = {"zero_stage": stage, "partition_count": ranks, "moments": torch.zeros(3)}
        if stage == 3:
            flat = []
            for group in SHAPES:
                parts = []
                for name in group:
                    size = -(-whole[name].numel() // ranks)
                    padded = torch.zeros(size * ranks)
                    padded[: whole[name].numel()] = whole[name].flatten()
                    parts.append(padded[rank * size : (rank + 1) * size])
                flat.append(torch.cat(parts))
            inner["fp32_flat_groups"] = flat
        else:
            inner["partition_count"] = [ranks] * len(SHAPES)
            parts = []
            for group in SHAPES:
                vector = torch.cat([whole[name].flatten() for name in group])
                align = 2 * ranks
                padded = torch.zeros(-(-len(vector) // align) * align)
                padded[: len(vector)] = vector
                parts.append(padded.chunk(ranks)[rank])
            inner["single_partition_of_fp32_groups"] = parts
        file = folder / f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        torch.save({"optimizer_state_dict": inner}, file)
    return whole | {"table": torch.arange(4.0), "twin": whole["b"]}


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("ranks", [1, 2, 3, 12])
def test_made_shards(tmp_path, stage, ranks):
    wanted = write(tmp_path / "global_step9", stage, ranks, prefix="bf16_")
    (tmp_path / "latest").write_text("global_step9")
    shards = open_shards(find_shards(tmp_path))
    assert (shards.stage, len(shards.ranks)) == (stage, ranks)
    found = merge_shards(shards)
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


class Harm:
    def __init__(self, path, run):
        self.path, self.run = path, run

    def __reduce__(self):
        return self.run, (str(self.path),)


def make_folder(path):
    os.mkdir(path)


def test_nothing_in_a_shard_is_run(tmp_path):
    harm = Harm(tmp_path / "harmed", make_folder)
    wanted = write(tmp_path / "zero", 2, 2, extra={"log": harm})
    found = merge_shards(open_shards(tmp_path / "zero"))
    assert set(found) == set(wanted) and not harm.path.exists()
    with pytest.raises(FileExistsError):  # and it would have been
        harm.path.mkdir()
        pickle.loads(pickle.dumps(harm))


def test_a_shard_that_calls_the_system_is_refused(tmp_path):
    write(tmp_path / "zero", 2, 2, extra={"log": Harm(tmp_path / "harmed", os.mkdir)})
    with pytest.raises(ValueError, match="module posix is blocked"):
        open_shards(tmp_path / "zero")
    assert not (tmp_path / "harmed").exists()


def test_a_stage_written_as_deepspeeds_enum(tmp_path):
    from deepspeed.runtime.zero.config import ZeroStageEnum

    write(tmp_path / "zero", ZeroStageEnum.gradients, 2)
    shards = open_shards(tmp_path / "zero")
    assert shards.stage == 2 and isinstance(shards.ranks[0]["zero_stage"], Inert)


def test_a_missing_rank_is_named(tmp_path, capsys):
    write(tmp_path / "zero", 3, 3)
    (tmp_path / "zero" / "zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    out = tmp_path / "out.safetensors"
    assert convert_zero_checkpoint.main([str(tmp_path), str(out)]) == 1
    assert "lacks the shards of the ranks [1]" in capsys.readouterr().err
    (tmp_path / "zero" / "zero_pp_rank_2_mp_rank_00_optim_states.pt").unlink()
    assert convert_zero_checkpoint.main([str(tmp_path), str(out)]) == 1
    assert "written by 3 processes, and holds the shards of 1" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("stage", [2, 3])
def test_shards_of_another_model(tmp_path, stage):
    write(tmp_path / "zero", stage, 2)
    file = next((tmp_path / "zero").glob("*model_states.pt"))
    model = torch.load(file, weights_only=True)
    model["param_shapes"] = [SHAPES[0], OrderedDict(c=torch.Size([40]))]
    torch.save(model, file)
    with pytest.raises(ValueError, match="files mixed"):
        merge_shards(open_shards(tmp_path / "zero"))
    model["param_shapes"] = [SHAPES[0], OrderedDict(d=torch.Size([1]))]
    torch.save(model, file)
    with pytest.raises(ValueError, match="have a name"):
        merge_shards(open_shards(tmp_path / "zero"))


def test_what_is_no_checkpoint(tmp_path, capsys):
    out = str(tmp_path / "out.safetensors")
    assert convert_zero_checkpoint.main([str(tmp_path), out]) == 1
    assert "holds no shards of DeepSpeed" in capsys.readouterr().err
    write(tmp_path / "zero", 2, 1)
    file = tmp_path / "zero" / "mp_rank_00_model_states.pt"
    file.write_bytes(file.read_bytes()[:500])
    assert convert_zero_checkpoint.main([str(tmp_path), out]) == 1
    assert "is broken, or no file of torch" in capsys.readouterr().err
    assert convert_zero_checkpoint.main([str(tmp_path), str(tmp_path / "out.pt")]) == 1
    assert "written as a .safetensors file" in capsys.readouterr().err
    write(tmp_path / "zero", 2, 1)
    (tmp_path / "out.safetensors").write_text("mine")
    assert convert_zero_checkpoint.main([str(tmp_path), out]) == 1
    assert (tmp_path / "out.safetensors").read_text() == "mine"
    assert convert_zero_checkpoint.main([str(tmp_path), out, "--force"]) == 0
