"""Track given masks through the videos of a data set and write the masks as PNG files.

    python tools/vos_inference.py --checkpoint sam2.1_hiera_large.pt \
        --video-root DAVIS/JPEGImages/480p --annotation-root DAVIS/Annotations/480p \
        --video-list DAVIS/ImageSets/2017/val.txt --output-root outputs/davis

Interrupted runs go on when they are started again. See docs/vos_evaluation.md.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import projects  # noqa: F401  (compatibility lines first)
from projects.llava_sam2.sec.command import add_sec_arguments, spec_of
from projects.sam2_video.evaluation.archive import zip_predictions
from projects.sam2_video.evaluation.inference import VosJob, VosSettings, segment_videos, shard
from projects.sam2_video.evaluation.launch import launched_share, worker_devices
from projects.sam2_video.evaluation.loading import add_model_arguments

logger = logging.getLogger(__name__)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Semi-supervised video object segmentation.")
    add_model_arguments(parser)
    add_sec_arguments(parser)
    data = parser.add_argument_group("data")
    data.add_argument(
        "--video-root",
        "--base_video_dir",
        type=Path,
        required=True,
        help="holds <video>/*.jpg or <video>.mp4",
    )
    data.add_argument(
        "--annotation-root",
        "--input_mask_dir",
        type=Path,
        required=True,
        help="holds <video>/*.png, or <video>/<object>/*.png",
    )
    data.add_argument(
        "--video-list", "--video_list_file", type=Path, help="names, default: all annotated"
    )
    data.add_argument("--output-root", "--output_mask_dir", type=Path, required=True)
    data.add_argument(
        "--per-obj-png",
        "--per_obj_png_file",
        action="store_true",
        help="a folder of PNGs per object in input and output (SA-V)",
    )
    data.add_argument("--per-obj-png-in", action="store_true", help="in the input only")
    data.add_argument("--per-obj-png-out", action="store_true", help="in the output only")
    data.add_argument(
        "--annotated-only", action="store_true", help="write only the frames that are annotated"
    )
    data.add_argument("--zip", type=Path, help="then write this zip file for a server")
    data.add_argument("--zip-folder", default="", help="inside of it, e.g. Annotations")
    tracking = parser.add_argument_group("tracking")
    tracking.add_argument(
        "--use-all-masks",
        "--use_all_masks",
        action="store_true",
        help="give every annotated mask, not only the first of an object",
    )
    tracking.add_argument(
        "--track-object-appearing-later",
        "--track_object_appearing_later_in_video",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="objects that the first annotated frame does not show yet",
    )
    tracking.add_argument("--shard", help="i/n: every n-th video from the i-th, counted from 1")
    tracking.add_argument("--workers", type=int, help="processes, default: one per GPU")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    job = VosJob(
        model=spec_of(args),
        settings=VosSettings(
            per_object_output=args.per_obj_png or args.per_obj_png_out,
            use_all_masks=args.use_all_masks,
            late_objects=args.track_object_appearing_later,
            annotated_only=args.annotated_only,
        ),
        video_root=args.video_root,
        annotation_root=args.annotation_root,
        output_root=args.output_root,
        per_object_input=args.per_obj_png or args.per_obj_png_in,
        video_list=args.video_list,
    )
    devices = worker_devices(args.workers)
    share = launched_share(args.shard)
    names = job.source().names
    job.model.check()
    segment_videos(job, shard(names, share.number, share.count), devices=devices)
    missing = [name for name in names if not (args.output_root / name).is_dir()]
    if missing:
        logger.info("%d of %d videos are left to other shards", len(missing), len(names))
    if args.zip is not None and not missing:
        count = zip_predictions(args.output_root, names, args.zip, folder=args.zip_folder)
        logger.info("%s: %d masks", args.zip, count)
    elif args.zip is not None:
        logger.warning("%s is not written yet: call again when all shards are done", args.zip)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(str(error))
