"""Checks that run in two processes at once, in a gloo group, with or without ZeRO-3's cutting."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn

from projects.common.partition import cutting
from tests.engine import processes


def run(check: Callable[..., None], *arguments: Any) -> None:
    """Call ``check(*arguments)`` on two ranks; an exception of either is raised here."""
    processes.run(_enter, check, processes.free_port(), arguments)


def _enter(rank: int, check: Callable[..., None], port: int, arguments: tuple) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", DS_ACCELERATOR="cpu")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    try:
        check(*arguments)
    finally:
        dist.destroy_process_group()


@contextmanager
def cutting_as_zero3() -> Iterator[list[int]]:
    """Inside, parameters are cut as ZeRO-3 does.

    Gives a list of the bytes that all parameters made inside took, in parts or whole: before each
    cut, and whenever cut ones were put together.
    """
    import deepspeed

    from projects.common.engine.zero import complete_config, make_cutter, named_config

    config = complete_config(
        named_config("deepspeed_zero3"), batch_size=1, accumulate=1, max_norm=0.0
    )
    cut, gathered = make_cutter(config), deepspeed.zero.GatheredParameters
    make, scatter = nn.Parameter.__new__, gathered.__exit__
    made: list[weakref.ref] = []
    held: list[int] = []

    def noted(cls: type, *arguments: Any, **options: Any) -> nn.Parameter:
        parameter = make(cls, *arguments, **options)
        made.append(weakref.ref(parameter))
        return parameter

    def measure() -> None:
        held.append(held_bytes(p for ref in made if (p := ref()) is not None))

    def measured_cut(parameters: list[nn.Parameter]) -> None:
        measure()
        cut(parameters)

    def measured_scatter(self: Any, *error: Any) -> None:
        measure()
        scatter(self, *error)

    with (
        mock.patch.object(nn.Parameter, "__new__", noted),
        mock.patch.object(gathered, "__exit__", measured_scatter),
        cutting(measured_cut),
    ):
        yield held


def held_bytes(parameters: Iterable[nn.Parameter]) -> int:
    """Of the memory behind parameters, cut or whole; what several share counts once."""
    given = [p for p in parameters if not p.is_meta]
    parts = [p.ds_tensor for p in given if hasattr(p, "ds_tensor")]
    storages = [tensor.untyped_storage() for tensor in (*given, *parts)]
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())
