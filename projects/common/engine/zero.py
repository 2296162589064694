"""DeepSpeed ZeRO through xtuner's strategy, on GPUs (nccl) and on CPUs (gloo).

Steps around, each with what would make it unnecessary: mmengine 0.11.0rc3 registers DeepSpeed's
1-bit optimizers, which deepspeed 0.19 no longer has (until mmengine looks before it imports);
DeepSpeed loads its shards with ``weights_only=False`` (until it offers a choice); and on a CPU it
compiles a shared-memory all-reduce at first use (until that can be switched off).
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import deepspeed
import mmengine._strategy.deepspeed as mmengine_deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address
from torch import Tensor, nn
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config
from xtuner.configs import cfgs_name_path
from xtuner.engine._strategy import DeepSpeedStrategy

from projects.common.engine import checkpoints
from projects.common.engine.bad_loss import SkipsBadLoss
from projects.common.engine.distributed import get_rank, get_world_size
from projects.common.engine.memory import BUCKET
from projects.common.partition import cutting, full_numel, is_cut, whole

_FOLDER = "zero"
# The compiled all-reduce takes a minute and a compiler to build, and a kill in the middle leaves a
# lock that blocks every later run. gloo does the same work. (As an attribute, deepspeed.comm.torch
# is torch itself.)
setattr(importlib.import_module("deepspeed.comm.torch"), "build_shm_op", lambda: None)  # noqa: B010
# what DeepSpeed's shards hold beside tensors and plain data
_SHARD_TYPES = [LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]


def named_config(name: str) -> dict[str, Any]:
    """xtuner's DeepSpeed config of that name, or a json file of one's own.

    Raises:
        ValueError: neither; the names are listed.
    """
    names = sorted(key for key in cfgs_name_path if key.startswith("deepspeed_"))
    path = cfgs_name_path[name] if name in names else name
    if not Path(path).is_file():
        raise ValueError(f"--deepspeed {name!r}: choose one of {', '.join(names)}, or a json file")
    return json.loads(Path(path).read_text())


def complete_config(
    config: dict[str, Any], *, batch_size: int, accumulate: int, max_norm: float
) -> dict[str, Any]:
    """Fill in what the run decides, so that both launchers do the same arithmetic.

    DeepSpeed stays in float32 whatever the model's precision: the model itself computes in bf16
    under autocast (``TrainableModel.forward``). DeepSpeed's own ``bf16`` would round the weights,
    position tables among them (SAM 2 then tracks worse), and its ``torch_autocast`` would sum
    gradients in bf16; plain data parallelism does neither.
    """
    config = {**config, "zero_optimization": dict(config["zero_optimization"])}
    config["train_micro_batch_size_per_gpu"] = batch_size
    config["gradient_accumulation_steps"] = accumulate
    config["gradient_clipping"] = max_norm
    config["bf16"] = {"enabled": False}
    config["fp16"] = {"enabled": False}
    if not torch.cuda.is_available():
        # there are no streams to overlap on, and no memory to pin
        config["zero_optimization"]["overlap_comm"] = False
        for part in ("offload_optimizer", "offload_param"):
            if part in config["zero_optimization"]:
                config["zero_optimization"][part] = {"device": "cpu", "pin_memory": False}
    return config


def make_cutter(config: dict[str, Any]) -> Callable[[list[nn.Parameter]], None]:
    """What cuts parameters over the ranks, as ``deepspeed.initialize`` with this config does.

    DeepSpeed cuts a whole module at once; a parameter that is cut lends its method for the others.
    """
    first = nn.Module()
    first.register_parameter("cut", nn.Parameter(torch.zeros(1), requires_grad=False))
    deepspeed.zero.Init(module=first, config_dict_or_path=config)
    lender: Any = first.cut

    def cut(parameters: list[nn.Parameter]) -> None:
        lender.convert_to_zero_parameters(param_list=parameters)

    return cut


def _move_buffers(model: nn.Module) -> None:
    """To this rank's device: in a model that is cut already, DeepSpeed leaves them behind."""
    device = torch.device(get_accelerator().current_device_name())
    for module in model.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(device)


class _SafeShards(TorchCheckpointEngine):
    """Reads shards without executing anything in them."""

    def load(self, path: str, map_location: Any = None) -> Any:
        with torch.serialization.safe_globals(_SHARD_TYPES):
            return torch.load(path, map_location=map_location, weights_only=True)


class ZeroOptimWrapper(mmengine_deepspeed.DeepSpeedOptimWrapper):
    """mmengine's wrapper of DeepSpeed, for steps that do not use every parameter."""

    def step(self, **kwargs: Any) -> None:
        engine = self.model.model
        is_update = engine.is_gradient_accumulation_boundary()
        super().step(**kwargs)
        if is_update:
            forget_gradients(engine.optimizer)


class SkippingZeroOptimWrapper(SkipsBadLoss, ZeroOptimWrapper):
    """The same, which leaves out steps whose loss is not finite."""


def forget_gradients(optimizer: Any) -> None:
    """Zero the buffers of a ZeRO optimizer's gradients.

    deepspeed 0.19.8 writes into them what a step's backward reaches, and updates from all of them:
    a parameter that a step does not use (SAM 2's decoder, in a step about times) would be moved
    once more by the gradient of the last step that used it.
    """
    if hasattr(optimizer, "grad_partitions_flat_buffer"):  # stage 3
        optimizer.grad_partitions_flat_buffer.zero_()
        offloaded = optimizer.fp32_partitioned_groups_flat
    else:
        offloaded = optimizer.single_partition_of_fp32_groups
    for part in offloaded:
        if part.grad is not None:  # kept from step to step where the optimizer is offloaded
            part.grad.zero_()


class ZeroStrategy(DeepSpeedStrategy):
    """xtuner's strategy, whose checkpoints also load without DeepSpeed."""

    def __init__(self, **kwargs: Any) -> None:
        register = mmengine_deepspeed.register_deepspeed_optimizers
        mmengine_deepspeed.register_deepspeed_optimizers = list
        try:
            super().__init__(exclude_frozen_parameters=True, **kwargs)
        finally:
            mmengine_deepspeed.register_deepspeed_optimizers = register
        # What is read from a folder is cut by us (building), all else by deepspeed.initialize;
        # transformers must not cut while it builds, or our initialisation would see empty tensors.
        unset_hf_deepspeed_config()

    @property
    def kind(self) -> dict[str, Any]:
        stage = self.config["zero_optimization"]["stage"]
        return {"engine": "deepspeed", "zero_stage": stage, "world_size": get_world_size()}

    @property
    def module(self) -> nn.Module:
        return self.model.module

    def building(self) -> AbstractContextManager[None]:
        """Build the model in it: under ZeRO-3, weights are cut while they are read."""
        is_stage_3 = self.config["zero_optimization"]["stage"] == 3
        return cutting(make_cutter(self.config)) if is_stage_3 else nullcontext()

    def optim_wrapper_type(self, *, skip_bad_loss: bool) -> type:
        return SkippingZeroOptimWrapper if skip_bad_loss else ZeroOptimWrapper

    def _wrap_model(self, model: nn.Module) -> Any:
        # Buckets are allocated whole, two of 500 million float32 by default: 4 GB beside a model of
        # 100 MB. More than what trains never goes into one.
        trainable = sum(full_numel(p) for p in model.parameters() if p.requires_grad)
        zero = self.config["zero_optimization"]
        zero["reduce_bucket_size"] = min(int(zero.get("reduce_bucket_size", BUCKET)), trainable)
        if any(is_cut(parameter) for parameter in model.parameters()):
            _move_buffers(model)
        wrapper = super()._wrap_model(model)
        wrapper.model.checkpoint_engine = _SafeShards(wrapper.model._config)
        set_hf_deepspeed_config(self.hf_deepspeed_config)
        return wrapper

    def saved_tensors(self) -> dict[str, Tensor]:
        """Trainable parameters and persistent buffers, on rank 0; every rank must call it."""
        targets = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        state = {}
        for name in checkpoints.names_to_save(self.module):
            tensor = targets[name]
            with whole([tensor]):
                if get_rank() == 0:
                    state[name] = tensor.detach().cpu().clone().contiguous()
        return state

    def save_optimizer(self, folder: Path) -> None:
        self.model.save_checkpoint(
            str(folder), tag=_FOLDER, save_latest=False, exclude_frozen_parameters=True
        )
        if get_rank() == 0:
            torch.save(self.optim_wrapper.state_dict(), folder / checkpoints.OPTIMIZER)
            for script in folder.glob("*.py"):  # DeepSpeed leaves programs beside its shards
                os.remove(script)

    def load_training(self, folder: Path) -> None:
        """Load weights and optimizer state of a checkpoint folder."""
        path, _ = self.model.load_checkpoint(
            str(folder), tag=_FOLDER, load_module_strict=False, load_lr_scheduler_states=False
        )
        if path is None:
            raise FileNotFoundError(f"{folder / _FOLDER} holds no DeepSpeed checkpoint")
        state = torch.load(folder / checkpoints.OPTIMIZER, map_location="cpu", weights_only=True)
        self.optim_wrapper.load_state_dict(state)

    def grad_norm(self) -> float | None:
        """Norm of the last gradient before clipping."""
        norm = self.model.get_global_grad_norm()
        return None if norm is None else float(norm)

    def resume_counts(self, step: int) -> None:
        """DeepSpeed restores its own count of accumulated steps."""
