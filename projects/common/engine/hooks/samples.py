"""Counts what happened while samples were made: bad ones that were replaced, skipped affines."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

from mmengine.hooks import Hook

logger = logging.getLogger(__name__)


class SampleEventsHook(Hook):
    """Logs the ``events`` of batches (``kind``, ``message``): the 1st, 10th, 100th, ... of a kind.

    A broken file is named when it first matters, and a thousand of them do not flood the log. Each
    rank counts what it has read since the start or the resume.
    """

    def before_train(self, runner) -> None:
        self.counts: Counter[str] = Counter()
        self.samples = 0

    def after_train_iter(
        self, runner, batch_idx: int, data_batch: Any = None, outputs=None
    ) -> None:
        batch = data_batch["batch"]
        self.samples += len(getattr(batch, "names", ()))
        for event in getattr(batch, "events", ()):
            self.counts[event.kind] += 1
            count = self.counts[event.kind]
            if str(count).strip("0") == "1":  # a power of ten
                logger.warning(
                    "%s number %d, by step %d: %s", event.kind, count, batch_idx + 1, event.message
                )

    def after_train(self, runner) -> None:
        for kind, count in sorted(self.counts.items()):
            logger.warning("%s: %d in %d samples of this process", kind, count, self.samples)
