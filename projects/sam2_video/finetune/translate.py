"""A checked page to the tree of an mmengine config that ``tools/train.py`` runs.

    page.model ─► model.sam2          page.prompts, loss, memory ─► model.unroll
    page.dataset, augmentation ─► train_dataloader, benchmarks     page.trainer ─► all the rest

``type`` entries are dotted names, so that the config is text without imports.
"""

from __future__ import annotations

from typing import Any

from projects.sam2_video.finetune.schema import Dataset, MultiStepLoss, Page
from projects.sam2_video.finetune.sources import Sources

Tree = dict[str, Any]
_SAM2 = "projects.sam2_video"
_TRANSFORMS = f"{_SAM2}.data.transforms"


def config_tree(page: Page, sources: Sources, *, name: str) -> Tree:
    """The config of a page.

    Args:
        sources: of training and validation (``sources.split_sources``).
        name: of the run, for Weights & Biases.
    """
    trainer = page.trainer
    tree = dict(
        model=_model(page),
        train_dataloader=_loader(page, sources.train),
        train_cfg=_length(page),
        optim_wrapper=_optimizer(page),
        param_scheduler=_schedule(page),
        checkpoint=dict(interval=trainer.checkpoint_interval, keep=trainer.keep),
        log=dict(interval=trainer.log_interval),
        precision=trainer.precision,
        seed=trainer.seed,
        find_unused_parameters=True,  # a batch uses the parameters of its prompts
        vis_backends=_backends(page, name),
    )
    if page.model.size == "toy" and page.model.checkpoint:
        tree["load_from"] = page.model.checkpoint
    if trainer.ema is not None:
        tree["ema"] = dict(decay=trainer.ema)
    if sources.val is not None:
        tree |= _validation(page, sources.val)
    return tree


def _model(page: Page) -> Tree:
    return dict(
        type=f"{_SAM2}.train_model.Sam2VideoTraining",
        sam2=_adapted(page),
        unroll=dict(
            type=f"{_SAM2}.train_model.TrainingUnroll",
            simulator=_simulator(page),
            loss=_loss(page),
            loss_resolution=page.memory.loss_resolution,
            encode_split=page.memory.encode_split,
            object_chunk=page.memory.object_chunk,
            checkpoint_clicks="clicks" in page.memory.checkpointing,
        ),
    )


def _adapted(page: Page) -> Tree:
    model = page.model
    tree = dict(
        type=f"{_SAM2}.finetune.parts.adapted_sam2",
        sam2=_network(page),
        trainable=model.trainable,
        checkpointing=[part for part in page.memory.checkpointing if part != "clicks"],
        compile_parts=model.compile,
    )
    if model.lora is not None:
        tree |= dict(
            lora_rank=model.lora.rank,
            lora_alpha=model.lora.alpha,
            lora_dropout=model.lora.dropout,
            lora_modules=model.lora.modules,
        )
    return tree


def _network(page: Page) -> Tree:
    model = page.model
    if model.size == "toy":
        return dict(
            type=f"{_SAM2}.toy.toy_sam2",
            image_size=model.image_size,
            num_maskmem=model.memory_slots,
            seed=page.trainer.seed,
        )
    return dict(
        type=f"{_SAM2}.pretrained.pretrained_sam2",
        size=model.size,
        checkpoint=model.checkpoint,
        version=model.version,
        image_size=model.image_size,
        num_maskmem=model.memory_slots,
        drop_path=model.drop_path,
    )


def _simulator(page: Page) -> Tree:
    prompts = page.prompts
    return dict(
        type=f"{_SAM2}.prompting.PromptSimulator",
        point_prob=prompts.points,
        box_prob=prompts.box,
        max_conditioning_frames=prompts.conditioning_frames,
        max_correction_frames=prompts.correction_frames,
        num_correction_clicks=prompts.clicks,
        gt_click_prob=prompts.clicks_from_truth,
        box_noise=prompts.box_noise,
    )


def _loss(page: Page) -> Tree:
    loss = page.loss
    if isinstance(loss, MultiStepLoss):
        return dict(
            type=f"{_SAM2}.losses.MultiStepMaskLoss",
            mask_weight=loss.mask,
            dice_weight=loss.dice,
            iou_weight=loss.iou,
            class_weight=loss.object_score,
        )
    return dict(
        type=f"{_SAM2}.losses.SimpleMaskLoss",
        mask_weight=loss.bce,
        dice_weight=loss.dice,
        iou_weight=loss.iou,
        time_weight=loss.temporal,
    )


def _loader(page: Page, source: Tree) -> Tree:
    dataset = dict(
        type=f"{_SAM2}.data.dataset.ClipDataset",
        source=source,
        sampler=_sampler(page.dataset),
        transforms=_transforms(page),
    )
    return dict(
        datasets=[dict(dataset=dataset, repeat=page.dataset.repeat)],
        batch_size=page.trainer.batch_size,
        num_workers=page.trainer.workers,
        collate=f"{_SAM2}.data.clip.collate_clips",
        on_read_error=page.dataset.on_read_error,
    )


def _sampler(dataset: Dataset) -> Tree:
    return dict(
        type=f"{_SAM2}.data.samplers.UniformSampler",
        num_frames=dataset.clip_frames,
        max_objects=dataset.objects,
        stride=dataset.stride,
        reverse_time_prob=dataset.reverse_time,
        late_objects=dataset.late_objects,
        repeat_short=dataset.repeat_short,
    )


def _transforms(page: Page) -> list[Tree]:
    """In the order of the published recipe; what is switched off is left out."""
    given = page.augmentation
    found: list[tuple[bool, Tree]] = [
        (given.flip > 0, dict(type=f"{_TRANSFORMS}.HorizontalFlip", probability=given.flip)),
        (
            bool(given.rotate or given.shear or given.shift or given.scale != [1.0, 1.0]),
            dict(
                type=f"{_TRANSFORMS}.RandomAffine",
                degrees=given.rotate,
                shear=given.shear,
                translate=given.shift,
                scale=tuple(given.scale),
            ),
        ),
        (True, dict(type=f"{_TRANSFORMS}.ResizeSquare", size=page.model.image_size)),
        _jitter(given.brightness, given.contrast, given.saturation, per_frame=False),
        (
            given.grayscale > 0,
            dict(type=f"{_TRANSFORMS}.RandomGrayscale", probability=given.grayscale),
        ),
        _jitter(
            given.frame_brightness, given.frame_contrast, given.frame_saturation, per_frame=True
        ),
    ]
    return [tree for switched_on, tree in found if switched_on]


def _jitter(
    brightness: float, contrast: float, saturation: float, *, per_frame: bool
) -> tuple[bool, Tree]:
    tree = dict(
        type=f"{_TRANSFORMS}.ColorJitter",
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
        per_frame=per_frame,
    )
    return bool(brightness or contrast or saturation), tree


def _length(page: Page) -> Tree:
    trainer = page.trainer
    if trainer.max_steps is not None:
        return dict(max_steps=trainer.max_steps)
    return dict(max_epochs=trainer.max_epochs)


def _optimizer(page: Page) -> Tree:
    trainer = page.trainer
    return dict(
        type="mmengine.optim.OptimWrapper",
        optimizer=dict(type="torch.optim.AdamW", lr=trainer.lr, weight_decay=trainer.weight_decay),
        constructor=f"{_SAM2}.optim.LayerDecayGroups",
        paramwise_cfg=dict(
            layer_decay=trainer.layer_decay, encoder_lr_mult=trainer.vision_lr / trainer.lr
        ),
        clip_grad=dict(max_norm=trainer.clip_grad),
        accumulative_counts=trainer.accumulate,
    )


def _schedule(page: Page) -> list[Tree]:
    warmup = page.trainer.warmup
    cosine = dict(
        type="mmengine.optim.CosineAnnealingLR",
        eta_min_ratio=page.trainer.final_lr,
        begin=warmup or 0,
        end=1.0,
    )
    if not warmup:
        return [cosine]
    rise = dict(type="mmengine.optim.LinearLR", start_factor=0.01, begin=0, end=warmup)
    return [rise, cosine]


def _backends(page: Page, name: str) -> list[Tree]:
    backends: list[Tree] = []
    if page.trainer.tensorboard:
        backends.append(dict(type="mmengine.visualization.TensorboardVisBackend"))
    if page.trainer.wandb is not None:
        init = dict(project=page.trainer.wandb, name=name)
        backends.append(dict(type="mmengine.visualization.WandbVisBackend", init_kwargs=init))
    return backends


def _validation(page: Page, source: Tree) -> Tree:
    trainer, held = page.trainer, page.dataset.val
    assert held is not None
    kind, metric = ("vos.VosBenchmark", "J&F")
    if page.dataset.one_frame:
        kind, metric = ("clicks.ClickBenchmark", "click_iou")
    return dict(
        benchmarks=dict(val=dict(type=f"{_SAM2}.evaluation.{kind}", source=source)),
        validation=dict(
            interval=trainer.val_interval,
            benchmarks=["val"],
            best=f"val/{metric}",
            patience=trainer.patience,
            max_items=held.max_videos,
        ),
    )
