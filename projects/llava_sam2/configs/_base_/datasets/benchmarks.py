"""The table of benchmarks. An entry is a benchmark without its ``respond``, which the config adds.

``_image_benchmarks`` and ``_video_benchmarks`` are answered by ``AskModel``, ``_submissions`` too
(their masks are with the benchmarks' servers), ``_time_benchmarks`` by ``AskForTimes``.
"""

import os

from projects.common.mask_store import open_masks
from projects.llava_sam2.datasets.mevis import mevis_rows, ref_sav_eval_rows
from projects.llava_sam2.datasets.ref_ytvos import ref_davis_rows, ref_ytvos_rows
from projects.llava_sam2.datasets.refcoco import grefcoco_rows, refcoco_rows
from projects.llava_sam2.datasets.revos import revos_rows
from projects.llava_sam2.datasets.temporal_rows import charades_rows, didemo_rows
from projects.llava_sam2.evaluation.refer_image import (
    GeneralizedReferBenchmark,
    ReferImageBenchmark,
)
from projects.llava_sam2.evaluation.refer_video import ReferVideoBenchmark
from projects.llava_sam2.evaluation.submission import SubmissionBenchmark
from projects.llava_sam2.evaluation.temporal import TemporalBenchmark

data_root = os.environ.get("DATA_ROOT", "data")

_seg, _vid = f"{data_root}/refer_seg", f"{data_root}/video_datas"
_pictures = f"{data_root}/coco2014/train2014"
_refcoco = dict(type=refcoco_rows, root=f"{_seg}/refcoco", image_root=_pictures)
_refcoco_plus = dict(type=refcoco_rows, root=f"{_seg}/refcoco+", image_root=_pictures)
_refcocog = dict(type=refcoco_rows, root=f"{_seg}/refcocog", image_root=_pictures, split_by="umd")
_grefcoco = dict(type=grefcoco_rows, root=f"{_seg}/grefcoco", image_root=_pictures)
_image_benchmarks = dict(
    refcoco_val=dict(type=ReferImageBenchmark, rows=dict(**_refcoco, split="val")),
    refcoco_testA=dict(type=ReferImageBenchmark, rows=dict(**_refcoco, split="testA")),
    refcoco_testB=dict(type=ReferImageBenchmark, rows=dict(**_refcoco, split="testB")),
    refcoco_plus_val=dict(type=ReferImageBenchmark, rows=dict(**_refcoco_plus, split="val")),
    refcoco_plus_testA=dict(type=ReferImageBenchmark, rows=dict(**_refcoco_plus, split="testA")),
    refcoco_plus_testB=dict(type=ReferImageBenchmark, rows=dict(**_refcoco_plus, split="testB")),
    refcocog_val=dict(type=ReferImageBenchmark, rows=dict(**_refcocog, split="val")),
    refcocog_test=dict(type=ReferImageBenchmark, rows=dict(**_refcocog, split="test")),
    grefcoco_val=dict(type=GeneralizedReferBenchmark, rows=dict(**_grefcoco, split="val")),
    grefcoco_testA=dict(type=GeneralizedReferBenchmark, rows=dict(**_grefcoco, split="testA")),
    grefcoco_testB=dict(type=GeneralizedReferBenchmark, rows=dict(**_grefcoco, split="testB")),
)
_video_benchmarks = dict(
    mevis_valid_u=dict(
        type=ReferVideoBenchmark, rows=dict(type=mevis_rows, root=f"{_vid}/mevis/valid_u")
    ),
    revos_valid=dict(
        type=ReferVideoBenchmark,
        rows=dict(type=revos_rows, root=f"{_vid}/ReVOS", split="valid"),
        average="parts",
        foreground=dict(type=open_masks, source=f"{_vid}/ReVOS/mask_dict_foreground.json"),
    ),
    ref_davis17=dict(
        type=ReferVideoBenchmark,
        rows=dict(type=ref_davis_rows, root=f"{_vid}/davis17"),
        average="parts",
    ),
    ref_sav=dict(
        type=ReferVideoBenchmark, rows=dict(type=ref_sav_eval_rows, root=f"{_vid}/ref_sav_eval")
    ),
)
_submissions = dict(
    mevis_valid=dict(
        type=SubmissionBenchmark,
        rows=dict(type=mevis_rows, root=f"{_vid}/mevis/valid", masks=False),
    ),
    ref_ytvos_valid=dict(
        type=SubmissionBenchmark,
        rows=dict(type=ref_ytvos_rows, root=f"{_vid}/rvos", split="valid", masks="none"),
    ),
)
_time_benchmarks = dict(
    charades_test=dict(
        type=TemporalBenchmark,
        rows=dict(
            type=charades_rows,
            file=f"{_vid}/charades/charades_sta_test.txt",
            durations=f"{_vid}/charades/Charades_v1_test.csv",
            feature_root=f"{data_root}/clip_features/charades",
        ),
    ),
    didemo_test=dict(
        type=TemporalBenchmark,
        rows=dict(
            type=didemo_rows,
            file=f"{_vid}/didemo/test_data.json",
            feature_root=f"{data_root}/clip_features/didemo",
        ),
    ),
)
