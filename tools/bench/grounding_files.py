"""Small datasets in their own formats, for ``tools/bench/grounding_data.py``."""

from __future__ import annotations

import argparse
import json
import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from projects.common.masks import encode_rle
from projects.common.video import write_jpeg
from projects.toy_world.tokenizer import write_tokenizer
from tools.bench.data_loader import disc, picture

VIDEOS, FRAMES, OBJECTS = 4, 12, 4
IMAGES = 8


def write_all(root: Path, args: argparse.Namespace) -> None:
    rng = np.random.default_rng(0)
    write_tokenizer(root / "tokenizer")
    write_mevis(root / "mevis", rng, args.height, args.width)
    write_images(root, rng)
    write_sav(root / "sav", rng, args.height, args.width)
    folder = root / "charades"
    folder.mkdir()
    lines = []
    for number in range(VIDEOS):
        features = torch.from_numpy(rng.standard_normal((600, 1024), np.float32))
        torch.save(features, folder / f"V{number}.pt")
        lines.append(f"V{number} 12.3 31.0##a person puts the cup down.")
    (folder / "sta.txt").write_text("\n".join(lines) + "\n")


def write_mevis(root: Path, rng: np.random.Generator, height: int, width: int) -> None:
    """Every video with four moving objects of ragged outline, two expressions each."""
    masks: dict[str, list[Any]] = defaultdict(list)
    videos = {}
    for number in range(VIDEOS):
        folder = root / "JPEGImages" / f"video{number}"
        folder.mkdir(parents=True)
        for frame in range(FRAMES):
            write_jpeg(folder / f"{frame:05d}.jpg", picture(rng, height, width), 90)
            for key in range(OBJECTS):
                mask = disc(rng, key, frame, height, width)
                masks[str(OBJECTS * number + key)].append(encode_rle(mask))
        videos[f"video{number}"] = {
            "frames": [f"{frame:05d}" for frame in range(FRAMES)],
            "expressions": {
                str(2 * key + say): {
                    "exp": words,
                    "obj_id": [key],
                    "anno_id": [OBJECTS * number + key],
                }
                for key in range(OBJECTS)
                for say, words in enumerate(("the small one that is moving", "the red object"))
            },
        }
    (root / "meta_expressions.json").write_text(json.dumps({"videos": videos}))
    (root / "mask_dict.json").write_text(json.dumps(masks))


def write_sav(root: Path, rng: np.random.Generator, height: int, width: int) -> None:
    """Every video with masks on every 4th of its frames, of four objects."""
    for number in range(VIDEOS):
        folder = root / f"sav_{number:06d}"
        folder.mkdir(parents=True)
        masklet = []
        for step in range(FRAMES):
            write_jpeg(folder / f"{4 * step:05d}.jpg", picture(rng, height, width), 90)
            masks = [disc(rng, key, step, height, width) for key in range(OBJECTS)]
            masklet.append([encode_rle(mask) for mask in masks])
        (root / f"{folder.name}_manual.json").write_text(json.dumps({"masklet": masklet}))


def write_images(root: Path, rng: np.random.Generator) -> None:
    """Images of 640x480 with four polygons; of each a conversation, a caption and regions."""
    (root / "coco").mkdir()
    (root / "refcoco").mkdir()
    images, annotations, refs, chats = [], [], [], []
    captions, described = [], []
    caption = "a cup beside a dog beside a man beside a red car ."
    phrases = {"a cup": [0, 5], "a dog": [13, 18], "a man": [26, 31], "a red car": [39, 48]}
    for number in range(IMAGES):
        name = f"{number}.jpg"
        write_jpeg(root / "coco" / name, picture(rng, 480, 640), 90)
        images.append({"id": number, "file_name": name, "height": 480, "width": 640})
        for key in range(OBJECTS):
            ann = OBJECTS * number + key
            angle = np.linspace(0, 2 * np.pi, 60)
            x, y = 90 + 140 * key + 60 * np.cos(angle), 240 + 150 * np.sin(angle)
            polygon = np.stack([x, y], axis=1).reshape(-1).tolist()
            annotations.append({"id": ann, "image_id": number, "segmentation": [polygon]})
            sentence = {"sent_id": ann, "sent": "the red object on the left"}
            refs.append(
                {"ref_id": ann, "ann_id": ann, "image_id": number, "split": "train"}
                | {"sentences": [sentence]}
            )
        masks = [disc(rng, key, 0, 480, 640) for key in range(OBJECTS)]
        groundings = {
            phrase: {"token_positives": span, "rle_masks": [encode_rle(mask)]}
            for (phrase, span), mask in zip(phrases.items(), masks, strict=True)
        }
        captions.append({"file_name": name, "caption": caption, "groundings": groundings})
        polygons = [a["segmentation"] for a in annotations[-OBJECTS:]]
        described.append(
            {"file_name": name, "height": 480, "width": 640}
            | {"annotation": [{"segmentation": polygon} for polygon in polygons]}
            | {"description": [f"<region{k + 1}>: the red object" for k in range(OBJECTS)]}
        )
        turns = [{"from": "human", "value": "<image>\nwhat is in the image ?"}] + [
            {"from": "gpt", "value": "many objects that are moving in the scene . " * 8}
        ]
        chats.append({"image": name, "conversations": turns})
    instances = {"images": images, "annotations": annotations}
    (root / "refcoco" / "instances.json").write_text(json.dumps(instances))
    (root / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs))
    (root / "chat.json").write_text(json.dumps(chats))
    (root / "captions.json").write_text(json.dumps(captions))
    (root / "regions.json").write_text(json.dumps(described))
