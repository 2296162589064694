"""Images with plain conversations: captions and questions, trained by the language loss alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from projects.common.conversation import IMAGE_PLACEHOLDER
from projects.common.samplers import Draw
from projects.common.video import read_image
from projects.llava_sam2.datasets.inputs import GroundingInputs, Turn
from projects.llava_sam2.datasets.labels import Labels
from projects.llava_sam2.datasets.rows import Row, RowErrors, load_json
from projects.llava_sam2.structures import GroundingSample


@dataclass(frozen=True)
class ChatRow:
    """An image and the conversation about it."""

    name: str
    image: Path
    turns: tuple[Turn, ...]


class ChatDataset:
    """Samples without masks; ``task`` names the head (language loss only)."""

    def __init__(
        self, *, rows: Sequence[ChatRow], inputs: GroundingInputs, task: str = "chat"
    ) -> None:
        self.rows = rows
        self.inputs = inputs
        self.task = task

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, draw: Draw | int) -> GroundingSample:
        row = self.rows[draw if isinstance(draw, int) else draw.index]
        pixel_values = self.inputs.pixel_values(read_image(row.image)[None], video=False)
        encoded = self.inputs.conversation(
            row.turns, tiles=len(pixel_values), video=False, name=row.name
        )
        return GroundingSample(
            task=self.task,
            name=row.name,
            input_ids=encoded.input_ids,
            labels=encoded.labels,
            pixel_values=pixel_values,
        )


def llava_rows(
    *, file: str | Path, image_root: str | Path, on_bad_row: str = "error"
) -> list[ChatRow]:
    """Rows of a LLaVA-style json: ``[{image, conversations: [{from, value}]}]``.

    ``from`` alternates "human", "gpt"; ``<image>`` in a question is where the format puts the
    picture, which this project places before the first question.

    Raises:
        FileNotFoundError, ValueError: naming the file and the records.
    """
    file, image_root = Path(file), Path(image_root)
    records = load_json(file)
    if not isinstance(records, list):
        raise ValueError(f"{file}: expected a list of records, found {type(records).__name__}")
    errors = RowErrors(file, on_bad_row)
    rows = []
    for number, record in enumerate(records):
        problem = _problem(record, image_root)
        if problem is not None:
            errors.add(f"record {number}", problem)
            continue
        texts = [_text(turn) for turn in record["conversations"]]
        turns = tuple(zip(texts[0::2], texts[1::2], strict=True))
        rows.append(ChatRow(f"{file.name}[{number}]", image_root / record["image"], turns))
    errors.finish(rows)
    return rows


def listing_rows(
    *,
    rows: Sequence[Row],
    question: str,
    joiner: str = " , ",
    labels: Labels | None = None,
    only: Sequence[str] = (),
) -> list[ChatRow]:
    """A caption for each image row: its objects from left to right, each by an expression.

    The longest expression of an object is taken, as it says most. Groups and objects without one
    are left out, and so are images where none has one.

    Args:
        rows: of images.
        question: what the caption answers.
        joiner: stands between the objects.
        labels, only: with both, only expressions whose ``uses`` labels lie within ``only`` count:
            "the largest" says little about what an object looks like.
    """
    listed = []
    for row in rows:
        if row.frames is not None:
            raise ValueError(f"{row.name} is a video; captions by listing are for images")
        said: dict[int, str] = {}
        for expression in row.expressions:
            tells = labels is None or set(labels[expression.key]["uses"]) <= set(only)
            if tells and len(expression.objects) == 1:
                said_before = said.get(expression.objects[0], "")
                said[expression.objects[0]] = max(said_before, expression.text, key=len)
        said = {index: text for index, text in said.items() if not row.objects[index].group}
        if said:
            answer = joiner.join(said[index] for index in _left_to_right(row, said))
            listed.append(ChatRow(row.name, row.source, ((question, answer),)))
    return listed


def _left_to_right(row: Row, objects: Iterable[int]) -> list[int]:
    def centre(index: int) -> float:
        mask = row.objects[index].read(0)
        return 0.0 if mask is None else float(mask.nonzero()[1].mean())

    return sorted(objects, key=centre)


def _problem(record: Any, image_root: Path) -> str | None:
    """Why a LLaVA record is unusable, or None."""
    if not isinstance(record, dict) or not {"image", "conversations"} <= record.keys():
        return "it needs 'image' and 'conversations'"
    turns = record["conversations"]
    if not all(isinstance(turn, dict) and {"from", "value"} <= turn.keys() for turn in turns):
        return "each turn of 'conversations' needs 'from' and 'value'"
    speakers = [turn["from"] for turn in turns]
    if not turns or speakers != ["human", "gpt"] * (len(turns) // 2):
        return f"speakers must alternate human, gpt; found {speakers}"
    if any(not _text(turn) for turn in turns):
        return "an empty question or answer"
    if not (image_root / record["image"]).is_file():
        return f"no image file {image_root / record['image']}"
    return None


def _text(turn: dict[str, str]) -> str:
    return turn["value"].replace(IMAGE_PLACEHOLDER, "").strip()
