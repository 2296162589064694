"""Toy data: referring images and videos, clips, captions, times; and what is measured on them."""

import os

from projects.common.conversation import load_shared_tokenizer
from projects.llava_sam2.datasets.chat import ChatDataset, listing_rows
from projects.llava_sam2.datasets.collate import collate
from projects.llava_sam2.datasets.frame_samplers import RandomFrames, UniformFrames
from projects.llava_sam2.datasets.grounding import GroundingDataset
from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.datasets.labels import load_labels
from projects.llava_sam2.datasets.mevis import mevis_rows
from projects.llava_sam2.datasets.pixels import HorizontalFlip, SingleTile
from projects.llava_sam2.datasets.refcoco import refcoco_rows
from projects.llava_sam2.datasets.templates import Templates
from projects.llava_sam2.datasets.temporal import TemporalDataset, TemporalInputs
from projects.llava_sam2.datasets.temporal_rows import charades_rows
from projects.llava_sam2.evaluation.refer_image import ReferImageBenchmark
from projects.llava_sam2.evaluation.refer_video import ReferVideoBenchmark
from projects.llava_sam2.evaluation.responders import AskModel, Trivial
from projects.llava_sam2.evaluation.temporal import AskForTimes, TemporalBenchmark, TrivialTimes
from projects.sam2_video.data.coco import CocoImageSource
from projects.sam2_video.data.dataset import ClipDataset
from projects.sam2_video.data.png import PaletteSource
from projects.sam2_video.data.samplers import UniformSampler
from projects.sam2_video.data.sav import SavSource
from projects.sam2_video.data.transforms import HorizontalFlip as ClipFlip
from projects.sam2_video.data.transforms import ResizeSquare

data_root = os.environ.get("DATA_ROOT", "data/toy")

_refcoco = dict(root=f"{data_root}/refer_seg/refcoco", image_root=f"{data_root}/coco2014/train2014")
_mevis = f"{data_root}/video_datas/mevis"
_inputs = dict(
    type=GroundingInputs,
    tokenizer=dict(type=load_shared_tokenizer, path=f"{data_root}/tokenizer"),
    template="qwen_chat",
    tiles=dict(type=SingleTile, size=64),
    tokens_per_tile=16,
    grounding_size=96,
    max_length=512,
)
# the words come after [SEG]: what is to be said there must have been understood at [SEG]
_templates = dict(
    type=Templates,
    questions=["segment {expression} ."],
    answers=["sure it is [SEG] {words} ."],
)
_charades = f"{data_root}/video_datas/charades"
_features = f"{data_root}/clip_features/charades"
_time_inputs = dict(
    type=TemporalInputs,
    tokenizer=_inputs["tokenizer"],
    template=_inputs["template"],
    # said before the frames, and more than once: a small model looks for what it has just read
    questions=["<TEMPORAL> {query} {query} {query} <image> when ?"],
    frames=dict(type=UniformFrames, num=50),
    fps=10.0,
    max_length=512,
)
_flip = dict(type=HorizontalFlip, probability=0.5, words={"left": "right", "leftmost": "rightmost"})
_refcoco_labels = dict(type=load_labels, file=f"{data_root}/toy_world.json", dataset="refcoco")
_mevis_labels = dict(type=load_labels, file=f"{data_root}/toy_world.json", dataset="mevis")
_clips = dict(
    sampler=dict(type=UniformSampler, num_frames=3, max_objects=2, reverse_time_prob=0.5),
    transforms=[dict(type=ResizeSquare, size=96), dict(type=ClipFlip)],
)

train_dataloader = dict(
    datasets=[
        dict(
            dataset=dict(
                type=GroundingDataset,
                rows=dict(type=refcoco_rows, **_refcoco, split="train"),
                inputs=_inputs,
                templates=_templates,
                mask_size=128,
                expressions=4,
                flip=_flip,
            ),
            repeat=1.0,
        ),
        dict(
            dataset=dict(
                type=GroundingDataset,
                rows=dict(type=mevis_rows, root=f"{_mevis}/train"),
                inputs=_inputs,
                templates=_templates,
                mask_size=128,
                expressions=2,
                frames=dict(type=RandomFrames, num=3),
                flip=_flip,
            ),
            repeat=0.3,
        ),
        dict(
            dataset=dict(
                type=ClipDataset,
                **_clips,
                source=dict(
                    type=PaletteSource,
                    image_root=f"{data_root}/DAVIS/JPEGImages",
                    annotation_root=f"{data_root}/DAVIS/Annotations",
                    list_file=f"{data_root}/DAVIS/ImageSets/train.txt",
                ),
            ),
            repeat=0.8,
        ),
        dict(
            dataset=dict(
                type=ClipDataset,
                **_clips,
                source=dict(
                    type=SavSource,
                    annotation_root=f"{data_root}/SA-V/train",
                    frame_root=f"{data_root}/SA-V/train",
                ),
            ),
            repeat=0.8,
        ),
        dict(
            dataset=dict(
                type=ClipDataset,
                task="category",
                source=dict(
                    type=CocoImageSource,
                    annotation_file=f"{_refcoco['root']}/instances.json",
                    image_root=_refcoco["image_root"],
                    refs_file=f"{_refcoco['root']}/refs(unc).p",
                    splits=["train"],
                ),
                sampler=dict(type=UniformSampler, num_frames=1, max_objects=4),
                transforms=_clips["transforms"],
            ),
            repeat=1.0,
        ),
        dict(
            dataset=dict(
                type=ChatDataset,
                rows=dict(
                    type=listing_rows,
                    rows=dict(type=refcoco_rows, **_refcoco, split="train"),
                    question="describe the image .",
                    labels=_refcoco_labels,
                    only=["colour", "shape", "size"],
                ),
                inputs=_inputs,
            ),
            repeat=0.05,
        ),
        dict(
            dataset=dict(
                type=TemporalDataset,
                rows=dict(
                    type=charades_rows,
                    file=f"{_charades}/charades_sta_train.txt",
                    durations=f"{_charades}/Charades_v1_train.csv",
                    feature_root=_features,
                ),
                inputs=_time_inputs,
            ),
            repeat=1.2,
            batch_size=8,
        ),
    ],
    batch_size=6,
    num_workers=1,
    collate=collate,
)

_ask = dict(
    type=AskModel, inputs=_inputs, templates=_templates, frames=dict(type=UniformFrames, num=3)
)
_val = dict(rows=dict(type=refcoco_rows, **_refcoco, split="val"), labels=_refcoco_labels)
_valid_u = dict(
    rows=dict(type=mevis_rows, root=f"{_mevis}/valid_u"),
    labels=_mevis_labels,
)
_charades_test = dict(
    rows=dict(
        type=charades_rows,
        file=f"{_charades}/charades_sta_test.txt",
        durations=f"{_charades}/Charades_v1_test.csv",
        feature_root=_features,
    ),
    labels=dict(type=load_labels, file=f"{data_root}/toy_world.json", dataset="charades"),
)
_ask_times = dict(type=AskForTimes, inputs=_time_inputs)
benchmarks = dict(
    refcoco_val=dict(type=ReferImageBenchmark, **_val, respond=_ask),
    refcoco_testA=dict(
        type=ReferImageBenchmark,
        rows=dict(type=refcoco_rows, **_refcoco, split="testA"),
        labels=_refcoco_labels,
        respond=_ask,
    ),
    refcoco_testB=dict(
        type=ReferImageBenchmark,
        rows=dict(type=refcoco_rows, **_refcoco, split="testB"),
        labels=_refcoco_labels,
        respond=_ask,
    ),
    mevis_valid_u=dict(type=ReferVideoBenchmark, **_valid_u, respond=_ask),
    # without its visual tokens: what the language model sees, beside passing on the words
    refcoco_val_no_visual=dict(
        type=ReferImageBenchmark, **_val, respond=dict(**_ask, use_visual=False)
    ),
    mevis_valid_u_no_visual=dict(
        type=ReferVideoBenchmark, **_valid_u, respond=dict(**_ask, use_visual=False)
    ),
    refcoco_val_baseline_everything=dict(
        type=ReferImageBenchmark, **_val, respond=dict(type=Trivial, kind="everything")
    ),
    refcoco_val_baseline_largest=dict(
        type=ReferImageBenchmark, **_val, respond=dict(type=Trivial, kind="largest")
    ),
    refcoco_val_baseline_random=dict(
        type=ReferImageBenchmark, **_val, respond=dict(type=Trivial, kind="random")
    ),
    mevis_valid_u_baseline_everything=dict(
        type=ReferVideoBenchmark, **_valid_u, respond=dict(type=Trivial, kind="everything")
    ),
    mevis_valid_u_baseline_largest=dict(
        type=ReferVideoBenchmark, **_valid_u, respond=dict(type=Trivial, kind="largest")
    ),
    mevis_valid_u_baseline_random=dict(
        type=ReferVideoBenchmark, **_valid_u, respond=dict(type=Trivial, kind="random")
    ),
    charades_test=dict(type=TemporalBenchmark, **_charades_test, respond=_ask_times),
    charades_test_no_visual=dict(
        type=TemporalBenchmark, **_charades_test, respond=dict(**_ask_times, use_visual=False)
    ),
    charades_test_baseline_whole_video=dict(
        type=TemporalBenchmark,
        **_charades_test,
        respond=dict(type=TrivialTimes, kind="whole_video"),
    ),
    charades_test_baseline_middle_half=dict(
        type=TemporalBenchmark,
        **_charades_test,
        respond=dict(type=TrivialTimes, kind="middle_half"),
    ),
)
