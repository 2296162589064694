"""The datasets of the mission: their places below the data root, and where to get them.

The places are those of the full-size configs (``configs/_base_/datasets``); ``as_downloaded`` names
the folders of the releases that are known to be called otherwise (Sa2VA's, the datasets' own).
"""

from __future__ import annotations

from dataclasses import dataclass

from projects.llava_sam2.downloads.wanted import (
    Features,
    File,
    Folder,
    Images,
    Videos,
    Wanted,
)


@dataclass(frozen=True)
class Entry:
    """A dataset: what it wants below the data root, and the pages that it is had from."""

    name: str
    wants: tuple[Wanted, ...]
    pages: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """A folder below the data root that a download can be linked to.

    ``as_downloaded``: where it may lie in a download, tried in this order after its own path.
    """

    path: str
    as_downloaded: tuple[str, ...] = ()


PLACES = (
    Place(
        "coco2014/train2014",
        ("train2014", "coco/train2014", "glamm_data/images/coco2014/train2014"),
    ),
    *(
        Place(f"refer_seg/{name}", (f"ref_seg/{name}", name))
        for name in ("refcoco", "refcoco+", "refcocog", "grefcoco")
    ),
    Place("sa2va_finetune", ("Sa2VA-finetune",)),
    Place("video_datas/mevis", ("mevis", "MeViS_release", "MeViS/MeViS_release")),
    Place("video_datas/rvos", ("rvos", "ref-youtube-vos", "Ref-YouTube-VOS")),
    Place("video_datas/ReVOS", ("ReVOS", "video_datas/revos", "revos")),
    Place("video_datas/davis17", ("davis17", "ref-davis", "Ref-DAVIS17")),
    Place("video_datas/ref_sav", ("Ref-SAV", "ref_sav")),
    Place("video_datas/ref_sav_eval", ("ref_sav_eval", "ref-sav-eval")),
    Place("video_datas/charades", ("charades", "Charades")),
    Place("video_datas/didemo", ("didemo", "DiDeMo")),
    Place("video_datas/chat_univi", ("chat_univi", "Chat-UniVi-Instruct")),
    Place("special_jsons/spatial"),
    *(
        Place(f"special_jsons/temporal/{name}")
        for name in ("Charades", "DideMo", "HiREST_grounding", "QueryD")
    ),
    *(Place(f"clip_features/{name}") for name in ("charades", "didemo", "hirest", "queryd")),
    Place("SA-V", ("sa-v", "sav", "sa_v")),
    Place("SA-1B", ("sa-1b", "sa1b")),
    Place("DAVIS", ("DAVIS2017", "DAVIS-2017-trainval/DAVIS")),
    Place("MOSE", ("mose",)),
    Place("llava_data", ("LLaVA-data",)),
    Place("glamm_data", ("GranDf", "GranD-f")),
    Place("osprey-724k", ("Osprey-724K",)),
)

_COCO = "https://cocodataset.org/#download (2014 train images)"
_REFER = "https://github.com/lichengunc/refer"
_SA2VA = "https://huggingface.co/datasets/Dense-World/Sa2VA-Training"
_TOOLS = "tools/extract_frames.py, then tools/extract_clip_features.py, for the features"


def _referring(name: str, *refs: str) -> Entry:
    root = f"refer_seg/{name}"
    files = tuple(File(f"{root}/{file}") for file in ("instances.json", *refs))
    return Entry(name, (*files, Images(files[0].path, "coco2014/train2014")), (_REFER, _COCO))


def _video(
    name: str,
    meta: str,
    frames: str,
    masks: tuple[Wanted, ...],
    *pages: str,
    without: str | None = None,
) -> Entry:
    return Entry(name, (File(meta), Folder(frames), Videos(meta, frames, without), *masks), pages)


def _temporal(name: str, annotation: str, features: str, page: str) -> Entry:
    folder = f"clip_features/{features}"
    return Entry(name, (File(annotation), Features(annotation, folder)), (page, _TOOLS))


_MEVIS = "https://github.com/henghuiding/MeViS"
_RVOS = "https://youtube-vos.org/dataset/rvos/"
_RVOS_META = "video_datas/rvos/meta_expressions"
_REVOS = "https://github.com/cilinyan/ReVOS-api"
_GRAND = "https://huggingface.co/datasets/MBZUAI/GranD-f"

CATALOGUE = (
    _referring("refcoco", "refs(unc).p"),
    _referring("refcoco+", "refs(unc).p"),
    _referring("refcocog", "refs(umd).p"),
    Entry(
        "grefcoco",
        (
            File("refer_seg/grefcoco/instances.json"),
            File("refer_seg/grefcoco/grefs(unc).json"),
            Images("refer_seg/grefcoco/instances.json", "coco2014/train2014"),
        ),
        ("https://github.com/henghuiding/gRefCOCO", _COCO),
    ),
    *(
        _video(
            f"mevis {split}",
            f"video_datas/mevis/{split}/meta_expressions.json",
            f"video_datas/mevis/{split}/JPEGImages",
            (File(f"video_datas/mevis/{split}/mask_dict.json"),) if split != "valid" else (),
            _MEVIS,
        )
        for split in ("train", "valid_u", "valid")
    ),
    *(
        _video(
            f"ref_ytvos {split}",
            f"{_RVOS_META}/{split}/meta_expressions.json",
            f"video_datas/rvos/{split}/JPEGImages",
            (Folder(f"video_datas/rvos/{split}/Annotations"),) if split == "train" else (),
            _RVOS,
            # the expressions of valid tell of the test videos too
            without=f"{_RVOS_META}/test/meta_expressions.json" if split == "valid" else None,
        )
        for split in ("train", "valid")
    ),
    *(
        _video(
            f"revos {split}",
            f"video_datas/ReVOS/meta_expressions_{split}_.json",
            "video_datas/ReVOS/JPEGImages",
            (File("video_datas/ReVOS/mask_dict.json"),),
            _REVOS,
        )
        for split in ("train", "valid")
    ),
    _video(
        "ref_davis17",
        "video_datas/davis17/meta_expressions/valid/meta_expressions.json",
        "video_datas/davis17/valid/JPEGImages",
        (Folder("video_datas/davis17/valid/Annotations"),),
        "https://davischallenge.org/davis2017/code.html (frames and masks)",
        _SA2VA + " (expressions)",
    ),
    Entry(
        "ref_sav",
        (
            File("video_datas/ref_sav/Ref-SAV.json"),
            Folder("SA-V/train", "_manual.json", parts="sav_*"),
        ),
        (_SA2VA, "https://ai.meta.com/datasets/segment-anything-video/"),
    ),
    _video(
        "ref_sav eval",
        "video_datas/ref_sav_eval/meta_expressions_valid.json",
        "video_datas/ref_sav_eval/videos",
        (File("video_datas/ref_sav_eval/mask_dict.json"),),
        _SA2VA,
    ),
    _temporal(
        "charades train",
        "video_datas/charades/charades_sta_train.txt",
        "charades",
        "https://github.com/jiyanggao/TALL, https://prior.allenai.org/projects/charades",
    ),
    _temporal(
        "charades test",
        "video_datas/charades/charades_sta_test.txt",
        "charades",
        "https://github.com/jiyanggao/TALL, https://prior.allenai.org/projects/charades",
    ),
    *(
        _temporal(
            f"didemo {split}",
            f"video_datas/didemo/{split}_data.json",
            "didemo",
            "https://github.com/LisaAnne/LocalizingMoments",
        )
        for split in ("train", "test")
    ),
    _temporal(
        "hirest",
        "special_jsons/temporal/HiREST_grounding/time_token.json",
        "hirest",
        "https://github.com/j-min/HiREST",
    ),
    _temporal(
        "queryd",
        "special_jsons/temporal/QueryD/time_token.json",
        "queryd",
        "https://www.robots.ox.ac.uk/~vgg/data/queryd/",
    ),
    Entry(
        "boxes",
        tuple(
            File(f"special_jsons/spatial/{file}")
            for file in (
                "mevis/mevis_bbox.json",
                "refytvos/ref_ytvos_bbox.json",
                "refytvos/ref_ytvos_expressions.json",
                "revos/revos_bbox.json",
            )
        ),
        ("tools/make_boxes.py, which makes them of the masks",),
    ),
    Entry(
        "sav train",
        (Folder("SA-V/train", "_manual.json", parts="sav_*"),),
        ("https://ai.meta.com/datasets/segment-anything-video/",),
    ),
    Entry(
        "sav concept",
        (Folder("SA-V/train", "_manual.json", parts="sav_*"), File("SA-V/sav_video_obj_ids.txt")),
        (
            "https://ai.meta.com/datasets/segment-anything-video/",
            "tools/make_sav_lists.py, which makes the list",
        ),
    ),
    Entry(
        "llava chat",
        (
            File("llava_data/LLaVA-Instruct-150K/llava_v1_5_mix665k.json"),
            Folder("llava_data/llava_images"),
        ),
        ("https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K", _SA2VA),
    ),
    Entry(
        "video chat",
        (
            File("video_datas/chat_univi/video_chat.json"),
            Folder("video_datas/chat_univi/Activity_Videos"),
        ),
        ("https://huggingface.co/datasets/Chat-UniVi/Chat-UniVi-Instruct", _SA2VA),
    ),
    *(
        Entry(
            name,
            (File(f"glamm_data/annotations/{file}"), Folder(f"glamm_data/images/{images}")),
            (_GRAND, pictures),
        )
        for name, file, images, pictures in (
            ("gcg refcocog", "RefCOCOg_GCG_train.json", "coco2014/train2014", _COCO),
            (
                "gcg flickr",
                "flickr_mergedGT_GCG_train.json",
                "flickr30k",
                "https://shannon.cs.illinois.edu/DenotationGraph/",
            ),
            ("gcg psg", "OpenPsgGCG_train.json", "coco2017", "https://cocodataset.org/#download"),
            (
                "gcg grandf",
                "GranDf_HA_GCG_train.json",
                "grandf/train",
                "https://ai.meta.com/datasets/segment-anything/",
            ),
        )
    ),
    Entry(
        "osprey",
        (Folder("osprey-724k/Osprey-724K", ".json"), Folder("osprey-724k/coco")),
        ("https://huggingface.co/datasets/AntGroup-MI/Osprey-724K", _COCO),
    ),
)
