"""The small language model's folder that runs of several ranks train, and such a run of one."""

from __future__ import annotations

import pytest

from tests.engine.processes import train
from tests.llava_sam2.scale import parts


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("internvl")
    parts.write_folder(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(parts.FOLDER, str(folder))
        yield folder


@pytest.fixture(scope="session")
def alone(folder, tmp_path_factory):
    """One process with the global batches of two ranks."""
    work_dir = tmp_path_factory.mktemp("alone") / "run"
    run = train(work_dir, config=parts.CONFIG, options=(parts.BOTH,))
    assert run.exit_codes == [0], run.output
    return work_dir
