"""How the language model is shown an object and asked for it: contours, pictures, words.

Training and inference go through one ``ConceptInputs``, so that a model is asked as it was trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from projects.common.conversation import IMAGE_PLACEHOLDER, SEG, Encoded
from projects.common.masks import draw_contour
from projects.llava_sam2.datasets.inputs import GroundingInputs, Turn

GREEN = (0, 255, 0)
THICKNESS = 2  # pixels of the video

QUESTIONS = (
    "<image>Segment the object of the last picture that is outlined in the pictures before it.",
    "<image>The pictures show an object with an outline, the last one without. Segment it there.",
    "<image>Find what the earlier frames outline in the final frame, and give its mask.",
    "<image>Which pixels of the last frame belong to the object outlined in the earlier ones?",
    "<image>Follow the outlined object to the final picture and mark it there with a mask.",
    "<image>In the last picture, segment what is outlined in the first ones.",
)
ANSWERS = (
    "It is [SEG].",
    "[SEG].",
    "Sure, it is [SEG].",
    "Here is the object: [SEG].",
    "The mask of the last picture is [SEG].",
)
# What SeC-4B was trained with. Its inference puts the answer into the question.
RELEASED_QUESTION = (
    "<image>Please segment the object in the last frame based on the object labeled in the first "
    "several images.It is [SEG]."
)


class ConceptInputs:
    """Pictures with a contour, and the conversation around them.

    Args:
        inputs: pixels and template of the recipe.
        questions: phrasings; ``<image>`` is where the pictures stand, without it before the words.
        answers: phrasings. A question and an answer hold one ``[SEG]`` together.
        colour, thickness: of the contour, RGB and in pixels of the video.

    Raises:
        ValueError: nothing to say, or no or several ``[SEG]``.
    """

    def __init__(
        self,
        *,
        inputs: GroundingInputs,
        questions: Sequence[str] = QUESTIONS,
        answers: Sequence[str] = ANSWERS,
        colour: Sequence[int] = GREEN,
        thickness: int = THICKNESS,
    ) -> None:
        if not questions or not answers:
            raise ValueError("concept guidance needs at least one question and one answer")
        for question in questions:
            for answer in answers:
                if (question + answer).count(SEG) != 1:
                    raise ValueError(
                        f"question {question!r} and answer {answer!r} must hold one {SEG} together"
                    )
            if question.count(IMAGE_PLACEHOLDER) > 1:
                raise ValueError(f"question {question!r} has more than one {IMAGE_PLACEHOLDER}")
        self.inputs = inputs
        self.questions = list(questions)
        self.answers = list(answers)
        self.colour = (int(colour[0]), int(colour[1]), int(colour[2]))
        self.thickness = thickness

    def draw(self, generator: np.random.Generator) -> Turn:
        """A question and an answer, each phrased at random."""
        question = self.questions[int(generator.integers(len(self.questions)))]
        return question, self.answers[int(generator.integers(len(self.answers)))]

    def first(self) -> Turn:
        """What inference asks and answers."""
        return self.questions[0], self.answers[0]

    def outline(self, frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """A copy of a frame uint8 [H, W, 3] with the outer contours of a mask bool [H, W]."""
        return draw_contour(frame, mask, self.colour, self.thickness)

    def pictures(self, frames: np.ndarray) -> Tensor:
        """uint8 [T, 3, h, w] for the language model, of frames uint8 [T, H, W, 3]."""
        return self.inputs.pixel_values(frames, video=True)

    def conversation(self, turn: Turn, *, pictures: int | Tensor, name: str) -> Encoded:
        """Ids and labels of a question and its answer behind pictures, or so many square ones."""
        return self.inputs.conversation([turn], tiles=pictures, video=True, name=name)

    def describe(self) -> str:
        """Every setting, in words."""
        return (
            f"{self.inputs.describe()} contour={self.colour}, {self.thickness} px, "
            f"asks {self.first()!r}"
        )
