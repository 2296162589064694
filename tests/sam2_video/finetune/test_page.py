"""The page: what YAML may say, and that every mistake is found at once."""

from __future__ import annotations

import pytest
import yaml

from projects.common.registry import ConfigError
from projects.sam2_video.finetune.check import check_page
from projects.sam2_video.finetune.prepare import for_debugging, with_overrides
from projects.sam2_video.finetune.schema import MultiStepLoss, Page, SimpleLoss
from projects.sam2_video.finetune.template import commented_page
from projects.sam2_video.finetune.yaml_page import dump_page, parse_page, read_page

GOOD = """\
model: {size: toy}
dataset: {images: IMAGES, annotations: IMAGES, val: {fraction: 0.5}}
"""


@pytest.fixture
def good(tmp_path):
    """``good(text)``: the least page, followed by more of it."""

    def page(more: str = ""):
        return parse_page(GOOD.replace("IMAGES", str(tmp_path)) + more, where="page.yaml")

    return page


def mistakes(page) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_page(page)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("1.0e-4", 1e-4),
        ("3", 3),
        ("1e", "1e"),
        ("e4", "e4"),
        ("1.2.3", "1.2.3"),
        ("'1e-4'", "1e-4"),
        ("2001-01-01", yaml.safe_load("2001-01-01")),
    ],
)
def test_numbers_are_numbers_and_words_stay_words(text, value):
    read = parse_page(f"a: {text}", where="page").data["a"]
    assert read == value and type(read) is type(value)
    assert yaml.safe_load("a: 1e-4") == {"a": "1e-4"}  # safe_load itself is left alone


def test_nothing_in_a_page_is_executed(tmp_path):
    touched = tmp_path / "touched"
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_page(f"a: !!python/object/apply:os.mkdir [{touched}]", where="page")
    assert not touched.exists()


def test_keys_given_twice_are_all_named():
    with pytest.raises(ConfigError) as caught:
        parse_page("a: 1\nb: {c: 1, c: 2}\na: 3\n", where="page.yaml")
    assert "line 2: b.c stands on line 2 already" in str(caught.value)
    assert "line 3: a stands on line 1 already" in str(caught.value)


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "model", "a: [1\n"])
def test_what_is_no_page_is_refused(text):
    with pytest.raises(ConfigError, match="page.yaml"):
        parse_page(text, where="page.yaml")


def test_a_missing_page_says_how_to_write_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="--create-config"):
        read_page(tmp_path / "no.yaml")


def test_every_mistake_is_found_at_once(tmp_path):
    page = parse_page(
        """\
model: {size: huge, trainble: [], trainable: [mask_decodr, all, memry]}
datset: {}
dataset:
  type: palette
  imgs: a
  images: nowhere/frames
  annotations: nowhere/masks
  val: {fraction: 0.1, names: nowhere.txt}
trainer: {lr: fast, max_steps: 10, max_epochs: 4, batch_size: 0, workers: "3", image_size: 9}
loss: {type: simpel}
prompts: 3
""",
        where="page.yaml",
    )
    found = mistakes(page)
    expected = [
        "line 1, model.size: 'huge' is none of toy, tiny, small, base_plus, large",
        "line 1, model.trainble: unknown key, did you mean 'trainable'?",
        "line 1, model.trainable[0]: 'mask_decodr' is none of",
        "line 1, model.trainable[2]: 'memry' is none of",
        "line 2, datset: unknown key, did you mean 'dataset'?",
        "line 5, dataset.imgs: unknown key, did you mean 'images'?",
        "line 6, dataset.images: nowhere/frames does not exist",
        "line 7, dataset.annotations: nowhere/masks does not exist",
        "line 8, dataset.val.names: nowhere.txt does not exist",
        "line 3, dataset: val wants one of: fraction, names, images and annotations",
        "line 9, trainer.lr: 'fast' is given, it should be a number",
        "line 9, trainer.batch_size: 0 is given, it should be >= 1",
        "line 9, trainer.workers: '3' is given, it should be a whole number",
        "line 9, trainer.image_size: unknown key, did you mean 'model.image_size'?",
        "line 9, trainer: give max_epochs or max_steps",
        "line 10, loss: type 'simpel' is none of multi_step, simple",
        "line 11, prompts: a section with keys of its own is wanted, got 3",
    ]
    for start in expected:
        assert [line for line in found if line.startswith(start)], (start, found)
    assert len(found) == len(expected), found  # nothing that only follows from another mistake


def test_a_bad_choice_causes_no_further_mistakes():
    """What stands in for it must not ask for more."""
    page = parse_page(
        "model: {size: huge, checkpoint: null}\ndataset: {type: folders, images: ., val: null}\n",
        where="page.yaml",
    )
    size, kind = mistakes(page)
    assert "model.size: 'huge'" in size and "dataset.type: 'folders'" in kind


@pytest.mark.parametrize(
    ("more", "start"),
    [
        ("trainer: {patience: 3}\n", None),
        ("trainer: {lr: -1.0}\n", "line 3, trainer.lr: -1.0 is given, it should be greater than 0"),
        ("trainer: {max_epochs: null}\n", "line 3, trainer: give max_epochs or max_steps"),
        ("trainer: {accumulate: 4, val_interval: 6}\n", "line 3, trainer: val_interval 6 is no"),
        ("trainer: {val_interval: sometimes}\n", "line 3, trainer.val_interval: 'sometimes'"),
        ("trainer: {precision: fp16}\n", "line 3, trainer.precision: 'fp16' is none of fp32, bf16"),
        ("trainer: {max_steps: 2.5}\n", "line 3, trainer.max_steps: 2.5 is given, it should be a"),
        ("trainer: {wandb: yes}\n", "line 3, trainer.wandb: True is given, it should be text"),
        ("loss: {type: simple, mask: 3}\n", "line 3, loss.mask: unknown key; known are type, bce"),
        ("loss: {type: simple, bse: 3}\n", "line 3, loss.bse: unknown key, did you mean 'bce'?"),
        ("augmentation: {scale: [2.0, 1.0]}\n", "line 3, augmentation: scale [2.0, 1.0]: give"),
        ("augmentation: {scale: [2.0]}\n", "line 3, augmentation.scale: [2.0] is given"),
        ("memory: {checkpointing: [trunk]}\n", "line 3, memory.checkpointing[0]: 'trunk' is none"),
    ],
)
def test_a_mistake_is_named_with_line_key_and_what_may_be(good, more, start):
    page = good(more)
    if start is None:
        check_page(page)
    else:
        found = mistakes(page)
        assert any(line.startswith(start) for line in found), found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model.size": "tiny"}, "checkpoint is missing"),
        ({"model.trainable": []}, "nothing would train"),
        ({"dataset.type": "coco", "dataset.frames": 4}, "has single images"),
        ({"dataset.annotations": None}, "annotations is missing"),
        ({"dataset.val": {"names": "x", "fraction": 0.5}}, "val wants one of"),
        ({"dataset.val": {}}, "got none"),
        ({"dataset.val": None, "trainer.patience": 2}, "nothing is scored without dataset.val"),
        ({"model": None}, "a section with keys of its own is wanted, got None"),
    ],
)
def test_what_does_not_go_together_is_refused(good, change, words):
    found = mistakes(with_overrides(good(), change))
    assert any(words in line for line in found), found


def test_sa1b_and_lora_alone_need_less(good):
    page = check_page(
        with_overrides(
            good(),
            {
                "dataset.type": "sa1b",
                "dataset.annotations": None,
                "model.trainable": [],
                "model.lora": {"rank": 4},
            },
        )
    )
    assert page.dataset.clip_frames == 1
    assert page.model.lora is not None and page.model.lora.modules == ["image_encoder"]


def test_the_command_line_goes_before_the_page(good):
    page = good("trainer: {lr: 1e-3, max_epochs: 7, wandb: mine}\n")
    changed = with_overrides(page, {"trainer.lr": 2e-3, "trainer.max_steps": 5, "output": "here"})
    assert changed.data["trainer"] == {
        "lr": 2e-3, "max_epochs": None, "max_steps": 5, "wandb": "mine",
    }  # fmt: skip
    assert changed.data["output"] == "here"
    assert page.data["trainer"]["lr"] == 1e-3 and page.data["trainer"]["max_epochs"] == 7
    found = mistakes(with_overrides(page, {"trainer.lr": 0.0, "trainer.wandb": None}))
    assert found == ["trainer.lr: 0.0 is given, it should be greater than 0"]  # no line says it


def test_debugging_is_small_and_elsewhere(good):
    page = check_page(for_debugging(good("trainer: {accumulate: 4, devices: 8, wandb: mine}\n")))
    trainer = page.trainer
    assert (trainer.max_steps, trainer.max_epochs, trainer.accumulate) == (2, None, 1)
    assert (trainer.devices, trainer.workers, trainer.wandb) == (1, 0, None)
    assert page.dataset.val is not None and page.dataset.val.max_videos == 1
    assert page.output.endswith("finetune_debug")


def test_the_commented_page_says_the_defaults(good, tmp_path):
    """Only what has no default (model.checkpoint, dataset) differs."""
    page = parse_page(commented_page(), where="page")
    written = Page.model_validate(page.data)
    least = check_page(good())
    for section in ("augmentation", "prompts", "loss", "trainer", "memory"):
        assert getattr(written, section) == getattr(least, section), section
    for section in ("model", "dataset"):
        known = set(type(getattr(written, section)).model_fields)
        assert set(page.data[section]) == known
    assert isinstance(written.loss, MultiStepLoss)


def test_the_commented_alternatives_are_valid_too(good):
    text = commented_page()
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if "# the light one:" in line)
    simple = [line.replace("# ", "", 1) for line in lines[start + 1 : start + 6]]
    page = check_page(good("loss:\n" + "\n".join(simple) + "\n"))
    assert page.loss == SimpleLoss(type="simple")
    start = lines.index("  # lora:")
    lora = [line.replace("# ", "", 1) for line in lines[start : start + 7]]
    read = parse_page("\n".join(lora), where="page").data
    assert read["lora"]["modules"] == ["image_encoder"]


def test_a_page_as_run_reads_back_equal(good):
    page = check_page(good("trainer: {lr: 1e-5, ema: 0.999}\nloss: {type: simple}\n"))
    again = parse_page(dump_page(page.model_dump()), where="as run")
    assert check_page(again) == page
