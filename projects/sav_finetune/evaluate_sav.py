"""Evaluate a SAM 2 on SA-V: track the given masks, write them, score them.

    python projects/sav_finetune/evaluate_sav.py --checkpoint sam2.1_hiera_large.pt \
        --video-root sav_val/JPEGImages_24fps --annotation-root sav_val/Annotations_6fps \
        --video-list sav_val/sav_val.txt --output-root outputs/sav_val

Writes masks in SA-V's layout, ``results.csv`` and ``metrics.json`` beside them. See
docs/vos_evaluation.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import projects  # noqa: E402, F401  (compatibility lines first)
from projects.sam2_video.data.sources import read_names  # noqa: E402
from projects.sam2_video.evaluation.folders import FolderScores, score_folders  # noqa: E402
from projects.sam2_video.evaluation.inference import (  # noqa: E402
    RECORD,
    VosJob,
    VosSettings,
    segment_videos,
)
from projects.sam2_video.evaluation.launch import worker_devices  # noqa: E402
from projects.sam2_video.evaluation.loading import add_model_arguments, model_spec  # noqa: E402
from projects.sam2_video.evaluation.mask_folders import PerObjectMasks, open_masks  # noqa: E402
from projects.sam2_video.evaluation.results import (  # noqa: E402
    CSV_NAME,
    read_scene_list,
    write_csv,
    write_json,
)

logger = logging.getLogger(__name__)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="J, F and J&F of a SAM 2 on SA-V val or test.")
    add_model_arguments(parser, required=False)
    data = parser.add_argument_group("data")
    data.add_argument("--video-root", type=Path, help="holds <video>/*.jpg or <video>.mp4")
    data.add_argument(
        "--annotation-root",
        type=Path,
        required=True,
        help="holds <video>/<object>/*.png, or palette PNGs <video>/*.png",
    )
    data.add_argument("--video-list", type=Path, help="names, default: all annotated")
    data.add_argument("--output-root", type=Path, required=True, help="of the predicted masks")
    data.add_argument("--metrics-json", type=Path, help="default: OUTPUT_ROOT/metrics.json")
    tracking = parser.add_argument_group("tracking")
    tracking.add_argument("--use-all-masks", action="store_true", help="give every annotated mask")
    tracking.add_argument(
        "--all-frames", action="store_true", help="write all frames, not the annotated ones alone"
    )
    tracking.add_argument("--skip-inference", action="store_true", help="score what is there")
    tracking.add_argument(
        "--workers", "--gpus", type=int, help="processes that track, default: one per GPU"
    )
    scoring = parser.add_argument_group("scoring")
    scoring.add_argument(
        "--do-not-skip-first-last",
        "--do_not_skip_first_and_last_frame",
        action="store_true",
        help="score the first and the last annotated frame too",
    )
    scoring.add_argument("--strict", action="store_true", help="missing masks are an error")
    scoring.add_argument("--num-processes", type=int, help="that score, default: one per core")
    scoring.add_argument("--scene-list", type=Path, help="lines '<video> <scenes>': SeCVOS groups")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> FolderScores:
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "evaluate_sav.py is one process that starts its workers (--workers). On several nodes, "
            "run tools/vos_inference.py there, then this with --skip-inference"
        )
    scenes = None if args.scene_list is None else read_scene_list(args.scene_list)
    names = None if args.video_list is None else read_names(args.video_list)
    if not args.skip_inference:
        names = _predict(args)
    scores = score_folders(
        args.annotation_root,
        args.output_root,
        videos=names,
        skip_first_and_last=not args.do_not_skip_first_last,
        strict=args.strict,
        workers=args.num_processes,
    )
    write_csv(scores, args.output_root / CSV_NAME)
    target = args.metrics_json or args.output_root / "metrics.json"
    write_json(scores, target, settings=_settings(args), scenes=scenes)
    summary = ", ".join(f"{key} {100 * value:.1f}" for key, value in scores.summary().items())
    logger.info("%d objects in %d videos: %s", len(scores.objects), len(scores.videos), summary)
    logger.info("%s and %s", args.output_root / CSV_NAME, target)
    return scores


def _predict(args: argparse.Namespace) -> list[str]:
    """Write the masks; returns the names of the videos."""
    for name in ("checkpoint", "video_root"):
        if getattr(args, name) is None:
            raise ValueError(f"--{name.replace('_', '-')} is needed, or --skip-inference")
    job = VosJob(
        model=model_spec(args),
        settings=VosSettings(
            per_object_output=True,
            use_all_masks=args.use_all_masks,
            annotated_only=not args.all_frames,
        ),
        video_root=args.video_root,
        annotation_root=args.annotation_root,
        output_root=args.output_root,
        per_object_input=_per_object(args.annotation_root),
        video_list=args.video_list,
    )
    names = job.source().names
    job.model.check()
    segment_videos(job, names, devices=worker_devices(args.workers))
    return names


def _per_object(root: Path) -> bool:
    """Whether the annotations are a folder per object, by the first video."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder of annotations")
    first = next((path for path in sorted(root.iterdir()) if path.is_dir()), None)
    return first is not None and isinstance(open_masks(first), PerObjectMasks)


def _settings(args: argparse.Namespace) -> dict[str, object]:
    """How the numbers were taken, for whoever compares with them."""
    record = args.output_root / RECORD
    return {
        "checkpoint": args.checkpoint,
        "model_cfg": args.model_cfg,
        "annotation_root": str(args.annotation_root),
        "skip_first_and_last": not args.do_not_skip_first_last,
        "strict": args.strict,
        "inference": json.loads(record.read_text()) if record.is_file() else None,
    }


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(str(error))
