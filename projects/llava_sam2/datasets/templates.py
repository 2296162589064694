"""Phrasings of questions and answers. ``{expression}`` stands for what is referred to.

``{phrase}`` is the expression without the determiner it begins with. A small model that must say
the words that tell objects apart right behind [SEG] ("[SEG] red circle") has to know them at [SEG];
behind "[SEG] the" it has not. But only the word that comes next: ``{words}`` are those of the
phrase in an order that is drawn, so that any of them may come next and all must be known.

A recipe picks a list or brings its own; each answer that is to give a mask holds one ``[SEG]``.
What is not there is denied in words, without ``[SEG]``: no mask is made, none is trained.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from projects.common.conversation import SEG

# Evaluation asks the first of a list (``Templates.first``): of images and videos, what the released
# Sa2VA is evaluated with.
IMAGE_QUESTIONS = (
    "Please segment {expression} in this image.",
    "Can you mark {expression} in the picture with a mask?",
    "Where in the image is {expression}? Answer with a mask.",
    "Outline {expression} for me.",
    "Which pixels of this image belong to {expression}?",
    "Give me the segmentation mask of {expression}.",
    "Find {expression} in this photo and segment it.",
    "I am looking for {expression}. Show me where it is with a mask.",
)

VIDEO_QUESTIONS = (
    "Please segment {expression}.",
    "Can you follow {expression} in the video with a mask?",
    "Where in these frames is {expression}? Answer with a mask.",
    "Track {expression} from the first frame to the last.",
    "Which pixels of this clip belong to {expression}?",
    "Give me the masks of {expression} over the whole clip.",
    "Find {expression} in this video and segment it in every frame.",
    "I want to see {expression} wherever it appears in the video. Segment it.",
)

# For gRefCOCO: a question that neither promises an object nor says how many there are.
GENERALIZED_QUESTIONS = (
    "Please segment {expression} in this image, if it is there.",
    "Is {expression} in the picture? Mark all of it, or say that it is not there.",
    "Segment whatever {expression} refers to in this image; it may be several things or none.",
    "Which pixels belong to {expression}, if any?",
    "Look for {expression}. Give me one mask of everything that fits.",
    "Mark {expression} with a mask, or tell me that this photo does not show it.",
)

MASK_ANSWERS = (
    "It is [SEG].",
    "Sure, here it is: [SEG].",
    "[SEG].",
    "The mask you asked for is [SEG].",
    "Of course, I marked it as [SEG].",
    "Here is the segmentation: [SEG].",
)

ABSENT_ANSWERS = (
    "No, {expression} is not in this image.",
    "There is nothing here that fits {expression}.",
    "I cannot find {expression} in the picture.",
    "The image does not show {expression}.",
    "Nothing in this photo matches {expression}.",
)

VIDEO_ABSENT_ANSWERS = (
    "No, {expression} is not in this video.",
    "There is nothing here that fits {expression}.",
    "I cannot find {expression} in any of the frames.",
    "The video does not show {expression}.",
    "Nothing in this clip matches {expression}.",
)

IMAGE_CAPTION_QUESTIONS = (
    "What does this image show?",
    "Describe the picture in a few words.",
    "List what can be seen in this image.",
    "Give a short description of the photo.",
    "Which things are in this picture?",
    "Tell me what you see.",
)

GROUNDED_CAPTION_QUESTIONS = (
    "Describe this image in detail, and segment each thing that you mention.",
    "What is going on in the picture? Put a mask behind every phrase that names something in it.",
    "Give a description of the photo whose parts are marked with segmentation masks.",
    "Tell me what you see, with a mask for each object you speak of.",
    "Write a caption of this image and ground its phrases with masks.",
    "Explain the scene; interleave your words with the masks of what they name.",
)

# ``{region}`` is the name of a region that the question has pointed at, e.g. "region1".
REGION_QUESTIONS = (
    "Describe {region} in detail.",
    "What can you tell me about {region} of this image?",
    "What does {region} show? Answer in detail.",
    "Please give a careful description of {region}.",
    "Look at {region} closely. What is there?",
    "I would like to know more about {region}. Describe it.",
)

_DETERMINERS = frozenset({"the", "a", "an", "all", "both"})


@dataclass(frozen=True)
class Templates:
    """Questions and answers to draw from, checked when built.

    Args:
        questions: with ``{expression}``.
        answers: with one ``[SEG]``.
        absent: answers about what is not there, without ``[SEG]``.

    Raises:
        ValueError: no phrasing, a question without ``{expression}``, or an answer that does not
            hold exactly one ``[SEG]`` (of ``absent``: that holds any).
    """

    questions: Sequence[str]
    answers: Sequence[str] = MASK_ANSWERS
    absent: Sequence[str] = ABSENT_ANSWERS

    def __post_init__(self) -> None:
        if not self.questions or not self.answers or not self.absent:
            raise ValueError("templates need at least one question and one answer of each kind")
        for question in self.questions:
            if "{expression}" not in question:
                raise ValueError(f"question template {question!r} lacks {{expression}}")
        for answer in self.answers:
            if answer.count(SEG) != 1:
                raise ValueError(f"answer template {answer!r} must hold exactly one {SEG}")
        for answer in self.absent:
            if SEG in answer:
                raise ValueError(f"{answer!r} denies that there is anything, with a {SEG}")

    def draw(
        self, expression: str, generator: np.random.Generator, *, present: bool = True
    ) -> tuple[str, str]:
        """A question about ``expression`` and its answer, each phrased at random."""
        answers = self.answers if present else self.absent
        question = self.questions[int(generator.integers(len(self.questions)))]
        answer = answers[int(generator.integers(len(answers)))]
        words = " ".join(generator.permutation(_phrase(expression).split()))
        return _fill(question, expression), _fill(answer, expression, words)

    def first(self, expression: str) -> tuple[str, str]:
        """The first question and answer: what evaluation uses, so that it is the same each time."""
        return _fill(self.questions[0], expression), _fill(self.answers[0], expression)


def named_templates(*, name: str) -> Templates:
    """Templates by a name that a config can hold: "image", "video" or "generalized".

    Raises:
        ValueError: an unknown name, with the known ones.
    """
    if name not in _NAMED:
        raise ValueError(f"no templates {name!r}; there are {', '.join(_NAMED)}")
    return _NAMED[name]


_NAMED = {
    "image": Templates(questions=IMAGE_QUESTIONS),
    "video": Templates(questions=VIDEO_QUESTIONS, absent=VIDEO_ABSENT_ANSWERS),
    "generalized": Templates(questions=GENERALIZED_QUESTIONS),
}


def _fill(template: str, expression: str, words: str | None = None) -> str:
    # not str.format, and all at once: an expression or a template may hold other braces
    phrase = _phrase(expression)
    values = {"expression": expression, "phrase": phrase, "words": words or phrase}
    return re.sub(r"\{(expression|phrase|words)\}", lambda slot: values[slot[1]], template)


def _phrase(expression: str) -> str:
    first, _, rest = expression.partition(" ")
    return rest if rest and first.lower() in _DETERMINERS else expression
