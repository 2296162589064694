"""Two ranks that share the tokens of a batch train as one process with that batch does."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from projects.common import sequence
from projects.common.engine.config import check_config, load_config, plain
from projects.llava_sam2.structures import collate_grounding
from tests.engine import processes
from tests.engine.processes import CONFIG as DUMMY
from tests.engine.processes import metrics, train
from tests.llava_sam2.scale import parts

TOUCH = "model.touch_all=True"  # plain data parallelism wants a gradient everywhere
SHARED = (TOUCH, "sequence_parallel_size=2")


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("alone") / "run"
    run = train(work_dir, config=parts.CONFIG, options=(TOUCH,))
    assert run.exit_codes == [0], run.output
    return work_dir


@pytest.mark.parametrize("name", [None, "deepspeed_zero2"])
def test_two_ranks_are_one(name, alone, tmp_path):
    """Losses of every head step by step, and all that trains at the end."""
    arguments = ("--deepspeed", name) if name else ()
    run = train(tmp_path / "run", *arguments, processes=2, config=parts.CONFIG, options=SHARED)
    assert run.exit_codes == [0, 0], run.output
    ours, theirs = metrics(tmp_path / "run"), metrics(alone)
    assert len(ours) == len(theirs) == 5 and {line["task"] for line in ours} == {
        "segment",
        "temporal",
    }
    for own, expected in zip(ours, theirs, strict=True):
        keys = [key for key in expected if key.startswith("loss")]
        assert [own[key] for key in keys] == pytest.approx([expected[key] for key in keys], 1e-5)
    weights = [load_file(d / "model.safetensors") for d in (tmp_path / "run", alone)]
    for key, expected in weights[1].items():
        np.testing.assert_allclose(weights[0][key], expected, rtol=1e-3, atol=1e-5, err_msg=key)


def gradients(samples) -> dict[str, torch.Tensor]:
    """Of the hidden states' weighted sum, averaged over ranks as engines do."""
    mllm = parts.mllm().train()
    batch = collate_grounding(samples)
    hidden = mllm(batch.input_ids, batch.attention_mask, batch.pixel_values)
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))
    (hidden * weights)[batch.attention_mask].sum().backward()
    found = {n: p.grad for n, p in mllm.named_parameters() if p.grad is not None}
    found["hidden"] = (hidden * batch.attention_mask[..., None]).detach()
    for value in found.values() if dist.is_initialized() else ():
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return found


def some_samples():
    """Of odd lengths: the longest has a number of tokens that two ranks cannot share evenly."""
    images = parts.Samples(kind="image", length=3)
    samples = [images[parts.Draw(0, index, 0)] for index in range(3)]
    if max(len(sample.input_ids) for sample in samples) % 2 == 0:
        samples[-1].input_ids = torch.cat([samples[-1].input_ids, samples[-1].input_ids[-1:]])
        samples[-1].labels = torch.cat([samples[-1].labels, samples[-1].labels[-1:]])
    return samples


def worker(rank: int, port: int, folder: str, out: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ[parts.FOLDER] = folder
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        sequence.start(2)
        assert (sequence.size(), sequence.data_rank(), sequence.data_ranks()) == (2, 0, 1)
        found = gradients(some_samples())
        if rank == 0:
            torch.save(found, out)
    finally:
        dist.destroy_process_group()


def test_gradients_and_hidden_states_are_those_of_one_rank(folder, tmp_path):
    out = tmp_path / "found.pt"
    processes.run(worker, processes.free_port(), str(folder), str(out))
    found = torch.load(out, weights_only=True)
    samples = some_samples()
    assert max(len(sample.input_ids) for sample in samples) % 2 == 1
    expected = gradients(samples)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5 * max(scale, 1))


def test_mistakes_are_found_before_anything_is_read(folder, monkeypatch):
    tree = plain(load_config(parts.CONFIG))
    for size, words in (
        (3, "sequence_parallel_size: 3 does not divide the 4 processes"),
        (0, "sequence_parallel_size: 0 is no whole number from 1 on"),
        ("two", "'two' is no whole number"),
    ):
        with pytest.raises(ValueError, match=words):
            check_config(tree | {"sequence_parallel_size": size}, processes=4)
    check_config(tree | {"sequence_parallel_size": 2}, processes=4)
    with pytest.raises(ValueError, match="DummyModel has no text to share out"):
        check_config(plain(load_config(DUMMY)) | {"sequence_parallel_size": 2}, processes=2)

    monkeypatch.setattr(sequence, "size", lambda: 4)
    read = []
    monkeypatch.setattr("projects.llava_sam2.hf.internvl.load_internvl", read.append)
    with pytest.raises(ValueError, match="4 must divide the 4 heads .* and its 2 for keys"):
        parts.mllm()
    assert not read and Path(os.environ[parts.FOLDER]).is_dir()
