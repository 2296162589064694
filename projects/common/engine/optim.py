"""Optimizer groups: what trains, merged by what differs."""

from __future__ import annotations

from typing import Any

from mmengine.logging import MMLogger
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn

from projects.common.engine.quiet import file_only


class TrainableGroups(DefaultOptimWrapperConstructor):
    """mmengine's ``paramwise_cfg`` over trainable parameters only, in few groups.

    mmengine makes one group per parameter as soon as ``paramwise_cfg`` is given; ZeRO pays a
    communication for each group, so parameters with the same settings share one here.
    """

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer wrapper.

        Raises:
            ValueError: nothing trains, or a ``custom_keys`` entry is in no trainable name.
        """
        model = getattr(model, "module", model)
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        if not names:
            raise ValueError("no parameter of the model is trainable: check what it freezes")
        for key in self.paramwise_cfg.get("custom_keys", {}):
            if not any(key in name for name in names):
                raise ValueError(
                    f"optim_wrapper.paramwise_cfg.custom_keys: {key!r} is in the name of no "
                    f"trainable parameter (the first are {', '.join(names[:3])})"
                )
        entries: list[dict] = [{"params": list(model.parameters())}]
        if self.paramwise_cfg:
            entries = []
            with file_only(MMLogger.get_current_instance()):
                self.add_params(entries, model)
        optimizer = OPTIMIZERS.build({**self.optimizer_cfg, "params": _merged(entries)})
        return OPTIM_WRAPPERS.build(self.optim_wrapper_cfg, default_args={"optimizer": optimizer})


def _merged(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = {}
    seen: set[int] = set()  # tied weights are met once per module that holds them
    for entry in entries:
        settings = {key: value for key, value in entry.items() if key != "params"}
        for parameter in entry["params"]:
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                key = repr(sorted(settings.items()))
                groups.setdefault(key, {"params": [], **settings})["params"].append(parameter)
    return list(groups.values())
