"""When something is due: every so many steps, or where phases and epochs end.

An epoch of a mixture is a fraction of steps (see ``samplers.epoch_steps``). Phase k ends with the
first step that completes k / phases_per_epoch of an epoch, rounded up to whole gradient updates.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil

UNITS = ("phase", "epoch")


class Every:
    """A rhythm of steps.

    Args:
        interval: a number of steps, ``"phase"`` or ``"epoch"``.
        epoch_steps: steps of an epoch.
        phases_per_epoch: parts into which an epoch is cut.
        multiple_of: steps whose gradients are accumulated; phases end with an update.

    Raises:
        ValueError: an interval of another kind, or phases shorter than one update.
    """

    def __init__(
        self,
        interval: int | str,
        *,
        epoch_steps: Fraction,
        phases_per_epoch: int = 1,
        multiple_of: int = 1,
    ) -> None:
        if isinstance(interval, str) and interval not in UNITS:
            raise ValueError(f"interval {interval!r}: give a number of steps, 'phase' or 'epoch'")
        if not isinstance(interval, str) and interval < 1:
            raise ValueError(f"interval {interval} must be at least 1 step")
        self.interval = interval
        self.multiple_of = multiple_of
        self.length = Fraction(interval) if not isinstance(interval, str) else epoch_steps
        if interval == "phase":
            self.length = epoch_steps / phases_per_epoch
        if isinstance(interval, str) and self.length < multiple_of:
            raise ValueError(
                f"a {interval} is {float(self.length):.2f} steps long, less than one update "
                f"({multiple_of} steps): give fewer phases_per_epoch, or a number of steps"
            )

    def end(self, number: int) -> int:
        """Step that completes the ``number``-th interval; the first is number 1."""
        return ceil(number * self.length / self.multiple_of) * self.multiple_of

    def due(self, step: int) -> bool:
        """Whether an interval ends with step ``step`` (1-based)."""
        if not isinstance(self.interval, str):
            return step % self.interval == 0
        number = int(step / self.length)  # no other interval can end here
        return number > 0 and self.end(number) == step
