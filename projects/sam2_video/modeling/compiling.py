"""torch.compile behind a switch: where it fails, one message, and the code runs as it is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException

logger = logging.getLogger(__name__)


class Compiled:
    """A function that torch compiles at its first call, and that runs plainly if that fails.

    Args:
        function: without side effects; called again from the start where compiling fails.
        name: for the message.
    """

    def __init__(self, function: Callable, *, name: str) -> None:
        self.function = function
        self.name = name
        self.compiled: Callable | None = torch.compile(function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.compiled is None:
            return self.function(*args, **kwargs)
        try:
            return self.compiled(*args, **kwargs)
        except TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            logger.warning("torch.compile failed on the %s, it runs uncompiled: %s",
                           self.name, reason)  # fmt: skip
            self.compiled = None
            return self.function(*args, **kwargs)


def compiler_works(device: torch.device | str) -> bool:
    """Whether torch can compile a forward and a backward pass here; says why not.

    Backward passes are compiled late, where nothing could fall back any more.
    """

    def probe(x: torch.Tensor) -> torch.Tensor:
        return (x.sin() * x).sum()

    try:
        torch.compile(probe)(torch.ones(8, device=device, requires_grad=True)).backward()
    except TorchDynamoException as error:
        reason = str(error).strip().splitlines()[0]
        logger.warning("torch.compile does not work here, the model runs uncompiled: %s", reason)
        return False
    return True
