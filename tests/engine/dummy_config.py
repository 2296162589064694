from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from torch.optim import AdamW

from tests.engine.dummy import DummyDataset, DummyModel, collate
from tests.engine.dummy_benchmark import DummyBenchmark

model = dict(type=DummyModel, width=8, dropout=0.25)
train_dataloader = dict(
    datasets=[
        dict(dataset=dict(type=DummyDataset, task="sum", length=12)),
        dict(dataset=dict(type=DummyDataset, task="first", length=10), repeat=1.5),
    ],
    batch_size=4,
    num_workers=0,
    collate=collate,
)
train_cfg = dict(max_steps=16)
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=0.02, weight_decay=0.1),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(custom_keys={"head": dict(lr_mult=0.5)}),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.1, begin=0, end=0.25),
    dict(type=CosineAnnealingLR, begin=0.25, end=1.0, eta_min_ratio=0.1),
]
checkpoint = dict(interval=4, keep=2)
log = dict(interval=1)
seed = 3
benchmarks = dict(
    held_out=dict(type=DummyBenchmark, dataset=dict(type=DummyDataset, task="sum", length=5)),
    other=dict(type=DummyBenchmark, dataset=dict(type=DummyDataset, task="first", length=3)),
)
