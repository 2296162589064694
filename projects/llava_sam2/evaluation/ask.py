"""One question about one file, asked the way a config's benchmarks ask; the answer as pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from projects.common import registry
from projects.common.masks import read_binary_png
from projects.common.video import IMAGE_SUFFIXES, image_size, open_video, read_image, write_mp4
from projects.common.visualise import evenly, film_strip, legible_scale, overlay
from projects.common.whole_file import whole_file
from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.evaluation.responders import AskModel
from projects.llava_sam2.models.sa2va import Sa2VA
from projects.llava_sam2.predictor import Answer, Frames
from projects.llava_sam2.region import Region, check_places

_STRIP_FRAMES = 8


def asker(tree: dict[str, Any]) -> AskModel:
    """How a config asks its model; see :func:`find_asker`.

    Raises:
        ValueError: it does not say how.
    """
    found = find_asker(tree)
    if found is None:
        raise ValueError(
            "none of the config's benchmarks asks the model (respond=dict(type=AskModel)), and "
            "none of its datasets has inputs and templates"
        )
    return found


def find_asker(tree: dict[str, Any]) -> AskModel | None:
    """As the first benchmark asks that does, else as the first dataset with templates trains."""
    for benchmark in tree.get("benchmarks", {}).values():
        respond = benchmark.get("respond", {})
        if "type" in respond and registry.resolve(respond["type"]) is AskModel:
            return registry.build(respond)
    for entry in tree.get("train_dataloader", {}).get("datasets", []):
        dataset = entry["dataset"]
        own = {key: dataset[key] for key in ("inputs", "templates") if key in dataset}
        if len(own) == 2 and registry.resolve(own["inputs"]["type"]) is GroundingInputs:
            return AskModel(**registry.build(own))
    return None


def is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES


def check_paths(source: Path, out: Path) -> None:
    """Find out before the model is built whether the picture can be read and written.

    Raises:
        FileNotFoundError, ValueError: naming the path.
    """
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such image, video or folder of frames")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out.parent}: no such folder to write {out.name} to")
    suffixes = (*IMAGE_SUFFIXES,) if is_image(source) else (*IMAGE_SUFFIXES, ".mp4")
    if out.suffix.lower() not in suffixes:
        raise ValueError(f"{out}: an answer about {source} is written as {', '.join(suffixes)}")


def read_regions(given: Sequence[tuple[str, str]], source: Path, question: str) -> list[Region]:
    """Regions of an image, as a command line names them; found wrong before the model is built.

    Args:
        given: ("mask", a PNG in which what is not zero belongs to it), ("box", "x1,y1,x2,y2") or
            ("click", "x,y"), in pixels.
        source: the image.
        question: which says ``<region>`` for each, or never.

    Raises:
        FileNotFoundError, ValueError: naming the region.
    """
    if not given:
        return []
    if not is_image(source):
        raise ValueError(f"{source}: regions are of an image, and this is none")
    regions = [_read_region(kind, text) for kind, text in given]
    check_places([question], [regions], str(source))
    for region, (_, text) in zip(regions, given, strict=True):
        region.settled(image_size(source), f"{source}: region {text}")
    return regions


def _read_region(kind: str, text: str) -> Region:
    if kind == "mask":
        return Region(mask=read_binary_png(text))
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError as error:
        raise ValueError(f"region {text!r}: expected numbers with commas between them") from error
    return Region(box=numbers) if kind == "box" else Region(points=[numbers])


def ask_file(
    model: Sa2VA,
    ask: AskModel,
    source: Path,
    expression: str,
    out: Path,
    *,
    fps: float = 6.0,
    regions: Sequence[Region] = (),
) -> Answer:
    """Ask about an image, an mp4 or a folder of frames, and draw the first mask of the answer.

    Args:
        model: in eval mode.
        ask: see :func:`asker`.
        expression: what to segment; with regions, the whole question about them.
        out: an image (of a video: a strip of frames), or an mp4 for a video.
        fps: of an mp4 made from a folder of frames.
        regions: of an image; drawn where the answer has no mask.
    """
    question = expression if regions else ask.templates.first(expression)[0]
    predictor = ask.predictor(model)
    if is_image(source):
        image = read_image(source)
        (masks,) = predictor.regions(image, [question], [regions], name=str(source))
        asked = None if masks is None else [masks]
        (answer,) = predictor.image(image, [question], regions=asked, name=str(source))
        if masks is None or answer.masks:
            masks = masks_of(answer, image[None], [0])
        _save(out, overlay(image, masks, scale=legible_scale(image)))
        return answer
    video = open_video(source)
    (answer,) = predictor.video(video, [question], name=str(source))
    if out.suffix.lower() == ".mp4":
        write_mp4(out, _overlaid(video, answer), getattr(video, "fps", fps))
    else:
        shown = evenly(len(video), _STRIP_FRAMES)
        frames = video.read(shown)
        strip = film_strip(frames, masks_of(answer, frames, shown), scale=legible_scale(frames[0]))
        _save(out, strip)
    return answer


def masks_of(answer: Answer, frames: np.ndarray, indices: Sequence[int]) -> np.ndarray:
    """The first mask of an answer on some frames [T, H, W, 3], bool [T, H, W]; empty without."""
    if not answer.masks:
        return np.zeros(frames.shape[:3], dtype=bool)
    return np.stack([answer.mask(index) for index in indices])


def _overlaid(video: Frames, answer: Answer) -> Iterator[np.ndarray]:
    for index in range(len(video)):
        frame = video[index]
        yield overlay(frame, masks_of(answer, frame[None], [index]), scale=legible_scale(frame))


def _save(path: Path, image: np.ndarray) -> None:
    picture = Image.fromarray(image)
    with whole_file(path) as partial:
        picture.save(partial, format=Image.registered_extensions()[path.suffix.lower()])
