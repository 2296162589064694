"""Every DeepSpeed config that can be named trains, and as a run without DeepSpeed does."""

from __future__ import annotations

import json

import numpy as np
import pytest

from projects.common.engine.memory import Run
from projects.common.engine.runner import planned_run, zero_stage
from projects.common.engine.zero import complete_config, named_config
from tests.engine.processes import train

OPTIONS = ("model.dropout=0.0", "train_cfg.max_steps=4", "checkpoint.interval=4")
NAMES = {  # name: stage, what is held outside of the GPU, and the estimate's word
    "deepspeed_zero1": (1, {}),
    "deepspeed_zero2": (2, {}),
    "deepspeed_zero2_offload": (2, {"offload_optimizer": "optimizer"}),
    "deepspeed_zero3": (3, {}),
    "deepspeed_zero3_offload": (3, {"offload_optimizer": "optimizer", "offload_param": "all"}),
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> list[float]:
    work_dir = tmp_path_factory.mktemp("plain") / "run"
    run = train(work_dir, options=OPTIONS)
    assert run.exit_codes == [0], run.output
    return losses(work_dir)


def losses(work_dir) -> list[float]:
    lines = (work_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_what_it_says(name):
    stage, offloaded = NAMES[name]
    assert zero_stage(name) == stage
    config = complete_config(named_config(name), batch_size=4, accumulate=1, max_norm=1.0)
    assert {k for k in config["zero_optimization"] if k.startswith("offload")} == set(offloaded)
    assert planned_run(8, name) == Run(8, stage, ["none", *offloaded.values()][-1])


# zero2 and zero3 train in test_training.py, in two processes
@pytest.mark.parametrize(
    "name", ["deepspeed_zero1", "deepspeed_zero2_offload", "deepspeed_zero3_offload"]
)
def test_a_name_trains(name, expected, tmp_path):
    run = train(tmp_path / "run", "--deepspeed", name, options=OPTIONS)
    assert run.exit_codes == [0], run.output
    np.testing.assert_allclose(losses(tmp_path / "run"), expected, rtol=1e-5)


def test_another_name_is_answered_with_all_names():
    with pytest.raises(ValueError, match=", ".join(NAMES)):
        named_config("deepspeed_zero4")
