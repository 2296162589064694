"""Lists of SA-V's objects and scenes: ``tools/make_sav_lists.py ANNOTATIONS FRAMES OUT``.

``OUT/sav_video_obj_ids.txt``     ``video object`` a line, for SavSource(objects_file=...)
``OUT/sav_scene_top2k.txt``       the videos with most scene changes, for SavSource(list_file=...)

FRAMES holds videos or folders of frames. A run that was interrupted goes on where it stopped
(``OUT/sav_facts.jsonl``). Videos that cannot be read are missing in the lists, are named, and
make the exit code 1.
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
from projects.common.scenes import THRESHOLD
from projects.sam2_video.data.sav import SavSource
from projects.sam2_video.data.sav_lists import (
    OBJECTS_FILE,
    FactsFile,
    FactsSettings,
    video_facts,
    write_objects,
    write_scenes,
)

logger = logging.getLogger("make_sav_lists")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("annotations", type=Path, help="folder of <id>_manual.json")
    parser.add_argument("frames", type=Path, help="folder of <id>.mp4 or <id>/00000.jpg")
    parser.add_argument("out", type=Path, help="folder for the lists")
    parser.add_argument("--kind", choices=("manual", "auto"), default="manual")
    parser.add_argument("--file-list", type=Path, help="only these videos")
    parser.add_argument("--top", type=int, default=2000, help="videos in the list of scenes")
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help="of a scene change")
    parser.add_argument("--step", type=int, default=4, help="compare every n-th frame")
    parser.add_argument("--ann-every", type=int, default=4, help="a mask on every n-th frame")
    parser.add_argument("--min-frames", type=int, default=1, help="frames that show an object")
    parser.add_argument("--objects-only", action="store_true", help="do not look at the frames")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if args.top < 1:
            raise ValueError(f"--top {args.top}: a list has at least one video")
        settings = FactsSettings(
            min_frames=args.min_frames,
            step=args.step,
            threshold=args.threshold,
            scenes=not args.objects_only,
            kind=args.kind,
            ann_every=args.ann_every,
        )
        source = SavSource(
            annotation_root=args.annotations,
            frame_root=args.frames,
            list_file=args.file_list,
            kind=args.kind,
            ann_every=args.ann_every,
            rm_unannotated=False,
        )
        stored = FactsFile(args.out / "sav_facts.jsonl", settings)
    except (ValueError, OSError) as error:
        sys.exit(f"make_sav_lists: {error}")
    failures = gather_facts(source, stored, settings, args.workers)
    facts = [stored.facts[name] for name in source.names if name in stored.facts]
    lines = write_objects(args.out / OBJECTS_FILE, facts)
    logger.info("%s: %d objects of %d videos", args.out / OBJECTS_FILE, lines, len(facts))
    if settings.scenes:
        path = args.out / f"sav_scene_top{_short(args.top)}.txt"
        count = write_scenes(path, facts, args.top)
        logger.info("%s: %d videos with scene changes", path, count)
    for error in failures:
        logger.error("failed: %s", error)
    if failures:
        logger.error("the lists lack %d videos; mend these and run again", len(failures))
    return 1 if failures else 0


def gather_facts(
    source: SavSource, stored: FactsFile, settings: FactsSettings, workers: int
) -> list[str]:
    """Facts of all videos that are not stored yet; the errors of those that cannot be read."""
    todo = [index for index, name in enumerate(source.names) if name not in stored.facts]
    done = len(source) - len(todo)
    work = functools.partial(video_facts, source=source, settings=settings)
    failures = []
    with Progress(total=len(source), initial=done, description="videos") as progress:
        for outcome in map_files(work, todo, workers=workers):
            if outcome.error is None:
                stored.add(outcome.result)
            else:
                failures.append(outcome.error)
            progress.update()
    return failures


def _short(count: int) -> str:
    """2000 as 2k, as the list is known."""
    return f"{count // 1000}k" if count % 1000 == 0 else str(count)


if __name__ == "__main__":
    sys.exit(main())
