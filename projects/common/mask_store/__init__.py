"""Big mask dictionaries as memory-mapped stores; see docs/mask_store.md."""

from projects.common.mask_store.build import open_masks
from projects.common.mask_store.store import MaskStore, StoredTrack

__all__ = ["MaskStore", "StoredTrack", "open_masks"]
