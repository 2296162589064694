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
    communication for each group, so parameters with the same settings share one here. Groups with
    the same rate have the same ``name``, after the parts of the model that learn at it.
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
        groups = _merged(entries)
        names_by_id = {id(p): name for name, p in model.named_parameters()}
        labels = group_names(groups, names_by_id, self.base_lr)
        for group, label in zip(groups, labels, strict=True):
            group["name"] = label
        optimizer = OPTIMIZERS.build({**self.optimizer_cfg, "params": groups})
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


def group_names(groups: list[dict[str, Any]], names: dict[int, str], base_lr: float) -> list[str]:
    """A name for each group: what the parameters of its learning rate have in common.

    That is the shortest path in the model which all of them, and no parameter of another rate,
    are below; where there is none, the path all have in common, or "rest". Rates that would share
    a name are numbered.

    Args:
        groups: for an optimizer, ``params`` and settings.
        names: parameter name by id.
        base_lr: of groups that name none.
    """
    rates = [group.get("lr", base_lr) for group in groups]
    members: dict[Any, list[str]] = {}
    for group, rate in zip(groups, rates, strict=True):
        members.setdefault(rate, []).extend(names[id(p)] for p in group["params"])
    chosen: dict[Any, str] = {}
    for rate, own in members.items():
        others = [name for key, rest in members.items() if key != rate for name in rest]
        name = _common_path(own, others) if others else "all"
        taken = sum(used.split("#")[0] == name for used in chosen.values())
        chosen[rate] = f"{name}#{taken + 1}" if taken else name
    return [chosen[rate] for rate in rates]


def _common_path(own: list[str], others: list[str]) -> str:
    paths = [name.split(".") for name in own]
    common: list[str] = []
    for pieces in zip(*paths, strict=False):
        if len(set(pieces)) > 1:
            break
        common.append(pieces[0])
    for depth in range(1, len(common) + 1):
        prefix = ".".join(common[:depth])
        if not any(name == prefix or name.startswith(f"{prefix}.") for name in others):
            return prefix
    return ".".join(common) or "rest"
