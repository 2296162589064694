"""How a model tracks with guidance in the words of an export's ``config.json``, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from projects.llava_sam2.datasets.concept_inputs import ConceptInputs
from projects.llava_sam2.hf.described import build_inputs, describe_inputs
from projects.llava_sam2.sec.predictor import SecInference


def describe_recipe(recipe: SecInference) -> dict[str, Any]:
    """What is shown, asked and answered, and when."""
    shown = recipe.inputs
    question, answer = shown.first()
    return {
        "inputs": describe_inputs(shown.inputs),
        "question": question,
        "answer": answer,
        "colour": list(shown.colour),
        "thickness": shown.thickness,
        **recipe.settings(),
    }


def build_recipe(
    said: Mapping[str, Any],
    *,
    task: str,
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    where: str,
) -> SecInference:
    """The recipe of a ``config.json``.

    Raises:
        ValueError: a key or value that does not exist.
    """
    rest = dict(said)
    inputs = build_inputs(rest.pop("inputs"), tokenizer=tokenizer, template=template, where=where)
    try:
        shown = ConceptInputs(
            inputs=inputs,
            questions=[rest.pop("question")],
            answers=[rest.pop("answer")],
            colour=rest.pop("colour"),
            thickness=rest.pop("thickness"),
        )
        return SecInference(inputs=shown, task=task, **rest)
    except (TypeError, KeyError) as error:
        raise ValueError(f"{where}: track: {error}") from error
