from __future__ import annotations

from functools import partial

import pytest
import torch

from projects.llava_sam2.models.toy import toy_internvl
from projects.llava_sam2.structures import collate_grounding
from tests.llava_sam2.models import toy_parts


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="package")
def tokenizer(tmp_path_factory):
    return toy_parts.word_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def mllm(tokenizer):
    return toy_internvl(tokenizer=tokenizer, seed=1).eval()


@pytest.fixture
def build_model(tokenizer):
    return partial(toy_parts.toy_model, tokenizer)


@pytest.fixture
def make_sample(tokenizer):
    return partial(toy_parts.make_sample, tokenizer)


@pytest.fixture
def collate():
    return lambda *samples: collate_grounding(samples)
