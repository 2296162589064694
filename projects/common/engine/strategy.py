"""How a model is wrapped and its optimizer state stored: one device, or one process per device.

DeepSpeed's counterpart is ``zero.py``. Each strategy adds five things to mmengine's: ``kind`` (what
a checkpoint notes about its launcher), ``building`` (the context in which a model is built),
``module`` (the bare model), ``saved_tensors`` (the weights, on rank 0), and ``save_optimizer`` /
``load_training`` (its own part of a checkpoint folder).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from mmengine._strategy import DDPStrategy, SingleDeviceStrategy
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
from torch import Tensor, nn

from projects.common.engine import checkpoints
from projects.common.engine.distributed import get_rank


class PlainState:
    """Checkpoints of strategies where every rank holds everything."""

    kind: dict[str, Any] = {"engine": "plain"}
    model: nn.Module
    optim_wrapper: Any
    dispatch_kwargs: dict[str, Any]

    @property
    def module(self) -> nn.Module:
        return cast(nn.Module, self.model.module) if is_model_wrapper(self.model) else self.model

    def building(self) -> AbstractContextManager[None]:
        """Build the model in it; ZeRO-3 would cut weights while they are read."""
        return nullcontext()

    def saved_tensors(self) -> dict[str, Tensor]:
        """Trainable parameters and persistent buffers on the CPU."""
        targets = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        names = checkpoints.names_to_save(self.module)
        return {name: targets[name].detach().cpu().clone().contiguous() for name in names}

    def save_optimizer(self, folder: Path) -> None:
        if get_rank() == 0:
            torch.save(self.optim_wrapper.state_dict(), folder / checkpoints.OPTIMIZER)

    def load_training(self, folder: Path) -> None:
        """Load weights and optimizer state of a checkpoint folder."""
        state = torch.load(folder / checkpoints.OPTIMIZER, map_location="cpu", weights_only=True)
        checkpoints.load_model(self.module, folder)
        self.optim_wrapper.load_state_dict(state)

    def grad_norm(self) -> float | None:
        """Norm of the last gradient before clipping; None where nothing clips."""
        norm = self.optim_wrapper.message_hub.log_scalars.get("train/grad_norm")
        return None if norm is None else float(norm.current())

    def resume_counts(self, step: int) -> None:
        """Tell the optimizer wrapper, which counts steps to accumulate, where the run stands."""
        if getattr(self.optim_wrapper, "_accumulative_counts", 1) > 1:
            last = self.dispatch_kwargs["max_iters"]
            self.optim_wrapper.initialize_count_status(self.model, step, last)


class SingleStrategy(PlainState, SingleDeviceStrategy):
    """One process, one device."""


class DistributedStrategy(PlainState, DDPStrategy):
    """One process per device; gradients are averaged over the processes."""

    def __init__(self, *, find_unused_parameters: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.find_unused_parameters = find_unused_parameters

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        # mmengine passes device_ids, which DDP refuses for modules on the CPU
        model = self.convert_model(model)
        devices = None
        if torch.cuda.is_available():
            model = model.cuda()
            devices = [torch.cuda.current_device()]
        return MMDistributedDataParallel(
            model,
            device_ids=devices,
            broadcast_buffers=False,
            find_unused_parameters=self.find_unused_parameters,
        )
