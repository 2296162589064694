"""Random numbers from explicit seeds only."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from mmengine.hooks import Hook

from projects.common import sequence


def seed_everything(*numbers: int) -> None:
    """Seed torch, numpy and python from a tuple of numbers, e.g. (seed, step, rank)."""
    first, second = (int(n) for n in np.random.SeedSequence(numbers).generate_state(2))
    torch.manual_seed(first << 32 | second)
    np.random.seed(first)
    random.seed(first)


@contextmanager
def undisturbed_randomness() -> Iterator[None]:
    """Whatever is drawn inside, the generators outside go on as if nothing had been drawn."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


class StepSeedHook(Hook):
    """Seeds each step from (seed, step, rank), so that dropout after a resume is what it would
    have been without the interruption. Ranks that share a sequence count as one."""

    priority = "VERY_HIGH"

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        seed_everything(self.seed, batch_idx, sequence.data_rank())
