"""Writers of the toy world, one a dataset format.

A writer has ``SPLITS`` and two steps: ``write_item`` draws one image or video, in any process and
any order, and returns its record; ``write_index`` gets all records in order and writes the files
that list them. ``write_index`` returns labels of its expressions, for toy_world.json.

Other writers draw nothing: they say in more formats what images and videos of these layouts show.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from projects.toy_world.layouts import charades, davis, mevis, refcoco, sav
from projects.toy_world.layouts.files import Records
from projects.toy_world.world import World


class Layout(Protocol):
    """What a module of this package provides."""

    SPLITS: tuple[str, ...]

    def write_item(self, world: World, split: str, index: int, root: Path) -> Any: ...

    def write_index(self, world: World, records: Records, root: Path) -> dict[str, Any]: ...


LAYOUTS: dict[str, Layout] = {
    "refcoco": refcoco,
    "mevis": mevis,
    "sav": sav,
    "davis": davis,
    "charades": charades,
}
