"""Concept guidance on the toy world: outlined frames to masks, on a CPU. All of it trains.

STAGE1=work_dirs/toy/stage1 bash tools/dist.sh train projects/llava_sam2/configs/toy_concept.py 1
"""

from mmengine.config import read_base

from projects.llava_sam2.datasets.concept import ConceptDataset
from projects.llava_sam2.datasets.concept_draw import ConceptDraw
from projects.llava_sam2.datasets.concept_inputs import ConceptInputs
from projects.llava_sam2.evaluation.concept import ConceptVosBenchmark
from projects.llava_sam2.models.heads import ConceptHead, seg_projector
from projects.llava_sam2.sec.predictor import SecInference
from projects.sam2_video.data.png import PerObjectSource
from projects.sam2_video.data.sav import SavSource
from projects.sam2_video.losses import MultiStepMaskLoss

with read_base():
    from ._base_.toy_data import _inputs, data_root, train_dataloader
    from ._base_.toy_model import model
    from ._base_.toy_schedule import *  # noqa: F403

_asked = dict(type=ConceptInputs, inputs=_inputs)
_asked.update(questions=["segment the object ."], answers=["sure it is [SEG] ."])
_loss = dict(type=MultiStepMaskLoss, mask_weight=20.0, dice_weight=3.0, iou_weight=0.5)
_projector = dict(type=seg_projector, hidden=96, out=64)
_head = dict(type=ConceptHead, projector=_projector, mask_loss=_loss, hide_absent=False)
model["heads"] = dict(concept=_head, track=model["heads"]["track"])
_sav = f"{data_root}/SA-V"
_source = dict(type=SavSource, annotation_root=f"{_sav}/train", frame_root=f"{_sav}/train")
_draw = dict(type=ConceptDraw, max_references=3, max_gap=4)
_objects = dict(type=ConceptDataset, source=_source, inputs=_asked, mask_size=96, frames=_draw)
_clips = [
    e
    for e in train_dataloader["datasets"]
    if "sampler" in e["dataset"] and e["dataset"].get("task") != "category"
]
train_dataloader["datasets"] = [dict(dataset=_objects, repeat=4.0), *_clips]
_val = dict(type=PerObjectSource, image_root=f"{_sav}/sav_val/JPEGImages_24fps")
_val.update(annotation_root=f"{_sav}/sav_val/Annotations_6fps", list_file=f"{_sav}/sav_val.txt")
_vos = dict(type=ConceptVosBenchmark, source=_val)
_sec = dict(type=SecInference, inputs=_asked, reliable_memory=False)
benchmarks = dict(
    sav_val=dict(_vos, sec=_sec),
    sav_val_every_frame=dict(_vos, sec=dict(_sec, threshold=-1.0)),
    sav_val_gate_shut=dict(_vos, sec=dict(_sec, threshold=None)),
)
