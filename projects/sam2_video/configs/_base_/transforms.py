"""Augmentations of the recipe: all frames of a clip alike, but the last jitter frame by frame."""

from projects.sam2_video.data.transforms import (
    ColorJitter,
    HorizontalFlip,
    RandomAffine,
    RandomGrayscale,
    ResizeSquare,
)

_transforms = [
    dict(type=HorizontalFlip, probability=0.5),
    dict(type=RandomAffine, degrees=25.0, shear=20.0),
    dict(type=ResizeSquare, size=1024),
    dict(type=ColorJitter, brightness=0.1, contrast=0.03, saturation=0.03),
    dict(type=RandomGrayscale, probability=0.05),
    dict(type=ColorJitter, brightness=0.1, contrast=0.05, saturation=0.05, per_frame=True),
]
