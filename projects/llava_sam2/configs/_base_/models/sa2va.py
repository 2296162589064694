"""Sa2VA (Yuan et al., 2025): InternVL2.5 with LoRA prompts SAM 2.1 large through [SEG].

What trains: LoRA, embeddings and lm_head, SAM 2's mask decoder, the heads. The numbers are those of
the 4B; other sizes set ``model["mllm"]`` and the width of ``text_hidden_fcs`` together. ``_inputs``
is how the model sees and is asked: a leaf gives both the same folder and template.
"""

from projects.common.conversation import load_shared_tokenizer
from projects.llava_sam2.datasets.frame_samplers import UniformFrames
from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.datasets.pixels import DynamicTiles
from projects.llava_sam2.hf.internvl import internvl_from_folder
from projects.llava_sam2.models.heads import ChatHead, SegmentHead, seg_projector
from projects.llava_sam2.models.sa2va import Sa2VA
from projects.sam2_video.pretrained import pretrained_sam2

_folder = "pretrained_models/InternVL2_5-4B"
_inputs = dict(
    type=GroundingInputs,
    tokenizer=dict(type=load_shared_tokenizer, path=_folder),
    template="qwen_chat",
    tiles=dict(type=DynamicTiles, size=448, max_tiles=12),
    tokens_per_tile=256,
    grounding_size=1024,
    max_length=8192,
)
# evaluation shows the model as many frames as training, chosen alike
_ask = dict(frames=dict(type=UniformFrames, num=5), max_new_tokens=128)
model = dict(
    type=Sa2VA,
    mllm=dict(
        type=internvl_from_folder,
        path=_folder,
        tokenizer=dict(type=load_shared_tokenizer, path=_folder),
        template="qwen_chat",
        gradient_checkpointing=True,
    ),
    grounding=dict(
        type=pretrained_sam2,
        size="large",
        checkpoint="pretrained_models/sam2.1_hiera_large.pt",
        image_size=1024,
    ),
    heads=dict(
        segment=dict(
            type=SegmentHead,
            projector=dict(type=seg_projector, hidden=2048, out=256),
            bce_weight=2.0,
            dice_weight=0.5,
            num_points=12544,
            rows_per_chunk=16,
            frames_per_chunk=4,
        ),
        chat=dict(type=ChatHead),
    ),
    lora=dict(
        rank=128,
        alpha=256,
        dropout=0.05,
        targets=["self_attn.*_proj", "mlp.*_proj"],
    ),
    trainable=[
        "mllm.model.model.multi_modal_projector",  # the reference freezes tower and layers alone
        "mllm.model.model.language_model.embed_tokens",
        "mllm.model.lm_head",
        "grounding.blocks.mask_decoder",
        "heads",
    ],
    propagation_decoder="original",
)
