"""The table of conversations: images, videos, grounded captions, regions."""

import os

from projects.llava_sam2.datasets.chat import ChatDataset
from projects.llava_sam2.datasets.frame_samplers import UniformFrames
from projects.llava_sam2.datasets.gcg import flickr_gcg_rows, grandf_rows, refcocog_gcg_rows
from projects.llava_sam2.datasets.grounded_captions import GroundedCaptionDataset
from projects.llava_sam2.datasets.llava_json import llava_rows
from projects.llava_sam2.datasets.osprey import osprey_rows
from projects.llava_sam2.datasets.regions import RegionDataset

data_root = os.environ.get("DATA_ROOT", "data")

_glamm = f"{data_root}/glamm_data"
_osprey = f"{data_root}/osprey-724k"
_chat = dict(
    llava=dict(
        type=ChatDataset,
        rows=dict(
            type=llava_rows,
            file=f"{data_root}/llava_data/LLaVA-Instruct-150K/llava_v1_5_mix665k.json",
            image_root=f"{data_root}/llava_data/llava_images",
        ),
    ),
    video_chat=dict(
        type=ChatDataset,
        rows=dict(
            type=llava_rows,
            file=f"{data_root}/video_datas/chat_univi/video_chat.json",
            video_root=f"{data_root}/video_datas/chat_univi/Activity_Videos",
        ),
        frames=dict(type=UniformFrames, num=5, jitter=True),
    ),
)
_captions = dict(
    gcg_refcocog=dict(
        type=GroundedCaptionDataset,
        rows=dict(
            type=refcocog_gcg_rows,
            file=f"{_glamm}/annotations/RefCOCOg_GCG_train.json",
            image_root=f"{_glamm}/images/coco2014/train2014",
        ),
        mask_size=256,
    ),
    gcg_flickr=dict(
        type=GroundedCaptionDataset,
        rows=dict(
            type=flickr_gcg_rows,
            file=f"{_glamm}/annotations/flickr_mergedGT_GCG_train.json",
            image_root=f"{_glamm}/images/flickr30k",
        ),
        mask_size=256,
    ),
    gcg_psg=dict(
        type=GroundedCaptionDataset,
        rows=dict(
            type=grandf_rows,
            file=f"{_glamm}/annotations/OpenPsgGCG_train.json",
            image_root=f"{_glamm}/images/coco2017",
        ),
        mask_size=256,
    ),
    gcg_grandf=dict(
        type=GroundedCaptionDataset,
        rows=dict(
            type=grandf_rows,
            file=f"{_glamm}/annotations/GranDf_HA_GCG_train.json",
            image_root=f"{_glamm}/images/grandf/train",
        ),
        mask_size=256,
    ),
)
_regions = dict(
    osprey_conversation=dict(
        type=RegionDataset,
        rows=dict(
            type=osprey_rows,
            file=f"{_osprey}/Osprey-724K/osprey_conversation.json",
            image_root=f"{_osprey}/coco",
        ),
    ),
    osprey_short_form=dict(
        type=RegionDataset,
        rows=dict(
            type=osprey_rows,
            file=f"{_osprey}/Osprey-724K/osprey_short_form.json",
            image_root=f"{_osprey}/coco",
        ),
        short_answer="Answer the question using a single word or phrase.",
    ),
    osprey_detail_description=dict(
        type=RegionDataset,
        rows=dict(
            type=osprey_rows,
            file=f"{_osprey}/Osprey-724K/osprey_detail_description.json",
            image_root=f"{_osprey}/coco",
        ),
    ),
)
