"""Small videos in several layouts, and pages that train a toy on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from yapf.yapflib import yapf_api

from projects.common.masks import write_palette_png
from projects.sam2_video.finetune.yaml_page import dump_page

SIDE, FRAMES, VIDEOS = 48, 4, 4


def scene(video: int, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """RGB uint8 and object ids uint8 of two squares that move."""
    rng = np.random.default_rng(video)
    image = rng.integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
    ids = np.zeros((SIDE, SIDE), dtype=np.uint8)
    for key, top, colour in ((1, 4, (220, 60, 60)), (2, 26, (60, 90, 230))):
        left = 3 + 4 * frame + 3 * video
        ids[top : top + 16, left : left + 16] = key
        image[ids == key] = colour
    return image, ids


def write_videos(root: Path, *, binary: bool = False) -> tuple[Path, Path]:
    """``images/<video>/<frame>.jpg`` and ``masks/<video>/<frame>.png``."""
    images, masks = root / "images", root / "masks"
    for video in range(VIDEOS):
        for folder in (images, masks):
            (folder / f"v{video}").mkdir(parents=True)
        for frame in range(FRAMES):
            image, ids = scene(video, frame)
            Image.fromarray(image).save(images / f"v{video}" / f"{frame:05d}.jpg")
            if binary:
                mask = Image.fromarray((ids == 1).astype(np.uint8) * 255)
                mask.save(masks / f"v{video}" / f"{frame:05d}.png")
            else:
                write_palette_png(masks / f"v{video}" / f"{frame:05d}.png", ids)
    return images, masks


@pytest.fixture(autouse=True)
def _no_layout(monkeypatch):
    """Laying out the text of a config takes half of these tests' time; processes still do it."""
    monkeypatch.setattr(yapf_api, "FormatCode", lambda text, **options: (text, True))


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> tuple[Path, Path]:
    return write_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture
def tiny_page(videos, tmp_path):
    """``tiny_page(**sections)``: path of a page whose training takes a second."""

    def write(**sections: Any) -> Path:
        images, masks = videos
        page: dict[str, Any] = {
            "output": str(tmp_path / "out"),
            "model": {"size": "toy", "image_size": 32, "trainable": ["all"]},
            "dataset": {
                "type": "palette",
                "images": str(images),
                "annotations": str(masks),
                "frames": 2,
                "val": {"fraction": 0.25},
            },
            "prompts": {"clicks": 1, "correction_frames": 1},
            "trainer": {
                "max_epochs": None,
                "max_steps": 4,
                "lr": 1e-3,
                "vision_lr": 1e-3,
                "precision": "fp32",
                "workers": 0,
                "checkpoint_interval": 2,
                "val_interval": 2,
                "log_interval": 1,
            },
        }
        for name, section in sections.items():
            page[name] = {**page.get(name, {}), **section} if isinstance(section, dict) else section
        path = tmp_path / "page.yaml"
        path.write_text(dump_page(page))
        return path

    return write
