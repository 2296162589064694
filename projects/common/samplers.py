"""Batches as a pure function of (seed, step).

    task A:  pass 0 (shuffled) | pass 1 (reshuffled) | ...   cut into global batches A0 A1 A2 ...
    task B:  pass 0 (shuffled) | pass 1 (reshuffled) | ...   cut into global batches B0 B1 B2 ...
    steps:   A0 B0 A1 A2 B1 ...    streams in proportion to their batches, shuffled by (seed, epoch)

Datasets that share a task and a batch size form one stream; another batch size is another stream.
An epoch is one pass over every stream: ``sum(draws / global batch)`` steps, in general a fraction,
because a batch may hold the end of one pass and the beginning of the next.

Every index occurs exactly as often as its dataset's repeat says in each pass; nothing is dropped at
the end of a pass and nothing is drawn twice. Because a step is computed and not counted up to, a
resumed run starts in the middle of a pass without reading what it has already seen.

Grouped by length, the batches that lie within one pass are sorted ``WINDOW`` at a time:

    shuffled pass:   | rest | b0 b1 ... b49 | b50 ... b99 | b100 ... | rest |
    each window:     samples sorted by length, cut into batches again, the batches shuffled

so a batch holds samples of about one length, and only the windows that a run comes to are measured.
The rests share their batches with the neighbouring passes and stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

# Streams of random numbers that must not coincide although they share (seed, number).
_PASS, _EPOCH, _DRAW, _WINDOW = 1, 2, 3, 4

WINDOW = 50  # batches that are sorted together

LengthOf = Callable[[int, int], int]  # of a dataset's number and an index: the sample's length


class Draw(NamedTuple):
    """One sample to read: ``dataset`` and ``index`` say which, ``seed`` feeds its augmentation."""

    dataset: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks a draw for
    seed: int


class _Stream:
    """The endless concatenation of reshuffled passes over datasets that share their batches.

    ``total`` is the global batch: the stream is read so many rows at a time.
    """

    def __init__(
        self,
        number: int,
        datasets: list[int],
        lengths,
        repeats,
        batch_size: int,
        total: int,
        seed: int,
        length_of: LengthOf | None,
    ) -> None:
        self.number = number
        self.batch_size = batch_size
        self.total = total
        self.seed = seed
        self.length_of = length_of
        self._parts = [(d, lengths[d], *_split_repeat(lengths[d], repeats[d])) for d in datasets]
        self.size = sum(length * whole + extra for _, length, whole, extra in self._parts)
        self._passes: dict[int, np.ndarray] = {}
        self._windows: dict[tuple[int, int], np.ndarray] = {}

    def batch(self, number: int) -> np.ndarray:
        """Rows of global batch ``number`` as int64 [total, 2] of (dataset, index)."""
        start = number * self.total
        which = start // self.size
        first = -(-which * self.size // self.total)  # of the batches that lie within this pass
        end = (which + 1) * self.size // self.total
        if self.length_of is None or not first <= number < end:
            return self._slice(start, start + self.total)
        window, place = divmod(number - first, WINDOW)
        begin = first + window * WINDOW
        rows = self._window(which, window, begin, min(begin + WINDOW, end))
        return rows[place * self.total : (place + 1) * self.total]

    def _slice(self, start: int, stop: int) -> np.ndarray:
        rows = []
        while start < stop:
            number, offset = divmod(start, self.size)
            taken = min(stop - start, self.size - offset)
            rows.append(self._pass(number)[offset : offset + taken])
            start += taken
        return np.concatenate(rows)

    def _pass(self, number: int) -> np.ndarray:
        if number not in self._passes:
            # a batch touches at most the pass before and, when it is small, a few after
            self._passes = {n: rows for n, rows in self._passes.items() if n >= number - 1}
            self._passes[number] = self._shuffled(number)
        return self._passes[number]

    def _shuffled(self, number: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, _PASS, self.number, number])
        rows = []
        for dataset, length, whole, extra in self._parts:
            index = np.tile(np.arange(length), whole)
            index = np.concatenate([index, rng.choice(length, size=extra, replace=False)])
            rows.append(np.stack([np.full(len(index), dataset), index], axis=1))
        return rng.permutation(np.concatenate(rows).astype(np.int64), axis=0)

    def _window(self, which: int, window: int, begin: int, end: int) -> np.ndarray:
        """The rows of batches ``begin..end`` of a pass, each batch of about one length."""
        if (which, window) not in self._windows:
            rows = self._slice(begin * self.total, end * self.total)
            lengths = [self.length_of(int(dataset), int(index)) for dataset, index in rows]  # type: ignore[misc]
            batches = rows[np.argsort(lengths, kind="stable")].reshape(-1, self.total, 2)
            rng = np.random.default_rng([self.seed, _WINDOW, self.number, which, window])
            self._windows = {(which, window): rng.permutation(batches, axis=0).reshape(-1, 2)}
        return self._windows[which, window]


class StepBatchSampler(Sampler[list[Draw]]):
    """Yields this rank's list of :class:`Draw` for every step from ``start_step`` on.

    The global batch of a step (the stream's batch size times ``world_size`` draws of one task)
    depends on the datasets, the seed and the step alone; rank r takes its r-th slice, so that 2
    ranks with 2 samples see together what 1 rank with 4 sees.

    Args:
        lengths: number of items of each dataset.
        repeats: how often a dataset is read per pass; the fractional part is a random subset that
            changes with each pass. 0 switches a dataset off.
        tasks: task name of each dataset; a batch holds one task only.
        batch_size: samples per rank and step.
        seed: of the order and of every draw.
        max_steps: number of the step that ends the run.
        start_step: step that iteration starts with; may be set before iterating.
        batch_sizes: of each dataset, in place of ``batch_size``, where samples are much smaller or
            larger than others; datasets of one task and size are mixed within a batch.
        length_of: of a dataset's number and an index, the length that a sample will have (tokens);
            batches then hold samples of about one length. None: batches as they are drawn.

    Raises:
        ValueError: lists of different lengths, an empty dataset, a negative repeat, no data at all,
            a rank that does not exist, or sizes below 1.
    """

    def __init__(
        self,
        *,
        lengths: Sequence[int],
        repeats: Sequence[float],
        tasks: Sequence[str],
        batch_size: int,
        seed: int,
        max_steps: int,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        batch_sizes: Sequence[int] | None = None,
        length_of: LengthOf | None = None,
    ) -> None:
        sizes = [batch_size] * len(lengths) if batch_sizes is None else list(batch_sizes)
        _check(lengths, repeats, tasks, [batch_size, *sizes], max_steps, rank, world_size)
        if len(sizes) != len(tasks):
            raise ValueError(f"got {len(sizes)} batch_sizes for {len(tasks)} datasets")
        self.batch_size = batch_size
        self.seed = seed
        self.max_steps = max_steps
        self.rank = rank
        self.world_size = world_size
        self.start_step = start_step
        self.mixture = [
            {"length": length, "repeat": repeat, "task": task, "global_batch": size * world_size}
            for length, repeat, task, size in zip(lengths, repeats, tasks, sizes, strict=True)
        ]
        self._streams = _make_streams(
            lengths, repeats, tasks, sizes, world_size=world_size, seed=seed, length_of=length_of
        )
        self.epoch_steps = epoch_steps(lengths, repeats, [size * world_size for size in sizes])
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return max(self.max_steps - self.start_step, 0)

    def __iter__(self) -> Iterator[list[Draw]]:
        for step in range(self.start_step, self.max_steps):
            yield self.batch(step)

    def batch(self, step: int) -> list[Draw]:
        """This rank's draws of ``step`` (0-based)."""
        which, number = self._stream_of(step)
        stream = self._streams[which]
        rows = stream.batch(number)
        start = self.rank * stream.batch_size
        return [
            Draw(int(rows[p, 0]), int(rows[p, 1]), _draw_seed(self.seed, step, p))
            for p in range(start, start + stream.batch_size)
        ]

    def samples_of(self, step: int) -> int:
        """Samples of a step on all ranks together."""
        return self._streams[self._stream_of(step)[0]].total

    def _stream_of(self, step: int) -> tuple[int, int]:
        """Which stream a step reads, and its how-manieth batch of that stream it is."""
        epoch = self._epoch_of(step)
        order, first = self._epoch(epoch)
        position = step - int(first.sum())
        which = int(order[position])
        return which, int(first[which] + np.count_nonzero(order[:position] == which))

    def _epoch_of(self, step: int) -> int:
        epoch = int(step // self.epoch_steps)
        while self._first_batches(epoch).sum() > step:
            epoch -= 1
        while self._first_batches(epoch + 1).sum() <= step:
            epoch += 1
        return epoch

    def _first_batches(self, epoch: int) -> np.ndarray:
        """How many batches each stream has given before ``epoch`` starts: int64 [streams]."""
        counts = [epoch * stream.size // stream.total for stream in self._streams]
        return np.array(counts, dtype=np.int64)

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Stream number of each step of an epoch, and the streams' batches before it."""
        if epoch not in self._epochs:
            first = self._first_batches(epoch)
            counts = self._first_batches(epoch + 1) - first
            rng = np.random.default_rng([self.seed, _EPOCH, epoch])
            order = rng.permutation(np.repeat(np.arange(len(counts)), counts))
            self._epochs = {epoch: (order, first)}
        return self._epochs[epoch]


def epoch_steps(
    lengths: Sequence[int], repeats: Sequence[float], global_batches: Sequence[int]
) -> Fraction:
    """Steps that read every dataset as often as its repeat says.

    Args:
        global_batches: samples a step of each dataset, on all ranks together.
    """
    steps = Fraction(0)
    for length, repeat, batch in zip(lengths, repeats, global_batches, strict=True):
        whole, extra = _split_repeat(length, repeat)
        steps += Fraction(length * whole + extra, batch)
    return steps


def repeats_of_weights(lengths: Sequence[int], weights: Sequence[float]) -> list[float]:
    """Repeats that draw datasets in proportion to ``weights``.

    An epoch stays as long as all items together: every weight 1 draws from each dataset equally
    often, however large it is.

    Raises:
        ValueError: a negative weight, or none above 0.
    """
    if min(weights, default=0) < 0 or sum(weights) <= 0:
        raise ValueError(f"weights {list(weights)}: they start at 0, and one must be above it")
    share = sum(lengths) / sum(weights)
    return [weight * share / length for length, weight in zip(lengths, weights, strict=True)]


def _make_streams(
    lengths, repeats, tasks, batch_sizes, *, world_size: int, seed: int, length_of
) -> list[_Stream]:
    keys = list(zip(tasks, batch_sizes, strict=True))
    streams = []
    for number, key in enumerate(dict.fromkeys(keys)):
        datasets = [d for d, own in enumerate(keys) if own == key]
        size = key[1]
        streams.append(
            _Stream(number, datasets, lengths, repeats, size, size * world_size, seed, length_of)
        )
    return [stream for stream in streams if stream.size]


def _split_repeat(length: int, repeat: float) -> tuple[int, int]:
    whole = int(repeat)
    return whole, round((repeat - whole) * length)


def _draw_seed(seed: int, step: int, position: int) -> int:
    high, low = np.random.SeedSequence([seed, _DRAW, step, position]).generate_state(2)
    return (int(high) >> 1 << 32) | int(low)  # 63 bits, so that it fits a signed integer


def _check(lengths, repeats, tasks, batch_sizes, max_steps, rank, world_size) -> None:
    if not len(lengths) == len(repeats) == len(tasks):
        raise ValueError(
            f"got {len(lengths)} lengths, {len(repeats)} repeats and {len(tasks)} tasks: "
            "give one of each per dataset"
        )
    for number, (length, repeat, task) in enumerate(zip(lengths, repeats, tasks, strict=True)):
        if length < 1:
            raise ValueError(f"dataset {number} (task {task!r}) is empty: remove it or fill it")
        if not 0 <= repeat < float("inf"):
            raise ValueError(f"dataset {number} (task {task!r}) has repeat {repeat}: give >= 0")
    if epoch_steps(lengths, repeats, [1] * len(lengths)) == 0:
        raise ValueError("there is nothing to draw: every repeat is 0 or no dataset is given")
    if min(batch_sizes) < 1 or max_steps < 0 or not 0 <= rank < world_size:
        raise ValueError(
            f"batch size {min(batch_sizes)}, max_steps {max_steps}, rank {rank} of {world_size}: "
            "sizes start at 1 and ranks at 0, below world_size"
        )
