"""Conversations in LLaVA's json: about images (and words alone), and about videos (mp4)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from projects.common.video import FrameFolder, write_mp4
from projects.toy_world.layouts.files import Records, write_json
from projects.toy_world.layouts.mevis import VideoRecord, frame_folder
from projects.toy_world.layouts.refcoco import ImageRecord
from projects.toy_world.phrases import COUNT_WORDS
from projects.toy_world.retold.pictures import copy_images, describe, listed, told_images
from projects.toy_world.world import World

_VIDEOS = 8
_WORDS_ALONE = ("how many are red and blue ?", "two .")  # what is told without a picture


def write(world: World, records: Mapping[str, Records], root: Path) -> None:
    images = told_images(records, "train")
    folder = root / "llava_data"
    copy_images(root, folder / "llava_images" / "coco" / "train2017", images)
    entries = [_about_image(number, image) for number, image in enumerate(images)]
    entries.append({"id": "words", "conversations": _turns(_WORDS_ALONE)})
    write_json(folder / "LLaVA-Instruct-150K" / "llava_v1_5_mix665k.json", entries)

    folder = root / "video_datas" / "chat_univi"
    videos = records["mevis"]["train"][:_VIDEOS]
    (folder / "Activity_Videos").mkdir(parents=True, exist_ok=True)
    for video in videos:
        frames = FrameFolder(frame_folder(root, "train", video.name))
        every = list(frames.read(range(len(frames))))
        write_mp4(folder / "Activity_Videos" / f"{video.name}.mp4", every, fps=6)
    write_json(folder / "video_chat.json", [_about_video(video) for video in videos])


def _about_image(number: int, image: ImageRecord) -> dict[str, Any]:
    """Two turns; ``<image>`` stands before or behind the first question, as in LLaVA."""
    question = "what is in the image ?"
    said = ["<image>\n" + question, f"{question}\n<image>"][number % 2]
    count = COUNT_WORDS[len(image.looks)]
    told = (
        (said, f"there is {listed([describe(look) for look in image.looks])} ."),
        ("how many shapes are there ?", f"there are {count} shapes ."),
    )
    name = f"coco/train2017/{image.file_name}"
    turns = [turn for question_and_answer in told for turn in _turns(question_and_answer)]
    return {"id": str(image.image_id), "image": name, "conversations": turns}


def _about_video(video: VideoRecord) -> dict[str, Any]:
    answer = " , ".join(expression.text for expression in video.expressions)
    turns = _turns(("<video>\nwhat do you see in the video ?", f"{answer} ."))
    return {"id": video.name, "video": f"{video.name}.mp4", "conversations": turns}


def _turns(told: tuple[str, str]) -> list[dict[str, str]]:
    question, answer = told
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
