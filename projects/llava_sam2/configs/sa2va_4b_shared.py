"""Masks, concepts, boxes and times in one model on InternVL2.5-4B: a task, a line of datasets."""

from mmengine.config import read_base

from projects.llava_sam2.datasets.concept_inputs import ConceptInputs
from projects.llava_sam2.datasets.templates import named_templates
from projects.llava_sam2.evaluation.responders import AskModel
from projects.llava_sam2.evaluation.temporal import AskForTimes

with read_base():
    from ._base_.mixtures.shared import (
        _asked_times,
        _asked_videos,
        _box,
        _concept,
        _segment,
        _times,
    )
    from ._base_.models.shared import *  # noqa: F403
    from ._base_.models.shared import _ask, _inputs, _time_inputs
    from ._base_.schedules.sa2va import *  # noqa: F403

_concepts = dict(type=ConceptInputs, inputs=_inputs)
train_dataloader["datasets"] = [  # noqa: F405
    *[dict(e, dataset=dict(e["dataset"], inputs=_inputs)) for e in _segment],
    *[dict(e, dataset=dict(e["dataset"], inputs=_concepts)) for e in _concept],
    *[dict(e, dataset=dict(e["dataset"], inputs=_inputs)) for e in _box],
    *[dict(e, dataset=dict(e["dataset"], inputs=_time_inputs)) for e in _times],
]
train_cfg.update(max_epochs=10)  # noqa: F405
_ask.update(type=AskModel, inputs=_inputs, templates=dict(type=named_templates, name="video"))
_times_ask = dict(type=AskForTimes, inputs=_time_inputs)
benchmarks = {name: dict(entry, respond=_ask) for name, entry in _asked_videos.items()}
benchmarks |= {name: dict(entry, respond=_times_ask) for name, entry in _asked_times.items()}
