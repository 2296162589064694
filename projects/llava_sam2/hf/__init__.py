"""Weights in and out of the grounded language model; see docs/language_checkpoints.md."""

from projects.llava_sam2.hf.grounded import GroundedParts, grounded_parts, sa2va_from_folder
from projects.llava_sam2.hf.internvl import internvl_from_folder
from projects.llava_sam2.hf.predict import load
from projects.llava_sam2.hf.writing import export

__all__ = [
    "GroundedParts",
    "export",
    "grounded_parts",
    "internvl_from_folder",
    "load",
    "sa2va_from_folder",
]
