"""torchrun that says in a line which process ended first, instead of a traceback of its own.

``python tools/launch.py [arguments of torchrun] SCRIPT ...``; ``tools/dist.sh`` starts this.
"""

from __future__ import annotations

import signal
import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main


def describe(exit_code: int) -> str:
    """How a process ended; a negative code is a signal's."""
    if exit_code >= 0:
        return f"with exit code {exit_code}: what it said is above"
    name = signal.Signals(-exit_code).name
    reason = ", as the system does where the host's memory is used up" if name == "SIGKILL" else ""
    return f"by {name}{reason}"


if __name__ == "__main__":
    try:
        main()
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        sys.exit(f"rank {rank} ended first, {describe(failure.exitcode)}")
