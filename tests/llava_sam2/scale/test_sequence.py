"""Two ranks that share the tokens of a batch train as one process with that batch does."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from projects.common import sequence
from projects.common.conversation import load_tokenizer
from projects.common.engine.check import check_config
from projects.common.engine.config import load_config, plain
from projects.llava_sam2.structures import collate_grounding
from tests.engine import group
from tests.engine.processes import CONFIG as DUMMY
from tests.engine.processes import metrics, train
from tests.llava_sam2.models.test_qwen_vl import build, make_sample, tokenizer  # noqa: F401
from tests.llava_sam2.scale import parts

SHARED = ("sequence_parallel_size=2", parts.BOTH)
LAUNCHERS = {  # plain data parallelism wants a gradient everywhere
    "ddp": ((), ("model.touch_all=True",)),
    "zero2": (("--deepspeed", "deepspeed_zero2"), ()),
    "zero3": (("--deepspeed", "deepspeed_zero3"), ()),
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_ranks_are_one(launcher, alone, tmp_path):
    """Losses of every head step by step, and all that trains at the end; two samples, padded."""
    arguments, options = LAUNCHERS[launcher]
    run = train(
        tmp_path / "run",
        *arguments,
        processes=2,
        config=parts.CONFIG,
        options=(*SHARED, *options),
    )
    assert run.exit_codes == [0, 0], run.output
    ours, theirs = metrics(tmp_path / "run"), metrics(alone)
    assert len(ours) == len(theirs) and {line["task"] for line in ours} == {"segment", "temporal"}
    for own, expected in zip(ours, theirs, strict=True):
        keys = [key for key in expected if key.startswith("loss")]
        assert [own[key] for key in keys] == pytest.approx([expected[key] for key in keys], 1e-5)
    weights = [load_file(d / "model.safetensors") for d in (tmp_path / "run", alone)]
    for key, expected in weights[1].items():
        np.testing.assert_allclose(weights[0][key], expected, rtol=1e-3, atol=1e-5, err_msg=key)


def gradients(mllm, batch) -> dict[str, torch.Tensor]:
    """Of the hidden states' weighted sum, averaged over ranks as engines do."""
    mllm.train()
    hidden = mllm(batch.input_ids, batch.attention_mask, batch.pixel_values)
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))
    (hidden * weights)[batch.attention_mask].sum().backward()
    found = {n: p.grad for n, p in mllm.named_parameters() if p.grad is not None}
    found["hidden"] = (hidden * batch.attention_mask[..., None]).detach()
    for value in found.values() if dist.is_initialized() else ():
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return found


def intern_vl(folder: str):
    os.environ[parts.FOLDER] = folder
    return parts.mllm(), collate_grounding(some_samples())


def qwen3_vl(folder: str):
    """Two images and one: visual tokens in both halves of a text, and most of them in one."""
    mllm = build("3", load_tokenizer(folder))
    samples = [make_sample(mllm, 1, pictures=2), make_sample(mllm, 2, ["red circle"] * 4)]
    return mllm, collate_grounding([odd(sample) for sample in samples])


def some_samples():
    images = parts.Samples(kind="image", length=3)
    return [odd(images[parts.Draw(0, index, 0)]) for index in range(3)]


def odd(sample):
    """With a number of tokens that two ranks cannot share evenly."""
    if len(sample.input_ids) % 2 == 0:
        sample.input_ids = torch.cat([sample.input_ids, sample.input_ids[-1:]])
        sample.labels = torch.cat([sample.labels, sample.labels[-1:]])
    return sample


def check_gradients(case: Callable, folder: str, out: str) -> None:
    sequence.start(2)
    assert (sequence.size(), sequence.data_rank(), sequence.data_ranks()) == (2, 0, 1)
    found = gradients(*case(folder))
    if dist.get_rank() == 0:
        torch.save(found, out)


@pytest.mark.parametrize("case", [intern_vl, qwen3_vl])
def test_gradients_and_hidden_states_are_those_of_one_rank(case, folder, tokenizer, tmp_path):  # noqa: F811
    source = str(folder) if case is intern_vl else str(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    group.run(check_gradients, case, source, str(tmp_path / "found.pt"))
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    mllm, batch = case(source)
    assert batch.input_ids.shape[1] % 2 == 1 and not batch.attention_mask.all()
    expected = gradients(mllm, batch)
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
