"""Parameters that DeepSpeed's ZeRO-3 (Rajbhandari et al., 2020) has cut: a part on each rank.

Such a parameter is empty; what it was is in its ``ds_shape``, the rank's own part in ``ds_tensor``.
Models are built within :func:`cutting`: the registry calls :func:`cut` on every part of a config
that it has built, and whoever fills a large part, tensor by tensor or module by module, does so on
the way. So no rank ever holds more than its parts and what is in hand. Outside of it, and without
ZeRO-3, these functions leave ordinary parameters as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_cutters: list[Callable[[list[nn.Parameter]], None]] = []


@contextmanager
def cutting(cutter: Callable[[list[nn.Parameter]], None]) -> Iterator[None]:
    """Have :func:`cut` use ``cutter``, which cuts whole parameters in place."""
    _cutters.append(cutter)
    try:
        yield
    finally:
        _cutters.pop()


def cut(parameters: Iterable[nn.Parameter]) -> None:
    """Cut parameters that were just filled, alike on all ranks; nothing outside :func:`cutting`.

    Parameters that are cut already, or have no values yet (meta device), are left alone.
    """
    if _cutters:
        _cutters[-1]([p for p in parameters if not is_cut(p) and not p.is_meta])


def is_cut(tensor: Tensor) -> bool:
    return hasattr(tensor, "ds_id")


def full_shape(tensor: Tensor) -> torch.Size:
    """The shape of a tensor, cut or not."""
    return getattr(tensor, "ds_shape", tensor.shape)


def full_numel(tensor: Tensor) -> int:
    """How many numbers a tensor has, cut or not."""
    return getattr(tensor, "ds_numel", tensor.numel())


@contextmanager
def whole(tensors: Iterable[Any], *, write: bool = False) -> Iterator[None]:
    """Have tensors whole on every rank; every rank must enter and leave together.

    Args:
        tensors: parameters and buffers; those that are not cut are left alone.
        write: rank 0's values are kept, where they were changed inside.
    """
    parts = [tensor for tensor in tensors if is_cut(tensor)]
    if not parts:
        yield
        return
    import deepspeed  # slow to import, and here already where something is cut

    with deepspeed.zero.GatheredParameters(parts, modifier_rank=0 if write else None):
        yield


def copied(module: nn.Module) -> nn.Module:
    """A copy of a module, whole whether or not the module is cut; every rank must call it."""
    with whole(module.parameters()):
        return copy.deepcopy(module)


def cast(parameter: nn.Parameter, dtype: torch.dtype) -> None:
    """Change the precision of a parameter in place, cut or not."""
    parameter.data = parameter.data.to(dtype)
    if is_cut(parameter):
        part: Tensor = parameter.ds_tensor  # type: ignore[attr-defined]
        changed = part.data.to(dtype)
        part.data = changed.pin_memory() if part.is_pinned() else changed
