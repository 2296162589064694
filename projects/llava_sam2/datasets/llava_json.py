"""LLaVA's conversations: ``[{image | video, conversations: [{from, value}, ...]}, ...]``.

A record with ``image`` is about an image, one with ``video`` about a video (an mp4 or a folder of
frames), one with neither is words alone (LLaVA: Liu et al., 2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from projects.common.conversation import IMAGE_PLACEHOLDER
from projects.llava_sam2.datasets.chat import ChatRow
from projects.llava_sam2.datasets.fields import wrong_field
from projects.llava_sam2.datasets.image_files import FolderFiles
from projects.llava_sam2.datasets.inputs import Turn
from projects.llava_sam2.datasets.records import Numbered, RowErrors, collect, numbered

_VIDEO_PLACEHOLDER = "<video>"
_SPEAKERS = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}


def llava_rows(
    *,
    file: str | Path,
    image_root: str | Path | None = None,
    video_root: str | Path | None = None,
    on_bad_row: str = "error",
    limit: int | None = None,
) -> Sequence[ChatRow]:
    """Rows of a json of conversations, of images, videos and words in any mixture.

    ``from`` alternates human, gpt (also user, assistant); what the model says before the first
    question is left out, as LLaVA's training does. ``<image>`` or ``<video>`` in a question is
    where the picture stands; without one it stands before the first question.

    Args:
        file: the json.
        image_root, video_root: folders of the files that the records name.
        on_bad_row: "error" raises with all bad records; "skip" leaves them out with a count.
        limit: keep the first so many records.

    Raises:
        FileNotFoundError, ValueError: naming the file and the records.
    """
    file = Path(file)
    roots = {
        kind: None if root is None else FolderFiles(root)
        for kind, root in (("image", image_root), ("video", video_root))
    }

    def make(name: str, numbered: Numbered, errors: RowErrors) -> ChatRow | str:
        return _row(f"{file.name}[{numbered.number}]", numbered.record, roots)

    return collect(numbered(file), make, file=file, on_bad_row=on_bad_row, limit=limit)


def turns_of(conversations: Any) -> tuple[Turn, ...] | str:
    """Questions and answers of a list of ``{from, value}``, or what is wrong with it."""
    if not isinstance(conversations, list) or not conversations:
        return "it needs 'conversations', a list of turns"
    for number, turn in enumerate(conversations):
        problem = wrong_field(turn, {"from": "text", "value": "text"})
        if problem is not None:
            return f"turn {number} {problem}"
    if _SPEAKERS.get(conversations[0]["from"]) == "gpt":
        conversations = conversations[1:]
    said = [turn["from"] for turn in conversations]
    if not said or [_SPEAKERS.get(speaker) for speaker in said] != ["human", "gpt"] * (
        len(said) // 2
    ):
        return f"speakers must alternate human, gpt; found {said}"
    texts = [turn["value"].strip() for turn in conversations]
    if any(not _words(text) for text in texts):
        return "an empty question or answer"
    return tuple(zip(texts[0::2], texts[1::2], strict=True))


def _row(name: str, record: Any, roots: Mapping[str, FolderFiles | None]) -> ChatRow | str:
    """A record's row, or what is wrong with it."""
    if not isinstance(record, dict):
        return f"expected an object, found {type(record).__name__}"
    turns = turns_of(record.get("conversations"))
    if isinstance(turns, str):
        return turns
    kinds = [kind for kind in roots if record.get(kind) is not None]
    problem = _bad_places(turns, len(kinds))
    if problem is not None:
        return problem
    if not kinds:
        return ChatRow(name, turns)
    (kind,) = kinds
    root = roots[kind]
    if root is None:
        return f"it has {kind!r}, but no {kind}_root was given"
    path, problem = root.find(record[kind], folder=kind == "video")
    if problem is not None:
        return problem
    placed = [(q.replace(_VIDEO_PLACEHOLDER, IMAGE_PLACEHOLDER), answer) for q, answer in turns]
    return ChatRow(name, tuple(placed), path, kind == "video")


def _bad_places(turns: tuple[Turn, ...], pictures: int) -> str | None:
    """Why pictures and the places for them do not fit, or None."""
    if pictures > 1:
        return "it has an image and a video; one conversation is about one of them"
    asked = sum(_places(question) for question, _ in turns)
    if asked > pictures:
        return f"its questions have places for {asked} pictures, it brings {pictures}"
    if any(_places(answer) for _, answer in turns):
        return f"an answer holds {IMAGE_PLACEHOLDER} or {_VIDEO_PLACEHOLDER}"
    return None


def _places(text: str) -> int:
    return text.count(IMAGE_PLACEHOLDER) + text.count(_VIDEO_PLACEHOLDER)


def _words(text: str) -> str:
    return text.replace(IMAGE_PLACEHOLDER, "").replace(_VIDEO_PLACEHOLDER, "").strip()
