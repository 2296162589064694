"""Videos to frames: ``tools/extract_frames.py VIDEOS OUT [--every N | --fps F]``.

``OUT/<video>/00000.jpg, 00004.jpg, ...``: frames keep their number in the video, as SA-V's masks
need it. A run that was interrupted goes on where it stopped; a video that does not decode to its
end leaves nothing behind, is listed, and makes the exit code 1.
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import projects  # noqa: F401  (compatibility lines first)
from projects.common.parallel import map_files
from projects.common.progress import Progress
from projects.sam2_video.data.extract import Extraction, extract_video, find_videos

logger = logging.getLogger("extract_frames")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", type=Path, help="a video, or a folder with videos at any depth")
    parser.add_argument("out", type=Path, help="folder for a folder of frames per video")
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument("--every", type=int, default=1, help="every n-th frame (SA-V: 4)")
    rate.add_argument("--fps", type=float, help="frames a second")
    parser.add_argument("--renumber", action="store_true", help="name frames 0, 1, 2, ...")
    parser.add_argument("--quality", type=int, default=95, help="of JPEG, 1..100 (default 95)")
    parser.add_argument("--ext", choices=("jpg", "png"), default="jpg")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        extraction = Extraction(
            every=args.every,
            fps=args.fps,
            renumber=args.renumber,
            suffix=f".{args.ext}",
            quality=args.quality,
        )
        videos = find_videos(args.videos)
    except (ValueError, OSError) as error:
        sys.exit(f"extract_frames: {error}")
    work = functools.partial(extract_video, out=args.out, extraction=extraction)
    frames, failures = 0, []
    with Progress(total=len(videos), description="videos") as progress:
        for outcome in map_files(work, videos, workers=args.workers):
            frames += outcome.result or 0
            if outcome.error is not None:
                failures.append(outcome.error)
            progress.update()
    logger.info("%d frames of %d videos in %s", frames, len(videos) - len(failures), args.out)
    for error in failures:
        logger.error("failed: %s", error)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
