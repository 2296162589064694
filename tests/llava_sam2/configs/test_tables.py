"""Every entry of the tables finds its files where the toy world writes them, and gives a sample."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from projects.common import registry
from projects.common.conversation import load_shared_tokenizer
from projects.common.engine.check import check_config
from projects.common.engine.config import load_config, plain
from projects.llava_sam2.browse.page import sample_html
from projects.llava_sam2.datasets.collate import collate
from projects.llava_sam2.datasets.concept_inputs import ConceptInputs
from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.datasets.pixels import SingleTile
from projects.llava_sam2.datasets.temporal import TemporalInputs
from projects.llava_sam2.downloads.link import statuses
from projects.toy_world.generate import generate
from projects.toy_world.world import World

SIZES = {
    **{"refcoco_train": 8, "refcoco_val": 3, "refcoco_testA": 3, "refcoco_testB": 3},
    **{"mevis_train": 4, "mevis_valid_u": 2, "sav_train": 3, "sav_val": 1},
    **{"davis_train": 1, "davis_val": 1, "charades_train": 84, "charades_test": 4},
}
DATASETS = {
    "images": "refcoco refcoco_plus refcocog grefcoco sa2va_finetune",
    "videos": "mevis ref_ytvos ref_ytvos_released revos ref_sav",
    "boxes": "mevis_boxes ref_ytvos_boxes revos_boxes",
    "times": "charades didemo charades_tokens didemo_tokens hirest queryd",
    "concept": "sav_concept",
    "chat": "llava video_chat gcg_refcocog gcg_flickr gcg_psg gcg_grandf osprey_conversation "
    "osprey_short_form osprey_detail_description",
}
LEAF = """
from mmengine.config import read_base

with read_base():
    from projects.llava_sam2.configs._base_.datasets.boxes import *
    from projects.llava_sam2.configs._base_.datasets.chat import *
    from projects.llava_sam2.configs._base_.datasets.concept import *
    from projects.llava_sam2.configs._base_.datasets.images import *
    from projects.llava_sam2.configs._base_.datasets.times import *
    from projects.llava_sam2.configs._base_.datasets.videos import *
    from projects.llava_sam2.configs._base_.datasets.benchmarks import *

from projects.llava_sam2.datasets.collate import collate

_table = {**_images, **_videos, **_boxes, **_times, **_concept, **_chat, **_captions, **_regions}
train_dataloader = dict(
    datasets=[dict(name=name, dataset=dict(**entry)) for name, entry in _table.items()],
    batch_size=1,
    collate=collate,
)
benchmarks = {
    **_image_benchmarks, **_video_benchmarks, **_submissions, **_time_benchmarks
}
"""


def load(folder: Path, data_root: Path) -> dict[str, Any]:
    (folder / "leaf.py").write_text(LEAF)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATA_ROOT", str(data_root))
        return plain(load_config(folder / "leaf.py"))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "toy"
    generate(World(seed=0, sizes=SIZES), root)
    train = root / "SA-V" / "train"
    objects = [
        f"{path.name.removesuffix('_manual.json')} 0" for path in train.glob("*_manual.json")
    ]
    (root / "SA-V" / "sav_video_obj_ids.txt").write_text("\n".join(objects) + "\n")
    return root


@pytest.fixture(scope="module")
def tree(world, tmp_path_factory) -> dict[str, Any]:
    return load(tmp_path_factory.mktemp("leaf"), world)


def entries(tree: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry["dataset"] for entry in tree["train_dataloader"]["datasets"]}


def inputs_for(name: str, root: Path) -> Any:
    tokenizer = load_shared_tokenizer(root / "tokenizer")
    if name in DATASETS["times"].split():
        return TemporalInputs(tokenizer=tokenizer, template="qwen_chat")
    shared = GroundingInputs(
        tokenizer=tokenizer,
        template="qwen_chat",
        tiles=SingleTile(size=64),
        tokens_per_tile=16,
        grounding_size=96,
    )
    return ConceptInputs(inputs=shared) if name == "sav_concept" else shared


def test_the_tables_hold_every_dataset_of_the_mission(tree):
    assert sorted(entries(tree)) == sorted(" ".join(DATASETS.values()).split())
    assert len(tree["benchmarks"]) == 19


def test_without_data_nothing_but_files_and_the_model_parts_is_missing(tmp_path, monkeypatch):
    tree = load(tmp_path, Path("nowhere"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as raised:
        check_config(tree, train=False)
    lines = str(raised.value).split("\n  ")[1:]
    left = [
        line
        for line in lines
        if not line.endswith("does not exist")
        and not line.endswith(("needs it",))
        and line != "model: missing"
    ]
    assert not left
    needed = {line.split(": ")[0].rsplit(".", 1)[1] for line in lines if "needs it" in line}
    assert needed == {"inputs", "respond"}
    files = [line.split(": ")[1] for line in lines if line.endswith("does not exist")]
    assert files and all(file.startswith("nowhere/") for file in files)


def test_benchmarks_are_averaged_as_published(tmp_path):
    """ReVOS over its two types, Ref-DAVIS17 over its annotators, others over expressions."""
    benchmarks = load(tmp_path, Path("nowhere"))["benchmarks"]
    parts = {name for name, entry in benchmarks.items() if entry.get("average") == "parts"}
    assert parts == {"revos_valid", "ref_davis17"}


NAMES = " ".join(DATASETS.values()).split()


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_reads_what_the_toy_world_wrote(name, world, tree):
    cfg = entries(tree)[name]
    dataset = registry.build({**cfg, "inputs": inputs_for(name, world)})
    samples = [dataset[index] for index in range(min(2, len(dataset)))]
    if dataset.task in ("segment", "chat"):
        lengths = [dataset.length_of(index) for index in range(len(samples))]
        drawn = [len(sample.input_ids) for sample in samples]
        assert all(abs(a - b) <= 0.25 * b for a, b in zip(lengths, drawn, strict=True))
    batch = collate(samples)
    assert batch.task == dataset.task and len(batch.names) == len(samples)
    for sample in samples:
        if sample.masks is not None and len(sample.masks):
            assert sample.masks.shape[-2:] == (256, 256)
        assert (sample.labels >= 0).any()
        tokenizer = getattr(dataset.inputs, "inputs", dataset.inputs).tokenizer
        assert sample.name in sample_html(sample, tokenizer)


def test_benchmarks_read_what_the_toy_world_wrote(tree):
    for cfg in tree["benchmarks"].values():
        built = registry.build({**cfg, "respond": None})
        assert len(built) > 0


def test_the_catalogue_finds_the_toy_world_complete(world):
    """What ``run.sh data`` asks for lies where the tables and the toy world have it."""
    lacking = {s.entry.name: s.problems for s in statuses(world) if s.state != "complete"}
    assert not lacking
