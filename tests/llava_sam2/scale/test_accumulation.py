"""Steps accumulated over batches and ranks are those of one process with all samples in a batch.

Images, videos, words alone, pictures without [SEG] and empty masks: every batch of every rank has
another number of supervised tokens and of masks, so that a mean of means would be something else.
"""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.engine.processes import metrics, train
from tests.llava_sam2.scale.test_sequence import LAUNCHERS

CONFIG = "tests/llava_sam2/scale/one_task_config.py"
IN_PARTS = (
    "train_cfg.max_steps=4",
    "checkpoint.interval=4",
    "optim_wrapper.accumulative_counts=2",
)
AT_ONCE = ("train_cfg.max_steps=2", "checkpoint.interval=2", "train_dataloader.batch_size=4")


@pytest.fixture(scope="module")
def at_once(folder, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("at_once") / "run"
    run = train(work_dir, config=CONFIG, options=AT_ONCE)
    assert run.exit_codes == [0], run.output
    return work_dir


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_batches_of_two_ranks_are_one_batch(launcher, at_once, tmp_path):
    arguments, options = LAUNCHERS[launcher]
    work_dir = tmp_path / "run"
    run = train(work_dir, *arguments, processes=2, config=CONFIG, options=(*IN_PARTS, *options))
    assert run.exit_codes == [0, 0], run.output
    ours, theirs = metrics(work_dir), metrics(at_once)
    for key in {key for line in theirs for key in line if key.startswith("loss")}:
        parts = np.array([line.get(key, 0.0) for line in ours]).reshape(2, 2)
        np.testing.assert_allclose(
            parts.mean(1), [line.get(key, 0.0) for line in theirs], rtol=1e-4, err_msg=key
        )
    weights = [load_file(d / "model.safetensors") for d in (work_dir, at_once)]
    assert weights[0].keys() == weights[1].keys()
    for key, expected in weights[1].items():
        np.testing.assert_allclose(weights[0][key], expected, rtol=1e-3, atol=2e-5, err_msg=key)
