"""Keep the terminal for what a person reads; the log file gets everything."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def file_only(logger: logging.Logger, *, below: int = logging.ERROR) -> Iterator[None]:
    """Records below a level go to the logger's files, not to its terminal, inside the context.

    mmengine shows the compiler's flags, the whole config, the order of hooks, and a line for every
    frozen parameter.
    """
    handlers = [
        handler
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler)
        and not isinstance(handler, logging.FileHandler)
    ]
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(max(handler.level, below))
    try:
        yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)
