from mmengine.config import read_base

with read_base():
    from .config import *  # noqa: F403

train_dataloader.update(  # noqa: F405
    datasets=[
        entry
        for entry in train_dataloader["datasets"]  # noqa: F405
        if entry["dataset"]["kind"] != "features"
    ]
)
