"""ZeRO shards as one weights file: ``tools/convert_zero_checkpoint.py IN OUT.safetensors``.

IN is a checkpoint folder of ours (iter_N.pth), its zero/, or a folder that DeepSpeed wrote (with
``latest``, or the tagged one). OUT holds what trains, in float32, and loads with --load-from.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import projects  # noqa: F401  (compatibility lines first)
from projects.common.checkpoint import save_safetensors
from projects.llava_sam2.hf.zero_shards import find_shards, merge_shards, open_shards


def parse_args(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Put DeepSpeed's ZeRO shards together.")
    parser.add_argument("source", metavar="IN", type=Path)
    parser.add_argument("target", metavar="OUT", type=Path, help="a .safetensors file")
    parser.add_argument("--force", action="store_true", help="replace OUT")
    return parser.parse_args(arguments)


def convert(source: Path, target: Path, *, force: bool) -> str:
    if target.suffix != ".safetensors":
        raise ValueError(f"{target}: the weights are written as a .safetensors file")
    if target.exists() and not force:
        raise FileExistsError(f"{target} exists; choose another name, or replace it by --force")
    shards = open_shards(find_shards(source))
    state = merge_shards(shards)
    save_safetensors(state, target, metadata={"format": "pt"})
    numbers = sum(tensor.numel() for tensor in state.values())
    return (
        f"{shards.folder} (ZeRO-{shards.stage}, {len(shards.ranks)} processes) -> {target}: "
        f"{len(state)} tensors, {numbers:,} numbers"
    )


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    args = parse_args(arguments)
    try:
        report = convert(args.source, args.target, force=args.force)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{report}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
