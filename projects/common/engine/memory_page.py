"""How the memory estimate is read: a page about one run, or a table of several configs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from projects.common.engine.memory import CARDS, Needs
from projects.common.freezing import trainable_table


def report(
    model: nn.Module, needed: Needs, others: Mapping[str, Needs], checkpoint: int, hints: str
) -> str:
    """A page: parameters by part, bytes by kind and by batch, what it fits.

    Args:
        others: the same config run otherwise, by what to say on the command line.
        checkpoint: bytes of a checkpoint.
        hints: how this kind of model can do with less activations.
    """
    return "\n".join([*_lines(model, needed, checkpoint), *_verdict(needed, others, hints)])


def _lines(model: nn.Module, needed: Needs, checkpoint: int) -> Iterator[str]:
    yield from (trainable_table(model), "", f"per GPU, {needed.run}:")
    yield from _by_part(needed)
    yield ""
    for name, size in needed.stays.items():
        yield f"  {name:<24}{readable(size):>12}"
    yield f"  {'activations, peak':<24}{readable(needed.activations):>12}"
    yield f"  {'fragments, CUDA (assumed)':<24}{readable(_beside(needed)):>11}"
    yield f"  {'sum':<24}{readable(needed.total):>12}"
    if needed.host:
        yield f"  {'host, per process':<24}{readable(needed.host):>12}"
    yield from ("", "activations by batch: held for backward, peak; TFLOP, computed once more")
    for name, held in needed.steps.items():
        memory = f"{readable(held.forward):>12}{readable(held.peak):>12}"
        yield f"  {memory}{held.flops / 1e12:>10.3g}{held.recomputed / 1e12:>10.3g}  {name}"
    yield from ("", f"a checkpoint: {readable(checkpoint)}")


def _by_part(needed: Needs) -> Iterator[str]:
    """A row for each part; its optimizer's column has the weights that it updates, too."""
    width = max(len(part) for part in needed.parts)
    yield f"  {'part':<{width}}{'weights':>14}{'gradients':>14}{'optimizer':>14}"
    for part, sizes in needed.parts.items():
        optimizer = sizes["optimizer state"] + sizes.get("own share, float32", 0)
        cells = (sizes["weights"], sizes["gradients"], optimizer)
        yield f"  {part:<{width}}" + "".join(f"{readable(size):>14}" for size in cells)


def _beside(needed: Needs) -> int:
    return needed.total - sum(needed.stays.values()) - needed.activations


def _verdict(needed: Needs, others: Mapping[str, Needs], hints: str) -> Iterator[str]:
    """A line for each card; what else was counted and fits stands behind a no."""
    for card in CARDS:
        if needed.fits(card):
            yield f"fits on {card}: yes"
            continue
        fitting = [name for name, other in others.items() if other.fits(card)]
        tries = f"try {fitting[0]}" if fitting else f"try {hints}"
        yield f"fits on {card}: no, {tries}"


def table(rows: Sequence[tuple[str, Sequence[Needs]]]) -> str:
    """Markdown, a row for each config: its size, its activations, and its sum in each run.

    Args:
        rows: name of a config, and what it needs in the same runs for all.
    """
    runs = [str(needed.run) for needed in rows[0][1]]
    head = ["config", "parameters", "trained", "activations", *(f"{run}: sum" for run in runs)]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name, needed in rows:
        first = needed[0]
        sums = [f"{readable(one.total)} ({_smallest(one)})" for one in needed]
        millions = [f"{number / 1e6:,.0f} M" for number in (first.parameters, first.trainable)]
        lines.append([name, *millions, readable(first.activations), *sums])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _smallest(needed: Needs) -> str:
    """The smallest card that it fits."""
    fitting = [card for card in CARDS if needed.fits(card)]
    return fitting[-1] if fitting else "none"


def readable(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
