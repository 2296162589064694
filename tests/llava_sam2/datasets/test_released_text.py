"""What the language model reads, against how Sa2VA writes it: whole strings, then the tokenizer.

Sa2VA puts the tokens of all tiles, or of one frame after another, into the text of a question, the
text into XTuner's template, and encodes each question and each answer as one string; answers and
the suffix behind them are supervised, what stands between turns is not.
"""

from __future__ import annotations

import pytest
from xtuner.utils import PROMPT_TEMPLATE

from projects.common.conversation import IGNORE_INDEX, load_tokenizer
from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.datasets.pixels import DynamicTiles
from tests.llava_sam2.hf.original import write_internlm2_tokenizer, write_qwen2_tokenizer

PER_TILE = 256
# the 4B's weights were trained with Phi-3's template, whose tokens are plain text to Qwen2.5
KINDS = {
    "qwen_chat": write_qwen2_tokenizer,
    "phi3_chat": write_qwen2_tokenizer,
    "internlm2_chat": write_internlm2_tokenizer,
}
ASKED = ["Please segment {} in this image.", "Can you segment the {} in this image?", "the {}: {{?"]
SAID = ["It is [SEG].", "Sure, [SEG].", "[SEG]."]
NAMES = ["the red car ", "person on the left, 2nd row", "Ærø's café"]


@pytest.fixture(scope="module", params=list(KINDS))
def inputs(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    KINDS[request.param](folder)
    return GroundingInputs(
        tokenizer=load_tokenizer(folder),
        template=request.param,
        tiles=DynamicTiles(size=448),
        tokens_per_tile=PER_TILE,
        grounding_size=1024,
    )


def pictures(count, *, video):
    tokens = PER_TILE if video else PER_TILE * count
    return (f"<img>{'<IMG_CONTEXT>' * tokens}</img>\n" * (count if video else 1)).strip()


def released(inputs, turns, seen):
    """Ids and labels of a conversation, and the ids of its first question."""
    tokenizer, template = inputs.tokenizer, PROMPT_TEMPLATE[inputs.template]

    def encode(text):
        return tokenizer.encode(text, add_special_tokens=False)

    ids = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    labels, prompt = [IGNORE_INDEX] * len(ids), None
    for number, (question, answer) in enumerate(turns):
        text = question if number else f"<image>\n{question}".replace("<image>", seen)
        asked = encode(template.INSTRUCTION.format(input=text.strip(), round=number + 1))
        said, between = encode(answer + template.SUFFIX), encode(template.get("SEP", ""))
        prompt = prompt or ids + asked
        ids = ids + asked + said + between
        labels = labels + [IGNORE_INDEX] * len(asked) + said + [IGNORE_INDEX] * len(between)
    return ids, labels, prompt


@pytest.mark.parametrize(
    "count, video", [(1, False), (7, False), (13, False), (1, True), (5, True)]
)
@pytest.mark.parametrize("expressions", [1, 3])
def test_tokens_and_supervision(inputs, count, video, expressions):
    turns = [
        (question.format(name.strip()), answer)
        for question, answer, name in zip(ASKED, SAID, NAMES, strict=True)
    ][:expressions]
    ids, labels, prompt = released(inputs, turns, pictures(count, video=video))
    encoded = inputs.conversation(turns, tiles=count, video=video, name="x")
    assert encoded.input_ids.tolist() == ids
    assert encoded.labels.tolist() == labels
    assert inputs.prompt(turns[0][0], tiles=count, video=video, name="x").tolist() == prompt
    context = inputs.tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    assert ids.count(context) == count * PER_TILE
