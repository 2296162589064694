"""Which validation was the best, and whether it is time to stop."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Best:
    """The best score so far.

    Attributes:
        metric: ``"<benchmark>/<metric>"``; None keeps no best one.
        higher_is_better: False for errors.
        patience: validations in a row without an improvement of more than ``min_delta`` that end
            the training; None never does.
        value, step: the best score, whatever its lead, and where it was.
        reference: the score that the next one must beat by ``min_delta`` to reset the patience.
        waited: validations since then.
        failed: validations that raised; they are neither better nor worse.
    """

    metric: str | None = None
    higher_is_better: bool = True
    patience: int | None = None
    min_delta: float = 0.0
    value: float | None = None
    step: int = 0
    reference: float | None = None
    waited: int = 0
    failed: int = 0

    def update(self, scores: dict[str, float], step: int) -> bool:
        """Take in the scores of a validation; returns whether it is the best so far.

        Raises:
            ValueError: the scores lack the metric; those that are there are named.
        """
        if self.metric is None:
            return False
        if self.metric not in scores:
            raise ValueError(
                f"validation.best: {self.metric!r} is no score of this validation, "
                f"choose one of {', '.join(scores)}"
            )
        score = scores[self.metric]
        if self._beats(score, self.reference, self.min_delta):
            self.reference, self.waited = score, 0
        else:
            self.waited += 1
        if not self._beats(score, self.value, 0.0):
            return False
        self.value, self.step = score, step
        return True

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.waited >= self.patience

    def state(self) -> dict[str, Any]:
        """What a resumed run needs: plain data."""
        settings = ("higher_is_better", "patience", "min_delta")
        return {key: value for key, value in asdict(self).items() if key not in settings}

    def restore(self, state: dict[str, Any]) -> bool:
        """Take over :meth:`state`; returns False, and starts anew, where the metric is another."""
        if state["metric"] != self.metric:
            return False
        for key, value in state.items():
            setattr(self, key, value)
        return True

    def _beats(self, score: float, other: float | None, margin: float) -> bool:
        if math.isnan(score):
            return False
        if other is None:
            return True
        return (score - other if self.higher_is_better else other - score) > margin
