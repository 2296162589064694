"""Every referring-video layout, read back by its reader, holds the masks of the scene drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from projects.common.conversation import load_shared_tokenizer
from projects.common.evaluation import run_benchmark
from projects.common.mask_store import open_masks
from projects.llava_sam2.datasets.grounding import GroundingDataset
from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.datasets.mevis import mevis_rows, ref_sav_eval_rows
from projects.llava_sam2.datasets.pixels import SingleTile
from projects.llava_sam2.datasets.ref_sav import ref_sav_rows
from projects.llava_sam2.datasets.ref_ytvos import ref_davis_rows, ref_ytvos_rows
from projects.llava_sam2.datasets.revos import revos_rows
from projects.llava_sam2.datasets.templates import Templates
from projects.llava_sam2.evaluation.refer_video import ReferVideoBenchmark
from projects.llava_sam2.evaluation.responders import masks_of
from projects.llava_sam2.predictor import Answer
from projects.toy_world.expressions import Expression, write_expressions
from projects.toy_world.generate import generate
from projects.toy_world.layouts import sav
from projects.toy_world.retold.videos import SAV, TRAIN, VALID
from projects.toy_world.scene import Scene, SceneSpec, sample_scene
from projects.toy_world.world import World

WORLD = World(seed=7, sizes={"mevis_train": 14, "mevis_valid_u": 7, "sav_train": 5})
SIZE = (128, 128)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("world") / "toy"
    generate(WORLD, out)
    return out / "video_datas"


def drawn(split: str, count: int) -> dict[str, tuple[Scene, list[Expression]]]:
    """The scenes behind MeViS' videos, by name, and what is said of them."""
    scenes = {}
    for number in range(count):
        rng = WORLD.generator("mevis", split, number)
        name = rng.bytes(6).hex()
        scene = sample_scene(rng, SceneSpec(frames=6))
        scenes[name] = (scene, write_expressions(rng, scene, 5, WORLD.video_families))
    return scenes


TRAIN_SCENES, VALID_SCENES = drawn("train", TRAIN), drawn("valid_u", VALID)


def check(rows: Sequence, scenes: dict, *, single: bool = True, prefix: str = "") -> None:
    """Each expression's mask on each frame is the union of what was drawn."""
    assert [row.name for row in rows] == [prefix + name for name in scenes]
    for row, (scene, said) in zip(rows, scenes.values(), strict=True):
        targets = {e.text: e.targets for e in said if not single or len(e.targets) == 1}
        assert {e.text for e in row.expressions if e.objects} == set(targets)
        frames = row.read(range(len(row)))
        assert np.abs(frames.astype(int) - scene.frames).mean() < 6
        for expression in row.expressions:
            for t in range(len(scene.frames)):
                mask = row.read_mask(expression.objects, t, SIZE)
                wanted = scene.masks[t, list(targets.get(expression.text, ()))].any(axis=0)
                np.testing.assert_array_equal(mask, wanted)
        named = [expression.objects for expression in row.expressions]
        small = row.sample_masks(named, [1, 4], SIZE, 128)
        for number, objects in enumerate(named):
            np.testing.assert_array_equal(small[number, 1], row.read_mask(objects, 4, SIZE))


@pytest.mark.parametrize("masks", ["png", "mask_dict"])
def test_ref_youtube_vos(videos: Path, masks: str) -> None:
    check(ref_ytvos_rows(root=videos / "rvos", split="train", masks=masks), TRAIN_SCENES)
    rows = ref_ytvos_rows(root=videos / "rvos", split="valid", masks="none")
    assert [row.name for row in rows] == list(VALID_SCENES)
    assert {e.objects for row in rows for e in row.expressions} == {None}


def test_revos(videos: Path) -> None:
    root = videos / "ReVOS"
    for split, scenes in (("train", TRAIN_SCENES), ("valid", VALID_SCENES)):
        rows = revos_rows(root=root, split=split)
        check(rows, scenes, single=False, prefix="toy/")
        parts = [e.part for row in rows for e in row.expressions]
        assert parts.count("absent") == len(rows)
        assert parts.count("referring") > 5 and parts.count("reasoning") > 1
        for row, (scene, _) in zip(rows, scenes.values(), strict=True):
            *_, nothing = row.expressions
            assert nothing.part == "absent" and nothing.objects == ()
            assert not any(nothing.text == f"the {t.colour} {t.shape}" for t in scene.things)
    foreground = open_masks(root / "mask_dict_foreground.json")
    for name, (scene, _) in VALID_SCENES.items():
        for t in range(6):
            together = foreground[f"toy/{name}"].read(t)
            np.testing.assert_array_equal(together, scene.masks[t].any(axis=0))


def test_ref_davis(videos: Path) -> None:
    rows = ref_davis_rows(root=videos / "davis17")
    check(rows, VALID_SCENES)
    for row in rows:
        for index in range(len(row.objects)):
            said = [e for e in row.expressions if e.objects == (index,)]
            assert [e.part for e in said] == [f"annotator {k}" for k in (1, 2, 3, 4)]


def test_mevis_valid_and_the_evaluation_set_of_ref_sav(videos: Path) -> None:
    rows = mevis_rows(root=videos / "mevis" / "valid", masks=False)
    assert [row.name for row in rows] == list(VALID_SCENES)
    for row, (_, said) in zip(rows, VALID_SCENES.values(), strict=True):
        assert [e.text for e in row.expressions] == [e.text for e in said]
        with pytest.raises(ValueError, match="not public"):
            row.read_mask(row.expressions[0].objects, 0, SIZE)
    with pytest.raises(FileNotFoundError, match=r"valid/mask_dict\.json: no such mask dictionary"):
        mevis_rows(root=videos / "mevis" / "valid")
    check(ref_sav_eval_rows(root=videos / "ref_sav_eval"), VALID_SCENES)


@pytest.mark.parametrize("mp4", [False, True])
def test_ref_sav(videos: Path, tmp_path: Path, mp4: bool) -> None:
    root = videos.parent / "SA-V" / "train"
    if mp4:  # as SA-V is released: archives of a thousand videos, no extracted frames
        (tmp_path / "sav_000").mkdir()
        for file in (*root.glob("*.mp4"), *root.glob("*.json")):
            (tmp_path / "sav_000" / file.name).symlink_to(file)
        root = tmp_path
    rows = ref_sav_rows(file=videos / "ref_sav" / "Ref-SAV.json", video_root=root)
    assert [row.name for row in rows] == [f"sav_{n:06d}" for n in range(SAV)]
    for number, row in enumerate(rows):
        rng, scene = sav.draw(WORLD, "train", number)
        said = write_expressions(rng, scene, 5, WORLD.video_families)
        first = {e.targets[0]: e.text for e in reversed(said) if len(e.targets) == 1}
        assert {e.text for e in row.expressions} == set(first.values())
        assert len(row) == len(row.frames) == 8
        close = np.abs(row.read([0, 3, 7]).astype(int) - scene.frames[[0, 12, 28]]).mean()
        assert close < 6
        for expression in row.expressions:
            index = int(expression.key.split("/")[1])
            assert expression.text == first[index]
            for t in (0, 5, 7):
                mask = row.read_mask(expression.objects, t, SIZE)
                np.testing.assert_array_equal(mask, scene.masks[4 * t, index])


class Oracle:
    """Answers with the truth; nothing where the expression names nothing."""

    def answer(self, model, row) -> list[Answer]:
        return [
            Answer("so", [masks_of(row, e.objects, SIZE)] if e.objects else [])
            for e in row.expressions
        ]

    def describe(self) -> str:
        return "oracle"


def all_rows(videos: Path) -> dict[str, Sequence]:
    sav_files = dict(
        file=videos / "ref_sav" / "Ref-SAV.json", video_root=videos.parent / "SA-V" / "train"
    )
    return {
        "rvos": ref_ytvos_rows(root=videos / "rvos", split="train"),
        "revos": revos_rows(root=videos / "ReVOS", split="valid"),
        "davis": ref_davis_rows(root=videos / "davis17"),
        "sav": ref_sav_rows(**sav_files),
        "sav_eval": ref_sav_eval_rows(root=videos / "ref_sav_eval"),
    }


def test_every_layout_trains_and_evaluates(videos: Path, tmp_path: Path) -> None:
    inputs = GroundingInputs(
        tokenizer=load_shared_tokenizer(videos.parent / "tokenizer"),
        template="qwen_chat",
        tiles=SingleTile(size=64),
        tokens_per_tile=16,
        grounding_size=96,
        max_length=1024,
    )
    templates = Templates(questions=["segment {expression} ."], answers=["it is [SEG] ."])
    foreground = open_masks(videos / "ReVOS" / "mask_dict_foreground.json")
    for name, rows in all_rows(videos).items():
        data = GroundingDataset(rows=rows, inputs=inputs, templates=templates, mask_size=40)
        for index in range(2):
            sample = data[index]
            segs = int((sample.input_ids == inputs.tokenizer.convert_tokens_to_ids("[SEG]")).sum())
            assert sample.masks.shape == (segs, 5, 40, 40) and sample.masks.any(), name
            assert sample.grounding_frames.shape == (5, 3, 96, 96)
        parts = dict(average="parts") if name in ("davis", "revos") else {}
        parts |= dict(foreground=foreground) if name == "revos" else {}
        benchmark = ReferVideoBenchmark(rows=rows[:2], respond=Oracle(), **parts)
        scores = run_benchmark(name, benchmark, None, tmp_path)
        assert {v for k, v in scores.items() if "answered" not in k} == {1.0}, name
        assert (f"{name}/R[reasoning]" in scores or f"{name}/R[referring]" in scores) == (
            name == "revos"
        )
