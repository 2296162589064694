"""The page of a fine-tuning: sections, keys, defaults and what they may be.

This is the one place that knows them: the commented page that ``--create-config`` writes comes from
these descriptions and defaults (``template``), and the check of a page from these types
(``check``). Numbers follow the published SAM 2.1 fine-tuning recipe unless a comment says else.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

IMAGE_TYPES = ("coco", "sa1b", "image_folder")  # clips of one frame

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Module = Literal[
    "all",
    "image_encoder",
    "image_encoder.trunk",
    "image_encoder.neck",
    "prompt_encoder",
    "mask_decoder",
    "memory_encoder",
    "memory_attention",
    "object_pointer",
]


def _steps_or_epoch(value: Any) -> int | str:
    if value != "epoch" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"{value!r} is given, it should be a number of steps, or epoch")
    return value


Interval = Annotated[int | str, BeforeValidator(_steps_or_epoch)]


class Section(BaseModel):
    """Unknown keys are mistakes, and "8" is no number."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Lora(Section):
    rank: Count = Field(8, description="rank of the added matrices")
    alpha: Count = Field(16, description="their scale is alpha / rank")
    dropout: Share = Field(0.0, description="on their input while training")
    modules: list[
        Literal["image_encoder", "mask_decoder", "memory_attention", "object_pointer"]
    ] = Field(
        ["image_encoder"],
        min_length=1,
        description="whose linear layers get them: image_encoder (attention of the trunk), "
        "mask_decoder, memory_attention, object_pointer",
    )


class Model(Section):
    size: Literal["toy", "tiny", "small", "base_plus", "large"] = Field(
        "tiny",
        description="tiny, small, base_plus or large; toy is a small network for trying things out",
    )
    version: Literal["2.0", "2.1"] = Field("2.1", description="of the checkpoint: '2.1' or '2.0'")
    checkpoint: str | None = Field(
        None,
        examples=["pretrained_models/sam2.1_hiera_tiny.pt"],
        description="Meta's .pt, a work folder of this project, or a transformers folder; "
        "toy alone may start without (null)",
    )
    image_size: Annotated[int, Field(ge=32, multiple_of=32)] = Field(
        1024, description="side of the square that frames are resized to; SAM 2 learned at 1024"
    )
    memory_slots: Annotated[int, Field(ge=2)] = Field(
        7, description="frames that the memory holds; SAM 2 has 7, SeC 22"
    )
    drop_path: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="stochastic depth in the image encoder; 0.1 for base_plus on MOSE"
    )
    trainable: list[Module] = Field(
        ["mask_decoder", "memory_encoder", "memory_attention", "object_pointer"],
        description="what trains, the rest is frozen and costs no gradient memory: all, "
        "image_encoder (or .trunk, .neck), prompt_encoder, mask_decoder, memory_encoder, "
        "memory_attention, object_pointer; [] with lora alone",
    )
    lora: Lora | None = Field(None, description="low-rank matrices beside frozen layers, or null")
    compile: bool = Field(False, description="torch.compile; where it fails, a message and eager")

    @model_validator(mode="after")
    def _has_weights(self) -> Model:
        if self.checkpoint is None and self.size != "toy":
            raise ValueError(
                f"checkpoint is missing: size {self.size} starts from Meta's weights; "
                "pretrained_models/README.md says where they are"
            )
        return self

    @model_validator(mode="after")
    def _trains_something(self) -> Model:
        if not self.trainable and self.lora is None:
            raise ValueError("trainable is empty and there is no lora: nothing would train")
        return self


class Held(Section):
    fraction: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="this share of the videos, drawn with the seed, is held out"
    )
    names: str | None = Field(None, description="or: those in this file, one a line")
    images: str | None = Field(None, description="or: other folders (or files) of the same type;")
    annotations: str | None = Field(None, description="images that stay away mean the same folder")
    max_videos: Count | None = Field(None, description="score this many at most; null: all")


class Dataset(Section):
    type: Literal[
        "folder", "image_folder", "palette", "per_object", "coco_video", "coco", "sav", "sa1b"
    ] = Field(
        "palette",
        description="palette       images/<video>/<frame>.jpg, annotations/<video>/<frame>.png\n"
        "              (DAVIS, MOSE, YouTube-VOS: the index of a pixel is its object)\n"
        "per_object    annotations/<video>/<object>/<frame>.png, binary (SA-V val)\n"
        "folder        as palette, or <video>.mp4, or black and white masks of one object; with\n"
        "              annotations null: images/<video>/images and images/<video>/masks\n"
        "image_folder  images/<name>.jpg, annotations/<name>.png: single images\n"
        "coco_video    annotations is a COCO json with video_id and order_in_video\n"
        "coco          annotations is a COCO instances json: single images\n"
        "sav           annotations holds <id>_manual.json, images <id>/ or <id>.mp4\n"
        "sa1b          sa_<n>.jpg and sa_<n>.json: single images",
    )
    images: str = Field(examples=["data/mine/images"], description="folder of the frames")
    annotations: str | None = Field(
        None,
        examples=["data/mine/masks"],
        description="folder (or json file) of the masks; sa1b, folder: null where they lie "
        "with the images",
    )
    names: str | None = Field(None, description="only the names in this file, one a line")
    exclude: str | None = Field(None, description="not the names in this file")
    val: Held | None = Field(None, examples=[{"fraction": 0.1}], description="videos to score on")
    frames: Count | None = Field(
        None, description="frames of a clip; null: 8 for videos, 1 for single images"
    )
    objects: Count = Field(3, description="objects of a clip at most")
    stride: Count = Field(1, description="take every n-th annotated frame")
    reverse_time: Share = Field(0.0, description="probability that a clip runs backwards")
    late_objects: bool = Field(False, description="also objects that appear later in the clip")
    repeat_short: bool = Field(
        False, description="hold the last frame of videos that are too short, instead of stopping"
    )
    repeat: Positive = Field(1.0, description="how often an epoch goes through the videos")
    on_read_error: Literal["error", "skip"] = Field(
        "error",
        description="a broken or empty video: error (stop and name it) or skip (take another, "
        "counted in the log)",
    )
    track_field: str | None = Field(
        None, description="coco_video only: key that names an object through its video"
    )
    sav_masks: Literal["manual", "auto"] = Field("manual", description="sav only: which json")

    @property
    def one_frame(self) -> bool:
        return self.type in IMAGE_TYPES

    @property
    def clip_frames(self) -> int:
        return self.frames or (1 if self.one_frame else 8)

    @model_validator(mode="after")
    def _fits_type(self) -> Dataset:
        if self.one_frame and self.frames not in (None, 1):
            raise ValueError(f"frames is {self.frames}, but type {self.type} has single images")
        if self.annotations is None and self.type not in ("sa1b", "folder"):
            raise ValueError(f"annotations is missing: type {self.type} reads the masks there")
        return self

    @model_validator(mode="after")
    def _one_kind_of_val(self) -> Dataset:
        if self.val is None:
            return self
        given = [key for key in ("fraction", "names") if getattr(self.val, key) is not None]
        given += ["images/annotations"] if self.val.images or self.val.annotations else []
        if len(given) != 1:
            raise ValueError(
                "val wants one of: fraction, names, images and annotations; "
                f"got {', '.join(given) or 'none'}"
            )
        return self


class Augmentation(Section):
    flip: Share = Field(0.5, description="probability of a mirrored clip")
    rotate: NotNegative = Field(25.0, description="up to so many degrees")
    shear: NotNegative = Field(20.0, description="up to so many degrees")
    shift: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="share of the side")
    scale: list[Positive] = Field(
        [1.0, 1.0], min_length=2, max_length=2, description="smallest and largest factor"
    )
    brightness: NotNegative = Field(0.1, description="colours of the whole clip:")
    contrast: NotNegative = Field(0.03, description="factors within 1 +- strength")
    saturation: NotNegative = Field(0.03, description="")
    grayscale: Share = Field(0.05, description="probability")
    frame_brightness: NotNegative = Field(0.1, description="the same once more, for every frame")
    frame_contrast: NotNegative = Field(0.05, description="")
    frame_saturation: NotNegative = Field(0.05, description="")

    @model_validator(mode="after")
    def _scale_grows(self) -> Augmentation:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale {self.scale}: give the smaller factor first")
        return self


class Prompts(Section):
    points: Share = Field(
        0.5, description="probability of points in place of the mask (images: always points)"
    )
    box: Share = Field(0.5, description="of those: a box in place of a click")
    conditioning_frames: Count = Field(2, description="1 to n prompted frames, frame 0 always")
    correction_frames: Annotated[int, Field(ge=0)] = Field(
        2, description="up to n frames are corrected by clicks"
    )
    clicks: Annotated[int, Field(ge=0)] = Field(7, description="on each of them")
    clicks_from_truth: Share = Field(
        0.1, description="probability that such a click ignores the error and falls on the object"
    )
    box_noise: Share = Field(0.1, description="jitter of a box's sides, share of its size")


class MultiStepLoss(Section):
    type: Literal["multi_step"] = Field(
        "multi_step", description="multi_step (SAM 2's own) or simple (bce, dice, iou, temporal)"
    )
    mask: NotNegative = Field(20.0, description="focal loss")
    dice: NotNegative = Field(1.0, description="")
    iou: NotNegative = Field(1.0, description="of the predicted IoU")
    object_score: NotNegative = Field(1.0, description="is the object there?")


class SimpleLoss(Section):
    type: Literal["simple"]
    bce: NotNegative = Field(1.0, description="binary cross-entropy per pixel")
    dice: NotNegative = Field(1.0, description="")
    iou: NotNegative = Field(1.0, description="of the predicted IoU")
    temporal: NotNegative = Field(0.1, description="masks of neighbouring frames stay alike")


class Trainer(Section):
    max_epochs: Positive | None = Field(40, description="length of the run: epochs,")
    max_steps: Count | None = Field(None, description="or steps (one of both, the other null)")
    lr: Positive = Field(5e-6, description="learning rate")
    vision_lr: Positive = Field(3e-6, description="that of the image encoder")
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9, description="a block of the trunk learns at this factor of the one above"
    )
    final_lr: Share = Field(0.1, description="the cosine ends at this share of the rate")
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="share of the run with a rising rate"
    )
    weight_decay: NotNegative = Field(0.1, description="none on biases and norms")
    clip_grad: Positive = Field(0.1, description="largest norm of the gradient")
    batch_size: Count = Field(1, description="clips a device and step")
    accumulate: Count = Field(1, description="steps whose gradients are added up")
    precision: Literal["fp32", "bf16"] = Field("bf16", description="bf16 (autocast) or fp32")
    devices: Count = Field(1, description="GPUs (without one: processes on the CPU)")
    workers: Annotated[int, Field(ge=0)] = Field(4, description="loader processes a device")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="of everything that is drawn")
    log_interval: Count = Field(10, description="steps between lines in the log")
    checkpoint_interval: Interval = Field("epoch", description="steps, or epoch")
    keep: Count = Field(2, description="newest checkpoints that are kept, beside the best")
    val_interval: Interval = Field("epoch", description="steps, or epoch; needs dataset.val")
    patience: Count | None = Field(
        None, description="stop after so many validations without a better score; null: never"
    )
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="decay of a moving average of the weights, such as 0.999; null: none"
    )
    tensorboard: bool = Field(True, description="write TensorBoard files into the output folder")
    wandb: str | None = Field(None, description="Weights & Biases project, or null")

    @model_validator(mode="after")
    def _one_length(self) -> Trainer:
        if (self.max_epochs is None) == (self.max_steps is None):
            raise ValueError("give max_epochs or max_steps: one of them, the other null")
        return self

    @model_validator(mode="after")
    def _whole_accumulation(self) -> Trainer:
        for key in ("max_steps", "checkpoint_interval", "val_interval"):
            value = getattr(self, key)
            if isinstance(value, int) and value % self.accumulate:
                raise ValueError(
                    f"{key} {value} is no multiple of accumulate {self.accumulate}: "
                    "half-accumulated gradients would be lost"
                )
        return self


class Memory(Section):
    checkpointing: list[Literal["encoder", "memory", "decoder", "clicks"]] = Field(
        [],
        description="compute these again in the backward pass instead of keeping their "
        "activations: encoder (image), memory (attention and encoder), decoder, clicks",
    )
    encode_split: Count | None = Field(None, description="frames encoded at a time; null: all")
    object_chunk: Count | None = Field(None, description="objects tracked at a time; null: all")
    loss_resolution: Literal["full", "logits"] = Field(
        "full", description="compare masks at image_size (full) or at a quarter of it (logits)"
    )


class Page(Section):
    output: str = Field("work_dirs/finetune", description="folder of everything that is written")
    model: Model = Field(description="what is fine-tuned")
    dataset: Dataset = Field(description="own data")
    augmentation: Augmentation = Field(
        default_factory=Augmentation, description="random changes of the clips; 0 switches one off"
    )
    prompts: Prompts = Field(default_factory=Prompts, description="the simulated user")
    loss: Annotated[MultiStepLoss | SimpleLoss, Field(discriminator="type")] = Field(
        default_factory=MultiStepLoss, description="weights; 0 switches a part off"
    )
    trainer: Trainer = Field(default_factory=Trainer, description="how long, how fast, on what")
    memory: Memory = Field(default_factory=Memory, description="GPU memory against time")
