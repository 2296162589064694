"""Two ranks of which one has images and the other videos, or words alone, or a picture without
[SEG], or an empty mask, or both have features.

Under ZeRO-3 a rank that calls one module more than the other waits for ever, and DeepSpeed would
move what a step does not use by the gradient of an earlier one. Plain SGD shows both: it moves
nothing without a gradient.
"""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.torch import load_file

from projects.common.engine.config import load_config, plain
from projects.common.samplers import StepBatchSampler
from tests.engine.processes import metrics, train
from tests.llava_sam2.scale import parts


def test_the_ranks_differ_as_they_should():
    """What the runs below rest on: these seeds give every pair of kinds that matters."""
    tree = plain(load_config(parts.CONFIG))
    kinds = [entry["dataset"]["kind"] for entry in tree["train_dataloader"]["datasets"]]
    ranks = [
        StepBatchSampler(
            lengths=[entry["dataset"]["length"] for entry in tree["train_dataloader"]["datasets"]],
            repeats=[1.0] * len(kinds),
            tasks=["temporal" if kind == "features" else "segment" for kind in kinds],
            batch_size=1,
            seed=tree["seed"],
            max_steps=tree["train_cfg"]["max_steps"],
            rank=rank,
            world_size=2,
        )
        for rank in range(2)
    ]
    pairs = [{kinds[draws[0].dataset] for draws in step} for step in zip(*ranks, strict=True)]
    for other in ("image", "words", "seen", "empty"):
        assert {"video", other} in pairs
    assert {"features"} in pairs  # a step has one task on all ranks


@pytest.mark.parametrize("name", ["deepspeed_zero2", "deepspeed_zero3"])
def test_two_processes_are_one(name, alone, tmp_path):
    run = train(tmp_path / "run", "--deepspeed", name, processes=2, config=parts.CONFIG)
    assert run.exit_codes == [0, 0], run.output
    ours, theirs = metrics(tmp_path / "run"), metrics(alone)
    assert len(ours) == len(theirs) == 6
    for key in {key for line in theirs for key in line if key.startswith("loss")}:
        np.testing.assert_allclose(
            [line.get(key, 0.0) for line in ours],
            [line.get(key, 0.0) for line in theirs],
            rtol=1e-4,
            atol=1e-6,
            err_msg=key,
        )
    weights = [load_file(d / "model.safetensors") for d in (tmp_path / "run", alone)]
    assert weights[0].keys() == weights[1].keys()
    for key, expected in weights[1].items():
        np.testing.assert_allclose(weights[0][key], expected, rtol=1e-3, atol=2e-5, err_msg=key)
