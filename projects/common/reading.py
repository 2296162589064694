"""Reading one sample of many: what happens when its files are broken.

``error`` raises with the sample's name. ``skip`` reads another sample of the same task in its
place, the same one whenever the draw is repeated, and leaves a note that the run counts. Only what
broken data raises (ValueError, OSError) is skipped, never an error of the program.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from projects.common.samplers import Draw

ON_READ_ERROR = ("error", "skip")
REPLACEMENTS = 20  # bad samples in a row before the data, and not a file, is what is broken
_ANOTHER = 1  # keeps the choice of another sample apart from a sample's own random numbers

logger = logging.getLogger(__name__)


class SampleEvent(NamedTuple):
    """Something that happened while a sample was made and that a run should count."""

    kind: str  # such as ``bad_sample``
    message: str  # which video, and why


class Mixture(Dataset):
    """Several datasets, read by :class:`Draw`.

    Args:
        datasets: each with ``task``, ``__len__`` and ``__getitem__(draw)``. Under "skip" their
            samples have a list ``events``.
        names: what errors call them.
        groups: which datasets stand in for each other: those of one group, where a sample cannot
            be read. A dataset in no group (None) is never drawn from.
        on_read_error: "error" or "skip".

    Raises:
        ValueError: an unknown ``on_read_error``.
    """

    def __init__(
        self,
        datasets: Sequence[Any],
        *,
        names: Sequence[str],
        groups: Sequence[Any],
        on_read_error: str = "error",
    ) -> None:
        if on_read_error not in ON_READ_ERROR:
            raise ValueError(f"on_read_error is 'error' or 'skip', got {on_read_error!r}")
        self.datasets = list(datasets)
        self.names = list(names)
        self.groups = list(groups)
        self.on_read_error = on_read_error

    def __len__(self) -> int:
        return sum(len(dataset) for dataset in self.datasets)

    def __getitem__(self, draw: Draw) -> Any:
        """The sample of a draw.

        Raises:
            ValueError: it cannot be read; names dataset and index. Under "skip": so many in a row.
        """
        events: list[SampleEvent] = []
        rng = np.random.default_rng([draw.seed, _ANOTHER])
        while True:
            try:
                sample = self.datasets[draw.dataset][draw]
            except (ValueError, OSError) as error:
                message = f"{self.name_of(draw)}: {error}"
                events.append(SampleEvent("bad_sample", message))
                self._give_up(events, error)
                draw = self._another(draw, rng)
            else:
                if events:
                    sample.events = [*events, *sample.events]
                return sample

    def name_of(self, draw: Draw) -> str:
        """What errors call the sample of a draw."""
        dataset = self.datasets[draw.dataset]
        return f"dataset {self.names[draw.dataset]} (task {dataset.task!r}), sample {draw.index}"

    def _give_up(self, events: list[SampleEvent], error: Exception) -> None:
        last = events[-1].message
        if self.on_read_error == "error":
            raise ValueError(
                f"{last}\n(mend or remove it; train_dataloader.on_read_error='skip' would read "
                "another sample in its place and count it)"
            ) from error
        if len(events) == REPLACEMENTS:
            raise ValueError(f"{REPLACEMENTS} samples in a row are bad, at last: {last}") from error

    def _another(self, draw: Draw, rng: np.random.Generator) -> Draw:
        """A sample of the group, each as likely as any other; its augmentation is the draw's."""
        group = self.groups[draw.dataset]
        members = [number for number, other in enumerate(self.groups) if other == group]
        ends = np.cumsum([len(self.datasets[number]) for number in members])
        place = int(rng.integers(ends[-1]))
        which = int(np.searchsorted(ends, place, side="right"))
        index = place - (int(ends[which - 1]) if which else 0)
        return Draw(members[which], index, draw.seed)
