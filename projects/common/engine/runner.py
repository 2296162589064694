"""A config becomes mmengine's runner: processes, strategy, data, model, hooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import FlexibleRunner
from torch import nn

from projects.common import registry, sequence
from projects.common.engine import checkpoints
from projects.common.engine.bad_loss import SkippingOptimWrapper
from projects.common.engine.best import Best
from projects.common.engine.check import check_build, check_config, check_fit
from projects.common.engine.config import EMA, WATCHDOG, plain, scale_schedulers
from projects.common.engine.distributed import (
    barrier,
    get_rank,
    infer_launcher,
    init_distributed,
    planned_processes,
)
from projects.common.engine.ema import Ema
from projects.common.engine.hooks.metrics import FILE, append_line
from projects.common.engine.hooks.standard import standard_hooks
from projects.common.engine.loader import build_train_loader
from projects.common.engine.loop import StepLoop
from projects.common.engine.memory import Offload, Run
from projects.common.engine.model import build_model
from projects.common.engine.optim import TrainableGroups
from projects.common.engine.quiet import file_only
from projects.common.engine.resume import restore_training
from projects.common.engine.strategy import DistributedStrategy, SingleStrategy


class Runner(FlexibleRunner):
    """mmengine's runner with our checkpoints: exact, whole, and read without executing anything."""

    resume_folder: Path | None = None
    frozen: dict[str, str]  # fingerprints of what does not train
    best: Best  # validations so far
    ema_settings: dict[str, Any] | None = None
    ema: Ema | None = None
    stopped: str = ""  # why the run ends before its last step
    _has_loaded: bool

    def load_or_resume(self) -> None:
        """Called when the model is wrapped and before the first step."""
        if self._has_loaded:
            return
        self._has_loaded = True
        if self.ema_settings is not None:
            self.ema = Ema(self.strategy.module, **self.ema_settings)
        if self.resume_folder is not None:
            self.train_loop._iter = restore_training(self, self.resume_folder)
            self.logger.info(f"resumed {self.resume_folder} at step {self.iter}")

    def is_last(self, step: int) -> bool:
        """Whether the run ends with this step, as planned or early."""
        return step >= self.max_iters or self.train_loop.stop_training

    def epochs(self, step: int) -> float:
        """Passes over the data that ``step`` steps are."""
        return round(step / float(self.train_dataloader.batch_sampler.epoch_steps), 4)

    def log_scores(self, scores: dict[str, float], *, step: int, seconds: float) -> None:
        """Note the scores of a validation in metrics.jsonl and in the visualizer's logs."""
        if get_rank() == 0:
            line = {"step": step, "epoch": self.epochs(step), **scores, "validation_time": seconds}
            append_line(Path(self.work_dir) / FILE, line)
            self.visualizer.add_scalars(scores, step=step)

    def dump_config(self) -> None:
        """Write the config as run beside the checkpoints."""
        if get_rank() == 0:
            path = Path(self.work_dir) / Path(self.cfg.filename).name
            checkpoints.write_text(path, self.cfg.pretty_text)


def build_runner(
    cfg: Config,
    *,
    work_dir: str | Path,
    resume: str | Path | bool = False,
    load_from: str | Path | None = None,
    deepspeed: str | None = None,
    launcher: str | None = None,
) -> Runner:
    """Check the config, then build everything that trains.

    Args:
        cfg: of ``load_config``.
        work_dir: where checkpoints and logs go.
        resume: True for the newest checkpoint of ``work_dir`` (a new run if there is none), or a
            checkpoint folder.
        load_from: weights to start anew from.
        deepspeed: name of a DeepSpeed config (``deepspeed_zero2``) or a json file; None without.
        launcher: ``none``, ``pytorch`` or ``slurm``; inferred when None.

    Raises:
        ValueError: mistakes in the config, all at once.
        FileNotFoundError: a checkpoint that is not there.
    """
    tree = plain(cfg)
    launcher = launcher or infer_launcher()
    processes = planned_processes(launcher)
    check_config(tree, zero_stage=zero_stage(deepspeed), processes=processes)
    bare = check_build(tree)
    work_dir = Path(work_dir).absolute()
    init_distributed(launcher, always=deepspeed is not None)
    folder, news = _begin(work_dir, resume)
    seed = int(tree.get("seed", 0))
    strategy = _build_strategy(tree, work_dir, seed, launcher, deepspeed)
    sequence.start(tree.get("sequence_parallel_size", 1))
    if news:
        strategy.logger.warning(news)
    loader = _build_loader(tree, seed)
    if bare is not None:
        check_fit(bare, loader.dataset.names, loader.dataset.datasets)
    # benchmarks read their annotations here: what is missing is told before weights are loaded
    best, hooks = standard_hooks(tree, loader.batch_sampler, seed)
    with strategy.building():
        model = build_model(tree, seed)
    if folder is None and (load_from or tree.get("load_from")):
        report = checkpoints.load_model(model, load_from or tree["load_from"], partial=True)
        strategy.logger.info(str(report))
    _log_parameters(strategy.logger, model)
    frozen = checkpoints.frozen_fingerprints(model)
    with file_only(strategy.logger):
        runner = _assemble(cfg, tree, strategy, model, loader, hooks, work_dir, seed)
    runner.best = best
    runner.ema_settings = {**EMA, **tree["ema"]} if tree.get("ema") is not None else None
    runner.resume_folder = folder
    runner.frozen = frozen
    return runner


def _begin(work_dir: Path, resume: str | Path | bool) -> tuple[Path | None, str]:
    """Find the checkpoint to resume and clean up after a killed run, before anybody writes.

    Returns:
        The checkpoint folder or None, and what the user should know about it.
    """
    folder, news = None, ""
    if get_rank() == 0:
        work_dir.mkdir(parents=True, exist_ok=True)
        checkpoints.remove_unfinished(work_dir)
    barrier()
    if resume:
        folder = checkpoints.find_latest(work_dir) if resume is True else Path(resume)
    if folder is not None:
        checkpoints.read_training_state(folder)
    barrier()  # every rank has looked before rank 0 forgets the earlier run
    if folder is None and resume:
        news = f"nothing to resume in {work_dir}: starting anew"
    if folder is None and get_rank() == 0:
        earlier = checkpoints.begin_run(work_dir)
        if earlier:
            names = ", ".join(path.name for path in earlier)
            news = f"{work_dir} holds checkpoints of an earlier run ({names}): starting anew"
    return folder, news


def _build_strategy(tree, work_dir: Path, seed: int, launcher: str, deepspeed):
    common = {
        "work_dir": str(work_dir),
        "experiment_name": work_dir.name,
        "env_kwargs": {"launcher": launcher, "randomness": {"seed": seed}},
    }
    if deepspeed is not None:
        from projects.common.engine import zero

        optim = tree["optim_wrapper"]
        config = zero.complete_config(
            zero.named_config(deepspeed),
            batch_size=tree["train_dataloader"]["batch_size"],
            accumulate=optim.get("accumulative_counts", 1),
            max_norm=_max_norm(optim.get("clip_grad")),
        )
        ranks = tree.get("sequence_parallel_size", 1)
        return zero.ZeroStrategy(config=config, sequence_parallel_size=ranks, **common)
    if launcher == "none":
        return SingleStrategy(**common)
    unused = tree.get("find_unused_parameters", False)
    return DistributedStrategy(find_unused_parameters=unused, **common)


def zero_stage(deepspeed: str | None) -> int:
    """Stage of the named DeepSpeed config, 0 without DeepSpeed."""
    if deepspeed is None:
        return 0
    from projects.common.engine import zero  # slow to import and not needed without it

    return int(zero.named_config(deepspeed)["zero_optimization"]["stage"])


def planned_run(gpus: int, deepspeed: str | None) -> Run:
    """What the memory estimate wants to know of a run on so many GPUs."""
    if deepspeed is None:
        return Run(gpus)
    from projects.common.engine import zero

    config = zero.named_config(deepspeed)["zero_optimization"]
    moved: Offload = "optimizer" if "offload_optimizer" in config else "none"
    return Run(gpus, zero_stage(deepspeed), "all" if "offload_param" in config else moved)


def _max_norm(clip_grad: dict | None) -> float:
    if not clip_grad:
        return 0.0
    if set(clip_grad) != {"max_norm"}:
        raise registry.ConfigError(
            f"optim_wrapper.clip_grad: DeepSpeed takes max_norm alone, the config has {clip_grad}"
        )
    return float(clip_grad["max_norm"])


def _build_loader(tree: dict[str, Any], seed: int):
    length = tree["train_cfg"]
    return build_train_loader(
        **tree["train_dataloader"],
        max_steps=length.get("max_steps"),
        max_epochs=length.get("max_epochs"),
        multiple_of=tree["optim_wrapper"].get("accumulative_counts", 1),
        seed=seed,
        rank=sequence.data_rank(),
        world_size=sequence.data_ranks(),
    )


def _log_parameters(logger, model: nn.Module) -> None:
    from projects.common.freezing import trainable_table

    logger.info("parameters\n" + trainable_table(model))


def _assemble(
    cfg: Config, tree, strategy, model, loader, hooks: list[Hook], work_dir: Path, seed: int
) -> Runner:
    schedulers = scale_schedulers(tree.get("param_scheduler", []), loader.batch_sampler.max_steps)
    watchdog = {**WATCHDOG, **(tree.get("watchdog") or {})}
    return Runner(
        model,
        work_dir=str(work_dir),
        train_dataloader=loader,
        train_cfg={
            "type": StepLoop,
            "watchdog_minutes": watchdog["minutes"],
            "accumulate": tree["optim_wrapper"].get("accumulative_counts", 1),
        },
        optim_wrapper=_optim_config(tree, strategy),
        param_scheduler=schedulers or None,
        strategy=strategy,
        default_hooks={"timer": None, "sampler_seed": None, "logger": None, "checkpoint": None},
        custom_hooks=[*hooks, *registry.build(tree.get("custom_hooks", []))],
        visualizer={
            "type": "Visualizer",
            "vis_backends": tree.get("vis_backends", [{"type": "TensorboardVisBackend"}]),
        },
        randomness={"seed": seed},
        cfg=cfg,
    )


def _optim_config(tree: dict[str, Any], strategy) -> dict[str, Any]:
    """The same optimizer for both launchers; DeepSpeed itself clips and accumulates."""
    optim = {"type": OptimWrapper, "constructor": TrainableGroups, **tree["optim_wrapper"]}
    skip = tree.get("on_bad_loss") == "skip"
    if skip:
        optim["type"] = SkippingOptimWrapper
    if strategy.kind["engine"] == "deepspeed":
        for key in ("clip_grad", "accumulative_counts"):
            optim.pop(key, None)
        optim["type"] = strategy.optim_wrapper_type(skip_bad_loss=skip)
    return optim
