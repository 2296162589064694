"""SeC-4B's stage 2: InternVL2.5-4B learns to say which object is meant (docs/concept_guidance.md).

SAM 2 comes from stage 1 and stays frozen, token_attn too; LoRA, words and projectors train.
"""

import os

from mmengine.config import read_base

from projects.llava_sam2.datasets.concept_inputs import ConceptInputs
from projects.llava_sam2.evaluation.concept import ConceptVosBenchmark
from projects.llava_sam2.models.heads import ConceptHead, seg_projector
from projects.llava_sam2.sec.predictor import SecInference
from projects.sam2_video.data.png import PerObjectSource

with read_base():
    from ._base_.datasets.concept import _concept
    from ._base_.models.sa2va import *  # noqa: F403
    from ._base_.models.sa2va import _inputs
    from ._base_.schedules.sa2va import *  # noqa: F403

_projector = dict(type=seg_projector, hidden=2048, out=256)
_stage1 = "pretrained_models/sec_sam2.1_hiera_large_stage1.pt"
model["grounding"].update(checkpoint=_stage1, num_maskmem=22)  # noqa: F405
model["heads"] = dict(concept=dict(type=ConceptHead, projector=_projector))  # noqa: F405
_words = [f"mllm.{part}" for part in ("*.multi_modal_projector", "*.lm_head", "*.embed_tokens")]
model["trainable"] = [*_words, "heads.concept.text_hidden_fcs"]  # noqa: F405
model["propagation_decoder"] = "tuned"  # noqa: F405

_asked = dict(type=ConceptInputs, inputs=_inputs)
_objects = dict(_concept["sav_concept"], inputs=_asked, mask_size=1024)
train_dataloader.update(datasets=[dict(dataset=_objects)], batch_size=8)  # noqa: F405
train_cfg.update(max_epochs=3)  # noqa: F405
optim_wrapper.update(accumulative_counts=1)  # noqa: F405
_sav = f"{os.environ.get('DATA_ROOT', 'data')}/SA-V"
_val = dict(type=PerObjectSource, image_root=f"{_sav}/sav_val/JPEGImages_24fps")
_val.update(annotation_root=f"{_sav}/sav_val/Annotations_6fps", list_file=f"{_sav}/sav_val.txt")
_sec = dict(type=SecInference, inputs=_asked)
benchmarks = dict(sav_val=dict(type=ConceptVosBenchmark, source=_val, sec=_sec))
