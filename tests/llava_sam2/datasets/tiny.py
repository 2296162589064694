"""Tiny hand-made data in the real formats, and a word tokenizer."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from projects.common.conversation import load_tokenizer
from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.datasets.pixels import SingleTile

HEIGHT, WIDTH = 20, 32
WORDS = (
    "<pad> <unk> <|im_start|> <|im_end|> user assistant system segment sure it is the left right "
    "red blue square circle big dog . , - describe image both and [SEG]"
).split()


def block(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    """A mask bool [HEIGHT, WIDTH] that is a filled rectangle."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def rle(mask: np.ndarray) -> dict[str, Any]:
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def picture(seed: int) -> np.ndarray:
    shape = (HEIGHT, WIDTH, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save_jpeg(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed)).save(path, quality=95)


LEFT, RIGHT, CROWD = block(4, 2, 12, 10), block(6, 20, 18, 30), block(0, 12, 5, 18)


def refcoco_content() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Two images of train (three refs, one of them a crowd) and one of val."""
    images = [
        {"id": number, "file_name": f"im_{number}.jpg", "height": HEIGHT, "width": WIDTH}
        for number in (1, 2, 3)
    ]
    polygon = [[2, 4, 10, 4, 10, 12, 2, 12]]
    annotations = [
        {"id": 11, "image_id": 1, "category_id": 1, "segmentation": polygon},
        {"id": 12, "image_id": 1, "category_id": 1, "segmentation": rle(RIGHT)},
        {"id": 21, "image_id": 2, "category_id": 1, "iscrowd": 1, "segmentation": rle(CROWD)},
        {"id": 31, "image_id": 3, "category_id": 1, "segmentation": polygon},
    ]

    def ref(ref_id: int, ann_id: int, image_id: int, split: str, *sentences: str) -> dict[str, Any]:
        return {
            "ref_id": ref_id,
            "ann_id": ann_id,
            "image_id": image_id,
            "file_name": f"im_{image_id}.jpg",
            "category_id": 1,
            "split": split,
            "sent_ids": [10 * ref_id + n for n in range(len(sentences))],
            "sentences": [
                {"sent_id": 10 * ref_id + n, "sent": s, "raw": s, "tokens": s.split()}
                for n, s in enumerate(sentences)
            ],
        }

    refs = [
        ref(1, 11, 1, "train", "the left square", "red square"),
        ref(2, 12, 1, "train", "the right circle"),
        ref(3, 21, 2, "train", "blue square"),
        ref(4, 31, 3, "val", "big dog", "the left dog"),
    ]
    return {"images": images, "annotations": annotations, "categories": []}, refs


def write_refcoco(root: Path, instances: Any = None, refs: Any = None) -> dict[str, Path]:
    """Arguments for ``refcoco_rows``; the given parts replace the well-formed ones."""
    default_instances, default_refs = refcoco_content()
    root.mkdir(parents=True, exist_ok=True)
    (root / "instances.json").write_text(json.dumps(instances or default_instances))
    with (root / "refs(unc).p").open("wb") as out:
        pickle.dump(refs or default_refs, out)
    for number in (1, 2, 3):
        save_jpeg(root / "images" / f"im_{number}.jpg", number)
    return {"root": root, "image_root": root / "images"}


def mevis_content() -> tuple[dict[str, Any], dict[str, Any]]:
    """Two videos; in the first, object 7 is absent from frame 1 and an expression names two."""
    meta = {
        "videos": {
            "clip_a": {
                "frames": ["00000", "00001", "00002"],
                "expressions": {
                    "0": {"exp": "the left square", "obj_id": [0], "anno_id": [7]},
                    "1": {"exp": "both", "obj_id": [0, 1], "anno_id": [7, 10]},
                },
            },
            "clip_b": {
                "frames": ["00000", "00001"],
                "expressions": {"0": {"exp": "red circle", "obj_id": [0], "anno_id": [3]}},
            },
        }
    }
    masks = {
        "7": [rle(block(0, 0, 6, 6)), None, rle(block(0, 4, 6, 10))],
        "10": [rle(block(10, 20, 16, 26)), rle(block(10, 18, 16, 24)), rle(block(0, 4, 6, 12))],
        "3": [rle(block(2, 2, 8, 8)), rle(block(2, 4, 8, 10))],
    }
    return meta, masks


def write_mevis(root: Path, meta: Any = None, masks: Any = None) -> Path:
    """The split's folder."""
    default_meta, default_masks = mevis_content()
    root.mkdir(parents=True, exist_ok=True)
    (root / "meta_expressions.json").write_text(json.dumps(meta or default_meta))
    (root / "mask_dict.json").write_text(json.dumps(masks or default_masks))
    for name, video in default_meta["videos"].items():
        for number, frame in enumerate(video["frames"]):
            save_jpeg(root / "JPEGImages" / name / f"{frame}.jpg", 100 * len(name) + number)
    return root


def write_tokenizer(folder: Path) -> Path:
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens=["<|im_start|>", "<|im_end|>", "[SEG]"],
    ).save_pretrained(folder)
    return folder


def tiny_inputs(folder: Path, **changes: Any) -> GroundingInputs:
    """16 px tiles of 4 tokens, SAM 2 at 24 px."""
    settings: dict[str, Any] = dict(
        tokenizer=load_tokenizer(write_tokenizer(folder)),
        template="qwen_chat",
        tiles=SingleTile(size=16),
        tokens_per_tile=4,
        grounding_size=24,
        max_length=512,
    )
    return GroundingInputs(**(settings | changes))
