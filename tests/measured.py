"""Bytes of a real step on this machine, as torch's allocator saw them: the judge of estimates."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

_MARK = "forward has ended"


def measure_step(model: Any, make_batch: Callable[[], Any]) -> tuple[int, int]:
    """Bytes above the start: when forward has ended, and at the worst moment of the step."""
    model.zero_grad(set_to_none=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        total = model.parse_losses(model(make_batch(), mode="loss"))[0]
        with record_function(_MARK):
            pass
        total.backward()
    events = sorted(profiled.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    live = peak = forward = 0
    for event in events:
        if event.name() == _MARK:
            forward = live
        elif event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return forward, peak


def with_pixels(batch: Any) -> Any:
    """The batch with zeros in the place of what is on the meta device."""
    filled = {
        field.name: torch.zeros_like(value, device="cpu")
        for field in dataclasses.fields(batch)
        if isinstance(value := getattr(batch, field.name), Tensor) and value.is_meta
    }
    return dataclasses.replace(batch, **filled)
