"""Hold scores against minima: ``tools/check_scores.py SCORES.json MINIMA.json``."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def shortfalls(scores: dict[str, float], minima: dict[str, float]) -> list[str]:
    """A line for each score that is missing or below its minimum."""
    found = []
    for key, least in minima.items():
        if key not in scores:
            found.append(f"{key} is missing, at least {least} is asked for")
        elif not scores[key] >= least:  # a NaN is below everything
            found.append(f"{key} is {scores[key]:.4f}, at least {least} is asked for")
    return found


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("tools/check_scores.py SCORES.json MINIMA.json")
    scores, minima = (json.loads(Path(path).read_text()) for path in sys.argv[1:])
    found = shortfalls(scores, minima)
    if found:
        sys.exit("\n".join(["scores are too low:", *found]))
    sys.stdout.write(f"all {len(minima)} scores reach their minima\n")


if __name__ == "__main__":
    main()
