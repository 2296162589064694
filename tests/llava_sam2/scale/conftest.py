"""The small language model's folder that runs of several ranks train."""

from __future__ import annotations

import pytest

from tests.llava_sam2.scale import parts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("internvl")
    parts.write_folder(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(parts.FOLDER, str(folder))
        yield folder
