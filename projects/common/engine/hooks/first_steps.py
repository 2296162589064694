"""What the first steps hold and how long they take, in the log: does a run fit, and how fast?"""

from __future__ import annotations

import time
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from projects.common.engine.fake_step import Ledger
from projects.common.engine.memory_page import readable


class FirstStepsHook(Hook):
    """Logs the bytes that forward leaves for backward, and the seconds of a step.

    On a GPU they are the allocator's; on a CPU the tensors are counted that forward makes and that
    are still there when it ends, which the estimate counts alike (``fake_step.py``).

    Args:
        steps: how many steps from the start of this process are looked at.
    """

    priority = "BELOW_NORMAL"

    def __init__(self, *, steps: int = 3) -> None:
        self.steps = steps
        self._watch: Any = None

    def before_train(self, runner) -> None:
        self._last = runner.iter + self.steps
        self._watch = _Watch(runner.strategy.module)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        self._start = time.monotonic()

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if self._watch is None:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.monotonic() - self._start
        task = getattr(data_batch["batch"], "task", "")
        runner.logger.info(
            f"step {batch_idx + 1} ({task or 'no task'}): {readable(self._watch.held)} of "
            f"activations held for backward, {seconds:.2f} s{_peak()}"
        )
        if batch_idx + 1 >= self._last:
            self.after_train(runner)

    def after_train(self, runner) -> None:
        if self._watch is not None:
            self._watch.close()
        self._watch = None


class _Watch:
    """Looks at memory before and after forward."""

    def __init__(self, module: nn.Module) -> None:
        self.held = 0
        self._counting: _Counting | None = None
        self._hooks = [
            module.register_forward_pre_hook(self._before, with_kwargs=True),
            module.register_forward_hook(self._after, always_call=True),
        ]

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _before(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if torch.cuda.is_available():
            self.held = -torch.cuda.memory_allocated()
            return
        self._counting = _Counting()
        batch = [getattr(value, "__dict__", value) for value in (*args, *kwargs.values())]
        for tensor in (*module.parameters(), *module.buffers(), *tree_leaves(batch)):
            if isinstance(tensor, Tensor):
                self._counting.ledger.forget(tensor)
        self._counting.__enter__()

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._counting is None:
            self.held += torch.cuda.memory_allocated()
            return
        self._counting.__exit__(None, None, None)
        self.held, self._counting = self._counting.ledger.live, None


class _Counting(TorchDispatchMode):
    """Counts the tensors that are made while it is on.

    What compiled code makes is no operation of torch's: of that, what it keeps for backward counts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(block=1)
        self._saved = saved_tensors_hooks(self._keep, lambda tensor: tensor)

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Otherwise torch.compile would pass over what runs first in here, and for good."""
        return True

    def __enter__(self) -> _Counting:
        self._saved.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._saved.__exit__(*error)

    def _keep(self, tensor: Tensor) -> Tensor:
        self.ledger.add(tensor)
        return tensor

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.ledger.add(tensor)
        return out


def _peak() -> str:
    if not torch.cuda.is_available():
        return ""
    return f", peak {readable(torch.cuda.max_memory_allocated())} on this GPU"
