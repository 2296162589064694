"""The page shows what the model gets: the learned tokens, the right masks, boxes and times."""

from __future__ import annotations

import base64
import html
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from projects.common.conversation import (
    BOX_END,
    BOX_START,
    NEXT_FRAME,
    SHARED_TOKENS,
    load_tokenizer,
)
from projects.common.visualise import PALETTE
from projects.llava_sam2.browse.draw import browse
from projects.llava_sam2.browse.page import sample_html
from projects.llava_sam2.browse.pictures import timeline_html
from projects.llava_sam2.browse.words import answers, css, spelt_boxes, tokens_html
from projects.llava_sam2.datasets.grounding import GroundingDataset
from projects.llava_sam2.datasets.refcoco import refcoco_rows
from projects.llava_sam2.datasets.templates import Templates
from projects.llava_sam2.structures import GroundingSample
from projects.sam2_video.data.clip import Clip
from tests.llava_sam2.datasets.tiny import tiny_inputs, write_refcoco, write_tokenizer

ROOT = Path(__file__).resolve().parents[3]
TEMPLATES = Templates(questions=["segment {expression} ."], answers=["sure it is [SEG] ."])


@pytest.fixture
def dataset(tmp_path):
    rows = refcoco_rows(**write_refcoco(tmp_path / "refcoco"), split="train")
    inputs = tiny_inputs(tmp_path / "tokenizer")
    return GroundingDataset(rows=rows, inputs=inputs, templates=TEMPLATES, mask_size=16)


def pictures(page: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def test_exactly_the_learned_tokens_are_marked(dataset):
    sample, tokenizer = dataset[0], dataset.inputs.tokenizer
    page = tokens_html(sample, tokenizer)
    spans = re.findall(r'<(mark|span) class="[^"]*" title="(\d+)"[^>]*>([^<]*)</', page)
    shown = []
    for tag, token, text in spans:
        count = int(text.rsplit("&times; ", 1)[1]) if "&times;" in text else 1
        shown += [(int(token), tag == "mark")] * count
    assert shown == [
        (token, label != -100)
        for token, label in zip(sample.input_ids.tolist(), sample.labels.tolist(), strict=True)
    ]
    # the first [SEG] has the first mask's colour, the second the second's
    colours = re.findall(r'style="background:(#\w+)"', page)
    assert colours == [css(colour) for colour in PALETTE[: len(sample.masks)]]
    assert answers(sample, tokenizer)[0].replace(" ", "").startswith("sureitis[SEG]")


def test_masks_lie_on_their_pixels(dataset):
    sample = dataset[0]
    tile, frame = pictures(sample_html(sample, dataset.inputs.tokenizer))
    changed = np.abs(frame.astype(int) - tile.astype(int)).max(axis=-1) > 60
    union = sample.masks[:, 0].any(0).numpy()
    grown = np.kron(union, np.ones((25, 25), dtype=bool))  # 16 -> 400 pixels
    assert changed[grown].mean() > 0.25 + changed[~grown].mean()


def test_clips_show_frames_and_objects():
    masks = torch.zeros(3, 2, 40, 60, dtype=torch.bool)
    masks[:, 0, :20, :20] = True
    clip = Clip(torch.zeros(3, 3, 40, 60, dtype=torch.uint8), masks, [4, 9], "cat & dog")
    page = sample_html(clip, None)
    shown = pictures(page)
    assert "cat &amp; dog" in page and "object 4" in page and "object 9" in page
    assert len(shown) == 3 and shown[0].shape == (400, 600, 3)
    assert shown[0][100, 100].max() > 60 and shown[0][300, 400].max() < 20


def conversation(tmp_path, text: str, **fields):
    tokenizer = load_tokenizer(write_tokenizer(tmp_path / "words"), special_tokens=SHARED_TOKENS)
    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
    return GroundingSample("x", "name", ids, ids.clone(), **fields), tokenizer


def test_times_stand_where_the_answer_says(tmp_path):
    text = "<frame_0><frame_3>-<frame_0><frame_5><|im_end|>"
    features = torch.eye(10)[[0, 0, 0, 1, 1, 1, 2, 2, 2, 2]]
    sample, tokenizer = conversation(tmp_path, text, features=features)
    page = sample_html(sample, tokenizer)
    assert '<rect class="span" x="300.0" y="0" width="300.0"' in page
    bars = re.findall(r'height="([\d.]+)"><title>(\d+)', page)
    assert [int(number) for tall, number in bars if float(tall) > 10] == [3, 6]
    assert 'class="span"' not in timeline_html(features, None)


def test_boxes_of_answers_are_drawn(tmp_path):
    frame = f"{BOX_START}0.000,0.000,0.500,0.500{BOX_END}"
    none = f"{BOX_START}<no_box>{BOX_END}"
    assert spelt_boxes(f"{frame}{NEXT_FRAME}{none}") == [[(0.0, 0.0, 0.5, 0.5)], []]
    assert spelt_boxes("no box at all") == []


def config(tmp_path) -> dict:
    write_tokenizer(tmp_path / "tokenizer")
    paths = write_refcoco(tmp_path / "refcoco")
    rows = dict(type=refcoco_rows, split="train", **{k: str(v) for k, v in paths.items()})
    entry = dict(
        type=GroundingDataset,
        rows=rows,
        inputs=tiny_inputs(tmp_path / "t"),
        templates=TEMPLATES,
        mask_size=16,
    )
    return {"train_dataloader": {"datasets": [dict(dataset=entry, name="ref <coco>")] * 1}}


def test_the_page_names_what_cannot_be_read_and_needs_nothing_else(tmp_path):
    tree = config(tmp_path)
    (tmp_path / "refcoco" / "images" / "im_2.jpg").write_bytes(b"broken")
    path = browse(tree, tmp_path / "out" / "page.html", title="x", count=5)
    page = path.read_text()
    assert "ref &lt;coco&gt;" in page and "2 items" in page and "im_1.jpg" in page
    assert "im_2.jpg: does not decode" in html.unescape(page)
    assert not re.search(r'(src|href)="(?!data:|#)', page) and "<script" not in page
    assert [item.name for item in path.parent.iterdir()] == ["page.html"]
    with pytest.raises(ValueError, match="no dataset .*there is ref <coco>"):
        browse(tree, path, title="x", names=["mevis"])
    with pytest.raises(ValueError, match="at least 1"):
        browse(tree, path, title="x", count=0)


def test_the_command_reports_mistakes(tmp_path):
    (tmp_path / "empty.py").write_text("seed = 0\n")
    command = [sys.executable, str(ROOT / "tools/browse_dataset.py"), "empty.py"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 1 and "there is none" in run.stderr
    assert not (tmp_path / "work_dirs").exists()
