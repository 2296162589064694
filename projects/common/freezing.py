"""What trains is declared by patterns; what is frozen stays in eval mode and outside autograd.

A pattern is a shell glob on parameter names in which ``*`` crosses dots, or the name of a module,
which means all of its parameters. ``!`` in front takes parameters away again; patterns apply in
order. ``["grounding", "!grounding.*memory*", "mllm.*.lora_*"]`` trains SAM 2 without its memory,
and the LoRA matrices.

LoRA (Hu et al., 2021) comes from peft, injected in place: names and classes around the adapted
layers stay as they are.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

LORA_PATTERNS = ("*.lora_A.*", "*.lora_B.*")


def set_trainable(module: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Freeze every parameter but those that the patterns select, and put frozen parts to eval.

    Returns:
        The names of the trainable parameters.

    Raises:
        ValueError: for a pattern that matches no parameter, with the nearest names.
    """
    names = [name for name, _ in module.named_parameters()]
    trainable: set[str] = set()
    for pattern in patterns:
        chosen = _select(pattern.removeprefix("!"), names)
        trainable = trainable - chosen if pattern.startswith("!") else trainable | chosen
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in trainable)
    keep_frozen_in_eval(module)
    return [name for name in names if name in trainable]


def keep_frozen_in_eval(module: nn.Module) -> None:
    """Put every submodule whose parameters are all frozen into eval mode.

    Call it at the end of an overridden ``train()``: dropout and drop path of frozen towers then
    stay off. Modules that hold no parameters follow the module that they are part of.
    """
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        for part in module.modules():
            # A layer that is to be recomputed asks its own flag whether to; dropouts within it have
            # theirs. It may be frozen and still hold activations, for what trains before it.
            recomputed = part.training and getattr(part, "gradient_checkpointing", False)
            part.training = recomputed  # not eval(): that calls the train() that calls this
        return
    for child in module.children():
        keep_frozen_in_eval(child)


@contextmanager
def grad_if_trainable(module: nn.Module) -> Iterator[None]:
    """Run a module outside autograd when it is wholly frozen, so that it keeps no activations.

    Only for modules whose inputs need no gradient (image encoders on pixels).
    """
    trains = any(parameter.requires_grad for parameter in module.parameters())
    with torch.set_grad_enabled(torch.is_grad_enabled() and trains):
        yield


def add_lora(
    module: nn.Module,
    *,
    rank: int,
    alpha: int,
    targets: Sequence[str],
    dropout: float = 0.0,
) -> list[str]:
    """Put LoRA matrices beside linear layers, in place.

    Args:
        targets: globs on the last parts of module names: ``q_proj``, ``mlp.*_proj``.

    Embeddings and ``lm_head`` are not LoRA targets here: they train whole, by naming them in
    :func:`set_trainable`, which is to be called after this.

    Returns:
        The names of the adapted layers.

    Raises:
        ValueError: for a target that matches no linear layer, with the nearest names.
    """
    linears = [name for name, child in module.named_modules() if isinstance(child, nn.Linear)]
    adapted: set[str] = set()
    for target in targets:
        chosen = {n for n in linears if fnmatchcase(f".{n}", f"*.{target}")}
        if not chosen:
            raise ValueError(
                f"LoRA target {target!r} matches no linear layer; {_nearest(target, linears)}"
            )
        adapted |= chosen
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=sorted(adapted),
        bias="none",
    )
    inject_adapter_in_model(config, module)
    return [name for name in linears if name in adapted]


def has_lora(module: nn.Module) -> bool:
    """Whether LoRA matrices stand beside any layer."""
    return any(_is_lora(child) for child in module.modules())


@torch.no_grad()
def merge_lora(module: nn.Module, *, dtype: torch.dtype | None = None) -> int:
    """Fold all LoRA matrices into their layers and put the plain layers back, in place.

    Sums are made in float32 and rounded once; peft's own ``merge`` rounds the difference to the
    layer's precision before it adds it, and the sum again.

    Args:
        dtype: of the merged weights; None: each as its layer's.

    Returns:
        How many layers were merged.

    Raises:
        ValueError: if there is no LoRA, or merging would make a weight non-finite.
    """
    layers = [(name, child) for name, child in module.named_modules() if _is_lora(child)]
    if not layers:
        raise ValueError("nothing to merge: the model holds no LoRA layer")
    for name, layer in layers:
        plain = layer.get_base_layer()
        merged = plain.weight.float()
        for adapter in layer.active_adapters:
            a, b = layer.lora_A[adapter].weight.float(), layer.lora_B[adapter].weight.float()
            merged = merged + layer.scaling[adapter] * (b @ a)
        if not merged.isfinite().all():
            raise ValueError(f"merging LoRA into {name} makes weights that are not finite")
        plain.weight.data = merged.to(dtype or plain.weight.dtype)
        parent, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(parent), attribute, plain)
    return len(layers)


def trainable_table(module: nn.Module, *, depth: int | None = None) -> str:
    """A table of parameter counts by part: trainable, frozen, total, with totals.

    Args:
        depth: of :func:`parts`.
    """
    counts: dict[str, list[int]] = {}
    for part, parameters in parts(module, depth=depth).items():
        counts[part] = [0, 0]
        for parameter in parameters:
            # DeepSpeed ZeRO-3 leaves an empty tensor behind and keeps the real count aside
            size = getattr(parameter, "ds_numel", parameter.numel())
            counts[part][0 if parameter.requires_grad else 1] += size
    counts["total"] = [sum(c[0] for c in counts.values()), sum(c[1] for c in counts.values())]
    rows = [("part", "trainable", "frozen", "total")]
    rows += [(part, f"{t:,}", f"{f:,}", f"{t + f:,}") for part, (t, f) in counts.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def parts(module: nn.Module, *, depth: int | None = None) -> dict[str, list[nn.Parameter]]:
    """Parameters by the part of a module that they belong to.

    Args:
        depth: how many parts of a name tell parts apart; None: one more than all names share, so
            that a model inside of another is not a single part.
    """
    if depth is None:
        depth = _shared_depth([name for name, _ in module.named_parameters()]) + 1
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        found.setdefault(".".join(name.split(".")[:depth]), []).append(parameter)
    return found


def _shared_depth(names: Sequence[str]) -> int:
    """How many leading parts all names have in common."""
    columns = zip(*(name.split(".") for name in names), strict=False)  # as deep as the shortest
    return next((i for i, column in enumerate(columns) if len(set(column)) > 1), 0)


def _is_lora(module: nn.Module) -> bool:
    return isinstance(module, LoraLayer)


def _select(pattern: str, names: Sequence[str]) -> set[str]:
    chosen = {n for n in names if fnmatchcase(n, pattern) or fnmatchcase(n, f"{pattern}.*")}
    if not chosen:
        raise ValueError(
            f"trainable pattern {pattern!r} matches no parameter; {_nearest(pattern, names)}"
        )
    return chosen


def _nearest(pattern: str, names: Sequence[str]) -> str:
    """Names that a misspelt pattern may have meant: prefixes of names are offered too."""
    prefixes = set(names)
    for name in names:
        while "." in name:
            name = name.rpartition(".")[0]
            prefixes.add(name)
    plain = pattern.replace("*", "").strip(".")
    near = difflib.get_close_matches(plain, sorted(prefixes), n=5, cutoff=0.4)
    return f"near names: {', '.join(near)}" if near else f"names start like {', '.join(names[:5])}"
