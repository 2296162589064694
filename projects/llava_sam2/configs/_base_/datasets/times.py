"""The table of moments in videos, on features. The ``inputs`` of these are ``TemporalInputs``."""

import os

from projects.llava_sam2.datasets.temporal import TemporalDataset
from projects.llava_sam2.datasets.temporal_rows import (
    charades_rows,
    didemo_rows,
    time_token_rows,
)

data_root = os.environ.get("DATA_ROOT", "data")

_features = f"{data_root}/clip_features"
_temporal = f"{data_root}/special_jsons/temporal"
_times = dict(
    charades=dict(
        type=TemporalDataset,
        rows=dict(
            type=charades_rows,
            file=f"{data_root}/video_datas/charades/charades_sta_train.txt",
            durations=f"{data_root}/video_datas/charades/Charades_v1_train.csv",
            feature_root=f"{_features}/charades",
        ),
    ),
    didemo=dict(
        type=TemporalDataset,
        rows=dict(
            type=didemo_rows,
            file=f"{data_root}/video_datas/didemo/train_data.json",
            feature_root=f"{_features}/didemo",
        ),
    ),
    charades_tokens=dict(
        type=TemporalDataset,
        rows=dict(
            type=time_token_rows,
            file=f"{_temporal}/Charades/time_token.json",
            feature_root=f"{_features}/charades",
        ),
    ),
    didemo_tokens=dict(
        type=TemporalDataset,
        rows=dict(
            type=time_token_rows,
            file=f"{_temporal}/DideMo/time_token.json",
            feature_root=f"{_features}/didemo",
        ),
    ),
    hirest=dict(
        type=TemporalDataset,
        rows=dict(
            type=time_token_rows,
            file=f"{_temporal}/HiREST_grounding/time_token.json",
            feature_root=f"{_features}/hirest",
        ),
    ),
    queryd=dict(
        type=TemporalDataset,
        rows=dict(
            type=time_token_rows,
            file=f"{_temporal}/QueryD/time_token.json",
            feature_root=f"{_features}/queryd",
        ),
    ),
)
